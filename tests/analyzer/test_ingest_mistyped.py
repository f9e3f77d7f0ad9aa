"""A value of another type than its attribute is taken as unknown and counted, once, with the values nothing real has."""

from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, request, span, write
from store_fixture import fetch, loaded

from vtprof_analyzer.ingest import dialects, load, pieces
from vtprof_schemas import names

TOO_LONG = {"intValue": "9" * 23}
"""No integer of 64 bits."""
WORD = {"stringValue": "seven"}


def with_values(name: str, trace: int, *values: tuple[str, Any]) -> dict[str, Any]:
    """Return a document of one span with these attributes, as they are."""
    made = span(name, 0, 9, trace=trace)
    made["attributes"] = [{"key": key, "value": value} for key, value in values]
    return document(made)


def counted(*paths: Path) -> list[tuple[int, int]]:
    """Return by file how many values were taken as unknown and how many spans left out."""
    with loaded(*paths) as db:
        return fetch(db, "SELECT values_out_of_range, dropped_spans FROM ingest_files ORDER BY file")


@pytest.mark.parametrize(
    ("name", "values", "unknown"),
    [
        (names.SPAN_REQUEST, [(names.TTFT_NS, TOO_LONG), (names.OUTPUT_TOKENS, {"intValue": "3"})], 1),
        (names.SPAN_REQUEST, [(names.TTFT_NS, TOO_LONG), (names.INPUT_TOKENS, WORD)], 2),
        # Out of range beside another type: one each.
        (names.SPAN_REQUEST, [(names.TTFT_NS, {"intValue": "-5"}), (names.INPUT_TOKENS, WORD)], 2),
        (names.SPAN_STEP, [(names.STEP_RUNNING, WORD)], 1),
        (dialects.VLLM_REQUEST_SPAN, [("gen_ai.usage.prompt_tokens", {"boolValue": True})], 1),
        ("Req 0a1b2c3d", [("rid", {"stringValue": "a"}), ("gen_ai.usage.prompt_tokens", WORD)], 1),
        ("[s] tp0 (host:a | pid:7)", [("gen_ai.usage.prompt_tokens", WORD)], 1),
        # What can be converted is no fault.
        (names.SPAN_REQUEST, [(names.INPUT_TOKENS, {"stringValue": "7"})], 0),
        # Of a repeated key the first value counts.
        (names.SPAN_REQUEST, [(names.INPUT_TOKENS, {"intValue": "7"}), (names.INPUT_TOKENS, TOO_LONG)], 0),
        (names.SPAN_REQUEST, [(names.INPUT_TOKENS, WORD), (names.INPUT_TOKENS, {"intValue": "7"})], 1),
        # No column: an attribute of steps, one of nobody, a span of another tool.
        (names.SPAN_REQUEST, [(names.STEP_RUNNING, WORD), ("my.own", TOO_LONG)], 0),
        ("GET /", [(names.INPUT_TOKENS, TOO_LONG)], 0),
    ],
)
def test_what_stays_unknown_is_counted_once(
    tmp_path: Path, name: str, values: list[tuple[str, Any]], unknown: int
) -> None:
    path = write(tmp_path / "t.jsonl", with_values(name, 1, *values), document(*request(0, 9, trace=2)))
    assert counted(path) == [(unknown, 0)]


def test_a_span_that_is_left_out_has_no_values_to_count(tmp_path: Path) -> None:
    nowhere = with_values(names.SPAN_REQUEST, 1, (names.TTFT_NS, TOO_LONG))
    nowhere["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["startTimeUnixNano"] = "-5"
    assert counted(write(tmp_path / "t.jsonl", nowhere, document(*request(0, 9, trace=2)))) == [(0, 1)]


def test_all_are_counted_where_notes_end(tmp_path: Path) -> None:
    bad = [with_values(names.SPAN_REQUEST, trace, (names.TTFT_NS, TOO_LONG)) for trace in range(1, 61)]
    # A document in a list, and 35 spans in one document, as an exporter writes them.
    spans = [each["resourceSpans"][0]["scopeSpans"][0]["spans"][0] for each in bad[25:]]
    path = write(tmp_path / "t.jsonl", *bad[:24], [bad[24]], document(*spans))
    with loaded(path) as db:
        assert fetch(db, "SELECT count(*), count(ttft_ns) FROM spans") == [(60, 0)]
        assert fetch(db, "SELECT values_out_of_range FROM ingest_files") == [(60,)]
        assert fetch(db, "SELECT count(*), min(what) FROM ingest_notes") == [
            (20, f"attribute {names.TTFT_NS} of another type than int; taken as unknown")
        ]


def test_pieces_that_are_tried_again_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (load, pieces):
        monkeypatch.setattr(module, "SMALL_BYTES", 4 << 10)
    monkeypatch.setattr(load, "LARGE_BYTES", 64 << 10)
    lines = [document(*request(0, 9, {names.TTFT_NS: 5}, trace=trace)) for trace in range(1, 401)]
    for at in (0, 1, 200, 399):
        lines[at] = with_values(names.SPAN_REQUEST, at + 1, (names.TTFT_NS, WORD))
    assert counted(write(tmp_path / "t.jsonl", *lines)) == [(4, 0)]
