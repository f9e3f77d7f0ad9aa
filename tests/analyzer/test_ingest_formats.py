"""What a file is follows from its bytes, whatever its name; text is never taken for messages, nor noise for either."""

import gzip
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otlp_builder import document, line, metric_document, request, span
from otlp_messages import FRAMINGS, delimited, length32, message, varint, whole

from vtprof_analyzer.ingest import formats
from vtprof_analyzer.ingest.formats import Format, detect
from vtprof_analyzer.ingest.framing import Messages
from vtprof_analyzer.ingest.wire import signal_of
from vtprof_schemas import names

LOGS = {
    "resourceLogs": [
        {"resource": {}, "scopeLogs": [{"logRecords": [{"timeUnixNano": "5", "body": {"stringValue": "x"}}]}]}
    ]
}


def detected(folder: Path, data: bytes) -> Format:
    path = folder / "f"
    path.write_bytes(data)
    return detect(path)


def good(trace: int) -> dict[str, Any]:
    return document(*request(0, 100, {names.INPUT_TOKENS: 7}, trace=trace), resource={"service.name": "x"})


@pytest.mark.parametrize("framing", list(FRAMINGS))
@pytest.mark.parametrize(
    "made",
    [good(1), document(span("x", 0, None)), metric_document(names.GPU_POWER_MW, [(1, 2.0)]), LOGS],
    ids=["spans", "bare span", "metrics", "logs"],
)
def test_messages_are_told_by_their_content_in_every_framing(
    tmp_path: Path, framing: str, made: dict[str, Any]
) -> None:
    assert detected(tmp_path, FRAMINGS[framing](*[message(made)] * 3)) == Format("protobuf", framing)


@pytest.mark.parametrize("framing", ["length32", "varint"])
def test_broken_and_empty_messages_at_the_begin_do_not_hide_the_others(tmp_path: Path, framing: str) -> None:
    data = FRAMINGS[framing](b"", b"\xff" * 40, message(good(1)))
    assert detected(tmp_path, data) == Format("protobuf", framing)


@pytest.mark.parametrize("framing", ["length32", "varint"])
@pytest.mark.parametrize("wrong_by", [-9, 7, 1 << 20])
def test_a_wrong_length_at_the_begin_does_not_hide_the_other_messages(
    tmp_path: Path, framing: str, wrong_by: int
) -> None:
    first = message(good(1))
    length = len(first) + wrong_by
    start = struct.pack(">I", length) if framing == "length32" else varint(length)
    data = start + first + FRAMINGS[framing](message(good(2)), message(good(3)))
    assert detected(tmp_path, data) == Format("protobuf", framing)


@pytest.mark.parametrize("framing", ["length32", "varint"])
def test_zeros_before_a_short_length_do_not_make_a_longer_one(tmp_path: Path, framing: str) -> None:
    """The first message is packed and broken, but for its end: of its size, 32 bits little-endian, three are zero."""
    packed = gzip.compress(message(good(1)))
    assert packed[-3:] == b"\0\0\0"
    broken = packed[:12] + b"\xff" * 8 + packed[20:]
    short = gzip.compress(message(LOGS))
    assert len(short) < 128, "its length is one byte, and together with the zeros four"
    data = FRAMINGS[framing](broken, short, gzip.compress(message(good(2))))
    assert detected(tmp_path, data) == Format("protobuf", framing)


@pytest.mark.parametrize("framing", list(FRAMINGS))
def test_a_length_with_a_fault_does_not_make_text_of_messages_that_hold_much_of_it(
    tmp_path: Path, framing: str
) -> None:
    config = "the configuration of a model, as text " * 80
    made = [
        message(document(*request(0, 100, {}, trace=trace), resource={"service.name": config}))
        for trace in range(1, 9)
    ]
    data = bytearray(FRAMINGS[framing](*made))
    data[1 if framing != "whole" else 2] ^= 0x10
    assert detected(tmp_path, bytes(data)) == Format("protobuf", framing)


@pytest.mark.parametrize(("zeros", "framing"), [(1, "length32"), (3, "varint")])
def test_zeros_in_front_that_make_another_length_of_the_first_one_hide_nothing(
    tmp_path: Path, zeros: int, framing: str
) -> None:
    """One zero is an empty message by varints, which the four bytes after it seem to go on with; three lengthen a byte."""
    bare = message(document(span("x", 0, 1)))
    assert len(bare) < 128
    data = b"\0" * zeros + FRAMINGS[framing](bare, *[message(good(trace)) for trace in range(1, 9)])
    assert detected(tmp_path, data) == Format("protobuf", framing)


def test_a_long_file_that_begins_with_a_fault_is_not_searched_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []

    class Noted(Messages):
        def _read(self, begin: int, end: int) -> bytes:
            ends.append(end)
            return super()._read(begin, end)

    monkeypatch.setattr(formats, "Messages", Noted)
    assert detected(tmp_path, b"#\n" + b'x {"resourceSpans": []}\n' * 1_500_000) == Format("json")
    assert ends and max(ends) <= 18 << 20, "of 34 MiB"


def test_a_broken_record_at_the_begin_does_not_hide_those_after_it(tmp_path: Path) -> None:
    data = b"\n\xff\x7f" + bytes(range(40)) + whole(message(good(2)), message(good(3)))
    assert detected(tmp_path, data) == Format("protobuf", "whole")


UNKNOWN_FIELD = b"\x78\x01"
"""Field 15, a varint: no part of OTLP has it."""


def nested(number: int, content: bytes) -> bytes:
    """Return a field with a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def test_fields_that_otlp_does_not_have_yet_do_not_hide_what_a_message_carries() -> None:
    made = ExportTraceServiceRequest.FromString(message(good(1)))
    (record,) = made.resource_spans
    (scope,) = record.scope_spans
    strange_scope = nested(2, UNKNOWN_FIELD + scope.SerializeToString() + UNKNOWN_FIELD)
    strange_record = nested(1, UNKNOWN_FIELD + strange_scope)
    for data in (message(good(1)) + UNKNOWN_FIELD, strange_record + UNKNOWN_FIELD):
        assert len(ExportTraceServiceRequest.FromString(data).resource_spans) == 1
        assert signal_of(data) == "traces"
    # Alone they say nothing.
    assert signal_of(UNKNOWN_FIELD) is None
    assert signal_of(nested(1, UNKNOWN_FIELD)) is None


@pytest.mark.parametrize(
    ("made", "signal"),
    [
        (good(1), "traces"),
        (metric_document("a name of sixtee", [(1, 2.0)]), "metrics"),
        (metric_document(names.AGENT_CPU_RATIO, [(1, 2.0)], kind="sum"), "metrics"),
        (LOGS, "logs"),
    ],
)
def test_a_signal_is_never_taken_for_another(made: dict[str, Any], signal: str) -> None:
    assert signal_of(message(made)) == signal


def test_a_metric_with_a_name_and_description_as_long_as_ids_is_no_span() -> None:
    made = metric_document("m" * 16, [(1, 2.0)])
    made["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["description"] = "d" * 8
    assert signal_of(message(made)) == "metrics"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not json\n",
        b"\n\n\n" + line(good(1)).encode(),
        b"\xef\xbb\xbf" + line(good(1)).encode(),
        b"\x00" * 4096 + line(good(1)).encode(),
        json.dumps(good(1), indent=1).encode(),
        b"[" + line(good(1)).encode() + b"]",
        b"\xff\x01\x02\x03 broken " + line(good(1)).encode(),
        line(good(1)).encode("utf-8").replace(b"vtprof", b"vt\xffrof"),
    ],
)
def test_text_is_json(tmp_path: Path, text: bytes) -> None:
    assert detected(tmp_path, text) == Format("json")


def test_framed_json_is_json(tmp_path: Path) -> None:
    assert detected(tmp_path, length32(line(good(1)).encode())) == Format("json", "length32")


def test_parquet_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    assert detected(tmp_path, b"PAR1 and so on") == Format("parquet")


def test_noise_and_other_protobuf_are_none_of_ours(tmp_path: Path) -> None:
    from opentelemetry.proto.trace.v1 import trace_pb2

    for seed in range(50):
        assert detected(tmp_path, random.Random(seed).randbytes(4000)) == Format(None)
    other: bytes = trace_pb2.DESCRIPTOR.serialized_pb
    assert signal_of(other) is None
    assert detected(tmp_path, length32(other, other)).kind != "protobuf"
    assert detected(tmp_path, delimited(other, other)).kind != "protobuf"


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=300))
@example(text="{\n" + " " * 119 + "}")
@example(text="\n{" + "x" * 121)
@example(text="[\nY" + "x" * 88)
def test_no_text_passes_for_a_request(text: str) -> None:
    data = text.encode()
    # Two bytes can be an empty request or profiles: no file is judged by these.
    assert signal_of(data) in (None, "empty", "profiles")
    assert (signal_of(data) == "empty") <= (not data or data[0] == 0x0A)
