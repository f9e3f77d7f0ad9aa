"""Lines of spans say what OpenTelemetry's own JSON encoder says, whatever is in the spans."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState

from vtprof_agent.export.json_lines import spans_line

TEXT = st.text(max_size=8)
SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), TEXT, st.binary(max_size=4), st.none()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
ATTRIBUTES = st.dictionaries(TEXT, VALUES, max_size=4)
CONTEXTS = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.none(),
    st.sampled_from([TraceState(), TraceState([("a", "b"), ("c@d", "1")])]),
)
LINK_CONTEXTS = st.builds(SpanContext, st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
TIMES = st.none() | st.integers(0, 2**63 - 1)
STATUSES = st.sampled_from([Status(), Status(StatusCode.OK), Status(StatusCode.ERROR, 'bad \u2028 "x"')])
RESOURCES = st.builds(
    Resource, st.dictionaries(st.text(min_size=1, max_size=8), TEXT | st.integers(0, 9), max_size=3), TEXT
)
SCOPES = st.none() | st.builds(
    InstrumentationScope,
    TEXT,
    st.none() | TEXT,
    TEXT,
    st.dictionaries(st.text(min_size=1, max_size=3), TEXT, max_size=2),
)


def _span(
    context: SpanContext, parent: SpanContext | None, resource: Resource, scope: Any, attributes: Any, events: Any,
    links: Any, kind: SpanKind, status: Status, start: int | None, end: int | None, name: str,
) -> ReadableSpan:  # fmt: skip
    return ReadableSpan(
        name, context, parent, resource, attributes, events, links, kind, status=status, start_time=start, end_time=end,
        instrumentation_scope=scope,
    )  # fmt: skip


SPANS = st.builds(
    _span, CONTEXTS, st.none() | CONTEXTS, RESOURCES, SCOPES, ATTRIBUTES,
    st.lists(st.builds(Event, TEXT, ATTRIBUTES, st.integers(0, 2**63)), max_size=2),
    st.lists(st.builds(Link, LINK_CONTEXTS, ATTRIBUTES), max_size=2),
    st.sampled_from(list(SpanKind)), STATUSES, TIMES, TIMES, TEXT,
)  # fmt: skip


PLAIN = st.dictionaries(
    st.text(max_size=8),
    st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
)
PLAIN_SPANS = st.builds(
    _span, CONTEXTS, st.none() | CONTEXTS, RESOURCES, SCOPES, PLAIN, st.just(()),
    st.lists(st.builds(Link, LINK_CONTEXTS), max_size=3), st.sampled_from(list(SpanKind)), STATUSES, TIMES, TIMES, TEXT,
)  # fmt: skip


def spans_of(document: dict[str, Any]) -> list[str]:
    """Return each span with what is around it, in an order that does not depend on how they were grouped."""
    return sorted(
        repr(
            (whole.get("resource"), whole.get("schemaUrl"), inner.get("scope"), inner.get("schemaUrl"), span)
        )
        for whole in document["resourceSpans"]
        for inner in whole["scopeSpans"]
        for span in inner["spans"]
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(SPANS | PLAIN_SPANS, min_size=1, max_size=4))
def test_the_line_is_what_the_encoder_of_opentelemetry_writes(spans: list[ReadableSpan]) -> None:
    line = spans_line(spans)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    # JSON has no NaN and no infinity, of which OTLP writes the names; the encoder leaves that to whoever writes.
    expected = json.loads(json.dumps(encode_spans(spans).to_dict()), parse_constant=str)
    assert spans_of(json.loads(line, parse_constant=_refuse)) == spans_of(expected)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_scopes_that_are_equal_and_not_the_same_are_told_apart() -> None:
    for value in (1, True, 1.0):
        span = ReadableSpan(
            "a",
            SpanContext(1, 1, False),
            instrumentation_scope=InstrumentationScope("x", attributes={"k": value}),
        )
        assert json.loads(spans_line([span])) == encode_spans([span]).to_dict()


def test_spans_of_one_resource_and_scope_stand_together_in_order() -> None:
    resource, scope = Resource({"n": 1}), InstrumentationScope("ours")
    spans = [
        ReadableSpan(
            f"{number}", SpanContext(1, number + 1, False), resource=resource, instrumentation_scope=scope
        )
        for number in range(5)
    ]
    assert json.loads(spans_line(spans)) == encode_spans(spans).to_dict()
