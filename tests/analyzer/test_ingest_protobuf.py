"""OTLP protobuf in every framing and packing is read as the same spans in JSON are; a broken message costs itself."""

import gzip
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link
from otlp_builder import BASE_NS, document, line, metric_document, request, span, write
from otlp_messages import FRAMINGS, length32, message, varint
from store_fixture import fetch, loaded

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.ingest import framing, lines, protobuf
from vtprof_analyzer.report.trust_phrases import trust
from vtprof_schemas import names
from vtprof_schemas.errors import NoData

zstd = pytest.importorskip(
    "backports.zstd" if __import__("sys").version_info < (3, 14) else "compression.zstd"
)

PACKINGS = {"plain": bytes, "gzip": gzip.compress, "zstd": zstd.compress}
ATTRIBUTES = {
    names.INPUT_TOKENS: 7,
    names.OUTPUT_TOKENS: 0,
    names.REQUEST_MODEL: 'a "model"\n\u00e9',
    names.SAMPLING_RATIO: 0.25,
    "mine.flag": True,
}


def good(trace: int, **attributes: Any) -> dict[str, Any]:
    made = request(0, 100, ATTRIBUTES | attributes, trace=trace, prefill=(0, 50))
    made[0]["links"] = [{"traceId": f"{trace:032x}", "spanId": f"{2:016x}"}]
    for each in made:
        # What is not told is no field in JSON, and zero in protobuf.
        each["status"] = {"code": 2}
    return document(*made, resource={names.SERVICE_INSTANCE_ID: "i1", "mine.zone": "z"})


def spans_of(*paths: Path) -> list[tuple[Any, ...]]:
    """Return every column of every span but the file it came from."""
    with loaded(*paths) as db:
        return fetch(db, "SELECT * EXCLUDE (file) FROM spans ORDER BY trace_id, span_id")


def traces_of(path: Path) -> set[int]:
    with loaded(path) as db:
        return {int(trace, 16) for (trace,) in fetch(db, "SELECT DISTINCT trace_id FROM spans")}


def counts_of(path: Path) -> tuple[Any, ...]:
    """Return (format, messages, dropped messages, dropped spans, ignored signals, notes)."""
    with loaded(path) as db:
        (row,) = fetch(
            db, "SELECT format, messages, dropped_messages, dropped_spans, ignored_signals FROM ingest_files"
        )
        return *row, [what for (what,) in fetch(db, "SELECT what FROM ingest_notes ORDER BY what")]


@pytest.mark.parametrize("framed", list(FRAMINGS))
@pytest.mark.parametrize("packing", list(PACKINGS))
def test_the_same_spans_are_read_from_protobuf_and_json(tmp_path: Path, framed: str, packing: str) -> None:
    documents = [good(n) for n in range(1, 6)]
    expected = spans_of(write(tmp_path / "json.jsonl", *documents))
    assert len(expected) == 10
    data = FRAMINGS[framed](*map(message, documents))
    path = tmp_path / "t.pb"
    path.write_bytes(PACKINGS[packing](data))
    assert spans_of(path) == expected
    kind, _, dropped, *_ = counts_of(path)
    assert (kind, dropped) == ("protobuf", 0)


@pytest.mark.parametrize("pack", [zstd.compress, gzip.compress])
def test_messages_packed_one_by_one_are_read(tmp_path: Path, pack: Any) -> None:
    documents = [good(n) for n in (1, 2)]
    expected = spans_of(write(tmp_path / "json.jsonl", *documents))
    path = tmp_path / "t.pb"
    path.write_bytes(length32(*[pack(message(made)) for made in documents]))
    assert spans_of(path) == expected


def test_framed_json_is_read_like_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.pb"
    path.write_bytes(length32(line(good(1)).encode(), line(good(2)).encode()))
    assert traces_of(path) == {1, 2}


def test_what_the_sdk_exports_is_read(tmp_path: Path) -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({names.SERVICE_INSTANCE_ID: "sdk", names.RANK: 3}))
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("t")
    first = tracer.start_span(names.SPAN_REQUEST, start_time=BASE_NS, attributes={names.INPUT_TOKENS: 9})
    first.end(end_time=BASE_NS + 50)
    step = tracer.start_span(
        names.SPAN_STEP,
        start_time=BASE_NS + 5,
        links=[Link(first.get_span_context())],
        attributes={names.STEP_INDEX: 4, names.STEP_RUNNING: 1.5, "x.list": [1, 2]},
    )
    step.end(end_time=BASE_NS + 9)
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("m")
    meter.create_gauge(names.GPU_POWER_MW).set(250.5, {names.HW_ID: "GPU-1"})
    metrics = encode_metrics(reader.get_metrics_data()).SerializeToString()
    path = tmp_path / "t.pb"
    path.write_bytes(length32(encode_spans(kept.get_finished_spans()).SerializeToString(), metrics))
    with loaded(path) as db:
        trace = f"{first.get_span_context().trace_id:032x}"
        assert fetch(
            db,
            "SELECT name, start_ns, end_ns, input_tokens, step_index, step_running FROM spans ORDER BY start_ns",
        ) == [
            (names.SPAN_REQUEST, BASE_NS, BASE_NS + 50, 9, None, None),
            (names.SPAN_STEP, BASE_NS + 5, BASE_NS + 9, None, 4, 1.5),
        ]
        assert fetch(db, "SELECT linked_trace_id FROM span_links") == [(trace,)]
        assert fetch(db, "SELECT rank FROM resources WHERE service_instance_id = 'sdk'") == [(3,)]
        assert fetch(db, "SELECT name, hw_id, value FROM metric_samples") == [
            (names.GPU_POWER_MW, "GPU-1", 250.5)
        ]
        assert "x.list" in fetch(db, "SELECT extra FROM spans WHERE step_index = 4")[0][0]


@pytest.mark.parametrize("framed", ["length32", "varint", "whole"])
def test_a_broken_message_costs_itself(tmp_path: Path, framed: str) -> None:
    broken = bytearray(message(good(2)))
    # A length inside of it that leads beyond its end.
    broken[1:3] = b"\xff\x7f"
    path = tmp_path / "t.pb"
    path.write_bytes(FRAMINGS[framed](message(good(1)), bytes(broken), message(good(3)), message(good(4))))
    assert traces_of(path) == {1, 3, 4}
    _, messages, dropped, _, _, notes = counts_of(path)
    assert (messages, dropped) == (4, 1)
    assert len(notes) == 1
    assert "no OTLP" in notes[0]


@pytest.mark.parametrize("framed", ["length32", "varint"])
def test_a_wrong_length_is_got_over(tmp_path: Path, framed: str) -> None:
    parts = [FRAMINGS[framed](message(good(n))) for n in range(1, 5)]
    parts[1] = b"\x00\xff\xff\xff" + parts[1][4:] if framed == "length32" else b"\xff\x7f" + parts[1][2:]
    path = tmp_path / "t.pb"
    path.write_bytes(b"".join(parts))
    assert traces_of(path) == {1, 3, 4}
    assert counts_of(path)[2] == 1


@pytest.mark.parametrize("framed", ["length32", "varint"])
@pytest.mark.parametrize("packing", list(PACKINGS))
@pytest.mark.parametrize("wrong_by", [-9, 7, 150, 1 << 20])
def test_a_wrong_length_costs_its_message_however_it_is_packed(
    tmp_path: Path, framed: str, packing: str, wrong_by: int
) -> None:
    first, wrong, *others = [PACKINGS[packing](message(good(n))) for n in (1, 2, 3, 4)]
    length = len(wrong) + wrong_by
    head = varint(length) if framed == "varint" else struct.pack(">I", length)
    path = tmp_path / "t.pb"
    path.write_bytes(FRAMINGS[framed](first) + head + wrong + FRAMINGS[framed](*others))
    assert traces_of(path) - {2} == {1, 3, 4}
    assert counts_of(path)[2] == 1


@pytest.mark.parametrize("framed", ["length32", "varint"])
@pytest.mark.parametrize("packing", list(PACKINGS))
def test_junk_between_messages_costs_itself(tmp_path: Path, framed: str, packing: str) -> None:
    parts = [FRAMINGS[framed](PACKINGS[packing](message(good(n)))) for n in (1, 2, 3)]
    path = tmp_path / "t.pb"
    path.write_bytes(parts[0] + b"junkjunk" + parts[1] + b"junkjunk" + parts[2])
    assert traces_of(path) == {1, 2, 3}
    _, messages, dropped, _, _, notes = counts_of(path)
    assert (messages, dropped) == (5, 2)
    assert all("8 bytes" in note for note in notes)


def test_what_was_lost_of_a_file_is_counted_in_the_report(tmp_path: Path) -> None:
    parts = [length32(message(good(n))) for n in (1, 2, 3)]
    path = tmp_path / "t.pb"
    path.write_bytes(parts[0] + b"junkjunk" + parts[1] + parts[2][:-9])
    found = analyze(Options([path]))
    # The junk, and the message that is cut off; of the other two each span is whole.
    assert (found.integrity.dropped_messages, found.integrity.complete_spans_share) == (2, 1.0)
    words = trust(found)
    assert "100 % of the spans read are complete, beside input that could not be read" in words
    assert "messages that could not be read: 2, left out, with the spans in them" in words
    path.write_bytes(parts[0] + parts[1])
    words = trust(analyze(Options([path])))
    assert "100 % of the spans read are complete ·" in words
    assert "could not be read" not in words


@pytest.mark.parametrize("framed", ["length32", "varint"])
def test_a_message_of_a_later_otlp_is_read(tmp_path: Path, framed: str) -> None:
    # Field 15, a varint, is none that there is.
    strange = message(good(2)) + b"\x78\x01"
    path = tmp_path / "t.pb"
    path.write_bytes(FRAMINGS[framed](message(good(1)), strange, message(good(3))))
    assert traces_of(path) == {1, 2, 3}
    assert counts_of(path)[2] == 0


@pytest.mark.parametrize("framed", ["length32", "varint"])
def test_a_wrong_first_length_costs_its_message_and_is_said(tmp_path: Path, framed: str) -> None:
    first = message(good(1))
    length = varint(len(first) + 7) if framed == "varint" else struct.pack(">I", len(first) + 7)
    path = tmp_path / "t.pb"
    path.write_bytes(length + first + FRAMINGS[framed](message(good(2)), message(good(3))))
    assert traces_of(path) == {2, 3}
    kind, messages, dropped, _, _, notes = counts_of(path)
    assert (kind, messages, dropped) == ("protobuf", 3, 1)
    assert "from byte 0 on left out" in notes[0]


@pytest.mark.parametrize("framed", list(FRAMINGS))
def test_a_file_cut_off_in_a_message_is_read_up_to_it(tmp_path: Path, framed: str) -> None:
    data = FRAMINGS[framed](message(good(1)), message(good(2)))
    path = tmp_path / "t.pb"
    path.write_bytes(data[:-9])
    assert traces_of(path) == {1}
    assert "the last message ends early" in counts_of(path)[-1][0]


def test_logs_are_counted_and_all_signals_may_share_a_file(tmp_path: Path) -> None:
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "5"}, {"timeUnixNano": "6"}]}]}]}
    metrics = metric_document(names.GPU_POWER_MW, [(1, 2.0)])
    foreign = metric_document("http.server.duration", [(1, 2.0)])
    path = tmp_path / "t.pb"
    path.write_bytes(length32(*map(message, (logs, good(1), metrics, foreign))))
    assert traces_of(path) == {1}
    assert counts_of(path)[:5] == ("protobuf", 4, 0, 0, 3)
    with loaded(path) as db:
        assert fetch(db, "SELECT ts_ns, value FROM gpu_samples") == [(BASE_NS + 1, 2.0)]


@pytest.mark.parametrize(
    "change", [{"traceId": ""}, {"traceId": "0" * 32}, {"spanId": "ab"}, {"startTimeUnixNano": str(2**63)}]
)
def test_a_span_without_ids_or_start_is_dropped_and_counted(tmp_path: Path, change: dict[str, str]) -> None:
    bad = span(names.SPAN_REQUEST, 0, 5, trace=9) | change
    path = tmp_path / "t.pb"
    path.write_bytes(length32(message(document(bad, *request(0, 9, trace=1)))))
    assert traces_of(path) == {1}
    assert counts_of(path)[3] == 1


def test_values_of_every_kind_are_kept(tmp_path: Path) -> None:
    made = span(names.SPAN_REQUEST, 0, 5) | {"status": {"code": 1}}
    made["attributes"] = [
        {"key": names.STEP_RUNNING, "value": {"doubleValue": "NaN"}},
        {"key": "a", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "x"}]}}},
        {"key": "b", "value": {"bytesValue": "AAE="}},
        {"key": "c", "value": {"kvlistValue": {"values": [{"key": "k", "value": {"boolValue": True}}]}}},
        {"key": "d", "value": {"intValue": str(-(2**63))}},
        {"key": "e", "value": {}},
    ]
    expected = spans_of(write(tmp_path / "json.jsonl", document(made)))
    path = tmp_path / "t.pb"
    path.write_bytes(length32(message(document(made))))
    assert spans_of(path) == expected
    with loaded(path) as db:
        ((extra,),) = fetch(db, "SELECT extra FROM spans")
    assert f"{-(2**63)}" in extra


def test_long_messages_become_lines_of_few_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "SPANS_PER_LINE", 3)
    many = document(*[span(names.SPAN_STEP, n, n + 1, trace=n + 1) for n in range(10)])
    path, out = tmp_path / "t.pb", tmp_path / "out.jsonl"
    path.write_bytes(length32(message(many)))
    protobuf.rewrite(path, path.stat().st_size, "length32", out, 1 << 30)
    assert [text.count('"spanId"') for text in out.read_text().splitlines()] == [3, 3, 3, 1]


@pytest.mark.parametrize("framed", list(FRAMINGS))
def test_two_processes_read_each_message_once(
    tmp_path: Path, framed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protobuf, "SHARED_BYTES", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    path, out = tmp_path / "t.pb", tmp_path / "out.jsonl"
    path.write_bytes(FRAMINGS[framed](*[message(good(n)) for n in range(1, 41)]))
    counts = protobuf.rewrite(path, path.stat().st_size, framed, out, 1 << 30)  # type: ignore[arg-type]
    assert (counts.messages, counts.dropped_messages) == (40, 0)
    assert sorted(text[text.index('"traceId"') :][11:43] for text in out.read_text().splitlines()) == [
        f"{n:032x}" for n in range(1, 41)
    ]


def test_a_message_beyond_the_limit_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_MESSAGE_BYTES", 4096)
    big = message(good(2, **{names.REQUEST_ID: "x" * 5000}))
    bomb = zstd.compress(bytes(1 << 20))
    path = tmp_path / "t.pb"
    path.write_bytes(length32(message(good(1)), big, bomb, message(good(3))))
    assert traces_of(path) == {1, 3}
    _, messages, dropped, _, _, notes = counts_of(path)
    assert (messages, dropped) == (4, 2)
    assert ["longer than" in note or "unpacks to more than" in note for note in notes] == [True, True]


def test_packed_messages_that_grow_past_the_limit_of_a_file_are_read_up_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(lines, "MAX_RATIO", 1)
    path = tmp_path / "t.pb"
    bombs = [zstd.compress(message(good(n, mine="x" * 200_000))) for n in range(1, 21)]
    path.write_bytes(length32(*bombs))
    assert path.stat().st_size < 20_000
    read = traces_of(path)
    # Each is some 200 KB of JSON: five or six reach one MiB.
    assert {1, 2, 3, 4} <= read <= set(range(1, 8))
    with loaded(path) as db:
        assert fetch(db, "SELECT damaged FROM ingest_files") == [(True,)]
        assert "times its size; read up to there" in fetch(db, "SELECT what FROM ingest_notes")[0][0]


def test_a_protobuf_that_is_no_trace_is_one_clear_line(tmp_path: Path) -> None:
    from opentelemetry.proto.trace.v1 import trace_pb2

    for name, data in (
        ("other.pb", trace_pb2.DESCRIPTOR.serialized_pb),
        ("noise.pb", random.Random(1).randbytes(5000)),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(NoData) as raised:
            analyze(Options([path]))
        assert f"{path}: neither OTLP (JSON or protobuf) nor Parquet" in str(raised.value)
        assert "lines" not in str(raised.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.integers(0, 5),
    at=st.integers(0, 300),
    inserted=st.binary(max_size=4),
    removed=st.integers(0, 4),
    framed=st.sampled_from(["length32", "varint"]),
)
def test_untouched_messages_survive_any_edit_of_another(
    tmp_path: Path, number: int, at: int, inserted: bytes, removed: int, framed: str
) -> None:
    parts = [FRAMINGS[framed](message(good(n))) for n in range(1, 7)]
    parts[number] = parts[number][:at] + inserted + parts[number][at + removed :]
    path, out = tmp_path / "t.pb", tmp_path / "out.jsonl"
    path.write_bytes(b"".join(parts))
    protobuf.rewrite(path, path.stat().st_size, framed, out, 1 << 30)  # type: ignore[arg-type]
    text = out.read_text()
    # The edited one may lead the reader into the next, never past it.
    kept = {n for n in range(6) if n not in (number, number + 1)}
    assert all(f'"traceId":"{n + 1:032x}"' in text for n in kept)


def test_limits_are_those_of_lines() -> None:
    assert framing.MAX_MESSAGE_BYTES == lines.MAX_LINE_BYTES
