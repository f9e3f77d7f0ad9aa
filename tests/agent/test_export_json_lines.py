"""Lines of spans say what OpenTelemetry's own JSON exporter says, whatever is in the spans."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState

from vtprof_agent.export.json_lines import SpanLines

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


@settings(max_examples=150, deadline=None)
@given(st.lists(SPANS, min_size=1, max_size=4))
def test_the_line_is_what_the_exporter_of_opentelemetry_writes(spans: list[ReadableSpan]) -> None:
    line = SpanLines().line(spans)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert repr(json.loads(line)) == repr(json.loads(json.dumps(encode_spans(spans).to_dict())))


def test_a_resource_is_encoded_anew_when_it_is_another(caplog: pytest.LogCaptureFixture) -> None:
    lines = SpanLines()
    for number in range(200):
        span = ReadableSpan("a", SpanContext(1, 1, False), resource=Resource({"n": number}))
        assert json.loads(lines.line([span])) == encode_spans([span]).to_dict()
    assert len(lines._resources) <= 64


def test_an_attribute_that_is_no_value_is_left_out_alone_and_said(caplog: pytest.LogCaptureFixture) -> None:
    span = ReadableSpan("a", SpanContext(1, 1, False), attributes={"good": 1, "bad": object(), "fine": 2})  # type: ignore[dict-item]
    (found,) = json.loads(SpanLines().line([span]))["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert [one["key"] for one in found["attributes"]] == ["good", "fine"]
    assert "attribute bad is left out" in caplog.text
