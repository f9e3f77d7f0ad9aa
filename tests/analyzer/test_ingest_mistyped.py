"""A value of another type than its attribute is taken as unknown and counted, once, with the values nothing real has."""

from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, metric_document, request, span, write
from otlp_messages import length32, message
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


def of_process(*values: tuple[str, Any], trace: int = 1) -> dict[str, Any]:
    """Return a document of one request of a process with these attributes, as they are."""
    made = document(*request(0, 9, trace=trace))
    made["resourceSpans"][0]["resource"]["attributes"] = [
        {"key": key, "value": value} for key, value in values
    ]
    return made


@pytest.mark.parametrize("faulty", [False, True])
@pytest.mark.parametrize(
    ("key", "value", "known", "unknown"),
    [
        (names.PROCESS_PID, {"intValue": "7"}, 7, 0),
        # What can be converted is no fault.
        (names.PROCESS_PID, {"stringValue": " 7 "}, 7, 0),
        (names.PROCESS_PID, {"doubleValue": 7.0}, 7, 0),
        (names.HOST_NAME, {"intValue": "7"}, "7", 0),
        (names.DEVICE_PEAK_FLOPS, {"stringValue": "1e9"}, 1e9, 0),
        (names.PROCESS_PID, WORD, None, 1),
        (names.PROCESS_PID, {"doubleValue": 7.5}, None, 1),
        (names.PROCESS_PID, {}, None, 1),
        (names.HOST_NAME, {"boolValue": True}, None, 1),
        (names.DEVICE_PEAK_FLOPS, WORD, None, 1),
        ("my.own", {"boolValue": True}, None, 0),
    ],
)
def test_values_of_a_process_are_converted_or_counted_once_by_both_readers(
    tmp_path: Path, key: str, value: Any, known: Any, unknown: int, faulty: bool
) -> None:
    told = [
        of_process((names.SERVICE_INSTANCE_ID, {"stringValue": "i"}), (key, value), trace=n) for n in (1, 2)
    ]
    # A span without ids sends the file to the careful reader.
    bad = document(span(names.SPAN_REQUEST, 0, 9) | {"spanId": ""})
    column = names.column_name(key) if key in names.ATTRIBUTES else "process_pid"
    with loaded(write(tmp_path / "t.jsonl", *told, *([bad] if faulty else []))) as db:
        found = fetch(db, f"SELECT DISTINCT {column} FROM spans JOIN resources USING (resource_id)")
        assert found == [(known,)]
        assert fetch(db, "SELECT values_out_of_range FROM ingest_files") == [(unknown,)]
        notes = [what for (what,) in fetch(db, "SELECT what FROM ingest_notes WHERE what LIKE 'resource%'")]
        assert len(notes) == unknown
        assert all(key in note for note in notes)


@pytest.mark.parametrize("faulty", [False, True])
@pytest.mark.parametrize(
    ("change", "values", "unknown"),
    [
        ({"asDouble": 5.0}, [(5.0, "7")], 0),
        ({"asInt": "5"}, [(5.0, "7")], 0),
        ({}, [], 1),
        ({"asDouble": 5.0, "timeUnixNano": None}, [], 1),
        ({"asInt": "five"}, [], 1),
    ],
)
def test_points_without_a_time_or_number_are_counted(
    tmp_path: Path, change: dict[str, Any], values: list[Any], unknown: int, faulty: bool
) -> None:
    made = metric_document(names.GPU_POWER_MW, [(1, 0.0)])
    (point,) = made["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"]
    del point["asDouble"]
    point |= {"attributes": [{"key": names.HW_ID, "value": {"intValue": "7"}}]} | change
    bad = document(span(names.SPAN_REQUEST, 0, 9) | {"spanId": ""})
    with loaded(write(tmp_path / "t.jsonl", made, *([bad] if faulty else []))) as db:
        assert fetch(db, "SELECT value, hw_id FROM metric_samples") == values
        assert fetch(db, "SELECT values_out_of_range FROM ingest_files") == [(unknown,)]


@pytest.mark.parametrize("form", ["json", "careful", "protobuf"])
def test_a_metric_of_another_kind_is_counted(tmp_path: Path, form: str) -> None:
    made = metric_document(names.GPU_POWER_MW, [(1, 5.0)])
    histogram = {
        "name": names.GPU_SM_CLOCK_MHZ,
        "histogram": {"dataPoints": [{"timeUnixNano": "5", "count": "1"}]},
    }
    made["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].append(histogram)
    path = tmp_path / "t"
    if form == "protobuf":
        path.write_bytes(length32(message(made)))
    else:
        bad = document(span(names.SPAN_REQUEST, 0, 9) | {"spanId": ""})
        write(path, made, *([bad] if form == "careful" else []))
    with loaded(path) as db:
        assert fetch(db, "SELECT name FROM metric_samples") == [(names.GPU_POWER_MW,)]
        assert fetch(db, "SELECT values_out_of_range FROM ingest_files") == [(1,)]
        assert fetch(db, "SELECT what FROM ingest_notes WHERE what LIKE '%point%'") == [
            ("a metric point without a time or a number; left out (1)",)
        ]
