"""Verdicts of phases on the device: each bound from the evidence that makes it, and the confidence that witnesses allow."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from roofline_fixture import ROOF, judged

from vtprof_analyzer import verdict as v
from vtprof_analyzer.devices.roofs import DATASHEET, Roof
from vtprof_analyzer.verdict import Counters, Thresholds, Verdict
from vtprof_analyzer.verdict_phases import judge_phase

N = 20


def like(
    intensity: float,
    floor_ratio: float,
    *,
    roof: Roof | None = ROOF,
    steps: int = N,
    floor: float = 0.01,
    wall: float | None = 1.05,
    **more: Any,
) -> Verdict:
    """Judge ``steps`` like steps of this intensity whose floor is ``floor`` seconds and this share of their time.

    ``wall`` is their wall time over device time; None: only one of them is known.
    """
    ones = np.ones(steps)
    if intensity >= 200:
        flops = ones * floor * 200e12
        bytes_ = flops / intensity
    else:
        bytes_ = ones * floor * 1e12
        flops = bytes_ * intensity
    seconds = ones * floor / floor_ratio
    return judged(
        flops, bytes_, seconds, roof=roof, wall_seconds=None if wall is None else seconds * wall, **more
    )


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
    verdict = like(intensity, 0.6)
    assert (verdict.bound, verdict.confidence) == (bound, v.MEDIUM)
    assert verdict.intensity == pytest.approx(intensity)
    assert verdict.floor_ratio == pytest.approx(0.6)


def test_the_sentence_carries_the_numbers() -> None:
    bytes_ = np.full(N, 1e10)
    verdict = judged(
        bytes_ * 1.9, bytes_, bytes_ / 1e12 / 0.8, wall_seconds=np.full(N, 0.0125), visual_bytes=bytes_ * 0.61,
        counters=Counters(0.78, None, 0.9, "measured"),
    )  # fmt: skip
    assert verdict.explanation == (
        "decode is memory-bound: 1.9 FLOP/B against a ridge of 200, 80 % of the roof reached; "
        "78 % of DRAM bandwidth measured; 61 % of bytes read are visual KV"
    )
    assert verdict.flops_per_s == pytest.approx(1.9e10 / 0.0125)


def test_work_that_reaches_neither_roof_is_latency_bound_however_low_its_intensity() -> None:
    verdict = like(1.0, 0.05)
    assert verdict.bound == v.LATENCY_BOUND
    assert "device busy 95 % of the wall time" in verdict.explanation


def test_an_idle_device_is_overhead_and_with_cpu_evidence_the_host() -> None:
    idle: dict[str, Any] = {"wall": 60.0}
    assert like(1.0, 0.6, **idle).bound == v.OVERHEAD_BOUND
    assert like(1.0, 0.6, host_cores=0.3, **idle).bound == v.OVERHEAD_BOUND
    verdict = like(1.0, 0.6, host_cores=1.2, **idle)
    assert verdict.bound == v.HOST_BOUND
    assert "1.2 CPU cores busy" in verdict.explanation


def test_without_device_time_small_work_is_overhead_and_large_work_latency() -> None:
    small = like(1.0, 0.05, floor=1e-4, wall=None, host_cores=2.0)
    assert small.bound == v.OVERHEAD_BOUND  # on a CPU a busy CPU is no evidence against the host
    # That wall time stands for device time is said once, below the table.
    assert "wall time" not in small.explanation
    assert like(1.0, 0.05, floor=1e-2, wall=None).bound == v.LATENCY_BOUND


def test_two_witnesses_that_agree_give_high_confidence() -> None:
    counters = Counters(0.71, 0.06, 0.9, "attributed")
    verdict = like(2.0, 0.7, counters=counters)
    assert (verdict.bound, verdict.confidence) == (v.MEMORY_BOUND, v.HIGH)
    assert (verdict.dram_bw_ratio, verdict.tensor_ratio) == (0.71, 0.06)
    assert (
        "71 % of DRAM bandwidth and tensor cores active 6.0 % of the time attributed" in verdict.explanation
    )


def test_disagreement_is_said_and_lowers_confidence() -> None:
    verdict = like(2.0, 0.7, counters=Counters(0.1, 0.8, 0.9, "measured"))
    assert (verdict.bound, verdict.confidence) == (v.MEMORY_BOUND, v.LOW)
    said = "10 % of DRAM bandwidth and tensor cores active 80 % of the time measured: the counters speak for compute-bound"
    assert said in verdict.explanation


def test_estimated_counters_are_no_witness() -> None:
    verdict = like(2.0, 0.7, counters=Counters(0.1, 0.8, 0.9, "estimated"))
    assert verdict.confidence == v.MEDIUM
    assert "counters" not in verdict.explanation
    assert verdict.tensor_ratio == 0.8


def test_counters_alone_decide_when_no_roof_is_known() -> None:
    verdict = like(2.0, 0.7, roof=None, counters=Counters(0.7, 0.1, 0.9, "measured"))
    assert (verdict.bound, verdict.confidence, verdict.floor_ratio) == (v.MEMORY_BOUND, v.MEDIUM, None)
    assert "no roof is known" in verdict.explanation
    busy = like(2.0, 0.7, roof=None, counters=Counters(0.1, 0.1, 0.9, "measured"))
    lazy = like(2.0, 0.7, roof=None, counters=Counters(0.1, 0.1, 0.1, "measured"))
    assert (busy.bound, lazy.bound) == (v.LATENCY_BOUND, v.OVERHEAD_BOUND)


def test_low_counters_over_time_shared_with_others_are_no_witness_against_a_roof() -> None:
    low = Counters(0.3, 0.1, 0.9, "attributed")
    assert (like(2.0, 0.7, counters=low).bound, like(2.0, 0.7, counters=low).confidence) == (
        "memory_bound",
        "low",
    )
    shared = like(2.0, 0.7, counters=replace(low, diluted=True))
    assert (shared.bound, shared.confidence) == ("memory_bound", "medium")
    high = like(2.0, 0.7, counters=Counters(0.8, 0.1, 0.9, "attributed", diluted=True))
    assert high.confidence == "high", "what is high though diluted is high all the more"


def test_nothing_known_is_not_judged_but_says_what_is_missing() -> None:
    verdict = like(2.0, 0.7, roof=None)
    assert verdict.bound == v.INSUFFICIENT_DATA
    assert "no roof of the device is known" in verdict.explanation
    assert verdict.intensity == pytest.approx(2.0)
    empty = judge_phase(None, "encode", ROOF)
    assert (empty.bound, empty.intensity) == (v.INSUFFICIENT_DATA, None)
    untimed = judged(np.ones(3), np.ones(3), np.zeros(3))
    assert untimed.explanation == "decode is not judged: no step of it has both work and time recorded"


def test_time_decides_between_kinds_of_steps() -> None:
    # Two seconds of compute-bound steps, half a second of memory-bound ones.
    flops = np.array([200e12] * 2 + [1e11] * 10)
    bytes_ = np.array([1e11] * 2 + [4e10] * 10)
    seconds = np.array([1.1] * 2 + [0.05] * 10)
    assert judged(flops, bytes_, seconds, phase="prefill", wall_seconds=seconds).bound == v.COMPUTE_BOUND
    slower = np.array([1.1] * 2 + [0.2] * 10)
    tied = judged(flops, bytes_, slower, phase="prefill", wall_seconds=slower)
    assert tied.confidence == v.LOW
    assert "only 52 % of its time is in such steps" in tied.explanation


def test_a_phase_under_one_percent_is_not_judged_but_keeps_its_numbers() -> None:
    verdict = like(2.0, 0.7, phase="encode", share=0.004)
    assert (verdict.bound, verdict.confidence) == (v.INSUFFICIENT_DATA, v.LOW)
    assert verdict.explanation == "encode is not judged: 0.4 % of TTFT, less than 1.0 %"
    assert verdict.floor_ratio == pytest.approx(0.7)
    assert "of all time" in like(2.0, 0.7, share=0.004).explanation
    assert like(2.0, 0.7, share=0.01).bound == v.MEMORY_BOUND


def test_beyond_a_datasheet_peak_is_reported_and_not_clamped() -> None:
    verdict = like(2.0, 1.12, roof=Roof(DATASHEET, 200e12, 1e12, "bfloat16", "sheet"))
    assert verdict.floor_ratio == pytest.approx(1.12)
    assert "112 % of the datasheet roof" in verdict.explanation


def test_few_steps_or_uncertain_peaks_give_low_confidence() -> None:
    assert like(2.0, 0.7, steps=4).confidence == v.LOW
    assert "4 steps only" in like(2.0, 0.7, steps=4).explanation
    unsure = Roof(DATASHEET, 200e12, 1e12, "bfloat16", "recalled", "low")
    assert like(2.0, 0.7, roof=unsure).confidence == v.LOW


@pytest.mark.parametrize(
    ("ratio", "confidence", "said"), [(1.04, v.MEDIUM, False), (1.06, v.LOW, True), (3.0, v.LOW, True)]
)
def test_above_the_roof_something_is_wrong(ratio: float, confidence: str, said: bool) -> None:
    verdict = like(2.0, ratio)
    assert verdict.confidence == confidence
    words = "above the roof: the ceiling was measured too low, or the model's FLOPs are wrong"
    assert (words in verdict.explanation) == said


def test_a_roof_of_another_device_is_said_and_lowers_confidence() -> None:
    other = Roof(
        DATASHEET, 200e12, 1e12, "bfloat16", "sheet", "low", "the roof is not that of the device that ran"
    )
    verdict = like(2.0, 0.7, roof=other)
    assert verdict.confidence == v.LOW
    assert "the roof is not that of the device that ran" in verdict.explanation


def test_thresholds_are_parameters() -> None:
    assert like(2.0, 0.1).bound == v.LATENCY_BOUND
    assert like(2.0, 0.1, limits=Thresholds(attainable_floor_ratio=0.05)).bound == v.MEMORY_BOUND


@pytest.mark.parametrize(("floor", "told"), [(2e-3, "2 ms"), (4e-4, "400 µs"), (2e-8, "20 ns")])
def test_the_work_of_an_iteration_is_told_in_the_unit_that_fits(floor: float, told: str) -> None:
    # Twenty like steps far from the roof, whose kind of bound is told by how little work each is.
    assert f", {told} of work an iteration" in like(1.0, 0.01, floor=floor, wall=None).explanation
