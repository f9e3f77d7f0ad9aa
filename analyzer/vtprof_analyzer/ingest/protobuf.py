"""Write OTLP protobuf messages again as the plain JSON lines that the JSON reader takes.

In go the messages of a file, out come lines of one signal each, and counts of what could not be used. A large file is
shared by two processes: to walk a span in Python costs more than the JSON reader then takes.
"""

import os
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from json.encoder import encode_basestring_ascii as quoted
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from vtprof_analyzer.ingest.columns import METRIC_NAMES
from vtprof_analyzer.ingest.framing import Framing, Message, MessageCounts, Messages
from vtprof_analyzer.ingest.lines import TOO_LARGE
from vtprof_analyzer.ingest.repair import INT64_MAX, SPAN_ID_BYTES, TRACE_ID_BYTES

SPANS_PER_LINE: Final = 512
"""A message may hold any number; the JSON parser's buffers grow with the longest line."""
SHARED_BYTES: Final = 64 << 20
"""From this size on a second process is worth its start."""
_READ_METRICS: Final = frozenset(METRIC_NAMES)
_NO_TRACE: Final = bytes(TRACE_ID_BYTES)
_NO_SPAN: Final = bytes(SPAN_ID_BYTES)

# The generated classes have no types that are worth a stub.
Proto = Any


def rewrite(path: Path, size: int, framing: Framing, target: Path, limit_bytes: int) -> MessageCounts:
    """Write the first ``size`` bytes of an unpacked file to ``target`` as JSON lines, ``limit_bytes`` or little more.

    Raises OSError.
    """
    with path.open("rb") as stream:
        alone = size < SHARED_BYTES or (os.cpu_count() or 1) < 2
        middle = None if alone else Messages(stream, size, framing).next_start(size // 2)
    if middle is None:
        return _rewrite_part(path, size, framing, (0, size), target, limit_bytes)
    rest = target.with_suffix(".rest")
    second = (path, size, framing, (middle, size), rest, limit_bytes // 2)
    # Not forked: a database's threads run here.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        other = pool.submit(_rewrite_part, *second)
        counts = _rewrite_part(path, size, framing, (0, middle), target, limit_bytes // 2)
        try:
            counts.add(other.result())
        except BrokenProcessPool:
            # It was killed, or processes cannot be started from here.
            counts.add(_rewrite_part(*second))
    with target.open("ab") as out, rest.open("rb") as more:
        shutil.copyfileobj(more, out, 4 << 20)
    rest.unlink()
    return counts


def _rewrite_part(
    path: Path, size: int, framing: Framing, part: tuple[int, int], target: Path, limit_bytes: int
) -> MessageCounts:
    with path.open("rb") as stream, target.open("wb") as out:
        return transcode(Messages(stream, size, framing).between(*part), out, limit_bytes)


def transcode(messages: Iterable[Message], out: BinaryIO, limit_bytes: int) -> MessageCounts:
    """Write the usable content of messages to ``out``, as JSON lines; count and name what is not usable."""
    counts = MessageCounts()
    for message in messages:
        counts.messages += 1
        if message.kind is None:
            counts.dropped_messages += 1
            counts.note(message.fault)
            continue
        try:
            _WRITERS[message.kind](message.data, out, counts)
        except DecodeError:
            counts.dropped_messages += 1
            counts.note(f"the message at byte {message.position}: no OTLP; left out")
        if out.tell() > limit_bytes:
            # Each message may be packed, and be a bomb.
            counts.fault = TOO_LARGE
            break
    return counts


def _json(data: bytes, out: BinaryIO, _: MessageCounts) -> None:
    # A document over several lines is one line to its readers; line ends inside of text are written as \n.
    out.write(data.strip().replace(b"\n", b" ") + b"\n")


def _traces(data: bytes, out: BinaryIO, counts: MessageCounts) -> None:
    for entry in ExportTraceServiceRequest.FromString(data).resource_spans:
        resource = _attributes(entry.resource.attributes)
        for scope in entry.scope_spans:
            for first in range(0, len(scope.spans), SPANS_PER_LINE):
                spans = [
                    text for span in scope.spans[first : first + SPANS_PER_LINE] if (text := _span(span))
                ]
                lost = min(SPANS_PER_LINE, len(scope.spans) - first) - len(spans)
                if lost:
                    counts.dropped_spans += lost
                    counts.note("a span without a valid id, name or start; left out")
                out.write(
                    f'{{"resourceSpans":[{{"resource":{{"attributes":[{resource}]}},'
                    f'"scopeSpans":[{{"spans":[{",".join(spans)}]}}]}}]}}\n'.encode()
                )


def _metrics(data: bytes, out: BinaryIO, _: MessageCounts) -> None:
    for entry in ExportMetricsServiceRequest.FromString(data).resource_metrics:
        resource = _attributes(entry.resource.attributes)
        metrics = ",".join(_metric(metric) for scope in entry.scope_metrics for metric in scope.metrics)
        out.write(
            f'{{"resourceMetrics":[{{"resource":{{"attributes":[{resource}]}},'
            f'"scopeMetrics":[{{"metrics":[{metrics}]}}]}}]}}\n'.encode()
        )


def _logs(data: bytes, _: BinaryIO, counts: MessageCounts) -> None:
    for entry in ExportLogsServiceRequest.FromString(data).resource_logs:
        counts.ignored_signals += sum(len(scope.log_records) for scope in entry.scope_logs)


def _profiles(_: bytes, __: BinaryIO, counts: MessageCounts) -> None:
    counts.ignored_signals += 1


def _empty(_: bytes, __: BinaryIO, ___: MessageCounts) -> None:
    """A request without content is legal, and nothing."""


_WRITERS: Final[dict[str, Callable[[bytes, BinaryIO, MessageCounts], None]]] = {
    "json": _json,
    "traces": _traces,
    "metrics": _metrics,
    "logs": _logs,
    "profiles": _profiles,
    "empty": _empty,
}


def _span(span: Proto) -> str | None:
    """Return a span as JSON; None when it has no valid id or start."""
    trace_id, span_id, parent = span.trace_id, span.span_id, span.parent_span_id
    start, end = span.start_time_unix_nano, span.end_time_unix_nano
    if (
        len(trace_id) != TRACE_ID_BYTES
        or trace_id == _NO_TRACE
        or len(span_id) != SPAN_ID_BYTES
        or span_id == _NO_SPAN
        or not 0 < start <= INT64_MAX
    ):
        return None
    text = f'{{"traceId":"{trace_id.hex()}","spanId":"{span_id.hex()}",'
    if len(parent) == SPAN_ID_BYTES and parent != _NO_SPAN:
        text += f'"parentSpanId":"{parent.hex()}",'
    text += f'"name":{quoted(span.name)},"kind":{span.kind},"startTimeUnixNano":{start},'
    if 0 < end <= INT64_MAX:
        text += f'"endTimeUnixNano":{end},'
    if span.links:
        text += f'"links":[{",".join(_links(span.links))}],'
    if span.HasField("status"):
        text += f'"status":{{"code":{span.status.code}}},'
    return text + f'"attributes":[{_attributes(span.attributes)}]}}'


def _links(links: Iterable[Proto]) -> list[str]:
    return [
        f'{{"traceId":"{link.trace_id.hex()}","spanId":"{link.span_id.hex()}"}}'
        for link in links
        if len(link.trace_id) == TRACE_ID_BYTES and len(link.span_id) == SPAN_ID_BYTES
    ]


def _metric(metric: Proto) -> str:
    """Return a metric as JSON; of those that nobody reads the name alone."""
    name = f'{{"name":{quoted(metric.name)}'
    kind = metric.WhichOneof("data") if metric.name in _READ_METRICS else None
    if kind not in ("gauge", "sum"):
        return name + "}"
    points = ",".join(_point(point) for point in getattr(metric, kind).data_points)
    return f'{name},"{kind}":{{"dataPoints":[{points}]}}}}'


def _point(point: Proto) -> str:
    text = "{"
    if 0 < point.start_time_unix_nano <= INT64_MAX:
        text += f'"startTimeUnixNano":{point.start_time_unix_nano},'
    if 0 < point.time_unix_nano <= INT64_MAX:
        text += f'"timeUnixNano":{point.time_unix_nano},'
    kind = point.WhichOneof("value")
    if kind == "as_int":
        text += f'"asInt":{point.as_int},'
    elif kind == "as_double":
        text += f'"asDouble":{_double(point.as_double)},'
    return text + f'"attributes":[{_attributes(point.attributes)}]}}'


class _Keys(dict[str, str]):
    """The begin of an attribute's text, by its key: the same few are met again and again."""

    def __missing__(self, key: str) -> str:
        text = f'{{"key":{quoted(key)},"value":'
        if len(self) < _KEPT_KEYS:
            self[key] = text
        return text


_KEPT_KEYS: Final = 10_000
_keys: Final = _Keys()


def _attributes(attributes: Iterable[Proto]) -> str:
    texts = []
    for attribute in attributes:
        value = attribute.value
        # Most are integers; asking for the kind costs more than asking for the number, which is 0 for other kinds.
        if number := value.int_value:
            texts.append(f'{_keys[attribute.key]}{{"intValue":{number}}}}}')
        else:
            texts.append(f"{_keys[attribute.key]}{_value(value)}}}")
    return ",".join(texts)


def _value(value: Proto) -> str:
    """Return a value as OTLP's JSON has it, 64-bit integers as text."""
    kind = value.WhichOneof("value")
    if kind == "int_value":
        return f'{{"intValue":"{value.int_value}"}}'
    if kind == "string_value":
        return f'{{"stringValue":{quoted(value.string_value)}}}'
    if kind == "double_value":
        return f'{{"doubleValue":{_double(value.double_value)}}}'
    if kind == "bool_value":
        return '{"boolValue":true}' if value.bool_value else '{"boolValue":false}'
    if kind == "bytes_value":
        return f'{{"bytesValue":"{b64encode(value.bytes_value).decode()}"}}'
    if kind == "array_value":
        return f'{{"arrayValue":{{"values":[{",".join(map(_value, value.array_value.values))}]}}}}'
    if kind == "kvlist_value":
        pairs = ",".join(f"{_keys[pair.key]}{_value(pair.value)}}}" for pair in value.kvlist_value.values)
        return f'{{"kvlistValue":{{"values":[{pairs}]}}}}'
    return "{}"


def _double(number: float) -> str:
    """Return a double as JSON; what JSON cannot write is text, as OTLP has it."""
    text = repr(number)
    return text if text[-1].isdigit() else f'"{_SPECIAL[text]}"'


_SPECIAL: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
