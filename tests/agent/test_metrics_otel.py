"""The same series as OTLP: every value of the page arrives, under a name and unit by OpenTelemetry's rules."""

import re
from typing import Any

import pytest
from metrics_filled import SPAN, TRACE, filled
from opentelemetry.exporter.otlp.json.common.metrics_encoder import encode_metrics as encode_json
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.sdk.metrics.export import MetricsData
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from vtprof_agent.metric_points import Point, metrics_data
from vtprof_agent.metrics.otel import ATTRIBUTE_OF, attributed_metrics, registry_metrics, with_metrics
from vtprof_agent.metrics.series import AS_POINT, COUNTER, HISTOGRAM, SERIES, Series
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.sampler import Sample
from vtprof_schemas import names

START_NS, NOW_NS = 1_700_000_000_000_000_000, 1_700_000_010_000_000_000
ALL = pytest.mark.parametrize("series", SERIES.values(), ids=lambda series: series.name)
_UNIT = re.compile(r"1|s|J|By|\{[a-z]+\}")
_BASE_UNITS = ("_seconds", "_bytes", "_joules", "_watts", "_hertz", "_ratio")


def data() -> MetricsData:
    metrics = registry_metrics(filled().registry, START_NS, NOW_NS)
    resource = agent_resource("agent-test")
    return with_metrics(None, resource, metrics)


def encoded() -> dict[str, metrics_pb2.Metric]:
    """Return what a Collector would read, by name."""
    request = encode_metrics(data())
    found = request.resource_metrics[0].scope_metrics[0].metrics
    assert len({metric.name for metric in found}) == len(found)
    return {metric.name: metric for metric in found}


def _attributes(point: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in point.attributes}


@ALL
def test_a_name_and_its_unit_follow_both_sets_of_rules(series: Series) -> None:
    assert re.fullmatch(r"vtprof_[a-z_]*[a-z]", series.name)
    assert series.name.endswith("_total") == (series.kind == COUNTER)
    assert not re.search(r"_(ns|ms|us|mj|mw|mhz|kb|mb|percent)(_|$)", series.name)
    assert series.meaning.endswith(".") and len(series.meaning) > 5
    assert all(label in ATTRIBUTE_OF for label in series.labels)
    if series.unit == AS_POINT:
        assert series.otel in names.ATTRIBUTES, "no point carries it"
        return
    assert series.otel not in names.ATTRIBUTES, "a name of the vocabulary has one meaning"
    assert re.fullmatch(r"vtprof(\.[a-z_]+)+", series.otel)
    assert not series.otel.endswith(("_total", ".total", *_BASE_UNITS)), "the unit stands apart"
    assert _UNIT.fullmatch(series.unit)
    stem = series.name.removesuffix("_total")
    for suffix, unit in (("_seconds", "s"), ("_bytes", "By"), ("_joules", "J")):
        assert stem.endswith(suffix) == (series.unit == unit)


def test_no_two_series_share_a_name() -> None:
    assert len({series.otel for series in SERIES.values()}) == len(SERIES)


@ALL
def test_every_value_of_the_page_arrives(series: Series) -> None:
    """Compared with Prometheus' own parser on the page, by each series that is no metric point anyway."""
    page = generate_latest(filled().registry).decode()
    samples = [
        sample
        for family in text_string_to_metric_families(page)
        if family.name == series.family
        for sample in family.samples
    ]
    metric = encoded().get(series.otel)
    if series.unit == AS_POINT:
        assert metric is None
        return
    assert samples, "the test fills every series"
    assert metric is not None and metric.unit == series.unit and metric.description == series.meaning
    if series.kind == HISTOGRAM:
        _same_histogram(samples, metric)
        return
    points = metric.sum.data_points if series.kind == COUNTER else metric.gauge.data_points
    theirs = {frozenset(_attributes(point).items()): point.as_double for point in points}
    ours = {
        frozenset((ATTRIBUTE_OF[label], text) for label, text in sample.labels.items()): sample.value
        for sample in samples
    }
    if series.name.startswith(("vtprof_agent_cpu", "vtprof_agent_resident")):
        assert theirs.keys() == ours.keys()  # two agents were filled, one after the other
    else:
        assert theirs == ours
    if series.kind == COUNTER:
        assert metric.sum.is_monotonic
        assert metric.sum.aggregation_temporality == metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
        assert {point.start_time_unix_nano for point in points} == {START_NS}
    assert {point.time_unix_nano for point in points} == {NOW_NS}


def _same_histogram(samples: list[Any], metric: metrics_pb2.Metric) -> None:
    assert metric.histogram.aggregation_temporality == metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
    for point in metric.histogram.data_points:
        labels = _attributes(point)
        mine = [
            sample
            for sample in samples
            if {ATTRIBUTE_OF[key]: text for key, text in sample.labels.items() if key != "le"} == labels
        ]
        told = {sample.labels["le"]: sample.value for sample in mine if sample.name.endswith("_bucket")}
        assert len(point.bucket_counts) == len(point.explicit_bounds) + 1 == len(told)
        for bound, position in zip(
            (*point.explicit_bounds, float("inf")), range(1, len(told) + 1), strict=True
        ):
            value = next(value for le, value in told.items() if float(le) == bound)
            assert sum(point.bucket_counts[:position]) == value
        assert point.count == next(sample.value for sample in mine if sample.name.endswith("_count"))
        assert point.sum == next(sample.value for sample in mine if sample.name.endswith("_sum"))
        assert point.start_time_unix_nano == START_NS and point.time_unix_nano == NOW_NS
        assert not point.HasField("min") and not point.HasField("max")
        [exemplar] = point.exemplars
        assert int.from_bytes(exemplar.trace_id, "big") == TRACE
        assert int.from_bytes(exemplar.span_id, "big") == SPAN
        assert exemplar.as_double == point.sum  # one observation


def test_what_was_attributed_arrives_in_the_units_of_the_vocabulary_by_gpu_and_phase() -> None:
    totals = {
        ("GPU-1", names.GPU_ENERGY_MJ, names.DECODE): 2000.5,
        ("GPU-1", names.GPU_ENERGY_MJ, names.UNATTRIBUTED): 500.0,
        ("GPU-2", names.GPU_SM_ACTIVE_RATIO, names.PREFILL): 3e9,
        ("GPU-2", names.GPU_SM_ACTIVE_RATIO, names.DECODE): float("nan"),
    }
    metrics = attributed_metrics(totals, START_NS, NOW_NS)
    request = encode_metrics(with_metrics(None, agent_resource("agent-test"), metrics))
    found = {
        (metric.name, metric.unit, point.as_double, *_attributes(point).values())
        for metric in request.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.sum.data_points
    }
    assert found == {
        ("vtprof.attributed.energy_mj", "mJ", 2000.5, "GPU-1", "decode"),
        ("vtprof.attributed.energy_mj", "mJ", 500.0, "GPU-1", "unattributed"),
        ("vtprof.attributed.sm_active_ns", "ns", 3e9, "GPU-2", "prefill"),
    }


def test_points_of_rings_and_metrics_of_the_agent_leave_together() -> None:
    ring = agent_resource("ring-test")
    points = metrics_data([Point(ring, Sample(names.GPU_POWER_MW, 5, hw_id="GPU-1"), NOW_NS)], START_NS)
    both = with_metrics(
        points, agent_resource("agent-test"), registry_metrics(filled().registry, START_NS, NOW_NS)
    )
    ids = [one.resource.attributes[names.SERVICE_INSTANCE_ID] for one in both.resource_metrics]
    assert ids == ["ring-test", "agent-test"]


def test_the_file_exporters_json_takes_it_too() -> None:
    text = encode_json(data()).to_json()
    assert '"vtprof.ttft"' in text and '"exemplars"' in text and "null" not in text
