"""What is impossible, unknown or told twice in traces: left out of the numbers it would bend, and counted."""

from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, request, span, write
from stage_fixture import staged
from store_fixture import fetch, loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.ingest.dialects import VLLM_REQUEST_SPAN
from vtprof_schemas import names

S = 1_000_000_000


def vllm_request(trace: int) -> dict[str, Any]:
    """An answer of vLLM's own: 4 s to the first token, of them 1 s in the queue and 2 s of prefill."""
    attrs = {
        "gen_ai.usage.prompt_tokens": 100, "gen_ai.usage.completion_tokens": 3,
        "gen_ai.latency.time_to_first_token": 4.0, "gen_ai.latency.e2e": 6.0,
        "gen_ai.latency.time_in_queue": 1.0, "gen_ai.latency.time_in_model_prefill": 2.0,
        "gen_ai.latency.time_in_model_decode": 2.0,
    }  # fmt: skip
    return span(VLLM_REQUEST_SPAN, 0, 6 * S, attrs, trace=trace)


def own_request(trace: int) -> list[dict[str, Any]]:
    """A request of 10 tokens, 6 of an image: 1 s of preprocessing and 1 s of encoding in 4 s to the first token."""
    attrs = {names.TTFT_NS: 4 * S, names.INPUT_TOKENS: 10, names.TOKENS_IMAGE: 6, names.OUTPUT_TOKENS: 2}
    return request(0, 6 * S, attrs, trace=trace, preprocess=(0, S), encode=(S, 2 * S), prefill=(2 * S, 4 * S))


@pytest.mark.parametrize(("own", "foreign"), [(1, 3), (2, 2)])
def test_a_phase_that_a_dialect_cannot_tell_is_no_zero_of_its_requests(
    tmp_path: Path, own: int, foreign: int
) -> None:
    spans = [s for trace in range(own) for s in own_request(trace + 1)]
    spans += [vllm_request(100 + trace) for trace in range(foreign)]
    with staged(tmp_path, spans) as db:
        rows = fetch(db, "SELECT phase, requests, share, p50_ms FROM ttft_budget WHERE population = 'all'")
        parts = {phase: rest for phase, *rest in rows}
        # The median is over those that can tell; the shares stay shares of one whole.
        assert parts["preprocess"] == [4, pytest.approx(own * 1 / 16), 1000.0]
        assert parts["encode"][2] == 1000.0
        assert parts["queue"][1] == pytest.approx(foreign * 1 / 16)
        assert sum(share for _, share, _ in parts.values()) == pytest.approx(1)
        (fact,) = fetch(db, "SELECT preprocess_ms_p50, queue_ms_p50 FROM deployment_facts")
        # A fact of a minority would speak for all.
        assert fact[0] == (1000.0 if own >= foreign else None)


@pytest.mark.parametrize(("own", "foreign", "share"), [(1, 3, None), (2, 2, 0.6)])
def test_visual_shares_are_unknown_when_less_than_half_of_the_requests_tell_them(
    tmp_path: Path, own: int, foreign: int, share: float | None
) -> None:
    spans = [s for trace in range(own) for s in own_request(trace + 1)]
    spans += [vllm_request(100 + trace) for trace in range(foreign)]
    with staged(tmp_path, spans) as db:
        found = fetch(db, "SELECT share, dominant FROM dominance WHERE measure = 'prompt_tokens'")
        assert found == [(share, None if share is None else True)]
    report = analyze(Options([tmp_path / "t.jsonl"]))
    known = [note for note in report.deployment.notes if note.startswith("visual tokens are known for")]
    assert known and f"for {own} of 4 requests" in known[0]
    assert ("dominate" in report.headline) is (share is not None)


@pytest.mark.parametrize(("output", "tokens"), [(None, None), (0, 10), (1, 10), (3, 12)])
def test_kv_tokens_are_the_prompt_and_all_output_but_the_last_token(
    tmp_path: Path, output: int | None, tokens: int | None
) -> None:
    attrs = {names.TTFT_NS: 5, names.INPUT_TOKENS: 10, names.TOKENS_IMAGE: 6}
    attrs |= {} if output is None else {names.OUTPUT_TOKENS: output}
    with staged(tmp_path, request(0, 9, attrs), resource={names.KV_BYTES_PER_TOKEN: 2}) as db:
        expected = None if tokens is None else 2 * tokens
        assert fetch(db, "SELECT kv_bytes FROM requests") == [(expected,)]
        assert fetch(db, "SELECT max(peak_bytes) FROM kv_segments") == [(expected,)]
    kv = analyze(Options([tmp_path / "t.jsonl"])).kv
    assert {row.modality: row.tokens for row in kv.by_modality}.get("output") == (
        None if output is None else max(0, output - 1)
    )


@pytest.mark.parametrize(("ttft", "kept", "counted"), [(9, 9, 0), (0, 0, 0), (10, None, 1), (-1, None, 1)])
def test_a_first_token_after_the_end_or_before_the_arrival_is_unknown_and_counted(
    tmp_path: Path, ttft: int, kept: int | None, counted: int
) -> None:
    with staged(tmp_path, request(0, 9, {names.TTFT_NS: ttft})) as db:
        assert fetch(db, "SELECT ttft_ns FROM request_base") == [(kept,)]
        # A negative one may be noted by the reader already; neither way is it silent.
        (repaired,) = fetch(db, "SELECT negative_duration FROM integrity")
        noted = fetch(db, "SELECT count(*) FROM ingest_notes")[0][0]
        assert min(1, repaired[0] + noted) == counted


def test_a_status_in_other_letters_is_known_and_any_other_text_is_counted_as_none(tmp_path: Path) -> None:
    spans = []
    for trace, status in enumerate(["ok", "OK", " Aborted", "weird", ""], start=1):
        spans += request(0, 10, {names.TTFT_NS: 5, names.REQUEST_STATUS: status}, trace=trace)
    path = write(tmp_path / "t.jsonl", document(*spans))
    report = analyze(Options([path], slo_ttft_ms=1.0))
    summary = report.summary
    assert (summary.requests, summary.requests_ok, summary.requests_aborted) == (5, 2, 1)
    assert (summary.requests_rejected, summary.requests_error) == (0, 0)
    # Two kept, one aborted: what has no known status is neither.
    assert report.slo.goodput_share == pytest.approx(2 / 3)
    assert sum("request status" in note.what for note in report.integrity.notes) == 2


def ranked(rank: int, trace: int, **more: Any) -> dict[str, Any]:
    attrs = {names.STEP_COUNT: 1, names.STEP_DECODE_REQUESTS: 1, names.STEP_KV_USED_TOKENS: 10}
    resource = {
        names.SERVICE_INSTANCE_ID: f"i{trace}", names.RANK: rank, names.KV_BYTES_PER_TOKEN: 2,
        names.KV_CAPACITY_TOKENS: 100, **more,
    }  # fmt: skip
    return document(span(names.SPAN_STEP, 0, 10, attrs, trace=trace), resource=resource)


@pytest.mark.parametrize(
    ("ranks", "tp", "pp", "counted"),
    [
        ([0, 1], 2, 1, 1),
        ([0, 1], 1, 1, 2),  # no parallel group: two servers
        ([0, 1, 0, 1], 2, 1, 2),  # two copies, each counting from 0
        ([0, 1, 2, 3], 2, 1, 2),  # two copies, counting on
        ([0, 1, 2, 3], 2, 2, 1),
        ([2, 3], 4, 1, 1),  # the first rank was not recorded
    ],
)
def test_of_parallel_ranks_one_stands_for_all(
    tmp_path: Path, ranks: list[int], tp: int, pp: int, counted: int
) -> None:
    groups = {names.PARALLEL_TP: tp, names.PARALLEL_PP: pp}
    lines = [ranked(rank, trace, **groups) for trace, rank in enumerate(ranks, start=1)]
    path = write(tmp_path / "t.jsonl", *lines)
    with loaded(path) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        assert fetch(db, "SELECT count(*) FROM steps") == [(counted,)]
    kv = analyze(Options([path])).kv
    assert (kv.capacity_bytes, kv.peak_held_bytes) == (counted * 100 * 2, counted * 10 * 2)


def test_phases_without_their_request_are_not_called_steps(tmp_path: Path) -> None:
    lost = span(names.PHASE_SPANS[names.QUEUE], 0, 5, trace=7, span_id=2, parent=1)
    report = analyze(Options([write(tmp_path / "t.jsonl", document(lost))]))
    assert report.headline == "No requests in these traces: there are only 1 phases whose request is absent."
