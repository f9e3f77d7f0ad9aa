"""Make OTLP JSON lines for tests: spans and metrics with readable integers, as an exporter would write them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtprof_schemas import names

BASE_NS = 1_795_000_000_000_000_000
"""Times in tests are small integers after this moment."""


def value(raw: Any) -> dict[str, Any]:
    """Wrap a Python value as OTLP's AnyValue: 64-bit integers are text in JSON."""
    if isinstance(raw, bool):
        return {"boolValue": raw}
    if isinstance(raw, int):
        return {"intValue": str(raw)}
    if isinstance(raw, float):
        return {"doubleValue": raw}
    return {"stringValue": raw}


def attributes(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value(raw)} for key, raw in given.items()]


def span(
    name: str,
    start: int,
    end: int | None,
    attrs: Mapping[str, Any] | None = None,
    *,
    trace: int = 1,
    span_id: int = 1,
    parent: int | None = None,
) -> dict[str, Any]:
    """Return one span; times are nanoseconds after BASE_NS, ``end`` None leaves it out."""
    made: dict[str, Any] = {
        "traceId": f"{trace:032x}",
        "spanId": f"{span_id:016x}",
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(BASE_NS + start),
        "attributes": attributes(attrs or {}),
        "status": {},
    }
    if end is not None:
        made["endTimeUnixNano"] = str(BASE_NS + end)
    if parent is not None:
        made["parentSpanId"] = f"{parent:016x}"
    return made


def document(*spans: dict[str, Any], resource: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": attributes(resource or {})},
                "scopeSpans": [{"scope": {}, "spans": list(spans)}],
            }
        ]
    }


def metric_document(
    name: str, points: list[tuple[int, float]], resource: Mapping[str, Any] | None = None, kind: str = "gauge"
) -> dict[str, Any]:
    data = [{"timeUnixNano": str(BASE_NS + at), "asDouble": reading} for at, reading in points]
    return {
        "resourceMetrics": [
            {
                "resource": {"attributes": attributes(resource or {})},
                "scopeMetrics": [{"scope": {}, "metrics": [{"name": name, kind: {"dataPoints": data}}]}],
            }
        ]
    }


def request(
    start: int,
    end: int | None,
    attrs: Mapping[str, Any] | None = None,
    *,
    trace: int = 1,
    **phases: tuple[int, int | None],
) -> list[dict[str, Any]]:
    """Return a request span (id 1) and one child a phase: ``encode=(10, 30)``; a phase twice: ``queue_2=(…)``."""
    given = {names.REQUEST_ID: f"r{trace}", names.REQUEST_STATUS: names.STATUS_OK, **(attrs or {})}
    spans = [span(names.SPAN_REQUEST, start, end, given, trace=trace)]
    for number, (key, (begin, stop)) in enumerate(phases.items(), start=2):
        phase = key.split("_")[0]
        child = {names.PHASE: phase}
        spans.append(
            span(names.PHASE_SPANS[phase], begin, stop, child, trace=trace, span_id=number, parent=1)
        )
    return spans


def line(item: dict[str, Any]) -> str:
    return json.dumps(item, separators=(",", ":"))


def write(path: Path, *documents: dict[str, Any] | str, end: str = "\n") -> Path:
    """Write one line a document (text is written as it is)."""
    text = "\n".join(item if isinstance(item, str) else line(item) for item in documents)
    path.write_text(text + end)
    return path
