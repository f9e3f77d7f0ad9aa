"""Reads the OTLP JSON lines that the agent wrote, for tests: spans with their attributes, requests with their phases."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtprof_schemas import names


@dataclass(frozen=True)
class Span:
    """One span; times in ns since the epoch."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: tuple[str, ...]
    """Span ids of the requests that it names."""
    resource: dict[str, Any]

    def count(self, key: str) -> int:
        """Return an integer attribute, 0 where it is absent."""
        return int(self.attributes.get(key, 0))


@dataclass
class Request:
    """A request's span and those of its phases."""

    root: Span
    phases: list[Span] = field(default_factory=list)

    def total(self, phase: str, key: str) -> int:
        """Return the sum of an attribute over the spans of a phase."""
        return sum(span.count(key) for span in self.phases if span.attributes[names.PHASE] == phase)

    def named(self, phase: str) -> list[Span]:
        """Return the spans of a phase."""
        return [span for span in self.phases if span.attributes[names.PHASE] == phase]

    def covered_ns(self) -> int:
        """Return how much of arrival to first token lies in phases, overlap counted once."""
        first_token_ns = self.root.start_ns + self.root.count(names.TTFT_NS)
        spans = [
            span
            for span in self.phases
            if span.attributes[names.PHASE] in names.TTFT_PHASES and span.start_ns < first_token_ns
        ]
        return union_ns(
            (max(span.start_ns, self.root.start_ns), min(span.end_ns, first_token_ns)) for span in spans
        )


def union_ns(intervals: Iterable[tuple[int, int]]) -> int:
    """Return the length of the union of intervals."""
    total, reached = 0, -(1 << 62)
    for start, end in sorted(intervals):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total


def read(folder: Path) -> list[Span]:
    """Return the spans of all files, each once; a repeated one must be the same (delivery is at least once)."""
    found: dict[str, Span] = {}
    for path in sorted(folder.glob("*.traces.jsonl")):
        for line in path.read_text().splitlines():
            for resource in _document(line).get("resourceSpans", ()):
                values = _values(resource["resource"]["attributes"])
                for scope in resource["scopeSpans"]:
                    for raw in scope["spans"]:
                        span = _span(raw, values)
                        assert found.setdefault(span.span_id, span).attributes == span.attributes
    return list(found.values())


def requests(spans: Iterable[Span]) -> dict[str, Request]:
    """Return the requests by `vtprof.request.id`; no two have the same."""
    spans = list(spans)
    roots = {span.span_id: Request(span) for span in spans if span.name == names.SPAN_REQUEST}
    for span in spans:
        if names.PHASE in span.attributes and span.parent_id in roots:
            roots[span.parent_id].phases.append(span)
    by_id = {str(request.root.attributes.get(names.REQUEST_ID)): request for request in roots.values()}
    assert len(by_id) == len(roots), "two request spans have one id"
    return by_id


def _document(line: str) -> dict[str, Any]:
    """Return a line's document; one that was cut by a kill is empty."""
    try:
        document: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return document


def _span(raw: dict[str, Any], resource: dict[str, Any]) -> Span:
    return Span(
        raw["name"],
        raw["traceId"],
        raw["spanId"],
        raw.get("parentSpanId", ""),
        int(raw["startTimeUnixNano"]),
        int(raw["endTimeUnixNano"]),
        _values(raw.get("attributes", ())),
        tuple(link["spanId"] for link in raw.get("links", ())),
        resource,
    )


def _values(attributes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {item["key"]: _value(item["value"]) for item in attributes}


def _value(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    return int(content) if kind == "intValue" else content
