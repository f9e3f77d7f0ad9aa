"""Turn any OTLP JSON document into the plain form that the fast reader takes, leaving out what cannot be used.

Accepted besides the plain form: snake_case keys, base64 ids, integers as numbers or text, whole doubles for integers,
a value of another type where it can be converted. What has no id, name or start is dropped and counted.
"""

import base64
import binascii
import math
from dataclasses import dataclass, field
from typing import Any, Final

from vtprof_analyzer.ingest.columns import METRIC_NAMES
from vtprof_analyzer.ingest.dialects import FOREIGN_KEYS
from vtprof_analyzer.ingest.shapes import keys_with_column
from vtprof_schemas import names

INT64_MAX: Final = 2**63 - 1
TRACE_ID_BYTES: Final = 16
SPAN_ID_BYTES: Final = 8
_TYPES: Final = {a.key: a.type for a in names.ATTRIBUTES.values()} | {k.key: k.type for k in FOREIGN_KEYS}
_METRIC_NAMES: Final = frozenset(METRIC_NAMES)
_SIGNALS: Final = ("resourceSpans", "resourceMetrics", "resourceLogs", "resourceProfiles")

_BASES: Final = {"0x": 16, "0b": 2}
"""Integers that the fast reader takes too, so that both judge a value alike."""

Json = dict[str, Any]


@dataclass
class Repaired:
    """The plain documents of one input document, and what was left out of it."""

    documents: list[Json] = field(default_factory=list)
    ignored_signals: int = 0
    dropped_spans: int = 0
    mistyped_values: int = 0
    """Of attributes with a column, which stay empty."""
    faults: list[str] = field(default_factory=list)


def _get(source: Json, camel: str) -> Any:
    """Return a field by its camelCase name, or by the snake_case one."""
    if camel in source:
        return source[camel]
    return source.get("".join("_" + c.lower() if c.isupper() else c for c in camel))


def _dicts(source: Json, camel: str) -> list[Json]:
    value = _get(source, camel)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _entries(source: Json, camel: str, outcome: Repaired) -> list[Json]:
    """Return the objects of a list that leads to spans; what stands there instead is counted as spans left out."""
    value = _get(source, camel)
    if value is None:
        return []
    given = value if isinstance(value, list) else [value]
    entries = [item for item in given if isinstance(item, dict)] if isinstance(value, list) else []
    if len(entries) < len(given):
        outcome.dropped_spans += len(given) - len(entries)
        outcome.faults.append(f"{camel}: not a list of objects; what is not was left out")
    return entries


def to_int(value: Any) -> int | None:
    """Return a 64-bit integer given as number or text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            # The length bound keeps a megabyte of digits from being converted at all.
            value = int(value, _BASES.get(value.strip()[:2].lower(), 10)) if len(value) <= 20 else None
        except ValueError:
            return None
    if isinstance(value, float):
        value = int(value) if math.isfinite(value) and value.is_integer() else None
    return value if isinstance(value, int) and -INT64_MAX - 1 <= value <= INT64_MAX else None


def to_float(value: Any) -> float | None:
    """Return a finite double given as number or text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def to_hex_id(value: Any, size: int) -> str | None:
    """Return an id of ``size`` bytes as hex digits, from hex or base64; None when it is neither, or zero."""
    if not isinstance(value, str):
        return None
    try:
        raw = bytes.fromhex(value) if len(value) == 2 * size else base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return None
    return raw.hex() if len(raw) == size and any(raw) else None


def _attribute(item: Json) -> Json | None:
    """Return one attribute in plain form; an unusable value leaves the key, so that it is counted."""
    key = item.get("key")
    if not isinstance(key, str):
        return None
    value = item.get("value")
    given: Json = value if isinstance(value, dict) else {}
    scalars = {
        "stringValue": _get(given, "stringValue"),
        "intValue": _get(given, "intValue"),
        "doubleValue": _get(given, "doubleValue"),
    }
    first = next((v for v in scalars.values() if isinstance(v, (str, int, float))), None)
    type_ = _TYPES.get(key)
    plain: Json = {}
    if type_ == names.INT and (integer := to_int(first)) is not None:
        plain["intValue"] = integer
    elif type_ == names.DOUBLE and (number := to_float(first)) is not None:
        plain["doubleValue"] = number
    elif type_ == names.STRING and first is not None:
        plain["stringValue"] = str(first)
    elif type_ is None:
        plain = _unknown(given, scalars)
    return {"key": key, "value": plain}


def _unknown(given: Json, scalars: Json) -> Json:
    """Return the value of a key that has no type, as it came."""
    text, integer, number = (
        scalars["stringValue"],
        to_int(scalars["intValue"]),
        to_float(scalars["doubleValue"]),
    )
    bool_, bytes_ = _get(given, "boolValue"), _get(given, "bytesValue")
    if isinstance(text, str):
        return {"stringValue": text}
    if integer is not None:
        return {"intValue": integer}
    if number is not None:
        return {"doubleValue": number}
    if isinstance(bool_, bool):
        return {"boolValue": bool_}
    if isinstance(bytes_, str):
        return {"bytesValue": bytes_}
    nested = {
        name: value for name in ("arrayValue", "kvlistValue") if isinstance(value := _get(given, name), dict)
    }
    return dict(list(nested.items())[:1])


def _code(value: Any) -> str | None:
    """Return an enum of OTLP, a number or a name, as the fast reader takes it."""
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None


def _attributes(source: Json) -> list[Json]:
    return [plain for item in _dicts(source, "attributes") if (plain := _attribute(item)) is not None]


def _resource(source: Json) -> Json:
    resource = _get(source, "resource")
    return {"attributes": _attributes(resource) if isinstance(resource, dict) else []}


def _mistyped(name: str, attributes: list[Json]) -> list[str]:
    """Return the keys whose column stays empty on a span of this name; of a repeated key the first value counts."""
    keys = keys_with_column(name)
    first: dict[str, Json] = {}
    for attribute in attributes:
        first.setdefault(attribute["key"], attribute["value"])
    return [key for key, value in first.items() if not value and key in keys]


def _span(source: Json, outcome: Repaired) -> Json | None:
    trace_id = to_hex_id(_get(source, "traceId"), TRACE_ID_BYTES)
    span_id = to_hex_id(_get(source, "spanId"), SPAN_ID_BYTES)
    name = source.get("name")
    start = to_int(_get(source, "startTimeUnixNano"))
    if trace_id is None or span_id is None or not isinstance(name, str) or start is None or start <= 0:
        outcome.dropped_spans += 1
        outcome.faults.append("a span without a valid id, name or start; left out")
        return None
    attributes = _attributes(source)
    unusable = _mistyped(name, attributes)
    if unusable:
        outcome.mistyped_values += len(unusable)
        outcome.faults.append(
            f"attribute {unusable[0]} of another type than {_TYPES[unusable[0]]}; taken as unknown"
        )
    links = [
        {"traceId": linked_trace, "spanId": linked_span}
        for link in _dicts(source, "links")
        if (linked_trace := to_hex_id(_get(link, "traceId"), TRACE_ID_BYTES))
        and (linked_span := to_hex_id(_get(link, "spanId"), SPAN_ID_BYTES))
    ]
    end = to_int(_get(source, "endTimeUnixNano"))
    status = source.get("status")
    return {
        "traceId": trace_id,
        "spanId": span_id,
        "parentSpanId": to_hex_id(_get(source, "parentSpanId"), SPAN_ID_BYTES),
        "name": name,
        "kind": _code(source.get("kind")),
        "status": {"code": _code(status.get("code")) if isinstance(status, dict) else None},
        "startTimeUnixNano": start,
        "endTimeUnixNano": end if end is not None and end > 0 else None,
        "attributes": attributes,
        "links": links,
    }


def _metric(source: Json) -> Json | None:
    """Return a metric in plain form; a point without a time or number stays, so that it is counted."""
    name = source.get("name")
    if not isinstance(name, str):
        return None
    holders = [holder for kind in ("gauge", "sum") if isinstance(holder := source.get(kind), dict)]
    if not holders:
        return {"name": name}
    points = [
        {
            "startTimeUnixNano": to_int(_get(point, "startTimeUnixNano")),
            "timeUnixNano": to_int(_get(point, "timeUnixNano")),
            "asDouble": to_float(point.get("asInt", point.get("as_int", _get(point, "asDouble")))),
            "attributes": _attributes(point),
        }
        for holder in holders
        for point in _dicts(holder, "dataPoints")
    ]
    return {"name": name, "gauge": {"dataPoints": points}}


def _count_records(signal: list[Json]) -> int:
    """Count log records or profiles, at least one for an entry, so that none goes unseen."""
    total = 0
    for entry in signal:
        scopes = _dicts(entry, "scopeLogs") + _dicts(entry, "scopeProfiles")
        total += max(1, sum(len(_dicts(s, "logRecords")) + len(_dicts(s, "profiles")) for s in scopes))
    return total


def repair(document: Any) -> Repaired | None:
    """Return the usable content of a parsed document; None when it is no OTLP at all."""
    if isinstance(document, list):
        parts = [part for item in document if (part := repair(item)) is not None]
        if not parts:
            return None
        merged = Repaired()
        for part in parts:
            merged.documents += part.documents
            merged.ignored_signals += part.ignored_signals
            merged.dropped_spans += part.dropped_spans
            merged.mistyped_values += part.mistyped_values
            merged.faults += part.faults
        return merged
    if not isinstance(document, dict) or not any(isinstance(_get(document, s), list) for s in _SIGNALS):
        return None
    outcome = Repaired()
    for entry in _entries(document, "resourceSpans", outcome):
        spans = [
            plain
            for scope in _entries(entry, "scopeSpans", outcome)
            for source in _entries(scope, "spans", outcome)
            if (plain := _span(source, outcome)) is not None
        ]
        resource = _resource(entry)
        outcome.documents.append(
            {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}
        )
    for entry in _dicts(document, "resourceMetrics"):
        metrics = []
        for scope in _dicts(entry, "scopeMetrics"):
            plain_metrics = [plain for m in _dicts(scope, "metrics") if (plain := _metric(m)) is not None]
            metrics += [m for m in plain_metrics if m["name"] in _METRIC_NAMES]
            outcome.ignored_signals += sum(
                m["name"] not in _METRIC_NAMES and not m["name"].startswith("vtprof.") for m in plain_metrics
            )
        resource = _resource(entry)
        outcome.documents.append(
            {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": metrics}]}]}
        )
    logs = _dicts(document, "resourceLogs") + _dicts(document, "resourceProfiles")
    outcome.ignored_signals += _count_records(logs)
    return outcome
