"""Write a day as files: OTLP JSON lines (plain or gzip), framed protobuf, or flat Parquet, and metrics as JSON lines.

The text of a span is made once; its copies differ in a few numbers, so that ten million spans take minutes.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Literal, NamedTuple

from synthetic.copies import Copy, copied_resource, copies_of
from synthetic.spans import Span, Value
from synthetic.write_binary import write_parquet, write_protobuf

Format = Literal["jsonl", "gz", "pb", "varint", "parquet"]
SUFFIXES: dict[Format, str] = {
    "jsonl": ".jsonl", "gz": ".jsonl.gz", "pb": ".pb", "varint": ".binpb", "parquet": ".parquet",
}  # fmt: skip
_HAS_REMOTE, _REMOTE = 0x100, 0x200
_SERVER = 2
_SCOPE = '"scope":{"name":"vtprof","version":"1"}'
_REQUEST_ID = '"chatcmpl-'


def write_spans(
    folder: Path,
    resources: Sequence[dict[str, Value]],
    spans: list[Span],
    format: Format = "jsonl",
    spans_per_line: int = 512,
    copies: int = 1,
) -> list[Path]:
    """Write a file for each resource, its spans in the order in which they ended; return the paths.

    A line, or message, holds ``spans_per_line`` spans at most. "pb" has four bytes of length before each message,
    "varint" a varint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series = copies_of(spans, copies)
    paths = []
    for number, resource in enumerate(resources):
        own = sorted((s for s in spans if s.resource == number), key=lambda s: (s.end_ns, s.start_ns))
        path = folder / f"traces-{number}{SUFFIXES[format]}"
        if format == "parquet":
            write_parquet(path, resource, own, series)
        elif format in ("pb", "varint"):
            write_protobuf(path, resource, own, spans_per_line, series, varint=format == "varint")
        else:
            with path.open("wb") if format == "jsonl" else gzip.open(path, "wb", compresslevel=5) as out:
                _write_lines(out, resource, own, spans_per_line, series)
        paths.append(path)
    return paths


def write_metrics(path: Path, resource: dict[str, Value], metrics: Iterable[dict[str, object]]) -> None:
    """Write metrics as JSON lines, one metric a line."""
    told = attributes_text(resource)
    with path.open("w", encoding="utf-8") as out:
        for metric in metrics:
            text = json.dumps(metric, separators=(",", ":"))
            out.write(
                f'{{"resourceMetrics":[{{"resource":{{"attributes":[{told}]}},'
                f'"scopeMetrics":[{{{_SCOPE},"metrics":[{text}]}}]}}]}}\n'
            )


def _write_lines(
    out: "IO[bytes] | gzip.GzipFile",
    resource: dict[str, Value],
    spans: Sequence[Span],
    spans_per_line: int,
    series: Sequence[Copy],
) -> None:
    prepared = [_Text.of(span) for span in spans]
    for copy in series:
        told = attributes_text(copied_resource(resource, copy))
        before = (
            f'{{"resourceSpans":[{{"resource":{{"attributes":[{told}]}},"scopeSpans":[{{{_SCOPE},"spans":['
        )
        for begin in range(0, len(prepared), spans_per_line):
            group = prepared[begin : begin + spans_per_line]
            out.write((before + ",".join(_rendered(group, copy)) + "]}]}]}\n").encode())


class _Text(NamedTuple):
    """A span with everything made text that its copies have in common."""

    span: Span
    middle: str
    """Flags, name and kind."""
    tail: str
    """Attributes."""
    end: str

    @classmethod
    def of(cls, span: Span) -> "_Text":
        flags = _HAS_REMOTE | (_REMOTE if span.remote_parent else 0)
        middle = f'"flags":{flags},"name":"{span.name}","kind":{span.kind},"startTimeUnixNano":"'
        status = '"code":2' if span.failed else ""
        tail = f'","attributes":[{attributes_text(span.attributes)}]'
        return cls(span, middle, tail, f',"status":{{{status}}}}}')


def _rendered(group: Iterable[_Text], copy: Copy) -> Iterator[str]:
    key, shift, number = copy.key, copy.shift_ns, copy.number
    for span, middle, tail, end in group:
        high, low, own = span.ids
        parent = "" if span.parent is None else f'"parentSpanId":"{span.parent ^ key:016x}",'
        if number and span.kind == _SERVER:
            tail = tail.replace(_REQUEST_ID, f'"{number}-{_REQUEST_ID[1:]}', 1)
        links = ""
        if span.links:
            found = [
                f'{{"traceId":"{h ^ key:016x}{w ^ key:016x}","spanId":"{s ^ key:016x}","flags":{_HAS_REMOTE}}}'
                for h, w, s in span.links
            ]
            links = f',"links":[{",".join(found)}]'
        yield (
            f'{{"traceId":"{high ^ key:016x}{low ^ key:016x}","spanId":"{own ^ key:016x}",{parent}{middle}'
            f'{span.start_ns + shift}","endTimeUnixNano":"{span.end_ns + shift}{tail}{links}{end}'
        )


def attributes_text(values: dict[str, Value]) -> str:
    """Return attributes as OTLP JSON: 64 bit integers are text there."""
    found = []
    for key, value in values.items():
        if isinstance(value, int):
            found.append(f'{_key(key)}"intValue":"{value}"}}}}')
        elif isinstance(value, float):
            found.append(f'{_key(key)}"doubleValue":{value!r}}}}}')
        else:
            found.append(f'{_key(key)}"stringValue":{json.dumps(value)}}}}}')
    return ",".join(found)


@lru_cache(maxsize=512)
def _key(key: str) -> str:
    return f'{{"key":{json.dumps(key)},"value":{{'
