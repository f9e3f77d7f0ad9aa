"""The same series as OpenTelemetry metrics, so that a Collector gets them without a scrape.

What metric points say anyway, by a name of the vocabulary (GPUs, attribution, the agent's cost), is left out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

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
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from vtprof_agent.metrics.series import (
    COUNTER,
    DESTINATION,
    GPU,
    HISTOGRAM,
    MODALITY,
    MODEL,
    PHASE,
    SERIES,
    STRATUM,
    Series,
)
from vtprof_agent.spans import SCOPE
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

ATTRIBUTE_OF: Final = {
    GPU: names.HW_ID,
    PHASE: names.PHASE,
    STRATUM: "vtprof.visual_stratum",
    MODALITY: "vtprof.modality",
    MODEL: names.REQUEST_MODEL,
    DESTINATION: "vtprof.destination",
    "status": names.REQUEST_STATUS,
    "cache": "vtprof.cache",
    "coverage": "vtprof.coverage",
    "counter": "vtprof.counter",
    "quality": "vtprof.quality",
    "version": "service.version",
    "schema": names.RESOURCE_SCHEMA_VERSION,
    "python": "process.runtime.version",
}
"""The attribute that stands for a label."""


def registry_metrics(registry: CollectorRegistry, start_unix_ns: int, now_ns: int) -> list[Metric]:
    """Return what the registry holds now; totals and histograms count since ``start_unix_ns``, unix times both."""
    found = []
    for family in registry.collect():
        series = SERIES[family.name]
        if series.otel in names.ATTRIBUTES:
            continue
        data: Gauge | Histogram | Sum
        if series.kind == HISTOGRAM:
            points = _histogram_points(series, family, start_unix_ns, now_ns)
            data = Histogram(points, AggregationTemporality.CUMULATIVE)
        elif series.kind == COUNTER:
            data = Sum(_number_points(family, start_unix_ns, now_ns), AggregationTemporality.CUMULATIVE, True)
        else:
            data = Gauge(_number_points(family, 0, now_ns))
        found.append(Metric(series.otel, series.meaning, series.unit, data))
    return found


def attributed_metrics(
    totals: Mapping[tuple[str, str, str], float], start_unix_ns: int, now_ns: int
) -> list[Metric]:
    """Return the meter's running totals by (GPU, counter, phase) under the vocabulary's names and units."""
    points: dict[str, list[NumberDataPoint]] = {}
    for (gpu, key, phase), amount in totals.items():
        if key in names.ATTRIBUTED and math.isfinite(amount):
            told = {names.HW_ID: gpu, names.PHASE: phase}
            point = NumberDataPoint(told, start_unix_ns, now_ns, float(amount))
            points.setdefault(names.ATTRIBUTED[key], []).append(point)
    return [
        Metric(name, names.ATTRIBUTES[name].meaning, names.ATTRIBUTES[name].unit,
               Sum(found, AggregationTemporality.CUMULATIVE, True))
        for name, found in points.items()
    ]  # fmt: skip


def with_metrics(data: MetricsData | None, resource: Resource, metrics: Sequence[Metric]) -> MetricsData:
    """Add metrics of the agent, whose ``resource`` it is, to metric points that leave together."""
    ours = ResourceMetrics(resource, [ScopeMetrics(SCOPE, metrics, "")], "")
    return MetricsData([*(data.resource_metrics if data else ()), ours])


def _number_points(family: Family, start_ns: int, now_ns: int) -> list[NumberDataPoint]:
    return [
        NumberDataPoint(_attributes(sample.labels), start_ns, now_ns, float(sample.value))
        for sample in family.samples
    ]


def _histogram_points(series: Series, family: Family, start_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    """Undo the cumulation: in OpenTelemetry each bucket counts its own."""
    by_labels: dict[tuple[str, ...], list[Sample]] = {}
    for sample in family.samples:
        by_labels.setdefault(tuple(sample.labels.get(label, "") for label in series.labels), []).append(
            sample
        )
    points = []
    for values, samples in by_labels.items():
        buckets = [sample for sample in samples if sample.name.endswith("_bucket")]
        until = [int(sample.value) for sample in buckets]
        total = next(float(sample.value) for sample in samples if sample.name.endswith("_sum"))
        points.append(
            HistogramDataPoint(
                attributes=_attributes(dict(zip(series.labels, values, strict=True))),
                start_time_unix_nano=start_ns,
                time_unix_nano=now_ns,
                count=until[-1],
                sum=total,
                bucket_counts=[now - before for now, before in zip(until, [0, *until], strict=False)],
                explicit_bounds=series.buckets,
                min=None,  # type: ignore[arg-type]  # nobody keeps them: the encoders leave out None
                max=None,  # type: ignore[arg-type]
                exemplars=_exemplars(buckets),
            )
        )
    return points


def _exemplars(buckets: Iterable[Sample]) -> list[Exemplar]:
    return [
        Exemplar(
            {},
            float(seen.value),
            int(float(seen.timestamp or 0) * NS_PER_S),
            int(seen.labels["span_id"], 16),
            int(seen.labels["trace_id"], 16),
        )
        for seen in (sample.exemplar for sample in buckets)
        if seen is not None
    ]


def _attributes(labels: Mapping[str, str]) -> dict[str, str]:
    return {ATTRIBUTE_OF[label]: value for label, value in labels.items() if value}
