"""Whatever stands in a trace folder: no traceback, each fault counted and named, the valid data beside it used."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from otlp_builder import BASE_NS, document, line, metric_document, request, span, write
from store_fixture import counts, fetch, loaded

from vtprof_analyzer.ingest.sources import find_sources
from vtprof_schemas import names
from vtprof_schemas.errors import DataError

zstd = pytest.importorskip(
    "backports.zstd" if __import__("sys").version_info < (3, 14) else "compression.zstd"
)

REQUEST = {names.INPUT_TOKENS: 7, names.OUTPUT_TOKENS: 3}


def good(trace: int) -> dict[str, Any]:
    """One document of two spans: a request and its prefill."""
    return document(*request(0, 100, REQUEST, trace=trace, prefill=(0, 50)))


def read(path: Path) -> tuple[int, dict[str, int], list[tuple[int | None, str]]]:
    """Return used spans, counts and notes of a path."""
    with loaded(path) as connection:
        (spans,) = fetch(connection, "SELECT count(*) FROM spans WHERE dialect IS NOT NULL")
        notes = fetch(connection, "SELECT line, what FROM ingest_notes ORDER BY line")
        return spans[0], counts(connection), notes


def test_a_missing_path_is_a_data_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        find_sources([tmp_path / "nowhere"])


def test_a_folder_is_searched_deeply_and_other_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    write(tmp_path / "a" / "b" / "x.jsonl", good(1))
    write(tmp_path / "y.json", good(2))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".half.jsonl").write_text("{")
    found = find_sources([tmp_path, tmp_path / "y.json"])
    assert [p.name for p in found.files] == ["x.jsonl", "y.json"]
    # Hidden files are nobody's input: a writer's half-made file, a marker.
    assert found.skipped == 1


def test_a_truncated_last_line_is_counted_and_named_and_the_lines_before_it_are_used(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", good(1), line(good(2))[:-20], end="")
    spans, counted, notes = read(path)
    assert (spans, counted["truncated_lines"], counted["malformed_lines"]) == (2, 1, 0)
    assert notes == [(2, "the last line is cut off; left out")]


@pytest.mark.parametrize(
    "bad", ["not json", "[1, 2]", "5", "null", '{"hello": 1}', '{"resourceSpans": 5}', '{"a": ' * 100_000]
)
def test_a_line_that_is_no_otlp_is_counted_and_its_neighbours_are_used(tmp_path: Path, bad: str) -> None:
    spans, counted, notes = read(write(tmp_path / "t.jsonl", good(1), bad, good(2)))
    assert (spans, counted["malformed_lines"]) == (4, 1)
    assert notes[0][0] == 2


def test_a_document_written_into_a_broken_line_is_salvaged(tmp_path: Path) -> None:
    joined = line(good(1))[:100] + line(good(2))
    spans, counted, notes = read(write(tmp_path / "t.jsonl", joined, good(3)))
    assert (spans, counted["malformed_lines"]) == (4, 1)
    assert notes == [(1, "not JSON; left out, 1 whole document(s) inside it used")]


def test_logs_and_foreign_metrics_are_counted_and_ours_are_read(tmp_path: Path) -> None:
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {}}, {"body": {}}]}]}]}
    foreign = metric_document("http.server.duration", [(1, 2.0), (2, 3.0)])
    ours = metric_document(names.GPU_POWER_MW, [(1, 200000.0)])
    with loaded(write(tmp_path / "t.jsonl", good(1), logs, foreign, ours)) as connection:
        assert counts(connection)["ignored_signals"] == 3
        assert fetch(connection, "SELECT name, ts_ns, value FROM metric_samples") == [
            (names.GPU_POWER_MW, BASE_NS + 1, 200000.0)
        ]


def test_documents_in_one_line_are_all_salvaged_behind_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    # Each byte becomes a character of three: more in all than stands before the next document.
    made = document(*request(0, 9, REQUEST | {names.REQUEST_MODEL: "here"}, trace=1))
    first = line(made).encode().replace(b"here", b"\xff\xfe" * 20)
    path = tmp_path / "t.jsonl"
    path.write_bytes(first + line(good(2)).encode() + line(good(3)).encode() + b"\n")
    spans, counted, notes = read(path)
    assert (spans, counted["malformed_lines"]) == (5, 1)
    assert notes == [(1, "not JSON; left out, 3 whole document(s) inside it used")]


@pytest.mark.parametrize(
    ("bad", "malformed", "ignored"),
    [
        ('{"resourceLogs":[{"resource":{},"scopeLogs":[-5]}]}', 0, 3),
        ('{"resourceLogs":[{"scopeLogs":[{"logRecords":9223372036854775808}]}]}', 0, 3),
        ('{"resourceLogs":[{"scopeLogs":[{"logRecords":[{]}]}]}', 1, 2),
    ],
)
@pytest.mark.parametrize("traces", [0, 1, 400])
def test_a_broken_log_line_costs_itself_and_is_counted(
    tmp_path: Path, bad: str, malformed: int, ignored: int, traces: int
) -> None:
    # What cannot be counted of a log document is one record. 400 traces are read in pieces.
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {}}, {"body": {}}]}]}]}
    spans, counted, notes = read(write(tmp_path / "t.jsonl", logs, *map(good, range(1, traces + 1)), bad))
    assert (spans, counted["malformed_lines"], counted["ignored_signals"]) == (2 * traces, malformed, ignored)
    assert counted["lines"] == traces + 2
    assert [number for number, _ in notes] == [traces + 2] * malformed


def test_log_records_of_a_file_that_is_read_again_carefully_are_counted_once(tmp_path: Path) -> None:
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {}}, {"body": {}}]}]}]}
    suspect = good(1)
    suspect["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["spanId"] = "ab"
    _, counted, _ = read(write(tmp_path / "t.jsonl", suspect, logs))
    assert (counted["dropped_spans"], counted["ignored_signals"]) == (1, 2)


def test_a_pretty_printed_document_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(good(1), indent=2))
    assert read(path)[:2] == (2, {"lines": 1} | dict.fromkeys(
        ["malformed_lines", "truncated_lines", "ignored_signals", "dropped_spans"], 0))  # fmt: skip


def test_bom_crlf_blank_lines_and_nul_padding_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + line(good(1)).encode() + b"\r\n\r\n\n" + line(good(2)).encode() + b"\n" + b"\0" * 64
    )
    spans, counted, _ = read(path)
    assert (spans, counted["malformed_lines"], counted["truncated_lines"]) == (4, 0, 0)


def test_bytes_that_are_no_utf8_cost_only_the_characters(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    attrs = REQUEST | {names.REQUEST_MODEL: "XX"}
    path.write_bytes(line(document(*request(0, 9, attrs))).encode().replace(b"XX", b"\xff\xfe") + b"\n")
    with loaded(path) as connection:
        assert fetch(connection, "SELECT request_model, input_tokens FROM spans") == [("\ufffd\ufffd", 7)]
        assert fetch(connection, "SELECT what FROM ingest_notes") == [
            ("not UTF-8; the bad characters were replaced",)
        ]


def test_lone_surrogates_do_not_stop_the_reader(tmp_path: Path) -> None:
    attrs = REQUEST | {names.REQUEST_MODEL: "a\ud800b"}
    with loaded(write(tmp_path / "t.jsonl", document(*request(0, 9, attrs)))) as connection:
        assert fetch(connection, "SELECT request_model FROM spans") == [("a?b",)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"intValue": 7}, 7),
        ({"intValue": "7"}, 7),
        ({"int_value": "7"}, 7),
        ({"stringValue": "7"}, 7),
        ({"doubleValue": 7.0}, 7),
        ({"doubleValue": 7.5}, None),
        ({"stringValue": "seven"}, None),
        ({"intValue": "9223372036854775808"}, None),
        ({"intValue": "9" * 5000}, None),
        ({"boolValue": True}, None),
        ({"arrayValue": {"values": [{"intValue": "7"}]}}, None),
        ({"kvlistValue": {"values": []}}, None),
        ({}, None),
        (None, None),
        (5, None),
    ],
)
def test_an_integer_attribute_of_any_form_is_read_or_unknown(
    tmp_path: Path, given: Any, expected: int | None
) -> None:
    made = span(names.SPAN_REQUEST, 0, 9, {names.OUTPUT_TOKENS: 3})
    made["attributes"].append({"key": names.INPUT_TOKENS, "value": given})
    with loaded(write(tmp_path / "t.jsonl", document(made))) as connection:
        assert fetch(connection, "SELECT input_tokens, output_tokens FROM spans") == [(expected, 3)]


@pytest.mark.parametrize(
    "given", [{"doubleValue": 2}, {"intValue": "2"}, {"doubleValue": "2.0"}, {"stringValue": "2"}]
)
def test_a_double_attribute_of_any_form_is_read(tmp_path: Path, given: Any) -> None:
    made = span(names.SPAN_STEP, 0, 9)
    made["attributes"].append({"key": names.STEP_RUNNING, "value": given})
    with loaded(write(tmp_path / "t.jsonl", document(made))) as connection:
        assert fetch(connection, "SELECT step_running FROM spans") == [(2.0,)]


def test_snake_case_keys_and_base64_ids_are_read(tmp_path: Path) -> None:
    made = {
        "trace_id": base64.b64encode((1).to_bytes(16, "big")).decode(),
        "span_id": base64.b64encode((1).to_bytes(8, "big")).decode(),
        "name": names.SPAN_REQUEST,
        "start_time_unix_nano": BASE_NS,
        "end_time_unix_nano": BASE_NS + 9,
        "attributes": [{"key": names.INPUT_TOKENS, "value": {"int_value": 7}}],
    }
    snake = {"resource_spans": [{"scope_spans": [{"spans": [made]}]}]}
    with loaded(write(tmp_path / "t.jsonl", snake)) as connection:
        assert fetch(connection, "SELECT trace_id, span_id, end_ns - start_ns, input_tokens FROM spans") == [
            (f"{1:032x}", f"{1:016x}", 9, 7)
        ]


def test_base64_ids_alone_send_the_file_to_the_careful_reader(tmp_path: Path) -> None:
    made = span(names.SPAN_REQUEST, 0, 9, REQUEST)
    made["traceId"] = base64.b64encode((1).to_bytes(16, "big")).decode()
    with loaded(write(tmp_path / "t.jsonl", document(made), good(2))) as connection:
        assert sorted(fetch(connection, "SELECT DISTINCT trace_id FROM spans")) == [
            (f"{1:032x}",),
            (f"{2:032x}",),
        ]


@pytest.mark.parametrize("field", ["traceId", "spanId", "name", "startTimeUnixNano"])
def test_a_span_without_id_name_or_start_is_dropped_and_counted(tmp_path: Path, field: str) -> None:
    broken = span(names.SPAN_REQUEST, 0, 9, REQUEST, trace=8)
    del broken[field]
    spans, counted, notes = read(write(tmp_path / "t.jsonl", document(broken), good(1)))
    assert (spans, counted["dropped_spans"]) == (2, 1)
    assert notes == [(1, "a span without a valid id, name or start; left out")]


def test_a_span_without_end_keeps_its_place(tmp_path: Path) -> None:
    with loaded(write(tmp_path / "t.jsonl", document(*request(0, None, REQUEST)))) as connection:
        assert fetch(connection, "SELECT end_ns, input_tokens FROM spans") == [(None, 7)]


def test_a_span_that_comes_twice_is_kept_once(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", good(1), good(2))
    write(tmp_path / "b.jsonl", good(2))
    with loaded(tmp_path) as connection:
        assert fetch(connection, "SELECT count(*) FROM spans") == [(4,)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_copy_without_end_gives_way_to_the_finished_span(tmp_path: Path, order: tuple[int, int]) -> None:
    versions = [span(names.SPAN_REQUEST, 0, end, REQUEST) for end in (None, 9)]
    for name, version in zip("ab", order, strict=True):
        write(tmp_path / f"{name}.jsonl", document(versions[version]))
    with loaded(tmp_path) as connection:
        assert fetch(connection, "SELECT end_ns - start_ns FROM spans") == [(9,)]
        assert fetch(connection, "SELECT duplicates, conflicting_ids FROM ingest_counts") == [(1, 0)]


def test_spans_that_share_ids_but_not_times_or_name_are_all_kept_and_counted(tmp_path: Path) -> None:
    spans = [
        span(names.SPAN_REQUEST, 0, 9, span_id=1),
        span(names.SPAN_REQUEST, 20, 29, span_id=1),
        span(names.SPAN_REQUEST, 20, 29, span_id=1),
        span(names.SPAN_REQUEST, 0, 9, span_id=2),
        span(names.SPAN_STEP, 0, 9, span_id=2),
        span(names.SPAN_REQUEST, 0, 9, span_id=3),
    ]
    with loaded(write(tmp_path / "t.jsonl", document(*spans))) as connection:
        assert fetch(connection, "SELECT count(*) FROM spans") == [(5,)]
        assert fetch(connection, "SELECT duplicates, conflicting_ids FROM ingest_counts") == [(1, 2)]


def test_the_versions_of_the_vocabulary_are_listed(tmp_path: Path) -> None:
    lines = [
        document(span("x", 0, 1), resource={names.RESOURCE_SCHEMA_VERSION: version}) for version in (2, 1, 2)
    ]
    with loaded(write(tmp_path / "t.jsonl", *lines, good(1))) as connection:
        assert fetch(connection, "SELECT schema_versions FROM ingest_counts") == [([1, 2],)]


@pytest.mark.parametrize("order", [(0.1, 1.0), (1.0, 0.1)])
def test_of_a_request_that_was_sampled_twice_the_copy_that_was_kept_for_certain_stays(
    tmp_path: Path, order: tuple[float, float]
) -> None:
    for name, ratio in zip("ab", order, strict=True):
        attrs = REQUEST | {names.SAMPLING_RATIO: ratio}
        write(tmp_path / f"{name}.jsonl", document(*request(0, 9, attrs)))
    with loaded(tmp_path) as connection:
        assert fetch(connection, "SELECT DISTINCT sampling_ratio FROM spans") == [(1.0,)]


def test_unknown_attributes_are_named_and_those_of_another_kind_of_span_are_not(tmp_path: Path) -> None:
    attrs = REQUEST | {"my.key": 1, names.ENCODE_ITEMS: 2}
    with loaded(write(tmp_path / "t.jsonl", document(*request(0, 9, attrs)))) as connection:
        assert fetch(connection, "SELECT unknown_keys FROM spans") == [(["my.key"],)]


def pack_gzip(data: bytes) -> bytes:
    return gzip.compress(data)


def pack_zstd(data: bytes) -> bytes:
    packed: bytes = zstd.compress(data)
    return packed


@pytest.mark.parametrize(("pack", "suffix"), [(pack_gzip, ".gz"), (pack_zstd, ".zst")])
def test_packed_files_are_read_also_in_several_members(tmp_path: Path, pack: Any, suffix: str) -> None:
    path = tmp_path / f"t.jsonl{suffix}"
    path.write_bytes(pack(line(good(1)).encode() + b"\n") + pack(line(good(2)).encode() + b"\n"))
    with loaded(tmp_path) as connection:
        assert fetch(connection, "SELECT count(*), any_value(file) FROM spans") == [(4, str(path))]


def test_a_truncated_gzip_is_used_up_to_the_fault(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    # Level 0 stores the text, so that the first lines stand before the cut.
    text = "\n".join(line(good(n)) for n in range(1, 201)).encode()
    path.write_bytes(gzip.compress(text, compresslevel=0)[: len(text) // 2])
    spans, counted, notes = read(path)
    assert 150 <= spans <= 200
    assert counted["truncated_lines"] == 1
    assert any("ends early" in what for _, what in notes)


def test_damaged_zstd_is_said_and_does_not_stop_the_others(tmp_path: Path) -> None:
    packed = bytearray(pack_zstd(line(good(1)).encode() * 50))
    packed[20] ^= 0xFF
    (tmp_path / "a.jsonl.zst").write_bytes(bytes(packed))
    write(tmp_path / "b.jsonl", good(2))
    with loaded(tmp_path) as connection:
        assert fetch(connection, "SELECT count(*) FROM spans WHERE trace_id LIKE '%2'") == [(2,)]
        assert fetch(connection, "SELECT count(*) FROM ingest_notes")[0][0] >= 1


def test_a_plain_file_with_a_packed_name_and_glob_characters_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a[1]*.jsonl", good(1))
    write(tmp_path / "b.jsonl.gz", good(2))
    with loaded(tmp_path) as connection:
        assert fetch(connection, "SELECT count(*) FROM spans") == [(4,)]
