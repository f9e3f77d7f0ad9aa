"""Finished objects to OpenTelemetry spans: explicit ids, times, links and limits; nothing is sampled or dropped quietly."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes

from vtprof_agent.align import Alignment
from vtprof_agent.facts import FinishedRequest, RequestRef, StepSpan, Value
from vtprof_agent.identifiers import REQUEST, STEP, Origin
from vtprof_schemas import SCHEMA_VERSION, names

MAX_ATTRIBUTES = 128
MAX_LINKS = 128
"""The SDK's own defaults, set here so that the environment cannot lower them; spans of ours stay below both."""
REMEMBERED = 4096
"""Requests whose ids are kept for the links to them, over all rings: 0.8 KB each. To derive them takes ten times as long."""
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_FAILED = frozenset((names.STATUS_ERROR, names.STATUS_REJECTED))
SCOPE = InstrumentationScope("vtprof", str(SCHEMA_VERSION))


class SpanBuilder:
    """Builds the spans of one ring: its steps, and the requests that it served or took in."""

    def __init__(
        self,
        origin: Origin,
        resource: Resource,
        alignment: Alignment,
        origins: Mapping[int, Origin] | None = None,
    ) -> None:
        """Start with the ring's identity; resource and alignment may be replaced as the ring tells more.

        ``origins`` are those of its family, by ring: of whom requests took in elsewhere have their ids.
        """
        self.resource = resource
        self.alignment = alignment
        self.dropped = 0
        """Attributes and links beyond the limits."""
        self._origin = origin
        self._origins = {} if origins is None else origins

    def request(self, finished: FinishedRequest) -> list[ReadableSpan]:
        """Build the root of a request and its phases."""
        context = self._request_context(finished.ref)
        caller = finished.ref.caller
        parent = None
        if caller is not None:
            parent = SpanContext(
                caller.trace_id, caller.span_id, is_remote=True, trace_flags=TraceFlags(caller.trace_flags)
            )
        failed = finished.attributes[names.REQUEST_STATUS] in _FAILED
        status = Status(StatusCode.ERROR if failed else StatusCode.UNSET)
        times = (finished.start_ns, finished.end_ns)
        kind = SpanKind.SERVER
        spans = [
            self._span(names.SPAN_REQUEST, context, parent, times, finished.attributes, (), kind, status)
        ]
        for part, phase in enumerate(finished.phases, start=1):
            child = SpanContext(
                context.trace_id,
                self._home(finished.ref).span_id(REQUEST, finished.ref.sequence, part),
                False,
                context.trace_flags,
            )
            times = (phase.start_ns, phase.end_ns)
            spans.append(
                self._span(names.PHASE_SPANS[phase.phase], child, context, times, phase.attributes, ())
            )
        return spans

    def trace(self, ref: RequestRef) -> tuple[int, int]:
        """Return the ids of a request's trace and of its root span."""
        context = self._request_context(ref)
        return context.trace_id, context.span_id

    def step(self, step: StepSpan) -> ReadableSpan:
        """Build one step or window span; a continuation hangs under the span it continues."""
        trace_id = self._origin.trace_id(STEP, step.sequence)
        first = SpanContext(trace_id, self._origin.span_id(STEP, step.sequence), False, _SAMPLED)
        context, parent = first, None
        if step.part:
            context = SpanContext(
                trace_id, self._origin.span_id(STEP, step.sequence, step.part), False, _SAMPLED
            )
            parent = first
        links = [Link(self._request_context(ref)) for ref in step.links]
        return self._span(step.name, context, parent, (step.start_ns, step.end_ns), step.attributes, links)

    def _request_context(self, ref: RequestRef) -> SpanContext:
        return _request_context(self._home(ref), ref)

    def _home(self, ref: RequestRef) -> Origin:
        return self._origins.get(ref.ring, self._origin)

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        times: tuple[int, int],
        attributes: Mapping[str, Value],
        links: Sequence[Link],
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status = Status(StatusCode.UNSET),  # noqa: B008  # immutable
    ) -> ReadableSpan:
        span = ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self.resource,
            attributes=_bounded(attributes),
            links=BoundedList.from_seq(MAX_LINKS, links) if links else (),
            kind=kind,
            status=status,
            start_time=self.alignment.unix_ns(times[0]),
            end_time=self.alignment.unix_ns(times[1]),
            instrumentation_scope=SCOPE,
        )
        self.dropped += span.dropped_attributes + span.dropped_links
        return span


@lru_cache(maxsize=REMEMBERED)
def _request_context(home: Origin, ref: RequestRef) -> SpanContext:
    """Return the context of a request's root span."""
    trace_id = home.trace_id(REQUEST, ref.sequence) if ref.caller is None else ref.caller.trace_id
    return SpanContext(trace_id, home.span_id(REQUEST, ref.sequence), False, _SAMPLED)


def _bounded(attributes: Mapping[str, Value]) -> Attributes:
    """Return attributes that cannot be changed. The SDK would look at each value: ours are clean, and mostly few."""
    if len(attributes) > MAX_ATTRIBUTES:
        return BoundedAttributes(MAX_ATTRIBUTES, attributes, immutable=True)
    return MappingProxyType(dict(attributes))
