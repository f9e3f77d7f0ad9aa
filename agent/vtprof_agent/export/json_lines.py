"""A batch as lines of OTLP JSON, one for the spans and one for the metric points, as OpenTelemetry's own encoders write it.

Plain spans and points, as all of ours are, become text at once: the encoder makes an object of every value and a dictionary
of every object, which with the counters on each phase was a fifth of all that the agent does. Whatever is not plain, and the
resources, go through it.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from math import isfinite, isnan
from typing import Any

from opentelemetry.exporter.otlp.json.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

_HAS_REMOTE, _REMOTE = 0x100, 0x200
"""Bits of a span's flags: whether its parent is remote is known, and it is."""
_CUMULATIVE = AggregationTemporality.CUMULATIVE.value
_MOST_AROUND = 256
_SPANS, _METRICS = "spans", "metrics"
_AROUND: dict[tuple[int, int, str], tuple[Resource, InstrumentationScope | None, str, str]] = {}
"""They are held, so that no other has their id."""


def spans_line(spans: Sequence[ReadableSpan]) -> bytes:
    """Return spans as a line; raises what a value that is none of OpenTelemetry's raises."""
    groups: dict[tuple[int, int], list[ReadableSpan]] = {}
    for span in spans:
        groups.setdefault((id(span.resource), id(span.instrumentation_scope)), []).append(span)
    found = []
    for group in groups.values():
        before, behind = _around(group[0].resource, group[0].instrumentation_scope, _SPANS)
        found.append(before + ",".join(_plain(span) or _dumped(_encoded(span)) for span in group) + behind)
    return f'{{"resourceSpans":[{",".join(found)}]}}\n'.encode()


def metrics_line(metrics: MetricsData) -> bytes:
    """Return metric points as a line."""
    if not metrics.resource_metrics:
        return _dumped(encode_metrics(metrics).to_dict()).encode() + b"\n"
    found = [
        _plain_resource(whole) or _dumped(_encoded_resource(whole)) for whole in metrics.resource_metrics
    ]
    return f'{{"resourceMetrics":[{",".join(found)}]}}\n'.encode()


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:  # no JSON: the encoder leaves such numbers as they are
        return json.dumps(_named(value), separators=(",", ":"))


def _named(value: Any) -> Any:
    """Give numbers that JSON does not have the names that OTLP has for them."""
    if isinstance(value, dict):
        return {key: _named(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_named(one) for one in value]
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _encoded(span: ReadableSpan) -> dict[str, Any]:
    found: dict[str, Any] = encode_spans([span]).to_dict()["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    return found


def _around(resource: Resource, scope: InstrumentationScope | None, what: str) -> tuple[str, str]:
    """Return what stands before and behind the spans or metrics of a resource and a scope; remembered by which they are.

    Two that are equal may differ: 1 is True.
    """
    place = (id(resource), id(scope), what)
    known = _AROUND.get(place)
    if known is None:
        if len(_AROUND) >= _MOST_AROUND:
            _AROUND.clear()
        known = _AROUND[place] = (resource, scope, *_encode_around(resource, scope, what))
    return known[2:]


def _encode_around(resource: Resource, scope: InstrumentationScope | None, what: str) -> tuple[str, str]:
    if what == _SPANS:
        around = encode_spans([ReadableSpan("", resource=resource, instrumentation_scope=scope)]).to_dict()
        (whole,) = around["resourceSpans"]
        (inner,) = whole["scopeSpans"]
    else:
        assert scope is not None  # of metrics there is always one
        whole = _encoded_resource(ResourceMetrics(resource, [ScopeMetrics(scope, [], "")], ""))
        (inner,) = whole["scopeMetrics"]
    inner[what] = []
    before, behind = _dumped(whole).rsplit(f'"{what}":[]', 1)
    return f'{before}"{what}":[', f"]{behind}"


def _plain(span: ReadableSpan) -> str | None:
    """Return the text of a span of simple values without events; None when it is more than that."""
    context, parent = span.get_span_context(), span.parent
    attributes = _attributes(span.attributes or {})
    dropped = span.dropped_attributes or span.dropped_links or span.dropped_events
    if (
        context is None
        or attributes is None
        or dropped
        or span.events
        or context.trace_state
        or not span.name
    ):
        return None
    links = []
    for link in span.links:
        to = link.context
        if link.attributes or to.trace_state or link.dropped_attributes:
            return None
        flags = _HAS_REMOTE | _REMOTE if to.is_remote else _HAS_REMOTE
        links.append(f'{{"traceId":"{to.trace_id:032x}","spanId":"{to.span_id:016x}","flags":{flags}}}')
    flags = _HAS_REMOTE | _REMOTE if parent is not None and parent.is_remote else _HAS_REMOTE
    description, code = span.status.description, span.status.status_code.value
    told = ([f'"message":{_quoted(description)}'] if description else []) + (
        [f'"code":{code}'] if code else []
    )
    return (
        f'{{"traceId":"{context.trace_id:032x}","spanId":"{context.span_id:016x}"'
        + (f',"parentSpanId":"{parent.span_id:016x}"' if parent is not None else "")
        + f',"flags":{flags},"name":{_quoted(span.name)},"kind":{span.kind.value + 1}'
        + (f',"startTimeUnixNano":"{span.start_time:d}"' if span.start_time else "")
        + (f',"endTimeUnixNano":"{span.end_time:d}"' if span.end_time else "")
        + (f',"attributes":[{attributes}]' if attributes else "")
        + (f',"links":[{",".join(links)}]' if links else "")
        + f',"status":{{{",".join(told)}}}}}'
    )


def _encoded_resource(whole: ResourceMetrics) -> dict[str, Any]:
    found: dict[str, Any] = encode_metrics(MetricsData([whole])).to_dict()["resourceMetrics"][0]
    return found


def _plain_resource(whole: ResourceMetrics) -> str | None:
    """Return the text of the metrics of a resource; None when they are more than plain."""
    if len(whole.scope_metrics) != 1 or not whole.scope_metrics[0].metrics:
        return None
    found = []
    for metric in whole.scope_metrics[0].metrics:
        text = _plain_metric(metric)
        if text is None:
            return None
        found.append(text)
    before, behind = _around(whole.resource, whole.scope_metrics[0].scope, _METRICS)
    return before + ",".join(found) + behind


def _plain_metric(metric: Metric) -> str | None:
    """Return the text of a gauge or a running total with points; None when it is more than that."""
    data = metric.data
    if type(data) is Gauge:
        before, behind = '"gauge":{"dataPoints":[', "]}}"
    elif (
        type(data) is Sum
        and data.is_monotonic
        and data.aggregation_temporality is AggregationTemporality.CUMULATIVE
    ):
        before, behind = (
            '"sum":{"dataPoints":[',
            f'],"aggregationTemporality":{_CUMULATIVE},"isMonotonic":true}}}}',
        )
    else:
        return None
    found = []
    for point in data.data_points:
        text = _plain_point(point, total=type(data) is Sum)
        if text is None:
            return None
        found.append(text)
    return (
        _head(metric.name, metric.description, metric.unit) + before + ",".join(found) + behind
        if found
        else None
    )


def _plain_point(point: NumberDataPoint, *, total: bool) -> str | None:
    value, attributes = point.value, _attributes(point.attributes or {})
    if attributes is None or point.exemplars:
        return None
    if type(value) is int:
        told = f'"asInt":"{value}"'
    elif type(value) is float and isfinite(value):
        told = f'"asDouble":{value!r}'
    else:
        return None
    return (
        "{"
        + (f'"attributes":[{attributes}],' if attributes else "")
        + (
            f'"startTimeUnixNano":"{point.start_time_unix_nano:d}",'
            if total and point.start_time_unix_nano
            else ""
        )
        + (f'"timeUnixNano":"{point.time_unix_nano:d}",' if point.time_unix_nano else "")
        + told
        + "}"
    )


@lru_cache(maxsize=1024)
def _head(name: str, description: str | None, unit: str | None) -> str:
    told = (("name", name), ("description", description), ("unit", unit))
    return "{" + "".join(f'"{key}":{_quoted(text)},' for key, text in told if text)


def _attributes(attributes: Mapping[str, Any]) -> str | None:
    found = []
    for key, value in attributes.items():
        kind = type(value)
        if not key:
            return None
        if kind is int:
            found.append(f'{_key(key)}"intValue":"{value}"}}}}')
        elif kind is float and isfinite(value):
            found.append(f'{_key(key)}"doubleValue":{value!r}}}}}')
        elif kind is str:
            found.append(f'{_key(key)}"stringValue":{_quoted(value)}}}}}')
        else:
            return None
    return ",".join(found)


@lru_cache(maxsize=1024)
def _key(key: str) -> str:
    return f'{{"key":{_quoted(key)},"value":{{'
