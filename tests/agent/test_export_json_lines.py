"""Lines of spans and of metric points say what OpenTelemetry's own JSON encoder says, whatever is in them."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.json.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState

from vtprof_agent.export.json_lines import metrics_line, spans_line
from vtprof_agent.metric_points import Point, metrics_data
from vtprof_agent.samplers.sampler import Sample
from vtprof_schemas import names

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


INTEGERS = st.integers(-(2**63), 2**63 - 1)
EXEMPLARS = st.just([Exemplar({}, 1.5, 7, 5, 9)])
POINTS = st.builds(
    NumberDataPoint, st.none() | PLAIN | ATTRIBUTES, TIMES, TIMES, INTEGERS | st.floats() | st.booleans(),
    st.just([]) | EXEMPLARS,
)  # fmt: skip
PLAIN_POINTS = st.builds(
    NumberDataPoint, PLAIN, TIMES, TIMES, INTEGERS | st.floats(allow_nan=False, allow_infinity=False)
)
TEMPORALITIES = st.sampled_from(list(AggregationTemporality))
HISTOGRAMS = st.builds(
    Histogram,
    st.lists(st.just(HistogramDataPoint({"k": 1}, 1, 2, 3, 4.5, [1, 2], [0.5], 0.1, 2.5)), max_size=1),
    TEMPORALITIES,
)


def _resource_metrics(
    points: st.SearchStrategy[NumberDataPoint], *, plain: bool
) -> st.SearchStrategy[ResourceMetrics]:
    """Draw metrics; plain ones of one scope, each with points."""
    several = st.lists(points, min_size=plain, max_size=3)
    gauges, totals = st.builds(Gauge, several), st.builds(Sum, several, TEMPORALITIES, st.booleans())
    ours = st.builds(Sum, several, st.just(AggregationTemporality.CUMULATIVE), st.just(True))
    kinds = gauges | ours if plain else gauges | totals | HISTOGRAMS
    metrics = st.lists(
        st.builds(Metric, TEXT, st.none() | TEXT, st.none() | TEXT, kinds), min_size=plain, max_size=3
    )
    scopes = st.builds(ScopeMetrics, SCOPES.filter(lambda scope: scope is not None), metrics, TEXT)
    return st.builds(
        ResourceMetrics, RESOURCES, st.lists(scopes, min_size=plain, max_size=1 if plain else 2), TEXT
    )


RESOURCE_METRICS = _resource_metrics(POINTS, plain=False) | _resource_metrics(PLAIN_POINTS, plain=True)


@settings(max_examples=300, deadline=None)
@given(st.lists(RESOURCE_METRICS, max_size=3))
def test_the_line_of_metrics_is_what_the_encoder_of_opentelemetry_writes(
    found: list[ResourceMetrics],
) -> None:
    line = metrics_line(MetricsData(found))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    expected = json.dumps(encode_metrics(MetricsData(found)).to_dict())
    assert json.loads(line, parse_constant=_refuse) == json.loads(expected, parse_constant=str)


@pytest.mark.parametrize("temporality", list(AggregationTemporality))
@pytest.mark.parametrize("monotonic", [True, False])
def test_totals_of_every_kind_are_told_apart_and_a_gauge_has_no_begin(
    temporality: AggregationTemporality, monotonic: bool
) -> None:
    points = [NumberDataPoint({}, 5, 7, 1), NumberDataPoint({}, 0, 7, 0.5)]
    metrics = [
        Metric("a", "", "", Sum(points, temporality, monotonic)),
        Metric("b", None, "s", Gauge(points)),
    ]
    whole = [
        ResourceMetrics(Resource({}), [ScopeMetrics(InstrumentationScope("x"), [one], "")], "")
        for one in metrics
    ]
    found = MetricsData(whole)
    assert json.loads(metrics_line(found)) == encode_metrics(found).to_dict()


def test_our_own_points_are_written_to_the_byte_as_the_encoder_would() -> None:
    """Gauges and running totals of two resources, of integers and doubles, with and without attributes."""
    card = {"hw_id": "GPU-1", "source": "gpm", "interval_ns": 100_000_000}
    samples = [
        Sample(names.GPU_POWER_MW, 412_000, hw_id="GPU-1", source="nvml"),
        Sample(names.GPU_DRAM_BANDWIDTH_RATIO, 1 / 3, **card),
        Sample(names.GPU_DRAM_BANDWIDTH_RATIO, 0, **card),
        Sample(names.GPU_INTEGRALS[names.GPU_DRAM_BANDWIDTH_RATIO], 5, cumulative=True, **card),
        Sample(names.AGENT_RECORDS_READ, 0, cumulative=True),
    ]
    resources = Resource({"n": 1}), Resource({"n": 2}, "https://schema")
    points = [Point(resource, sample, 17) for resource in resources for sample in samples]
    points.append(Point(resources[0], samples[-1], 18, 0))
    metrics = metrics_data(points, 5)
    assert metrics is not None
    expected = json.dumps(encode_metrics(metrics).to_dict(), separators=(",", ":"))
    assert metrics_line(metrics) == expected.encode() + b"\n"
