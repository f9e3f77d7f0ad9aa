"""Write spans as OTLP protobuf, framed as the Collector's file exporter does, or as a flat Parquet table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from synthetic.copies import Copy, copied_resource
from synthetic.spans import Ids, Span, Value
from vtprof_schemas import names

_HAS_REMOTE, _REMOTE = 0x100, 0x200
_BASE_COLUMNS: dict[str, Any] = {
    "trace_id": pl.String,
    "span_id": pl.String,
    "parent_span_id": pl.String,
    "name": pl.String,
    "kind": pl.UInt8,
    "status_code": pl.UInt8,
    "start_ns": pl.Int64,
    "end_ns": pl.Int64,
    "links": pl.List(pl.Struct({"traceId": pl.String, "spanId": pl.String})),
}
_TYPES: dict[str, Any] = {names.INT: pl.Int64, names.DOUBLE: pl.Float64, names.STRING: pl.String}


def write_protobuf(
    path: Path,
    resource: dict[str, Value],
    spans: Sequence[Span],
    spans_per_line: int,
    series: Sequence[Copy],
    *,
    varint: bool,
) -> None:
    """Write a message for so many spans each, its length before it: as a varint, or in four bytes, the highest first."""
    with path.open("wb") as out:
        for copy in series:
            told = _attributes(copied_resource(resource, copy))
            for begin in range(0, len(spans), spans_per_line):
                message = trace_pb2.TracesData()
                whole = message.resource_spans.add()
                whole.resource.attributes.extend(told)
                scope = whole.scope_spans.add()
                scope.scope.name, scope.scope.version = "vtprof", "1"
                scope.spans.extend(_span(span, copy) for span in spans[begin : begin + spans_per_line])
                data = message.SerializeToString()
                out.write(_varint(len(data)) if varint else len(data).to_bytes(4, "big"))
                out.write(data)


def write_parquet(
    path: Path, resource: dict[str, Value], spans: Sequence[Span], series: Sequence[Copy]
) -> None:
    """Write all spans as one table with the analyzer's columns; what belongs to the resource stands in every row."""
    tables = []
    for copy in series:
        about = {names.column_name(key): value for key, value in copied_resource(resource, copy).items()}
        rows = [about | _row(span, copy) for span in spans]
        columns = set().union(*rows)
        known = {attribute.column: _TYPES[attribute.type] for attribute in names.ATTRIBUTES.values()}
        schema = _BASE_COLUMNS | {
            column: known.get(column, pl.String) for column in sorted(columns - set(_BASE_COLUMNS))
        }
        tables.append(pl.DataFrame(rows, schema))
    pl.concat(tables).write_parquet(path, compression="zstd", row_group_size=100_000)


def _row(span: Span, copy: Copy) -> dict[str, Any]:
    return {
        "trace_id": _trace(span.ids, copy).hex(),
        "span_id": f"{span.ids.span ^ copy.key:016x}",
        "parent_span_id": None if span.parent is None else f"{span.parent ^ copy.key:016x}",
        "name": span.name,
        "kind": span.kind,
        "status_code": 2 if span.failed else 0,
        "start_ns": span.start_ns + copy.shift_ns,
        "end_ns": span.end_ns + copy.shift_ns,
        "links": [
            {"traceId": _trace(ids, copy).hex(), "spanId": f"{ids.span ^ copy.key:016x}"}
            for ids in span.links
        ],
        **{names.column_name(key): value for key, value in copy.attributes(span).items()},
    }


def _span(span: Span, copy: Copy) -> trace_pb2.Span:
    made = trace_pb2.Span(
        trace_id=_trace(span.ids, copy),
        span_id=_bytes(span.ids.span, copy),
        parent_span_id=b"" if span.parent is None else _bytes(span.parent, copy),
        flags=_HAS_REMOTE | (_REMOTE if span.remote_parent else 0),
        name=span.name,
        kind=trace_pb2.Span.SpanKind.ValueType(span.kind),
        start_time_unix_nano=span.start_ns + copy.shift_ns,
        end_time_unix_nano=span.end_ns + copy.shift_ns,
        attributes=_attributes(copy.attributes(span)),
        links=[
            trace_pb2.Span.Link(trace_id=_trace(ids, copy), span_id=_bytes(ids.span, copy), flags=_HAS_REMOTE)
            for ids in span.links
        ],
    )
    if span.failed:
        made.status.code = trace_pb2.Status.STATUS_CODE_ERROR
    return made


def _attributes(values: dict[str, Value]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any(value)) for key, value in values.items()]


def _any(value: Value) -> AnyValue:
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value) if isinstance(value, float) else AnyValue(string_value=value)


def _trace(ids: Ids, copy: Copy) -> bytes:
    return _bytes(ids.high, copy) + _bytes(ids.low, copy)


def _bytes(number: int, copy: Copy) -> bytes:
    return (number ^ copy.key).to_bytes(8, "big")


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
