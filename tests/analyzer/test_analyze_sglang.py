"""SGLang's own spans, as its tracing code wrote them, become requests and phases; its other meanings stay apart."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, span, write
from stage_fixture import staged
from store_fixture import fetch, loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.ingest.dialects import SGLANG_PHASES
from vtprof_schemas import names

FOLDER = Path(__file__).parents[1] / "fixtures" / "sglang"
TRACES = FOLDER / "traces.jsonl"
TRUTH: dict[str, Any] = json.loads((FOLDER / "ground_truth.json").read_text("utf-8"))
AT: dict[str, int] = TRUTH["stages_ms"]
SENT: list[dict[str, Any]] = TRUTH["requests"]
LATE_MS = 20
"""How late the scheduler's own clock may be on a busy machine where SGLang does not take the time it is told."""


def between(first: str, last: str) -> float:
    return AT[last] - AT[first]


def test_tokens_status_and_times_are_those_that_sglang_was_told() -> None:
    with loaded(TRACES) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        found = fetch(
            db,
            "SELECT request_id, status, input_tokens, cached_tokens, output_tokens, ttft_ns / 1e6, e2e_ns / 1e6, "
            "arrival_ns, model FROM request_base ORDER BY arrival_ns",
        )
    status = {"abort": "aborted"}
    assert [row[:5] for row in found] == [
        (r["rid"], status.get(r["reason"], "ok"), r["prompt"], r["cached"], r["output"]) for r in SENT
    ]
    for row, request in zip(found, SENT, strict=True):
        assert row[5:7] == pytest.approx((AT["first_token"], AT["finished"]), abs=0.01)
        assert row[7] == pytest.approx(request["arrival_unix_ns"], abs=100_000)
        assert row[8] == "tiny-vlm"


def test_stages_become_phases_and_parts_are_counted_once() -> None:
    with loaded(TRACES) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        found = fetch(
            db,
            "SELECT request_id, preprocess_ms, queue_ms, encode_ms, prefill_ms, unexplained_ms FROM requests",
        )
        decode = fetch(
            db,
            "SELECT sum(end_ns - start_ns) / 1e6 FROM phase_intervals WHERE phase = 'decode' GROUP BY request_number",
        )
    assert len(found) == len(SENT)
    preprocess = between("created", "tokenized") + between("dispatch", "dispatched")
    queue = between("received", "queued") + between("queued", "scheduled")
    prefill = between("scheduled", "prefilled")
    for row in found:
        # The first token came 10 ms after the prompt was done; decode covers that time of TTFT for no phase.
        assert row[1:3] == pytest.approx((preprocess, queue), abs=0.01)
        assert row[3] is None, "SGLang does not tell the encoder's part"
        assert row[4] == pytest.approx(prefill, abs=0.01)
        assert row[5] == pytest.approx(AT["first_token"] - preprocess - queue - prefill, abs=0.05)
    wanted = between("prefilled", "decoded_again")
    assert all(wanted - 0.01 <= total <= wanted + LATE_MS for (total,) in decode)


def test_sglang_prefill_is_not_taken_from_its_latency_which_holds_the_queue() -> None:
    told = {
        attribute["value"]["doubleValue"]
        for line in TRACES.read_text("utf-8").splitlines()
        for group in json.loads(line)["resourceSpans"]
        for scope in group["scopeSpans"]
        for one in scope["spans"]
        for attribute in one.get("attributes", ())
        if attribute["key"] == "gen_ai.latency.time_in_model_prefill"
    }
    assert {round(seconds * 1e3) for seconds in told} == {AT["first_token"] - AT["dispatched"]}
    report = analyze(Options([TRACES]))
    (prefill,) = [row for row in report.phases if row.phase == "prefill"]
    assert prefill.p50_ms == pytest.approx(between("scheduled", "prefilled"), abs=0.01)
    assert report.deployment.engine == report.deployment.dialect == "sglang"
    assert report.deployment.model == "tiny-vlm"
    assert any("SGLang" in note and "prefill" in note for note in report.deployment.notes)
    assert report.integrity.unknown_attributes == 0
    assert report.summary.requests_aborted == 1


def test_a_server_before_its_attributes_is_read_as_far_as_it_tells(tmp_path: Path) -> None:
    """0.5.6 to 0.5.9 write ``rid`` alone and have another name of the second stage (read in source)."""
    spans = [
        span("Bootstrap Room 0x0", 0, 300, {"bootstrap_room": "0x0"}, span_id=20),
        span(" Req abcdefgh", 0, 300, {"rid": "abcdefgh-1"}, parent=20),
        span("Tokenizer (host:12ab34cd | pid:7)", 0, 60, {"pid": 7}, span_id=2, parent=1),
        span("tokenize", 0, 50, span_id=3, parent=2),
        span("dispatch", 50, 60, span_id=4, parent=2),
        span("Scheduler [TP 0] (host:12ab34cd | pid:8)", 61, 290, {"pid": 8}, span_id=5, parent=1),
        span("request_process", 61, 70, span_id=6, parent=5),
        span("prefill_waiting", 70, 90, span_id=7, parent=5),
        span("prefill_forward", 90, 200, span_id=8, parent=5),
        span("decode_loop", 200, 240, span_id=9, parent=5),
        span("decode_loop", 240, 280, span_id=10, parent=5),
    ]
    with staged(tmp_path, spans) as db:
        assert fetch(db, "SELECT request_id, ttft_ns, input_tokens, e2e_ns FROM request_base") == [
            ("abcdefgh-1", None, None, 300)
        ]
        phases = fetch(
            db,
            "SELECT phase, sum(end_ns - start_ns)::BIGINT FROM phase_intervals GROUP BY phase ORDER BY phase",
        )
    assert phases == [("decode", 80), ("prefill", 110), ("preprocess", 60), ("queue", 29)]


def test_spans_of_like_names_elsewhere_are_nobody_s(tmp_path: Path) -> None:
    spans = [
        span("tokenize", 0, 5, {"x": 1}, trace=9),
        span("Req 12", 0, 5, trace=9, span_id=2),
        span(names.SPAN_REQUEST, 0, 9, {names.REQUEST_ID: "a"}, trace=8),
    ]
    with loaded(write(tmp_path / "t.jsonl", document(*spans))) as db:
        assert fetch(db, "SELECT name, dialect FROM spans ORDER BY name") == [
            ("Req 12", None), ("tokenize", None), (names.SPAN_REQUEST, "vtprof"),
        ]  # fmt: skip
        assert fetch(db, "SELECT count(*) FROM spans WHERE unknown_keys IS NOT NULL") == [(0,)]


def test_the_stage_maps_the_slices_that_the_dialect_names() -> None:
    text = resources.files("vtprof_analyzer").joinpath("stages/20_phase_intervals.sql").read_text("utf-8")
    listed = text[text.index("sglang_phases") : text.index("AS names (slice, phase)")]
    assert dict(re.findall(r"\('([^']+)', '([^']+)'\)", listed)) == SGLANG_PHASES
