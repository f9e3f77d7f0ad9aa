"""A batch as lines of OTLP JSON, as OpenTelemetry's JSON exporter writes them, in a third of its time for spans.

That exporter makes an object of every value and a dictionary of every object; here spans become text at once, and the
text of a resource is kept. Metric points go through the exporter's own encoder.
"""

import json
import logging
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from opentelemetry.exporter.otlp.json.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status

logger = logging.getLogger(__name__)
_HAS_REMOTE, _REMOTE = 0x100, 0x200
"""Bits of a span's flags: whether its parent is remote is known, and it is."""
_KEPT_RESOURCES = 64


def metrics_line(metrics: MetricsData) -> bytes:
    """Return metric points as a line."""
    return json.dumps(encode_metrics(metrics).to_dict(), separators=(",", ":")).encode() + b"\n"


class SpanLines:
    """Encodes batches of spans; remembers the text of the resources it met last."""

    def __init__(self) -> None:
        """Start with none."""
        self._resources: dict[int, tuple[Resource, str]] = {}

    def line(self, spans: Sequence[ReadableSpan]) -> bytes:
        """Return spans as a line; raises what a value that is none of OpenTelemetry's raises."""
        groups: dict[Resource, dict[InstrumentationScope | None, list[str]]] = {}
        for span in spans:
            scopes = groups.setdefault(span.resource, {})
            scopes.setdefault(span.instrumentation_scope, []).append(_span(span))
        found = ",".join(
            f'{{"resource":{self._resource(resource)},"scopeSpans":[{",".join(_scope(*item) for item in scopes.items())}]'
            f"{_text('schemaUrl', resource.schema_url)}}}"
            for resource, scopes in groups.items()
        )
        return f'{{"resourceSpans":[{found}]}}\n'.encode()

    def _resource(self, resource: Resource) -> str:
        kept = self._resources.get(id(resource))
        if kept is not None:
            return kept[1]
        text = f"{{{_attributes(resource.attributes)[1:]}}}"
        if len(self._resources) >= _KEPT_RESOURCES:
            self._resources.clear()
        self._resources[id(resource)] = (resource, text)  # held, so that its id stays its own
        return text


def _scope(scope: InstrumentationScope | None, spans: list[str]) -> str:
    if scope is None:
        return f'{{"scope":{{}},"spans":[{",".join(spans)}]}}'
    told = f"{_text('name', scope.name)}{_text('version', scope.version)}{_attributes(scope.attributes)}"
    return f'{{"scope":{{{told[1:]}}},"spans":[{",".join(spans)}]{_text("schemaUrl", scope.schema_url)}}}'


def _span(span: ReadableSpan) -> str:
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    flags = _HAS_REMOTE | _REMOTE if parent is not None and parent.is_remote else _HAS_REMOTE
    return (
        f'{{"traceId":"{context.trace_id:032x}","spanId":"{context.span_id:016x}"{_trace_state(context)}'
        + (f',"parentSpanId":"{parent.span_id:016x}"' if parent is not None else "")
        + f',"flags":{flags}{_text("name", span.name)},"kind":{span.kind.value + 1}'
        + (f',"startTimeUnixNano":"{span.start_time:d}"' if span.start_time else "")
        + (f',"endTimeUnixNano":"{span.end_time:d}"' if span.end_time else "")
        + _attributes(span.attributes)
        + _count("droppedAttributesCount", span.dropped_attributes)
        + (f',"events":[{",".join(map(_event, span.events))}]' if span.events else "")
        + _count("droppedEventsCount", span.dropped_events)
        + (f',"links":[{",".join(map(_link, span.links))}]' if span.links else "")
        + _count("droppedLinksCount", span.dropped_links)
        + f',"status":{_status(span.status)}}}'
    )


def _event(event: Event) -> str:
    told = (f',"timeUnixNano":"{event.timestamp:d}"' if event.timestamp else "") + _text("name", event.name)
    rest = _attributes(event.attributes) + _count("droppedAttributesCount", event.dropped_attributes)
    return f"{{{(told + rest)[1:]}}}"


def _link(link: Link) -> str:
    context = link.context
    flags = _HAS_REMOTE | _REMOTE if context.is_remote else _HAS_REMOTE
    return (
        f'{{"traceId":"{context.trace_id:032x}","spanId":"{context.span_id:016x}"{_attributes(link.attributes)}'
        f'{_count("droppedAttributesCount", link.dropped_attributes)},"flags":{flags}}}'
    )


def _status(status: Status) -> str:
    code = _count("code", status.status_code.value)
    return f"{{{(_text('message', status.description) + code)[1:]}}}"


def _trace_state(context: SpanContext) -> str:
    state = context.trace_state
    return _text("traceState", ",".join(f"{key}={value}" for key, value in state.items())) if state else ""


def _text(key: str, value: str | None) -> str:
    return f',"{key}":{_quoted(value)}' if value else ""


def _count(key: str, value: int) -> str:
    return f',"{key}":{value:d}' if value else ""


def _attributes(attributes: Mapping[str, Any] | None) -> str:
    """Return attributes as a member with a comma before it; one that cannot be encoded is left out and said."""
    if not attributes:
        return ""
    found = []
    for key, value in attributes.items():
        try:
            found.append(_key(key) + _value(value))
        except (TypeError, ValueError) as error:
            logger.error("attribute %s is left out: %s", key, error)
    return ',"attributes":[' + "}},".join(found) + "}}]" if found else ""


@lru_cache(maxsize=1024)
def _key(key: str) -> str:
    return f'{{"key":{_quoted(key)},"value":{{' if key else '{"value":{'


def _value(value: Any) -> str:
    """Return the one member of an AnyValue."""
    kind = type(value)
    if kind is int:
        return f'"intValue":"{value}"'
    if kind is str:
        return f'"stringValue":{_quoted(value)}'
    if kind is float:
        return f'"doubleValue":{_double(value)}'
    if value is None:
        return ""
    if isinstance(value, bool):
        return f'"boolValue":{"true" if value else "false"}'
    if isinstance(value, str):
        return f'"stringValue":{_quoted(value)}'
    if isinstance(value, int):
        return f'"intValue":"{value:d}"'
    if isinstance(value, float):
        return f'"doubleValue":{_double(value)}'
    if isinstance(value, bytes):
        return f'"bytesValue":"{b64encode(value).decode()}"'
    if isinstance(value, Sequence):
        return f'"arrayValue":{{{_values("{" + _value(one) + "}" for one in value)}}}'
    if isinstance(value, Mapping):
        return (
            f'"kvlistValue":{{{_values(_key(str(key)) + _value(one) + "}}" for key, one in value.items())}}}'
        )
    raise TypeError(f"no value of OpenTelemetry: {kind.__name__}")


def _values(found: Iterable[str]) -> str:
    text = ",".join(found)
    return f'"values":[{text}]' if text else ""


def _double(value: float) -> str:
    if math.isfinite(value):
        return float.__repr__(value)
    return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'
