"""OTLP protobuf spans as the SDK's span objects, so that every exporter passes them on as they came.

Only what the agent knows better is added, to resources: the host, and which engine speaks.
"""

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from vtprof_agent.resource import RingResource
from vtprof_schemas import names

VLLM_PROCESS_ID: Final = "vllm.process_id"
"""A resource attribute of every vLLM process since 0.16; earlier ones are told by their scopes."""
SGLANG_SCOPE: Final = "sglang server"
_KINDS: Final = {kind.value + 1: kind for kind in SpanKind}
_CODES: Final = {code.value: code for code in StatusCode}
_REMOTE: Final = 0x200
"""Bit of a span's flags: its parent (or a link's span) lives in another process."""


@dataclass(frozen=True)
class Decoded:
    """The spans of one request, and how many had no valid id."""

    spans: list[ReadableSpan]
    invalid: int


def decode(request: ExportTraceServiceRequest) -> Decoded:
    """Return the spans of an export request."""
    spans: list[ReadableSpan] = []
    total = 0
    for group in request.resource_spans:
        resource = _resource(group)
        for scope_spans in group.scope_spans:
            scope = InstrumentationScope(
                scope_spans.scope.name,
                scope_spans.scope.version or None,
                scope_spans.schema_url,
                _attributes(scope_spans.scope.attributes),
            )
            total += len(scope_spans.spans)
            spans += [_span(one, resource, scope) for one in scope_spans.spans if _has_id(one)]
    return Decoded(spans, total - len(spans))


def engine_of(group: ResourceSpans) -> str | None:
    """Tell which engine speaks, by what only it writes; None for another program."""
    scopes = [found.scope.name for found in group.scope_spans]
    if any(attribute.key == VLLM_PROCESS_ID for attribute in group.resource.attributes):
        return "vllm"
    if any(scope.split(".")[0] == "vllm" for scope in scopes):
        return "vllm"
    return "sglang" if SGLANG_SCOPE in scopes else None


def _resource(group: ResourceSpans) -> RingResource:
    values = _attributes(group.resource.attributes)
    if not values.get(names.HOST_NAME):
        values[names.HOST_NAME] = (
            socket.gethostname()
        )  # the receiver listens on loopback only: it is this host
    engine = engine_of(group)
    if engine is not None:
        values.setdefault(names.ENGINE_NAME, engine)
    return RingResource(values, group.schema_url)


def _has_id(span: Span) -> bool:
    return len(span.trace_id) == 16 and any(span.trace_id) and len(span.span_id) == 8 and any(span.span_id)


def _context(trace_id: bytes, span_id: bytes, state: str = "", remote: bool = False) -> SpanContext:
    return SpanContext(
        int.from_bytes(trace_id, "big"),
        int.from_bytes(span_id, "big"),
        remote,
        TraceFlags(TraceFlags.SAMPLED),
        TraceState.from_header([state]) if state else None,
    )


def _span(span: Span, resource: RingResource, scope: InstrumentationScope) -> ReadableSpan:
    parent = None
    if len(span.parent_span_id) == 8 and any(span.parent_span_id):
        parent = _context(span.trace_id, span.parent_span_id, remote=bool(span.flags & _REMOTE))
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace_id, span.span_id, span.trace_state),
        parent=parent,
        resource=resource,
        attributes=_attributes(span.attributes),
        events=[Event(e.name, _attributes(e.attributes), e.time_unix_nano) for e in span.events],
        links=[
            Link(
                _context(link.trace_id, link.span_id, link.trace_state, bool(link.flags & _REMOTE)),
                _attributes(link.attributes),
            )
            for link in span.links
        ],
        kind=_KINDS.get(span.kind, SpanKind.INTERNAL),
        status=Status(_CODES.get(span.status.code, StatusCode.UNSET), span.status.message or None)
        if span.status.code == StatusCode.ERROR.value
        else Status(_CODES.get(span.status.code, StatusCode.UNSET)),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano or None,
        instrumentation_scope=scope,
    )


def _attributes(found: Iterable[KeyValue]) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in found}


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which is None:
        return None
    if which == "array_value":
        return [_value(one) for one in value.array_value.values]
    if which == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, which)
