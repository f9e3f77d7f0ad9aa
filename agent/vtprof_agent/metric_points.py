"""Samples and the agent's own counts as OpenTelemetry metric data, grouped by the resource they belong to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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

from vtprof_agent.samplers.sampler import Sample
from vtprof_agent.spans import SCOPE
from vtprof_schemas import names

_UCUM = {"B": "By", "tokens": "{token}", "records": "{record}", "errors": "{error}", "cores": "{core}",
    "requests": "{request}", "items": "{item}", "times": "{time}",
}  # fmt: skip
"""The vocabulary's units in the form that OTLP metrics use, where they differ."""


@dataclass(frozen=True, slots=True)
class Point:
    """One sample at its time, for one resource."""

    resource: Resource
    sample: Sample
    time_unix_ns: int
    start_unix_ns: int | None = None
    """Since when a running total counts: 0 when that is not known, None when the agent keeps it."""


def metrics_data(points: Iterable[Point], start_unix_ns: int) -> MetricsData | None:
    """Group points by resource and metric; None when there are none. Running totals count from ``start_unix_ns``."""
    grouped: dict[int, tuple[Resource, dict[str, list[Point]]]] = {}
    for point in points:
        by_key = grouped.setdefault(id(point.resource), (point.resource, {}))[1]
        by_key.setdefault(point.sample.key, []).append(point)
    if not grouped:
        return None
    return MetricsData(
        [
            ResourceMetrics(
                resource,
                [
                    ScopeMetrics(
                        SCOPE, [_metric(key, found, start_unix_ns) for key, found in by_key.items()], ""
                    )
                ],
                "",
            )
            for resource, by_key in grouped.values()
        ]
    )


def _metric(key: str, points: list[Point], start_unix_ns: int) -> Metric:
    attribute = names.ATTRIBUTES[key]
    data_points = [
        NumberDataPoint(
            attributes=_attributes(point.sample),
            start_time_unix_nano=_start(point, start_unix_ns),
            time_unix_nano=point.time_unix_ns,
            value=float(point.sample.value) if attribute.type == names.DOUBLE else int(point.sample.value),
        )
        for point in points
    ]
    cumulative = points[0].sample.cumulative
    data = Sum(data_points, AggregationTemporality.CUMULATIVE, True) if cumulative else Gauge(data_points)
    return Metric(key, attribute.meaning, _UCUM.get(attribute.unit, attribute.unit), data)


def _start(point: Point, start_unix_ns: int) -> int:
    if not point.sample.cumulative:
        return 0
    return start_unix_ns if point.start_unix_ns is None else point.start_unix_ns


def _attributes(sample: Sample) -> Mapping[str, str | int]:
    told = (
        (names.HW_ID, sample.hw_id),
        (names.GPU_SOURCE, sample.source or None),
        (names.GPU_INTERVAL_NS, sample.interval_ns),
    )
    return {key: value for key, value in told if value is not None}
