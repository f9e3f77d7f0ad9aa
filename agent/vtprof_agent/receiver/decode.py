"""OTLP protobuf spans as the SDK's span objects, so that every exporter passes them on as they came.

What the agent knows better is added, to resources: the host, which engine speaks, and what the ring of its process
tells. What carries content is left out.
"""

import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from vtprof_agent.receiver.content import is_content, is_content_event, is_content_text, is_free_text
from vtprof_agent.resource import RingResource
from vtprof_schemas import names

VLLM_PROCESS_ID: Final = "vllm.process_id"
"""A resource attribute of every vLLM process since 0.16; earlier ones are told by their scopes."""
SGLANG_SCOPE: Final = "sglang server"
Lookup = Callable[[int], Mapping[str, Any] | None]
"""Gives the resource attributes of the ring of a process of this machine, by PID; None when there is none, or several.
Called by the receivers' threads."""
_OWN: Final = frozenset(
    (
        names.SERVICE_NAME,
        names.SERVICE_INSTANCE_ID,
        names.RING_CREATED_NS,
        names.RESOURCE_SCHEMA_VERSION,
        names.PROCESS_PID,
    )
)
"""Attributes that name the ring itself, or who made its spans."""
LEFT_OUT: Final = "(left out: data)"
_KINDS: Final = {kind.value + 1: kind for kind in SpanKind}
_CODES: Final = {code.value: code for code in StatusCode}
_REMOTE: Final = 0x200
"""Bit of a span's flags: its parent (or a link's span) lives in another process."""


@dataclass(frozen=True)
class Decoded:
    """The spans of one request, how many had no valid id, and how many attributes and events were left out as content."""

    spans: list[ReadableSpan]
    invalid: int
    contents: int


def decode(request: ExportTraceServiceRequest, lookup: Lookup | None = None, local: bool = True) -> Decoded:
    """Return the spans of an export request; ``local``: its sender is on this machine, and so are its PIDs."""
    decoder = _Decoder(lookup if local else None, local)
    total = 0
    for group in request.resource_spans:
        resource = decoder.resource(group)
        for scope_spans in group.scope_spans:
            scope = InstrumentationScope(
                scope_spans.scope.name,
                scope_spans.scope.version or None,
                scope_spans.schema_url,
                decoder.attributes(scope_spans.scope.attributes),
            )
            total += len(scope_spans.spans)
            for one in scope_spans.spans:
                if _has_id(one):
                    decoder.spans.append(decoder.span(one, resource, scope))
    return Decoded(decoder.spans, total - len(decoder.spans), decoder.contents)


def engine_of(group: ResourceSpans) -> str | None:
    """Tell which engine speaks, by what only it writes; None for another program."""
    scopes = [found.scope.name for found in group.scope_spans]
    if any(attribute.key == VLLM_PROCESS_ID for attribute in group.resource.attributes):
        return "vllm"
    if any(scope.split(".")[0] == "vllm" for scope in scopes):
        return "vllm"
    return "sglang" if SGLANG_SCOPE in scopes else None


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


class _Decoder:
    """Decodes one request, and counts what it leaves out."""

    def __init__(self, lookup: Lookup | None, local: bool) -> None:
        self.spans: list[ReadableSpan] = []
        self.contents = 0
        self._lookup = lookup
        self._local = local

    def resource(self, group: ResourceSpans) -> RingResource:
        values = self.attributes(group.resource.attributes)
        engine = engine_of(group)
        ring = self._ring(values, engine)
        if self._local and not values.get(names.HOST_NAME):
            values[names.HOST_NAME] = ring.get(names.HOST_NAME) or socket.gethostname()
        if engine is not None:
            values.setdefault(names.ENGINE_NAME, engine)
        for key, value in ring.items():
            if key not in _OWN:
                values.setdefault(key, value)
        return RingResource(values, group.schema_url)

    def _ring(self, values: Mapping[str, Any], engine: str | None) -> Mapping[str, Any]:
        """Return what the ring of the sender's process tells; nothing if that is another engine's."""
        pid = _pid(values.get(names.PROCESS_PID, values.get(VLLM_PROCESS_ID)))
        found = self._lookup(pid) if self._lookup is not None and pid is not None else None
        if found is None or engine not in (None, found.get(names.ENGINE_NAME, engine)):
            return {}
        return found

    def span(self, span: Span, resource: RingResource, scope: InstrumentationScope) -> ReadableSpan:
        parent = None
        if len(span.parent_span_id) == 8 and any(span.parent_span_id):
            parent = _context(span.trace_id, span.parent_span_id, remote=bool(span.flags & _REMOTE))
        return ReadableSpan(
            name=self._text(span.name, is_content_text),
            context=_context(span.trace_id, span.span_id, span.trace_state),
            parent=parent,
            resource=resource,
            attributes=self.attributes(span.attributes),
            events=self._events(span),
            links=[
                Link(
                    _context(link.trace_id, link.span_id, link.trace_state, bool(link.flags & _REMOTE)),
                    self.attributes(link.attributes),
                )
                for link in span.links
            ],
            kind=_KINDS.get(span.kind, SpanKind.INTERNAL),
            status=Status(
                _CODES.get(span.status.code, StatusCode.UNSET), self._left_out(span.status.message) or None
            )
            if span.status.code == StatusCode.ERROR.value
            else Status(_CODES.get(span.status.code, StatusCode.UNSET)),
            start_time=span.start_time_unix_nano,
            end_time=span.end_time_unix_nano or None,
            instrumentation_scope=scope,
        )

    def attributes(self, found: Iterable[KeyValue]) -> dict[str, Any]:
        kept = {}
        for attribute in found:
            value = _value(attribute.value)
            if is_content(attribute.key, value):
                self.contents += 1
            else:
                kept[attribute.key] = value
        return kept

    def _events(self, span: Span) -> list[Event]:
        kept = [event for event in span.events if not is_content_event(event.name)]
        self.contents += len(span.events) - len(kept)
        return [
            Event(self._text(e.name, is_free_text), self.attributes(e.attributes), e.time_unix_nano)
            for e in kept
        ]

    def _text(self, text: str, is_content: Callable[[str], bool]) -> str:
        return self._left_out(text) if is_content(text) else text

    def _left_out(self, text: str) -> str:
        """Return what stands for a text that goes no further; an empty one is none."""
        self.contents += bool(text)
        return LEFT_OUT if text else text


def _pid(value: object) -> int | None:
    """Read a PID, which vLLM writes as text."""
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else None


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which is None:
        return None
    if which == "array_value":
        return [_value(one) for one in value.array_value.values]
    if which == "kvlist_value":
        return {one.key: _value(one.value) for one in value.kvlist_value.values}
    return getattr(value, which)
