"""What a reader must find in a file, by Python's json and protobuf: the valid spans, and whether there are faults."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fuzz.documents import BASE_NS, SPAN_NS, Json
from vtprof_schemas import names

_REQUESTS: Final = {
    "resourceSpans": ExportTraceServiceRequest,
    "resourceMetrics": ExportMetricsServiceRequest,
    "resourceLogs": ExportLogsServiceRequest,
}
_IDS: Final = ("traceId", "spanId", "parentSpanId")
_MUST_HAVE: Final = (
    ("traceId", "trace_id"),
    ("spanId", "span_id"),
    ("startTimeUnixNano", "start_time_unix_nano"),
)
"""Keys of a span as OTLP's JSON has them, and as protobuf does, which parsers take, too."""
_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_DIGITS: Final = re.compile(r"[0-9]{1,19}")


class Found(NamedTuple):
    """A span as the tables must have it."""

    trace_id: str
    span_id: str
    name: str
    start_ns: int
    input_tokens: int | None
    """Of a request; None where the oracle does not say."""


def _id(raw: Any, digits: int) -> str | None:
    if not isinstance(raw, str) or len(raw) != digits or not _HEX.fullmatch(raw) or not raw.strip("0"):
        return None
    return raw.lower()


def _time(raw: Any) -> int | None:
    """Return a time that no reader may doubt: written as OTLP does it, and within the hour."""
    number = (
        int(raw) if isinstance(raw, str) and _DIGITS.fullmatch(raw) else raw if type(raw) is int else None
    )
    return number if number is not None and BASE_NS <= number < BASE_NS + SPAN_NS else None


def _tokens(span: Json) -> int | None:
    listed = span.get("attributes")
    if span["name"] != names.SPAN_REQUEST or not isinstance(listed, list):
        return None
    given = [a for a in listed if isinstance(a, dict) and a.get("key") == names.INPUT_TOKENS]
    if len(given) != 1 or len(given[0]) != 2 or not isinstance(given[0].get("value"), dict):
        return None
    raw = given[0]["value"].get("intValue")
    clear = len(given[0]["value"]) == 1 and isinstance(raw, str) and raw.isascii() and raw.isdigit()
    return int(raw) if clear and int(raw) < 10**6 else None


def _listed(item: Any, key: str) -> Iterator[Json]:
    given = item.get(key)
    if isinstance(given, list):
        yield from (each for each in given if isinstance(each, dict))


def _reachable(document: Any) -> Iterator[Json]:
    if isinstance(document, dict):
        for resource in _listed(document, "resourceSpans"):
            for scope in _listed(resource, "scopeSpans"):
                yield from _listed(scope, "spans")


def valid_spans(document: Any) -> Iterator[Found]:
    """Yield the spans of a parsed document that nothing is wrong with, so that no reader may lose them."""
    for span in _reachable(document):
        ids = _id(span.get("traceId"), 32), _id(span.get("spanId"), 16)
        start, name = _time(span.get("startTimeUnixNano")), span.get("name")
        if ids[0] and ids[1] and start is not None and isinstance(name, str) and name.strip():
            yield Found(ids[0], ids[1], name, start, _tokens(span))


def has_faulty_span(document: Any) -> bool:
    """Say whether a document has a span that certainly is none: without ids or a time, in either spelling of the keys."""
    return any(
        not span.get(key) and not span.get(snake)
        for span in _reachable(document)
        for key, snake in _MUST_HAVE
    )


class RepeatedKey(ValueError):
    """An object has a key twice: parsers differ in which one counts."""


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RepeatedKey
    return found


def parse_line(line: bytes) -> Any:
    """Return the JSON value of a line. Raises ValueError, RepeatedKey or RecursionError."""
    return json.loads(line.decode("utf-8"), object_pairs_hook=_unique)


def to_message(document: Json) -> bytes:
    """Return a valid document as protobuf, made by protobuf's own library."""
    (signal,) = document
    data: bytes = ParseDict(_with_base64_ids(document), _REQUESTS[signal]()).SerializeToString()
    return data


def _with_base64_ids(item: Any) -> Any:
    """Return a document as protobuf's JSON has it: OTLP's own writes ids in hex."""
    if isinstance(item, list):
        return [_with_base64_ids(each) for each in item]
    if not isinstance(item, dict):
        return item
    return {
        key: base64.b64encode(bytes.fromhex(raw)).decode() if key in _IDS else _with_base64_ids(raw)
        for key, raw in item.items()
    }


def parse_message(data: bytes, signal: str) -> Json | None:
    """Return the spans of a message in the shape of OTLP JSON; None when protobuf cannot parse it."""
    request = _REQUESTS[signal]()
    try:
        request.ParseFromString(data)
    except DecodeError:
        return None
    if signal != "resourceSpans":
        return {}
    spans = [
        {
            "traceId": span.trace_id.hex(), "spanId": span.span_id.hex(), "name": span.name,
            "startTimeUnixNano": str(span.start_time_unix_nano),
            "attributes": [_attribute(each) for each in span.attributes],
        }
        for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
    ]  # fmt: skip
    return {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}


def _attribute(given: Any) -> Json:
    kind = given.value.WhichOneof("value")
    return {
        "key": given.key,
        "value": {"intValue": str(given.value.int_value)} if kind == "int_value" else {},
    }


def missing(expected: Iterable[Found], table: Iterable[tuple[Any, ...]]) -> list[str]:
    """Return, in words, what a table does not have of what was expected; its rows are as `Found` has them."""
    there: dict[tuple[Any, ...], set[Any]] = {}
    for trace_id, span_id, name, start_ns, tokens in table:
        there.setdefault((trace_id, span_id, name, start_ns), set()).add(tokens)
    lost = []
    for span in expected:
        tokens = there.get(span[:4])
        if tokens is None:
            lost.append(f"lost: {span}")
        elif span.input_tokens is not None and span.input_tokens not in tokens:
            lost.append(f"input_tokens {sorted(map(str, tokens))}, not {span.input_tokens}: {span}")
    return lost
