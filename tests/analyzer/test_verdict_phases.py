"""Verdicts: each bound from the evidence that makes it, and the confidence that the witnesses allow."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from otlp_builder import document, request, span, write

from vtprof_analyzer import verdict as v
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.devices.roofs import ATTAINABLE, DATASHEET, Roof
from vtprof_analyzer.verdict import Counters, PhaseSteps, Thresholds, Verdict
from vtprof_analyzer.verdict_phases import judge_phase, judge_preprocess, judge_queue, judge_transfer
from vtprof_schemas import names

ROOF = Roof(ATTAINABLE, 200e12, 1e12, "bfloat16", "test")  # ridge 200 FLOP/B
N = 20


def judged(
    intensity: float,
    floor_ratio: float,
    *,
    roof: Roof | None = ROOF,
    steps: int = N,
    floor: float = 0.01,
    **more: Any,
) -> Verdict:
    """Judge ``steps`` like steps of this intensity whose floor is ``floor`` seconds and this share of their time."""
    ones = np.ones(steps)
    if intensity >= 200:
        flops = ones * floor * 200e12
        bytes_ = flops / intensity
    else:
        bytes_ = ones * floor * 1e12
        flops = bytes_ * intensity
    seconds = ones * floor / floor_ratio
    more.setdefault("phase", "decode")
    more.setdefault("wall_seconds", seconds * 1.05)
    return judge_phase(PhaseSteps(flops=flops, bytes=bytes_, seconds=seconds, iterations=ones, **more), roof)


@pytest.mark.parametrize(
    ("intensity", "bound"),
    [
        (2.0, v.MEMORY_BOUND),
        (159.0, v.MEMORY_BOUND),
        (161.0, v.HYBRID),
        (239.0, v.HYBRID),
        (241.0, v.COMPUTE_BOUND),
        (2000.0, v.COMPUTE_BOUND),
    ],
)
def test_intensity_against_the_ridge_with_a_band_of_a_fifth(intensity: float, bound: str) -> None:
    verdict = judged(intensity, 0.6)
    assert (verdict.bound, verdict.confidence) == (bound, v.MEDIUM)
    assert verdict.intensity == pytest.approx(intensity)
    assert verdict.floor_ratio == pytest.approx(0.6)


def test_the_sentence_carries_the_numbers() -> None:
    bytes_ = np.full(N, 1e10)
    verdict = judge_phase(
        PhaseSteps(
            "decode", bytes_ * 1.9, bytes_, bytes_ / 1e12 / 0.8, np.ones(N), np.full(N, 0.0125), bytes_ * 0.61
        ),
        ROOF,
    )
    assert verdict.explanation == (
        "decode is memory-bound: 1.9 FLOP/B against a ridge of 200, 80 % of the roof reached; "
        "61 % of the bytes are visual KV"
    )
    assert verdict.flops_per_s == pytest.approx(1.9e10 / 0.0125)


def test_work_that_reaches_neither_roof_is_latency_bound_however_low_its_intensity() -> None:
    verdict = judged(1.0, 0.05)
    assert verdict.bound == v.LATENCY_BOUND
    assert "device busy 95 % of the wall time" in verdict.explanation


def test_an_idle_device_is_overhead_and_with_cpu_evidence_the_host() -> None:
    idle = {"wall_seconds": np.full(N, 1.0)}
    assert judged(1.0, 0.6, **idle).bound == v.OVERHEAD_BOUND
    assert judged(1.0, 0.6, host_cores=0.3, **idle).bound == v.OVERHEAD_BOUND
    verdict = judged(1.0, 0.6, host_cores=1.2, **idle)
    assert verdict.bound == v.HOST_BOUND
    assert "1.2 CPU cores busy" in verdict.explanation


def test_without_device_time_small_work_is_overhead_and_large_work_latency() -> None:
    small = judged(1.0, 0.05, floor=1e-4, wall_seconds=None, host_cores=2.0)
    assert small.bound == v.OVERHEAD_BOUND  # on a CPU a busy CPU is no evidence against the host
    # That wall time stands for device time is said once, below the table.
    assert "wall time" not in small.explanation
    assert judged(1.0, 0.05, floor=1e-2, wall_seconds=None).bound == v.LATENCY_BOUND


def test_two_witnesses_that_agree_give_high_confidence() -> None:
    counters = Counters(0.71, 0.06, 0.9, "attributed")
    verdict = judged(2.0, 0.7, counters=counters)
    assert (verdict.bound, verdict.confidence) == (v.MEMORY_BOUND, v.HIGH)
    assert (verdict.dram_bw_ratio, verdict.tensor_ratio) == (0.71, 0.06)
    assert "counters agree (DRAM 71 %, tensor cores 6 %)" in verdict.explanation.replace("6.0", "6")


def test_disagreement_is_said_and_lowers_confidence() -> None:
    verdict = judged(2.0, 0.7, counters=Counters(0.1, 0.8, 0.9, "measured"))
    assert (verdict.bound, verdict.confidence) == (v.MEMORY_BOUND, v.LOW)
    assert "counters disagree: DRAM 10 %, tensor cores 80 % speaks for compute-bound" in verdict.explanation


def test_estimated_counters_are_no_witness() -> None:
    verdict = judged(2.0, 0.7, counters=Counters(0.1, 0.8, 0.9, "estimated"))
    assert verdict.confidence == v.MEDIUM
    assert "counters" not in verdict.explanation
    assert verdict.tensor_ratio == 0.8


def test_counters_alone_decide_when_no_roof_is_known() -> None:
    verdict = judged(2.0, 0.7, roof=None, counters=Counters(0.7, 0.1, 0.9, "measured"))
    assert (verdict.bound, verdict.confidence, verdict.floor_ratio) == (v.MEMORY_BOUND, v.MEDIUM, None)
    assert "no roof is known" in verdict.explanation
    busy = judged(2.0, 0.7, roof=None, counters=Counters(0.1, 0.1, 0.9, "measured"))
    lazy = judged(2.0, 0.7, roof=None, counters=Counters(0.1, 0.1, 0.1, "measured"))
    assert (busy.bound, lazy.bound) == (v.LATENCY_BOUND, v.OVERHEAD_BOUND)


def test_nothing_known_is_not_judged_but_says_what_is_missing() -> None:
    verdict = judged(2.0, 0.7, roof=None)
    assert verdict.bound == v.INSUFFICIENT_DATA
    assert "no roof of the device is known" in verdict.explanation
    assert verdict.intensity == pytest.approx(2.0)
    none = np.zeros(3)
    empty = judge_phase(PhaseSteps("encode", none, none, none, none), ROOF)
    assert (empty.bound, empty.intensity) == (v.INSUFFICIENT_DATA, None)


def test_time_decides_between_kinds_of_steps() -> None:
    # Two seconds of compute-bound steps, half a second of memory-bound ones.
    flops = np.array([200e12] * 2 + [1e11] * 10)
    bytes_ = np.array([1e11] * 2 + [4e10] * 10)
    seconds = np.array([1.1] * 2 + [0.05] * 10)
    steps = PhaseSteps("prefill", flops, bytes_, seconds, np.ones(12), seconds)
    assert judge_phase(steps, ROOF).bound == v.COMPUTE_BOUND
    slower = np.array([1.1] * 2 + [0.2] * 10)
    tied = judge_phase(PhaseSteps("prefill", flops, bytes_, slower, np.ones(12), slower), ROOF)
    assert tied.confidence == v.LOW
    assert "only 52 % of its time is in such steps" in tied.explanation


def test_a_phase_under_one_percent_is_not_judged_but_keeps_its_numbers() -> None:
    verdict = judged(2.0, 0.7, phase="encode", share=0.004)
    assert (verdict.bound, verdict.confidence) == (v.INSUFFICIENT_DATA, v.LOW)
    assert verdict.explanation == "encode is not judged: 0.4 % of TTFT, less than 1.0 %"
    assert verdict.floor_ratio == pytest.approx(0.7)
    assert "of all time" in judged(2.0, 0.7, share=0.004).explanation
    assert judged(2.0, 0.7, share=0.01).bound == v.MEMORY_BOUND


def test_beyond_a_datasheet_peak_is_reported_and_not_clamped() -> None:
    verdict = judged(2.0, 1.12, roof=Roof(DATASHEET, 200e12, 1e12, "bfloat16", "sheet"))
    assert verdict.floor_ratio == pytest.approx(1.12)
    assert "112 % of the datasheet roof" in verdict.explanation


def test_few_steps_or_uncertain_peaks_give_low_confidence() -> None:
    assert judged(2.0, 0.7, steps=4).confidence == v.LOW
    assert "4 steps only" in judged(2.0, 0.7, steps=4).explanation
    unsure = Roof(DATASHEET, 200e12, 1e12, "bfloat16", "recalled", "low")
    assert judged(2.0, 0.7, roof=unsure).confidence == v.LOW


def test_preprocess_is_judged_by_cpu() -> None:
    assert judge_preprocess(10.0, 9.0).bound == v.HOST_BOUND
    assert "90 %" in judge_preprocess(10.0, 9.0).explanation
    assert judge_preprocess(10.0, 1.0, fetch_seconds=8.0).bound == v.COMM_BOUND
    assert judge_preprocess(10.0, 1.0, fetch_seconds=0.0, engine="vllm").bound == v.QUEUE_BOUND
    assert judge_preprocess(10.0, None).bound == v.INSUFFICIENT_DATA
    assert judge_preprocess(10.0, 9.0, share=0.001).bound == v.INSUFFICIENT_DATA


def test_downloads_are_named_and_are_no_host_work() -> None:
    """Of 10 s the CPU worked 0.2: of the rest the larger part decides, and every part is said."""
    waiting = judge_preprocess(10.0, 0.2, 4.4, engine="vllm", decode_seconds=0.3)
    assert (waiting.bound, waiting.explanation) == (
        v.QUEUE_BOUND,
        (
            "preprocess is queue-bound: CPU work is 2.0 % of it, 3.0 % decoding media, 44 % downloads, the rest, 54 %,"
            " is waiting for a worker"
        ),
    )
    loading = judge_preprocess(10.0, 2.0, 4.4, engine="vllm")
    assert (loading.bound, loading.explanation) == (
        v.COMM_BOUND, "preprocess is comm-bound: 44 % of it went into downloads, 20 % into CPU work",
    )  # fmt: skip
    assert judge_preprocess(10.0, 6.0, 3.0).explanation.endswith(
        "CPU work of 60 % of its duration, 30 % downloads"
    )
    assert "downloads" not in judge_preprocess(10.0, 2.0, 0.0, engine="vllm").explanation


def test_one_ratio_is_one_witness() -> None:
    assert judge_preprocess(10.0, 9.0).confidence == v.MEDIUM
    assert judge_preprocess(10.0, 1.0, fetch_seconds=8.0).confidence == v.MEDIUM


@pytest.mark.parametrize("engine", ["transformers", None])
def test_an_engine_without_workers_is_not_said_to_wait_for_one(engine: str | None) -> None:
    verdict = judge_preprocess(10.0, 2.0, engine=engine)
    assert (verdict.bound, verdict.confidence) == (v.INSUFFICIENT_DATA, v.LOW)
    assert "worker" not in verdict.explanation
    assert "CPU work is 20 % of it" in verdict.explanation
    assert "other load on this host?" in verdict.explanation


@pytest.mark.parametrize(
    ("ratio", "confidence", "said"), [(1.04, v.MEDIUM, False), (1.06, v.LOW, True), (3.0, v.LOW, True)]
)
def test_above_the_roof_something_is_wrong(ratio: float, confidence: str, said: bool) -> None:
    verdict = judged(2.0, ratio)
    assert verdict.confidence == confidence
    words = "above the roof: the ceiling was measured too low, or the model's FLOPs are wrong"
    assert (words in verdict.explanation) == said


def test_a_roof_of_another_device_is_said_and_lowers_confidence() -> None:
    other = Roof(
        DATASHEET, 200e12, 1e12, "bfloat16", "sheet", "low", "the roof is not that of the device that ran"
    )
    verdict = judged(2.0, 0.7, roof=other)
    assert verdict.confidence == v.LOW
    assert "the roof is not that of the device that ran" in verdict.explanation


def test_queue_is_judged_by_what_blocked_admission() -> None:
    assert judge_queue(0.3, 0).bound == v.QUEUE_BOUND
    assert judge_queue(0.95, 0).bound == v.CAPACITY_BOUND
    # Preemptions prove that the cache was full at times, whatever its mean.
    assert judge_queue(0.3, 5).bound == v.CAPACITY_BOUND
    full = judge_queue(0.95, 42)
    assert (full.bound, full.confidence) == (v.CAPACITY_BOUND, v.HIGH)
    assert full.explanation == (
        "queue is capacity-bound: KV cache 95 % full while requests waited, 42 preemptions"
    )
    assert (judge_queue(None, None).bound, judge_queue(None, None).confidence) == (v.QUEUE_BOUND, v.LOW)
    assert judge_queue(0.95, 1, share=0.0).bound == v.INSUFFICIENT_DATA


def test_who_waited_for_the_step_under_way_only_did_not_wait_for_the_cache() -> None:
    """Nobody was left waiting by any step: KV usage while somebody was cannot be told, and need not be."""
    verdict = judge_queue(None, 0, most=0.002, left_nobody=True)
    assert (verdict.bound, verdict.confidence) == (v.QUEUE_BOUND, v.MEDIUM)
    assert verdict.explanation == (
        "queue is queue-bound: each step took all who waited (KV cache at most 0.2 % full), so requests waited for the"
        " step under way to end"
    )
    assert judge_queue(None, 0, most=0.5).explanation.endswith(
        "KV cache at most 50 % full, so requests waited for a slot"
    )
    assert "at most 0.1 % full" in judge_queue(None, 0, most=0.00002, left_nobody=True).explanation
    assert judge_queue(None, 0, most=0.95).confidence == v.LOW, "it may have been full just then"


def test_transfer_is_communication() -> None:
    verdict = judge_transfer(2.0, 4e9)
    assert verdict.bound == v.COMM_BOUND
    assert verdict.explanation == "transfer is comm-bound: 4,000 MB at 2 GB/s"
    assert judge_transfer(2.0, None).confidence == v.LOW


def test_thresholds_are_parameters() -> None:
    ones = np.ones(N)
    steps = PhaseSteps("decode", ones * 2e10, ones * 1e10, ones * 0.1, ones, ones * 0.1)
    assert judge_phase(steps, ROOF).bound == v.LATENCY_BOUND
    assert judge_phase(steps, ROOF, Thresholds(floor_ratio=0.05)).bound == v.MEMORY_BOUND


def test_the_report_judges_the_queue_by_the_cache_though_no_step_left_a_request_waiting(
    tmp_path: Path,
) -> None:
    """Every step of a real vLLM tells 0 requests that wait: those of the moment are taken by the next step."""
    kv = {names.STEP_COUNT: 1, names.STEP_KV_USED_TOKENS: 10, names.STEP_KV_USED_TOKENS_MAX: 20}
    steps = [
        span(names.SPAN_STEP, 100 * at, 100 * at + 100, {**kv, names.STEP_WAITING: 0.0}, trace=10 + at)
        for at in (1, 2)
    ]
    spans = [*request(0, 300, {names.TTFT_NS: 200}, queue=(0, 100), prefill=(100, 200)), *steps]
    resource = {names.KV_CAPACITY_TOKENS: 1000, names.KV_BYTES_PER_TOKEN: 2}
    found = analyze(Options([write(tmp_path / "t.jsonl", document(*spans, resource=resource))]))
    (queue,) = [row for row in found.phases if row.phase == names.QUEUE]
    # 20 of 1,000 tokens.
    assert (queue.bound, queue.confidence) == (v.QUEUE_BOUND, v.MEDIUM)
    assert "each step took all who waited (KV cache at most 2.0 % full)" in (queue.explanation or "")
