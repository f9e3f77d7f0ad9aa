"""Verdicts of the phases off the device: each bound from the evidence that makes it."""

from pathlib import Path

import pytest
from otlp_builder import document, request, span, write

from vtprof_analyzer import verdict as v
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.verdict_requests import judge_preprocess, judge_queue, judge_transfer
from vtprof_schemas import names


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
            "preprocess is queue-bound: 3.0 % decoding media, 44 % downloads, the rest, 53 %, is waiting for a worker"
        ),
    )
    loading = judge_preprocess(10.0, 2.0, 4.4, engine="vllm")
    assert (loading.bound, loading.explanation) == (
        v.COMM_BOUND, "preprocess is comm-bound: 44 % of it went into downloads, 20 % into CPU work, 36 % waiting",
    )  # fmt: skip
    assert judge_preprocess(10.0, 6.0, 3.0).explanation.endswith(
        "CPU work of 60 % of its duration, 30 % downloads, 10 % waiting"
    )
    assert "downloads" not in judge_preprocess(10.0, 2.0, 0.0, engine="vllm").explanation


@pytest.mark.parametrize(
    ("cpu", "fetch", "decode", "said"),
    [
        # 67 + 13 + 20: what was decoded is part of the CPU work, and is said once.
        (3.3, 6.7, 1.3, "67 % of it went into downloads, 13 % into decoding media, 20 % into other CPU work"),
        (9.0, 0.4, 3.0,
         "CPU work of 90 % of its duration (30 % decoding media, 60 % other), 4.0 % downloads, 6.0 % waiting"),
        (2.0, 1.0, 0.5,
         "5.0 % decoding media, 15 % other CPU work, 10 % downloads, the rest, 70 %, is waiting for a worker"),
        (2.0, 0.0, 0.0, "20 % CPU work, the rest is waiting for a worker"),
        # All of the CPU work was decoding.
        (2.0, 8.0, 2.0, "80 % of it went into downloads, 20 % into decoding media"),
    ],
)  # fmt: skip
def test_the_parts_of_preprocess_add_up(cpu: float, fetch: float, decode: float, said: str) -> None:
    assert judge_preprocess(10.0, cpu, fetch, engine="vllm", decode_seconds=decode).explanation.endswith(
        ": " + said
    )


def test_one_ratio_is_one_witness() -> None:
    assert judge_preprocess(10.0, 9.0).confidence == v.MEDIUM
    assert judge_preprocess(10.0, 1.0, fetch_seconds=8.0).confidence == v.MEDIUM


@pytest.mark.parametrize("engine", ["transformers", None])
def test_an_engine_without_workers_is_not_said_to_wait_for_one(engine: str | None) -> None:
    verdict = judge_preprocess(10.0, 2.0, engine=engine)
    assert (verdict.bound, verdict.confidence) == (v.INSUFFICIENT_DATA, v.LOW)
    assert "worker" not in verdict.explanation
    assert "20 % CPU work; the process was not running" in verdict.explanation
    assert "other load on this host?" in verdict.explanation


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


def test_what_the_engine_did_meanwhile_decides_what_the_queue_waited_for() -> None:
    busy = {"image_prefill": 0.41, "text_prefill": 0.34, "decode_batch": 0.19, "image_encode": 0.06}
    verdict = judge_queue(0.056, 0, causes=busy)
    assert (verdict.bound, verdict.confidence) == (v.QUEUE_BOUND, v.MEDIUM)
    assert verdict.explanation == (
        "queue is queue-bound: 41 % of it waited for running prefill of visual tokens, 34 % for running prefill of text,"
        " 19 % for running decode, 6.0 % for running encode, 0 % for room; KV cache 5.6 % full while requests waited"
    )
    # A full cache and preemptions say otherwise: a tendency.
    assert (judge_queue(0.95, 3, causes=busy).bound, judge_queue(0.95, 3, causes=busy).confidence) == (
        v.QUEUE_BOUND, v.LOW,
    )  # fmt: skip
    room = judge_queue(0.3, 0, causes={"capacity": 0.6, "text_prefill": 0.4, "image_encode": 0.004})
    assert (room.bound, room.confidence) == (v.CAPACITY_BOUND, v.MEDIUM)
    assert room.explanation == (
        "queue is capacity-bound: 60 % of it waited for room, 40 % for running prefill of text; KV cache 30 % full"
        " while requests waited"
    )
    assert judge_queue(0.96, 149, causes={"capacity": 0.86, "text_prefill": 0.14}).confidence == v.HIGH
    # What nothing explains decides nothing: as without causes.
    dark = {"unexplained": 0.7, "capacity": 0.3}
    assert judge_queue(0.3, 0, causes=dark) == judge_queue(0.3, 0) == judge_queue(0.3, 0, causes={})


def test_transfer_is_communication() -> None:
    verdict = judge_transfer(2.0, 4e9)
    assert verdict.bound == v.COMM_BOUND
    assert verdict.explanation == "transfer is comm-bound: 4,000 MB at 2 GB/s"
    assert judge_transfer(2.0, None).confidence == v.LOW


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
