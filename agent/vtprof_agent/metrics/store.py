"""Holds the values of all series, and gives them to prometheus_client's registry as one consistent set."""

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from vtprof_agent.metrics.series import COUNTER, HISTOGRAM, SERIES, Series

Labels = tuple[str, ...]
_OWN = "vtprof_agent_"


class Seen(NamedTuple):
    """An observation that can be looked up: in which trace and span, and when."""

    trace_id: int
    span_id: int
    unix_s: float
    value: float = 0.0


class _Histogram:
    """Counts by bucket; an observation with an exemplar takes a quarter of the time of prometheus_client's own."""

    __slots__ = ("counts", "exemplars", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.exemplars: dict[int, Seen] = {}
        """By bucket, the latest."""
        self.total = 0.0


class Store(Collector):
    """All values, by series and labels.

    The agent's own counts without labels begin at 0; whatever else was never told is absent.
    """

    def __init__(self) -> None:
        """Begin without a value."""
        self._lock = threading.Lock()
        self._values: dict[Series, dict[Labels, float]] = {
            series: {(): 0.0} if _begins_at_zero(series) else {}
            for series in SERIES.values()
            if series.kind != HISTOGRAM
        }
        self._histograms: dict[Series, dict[Labels, _Histogram]] = {
            series: {} for series in SERIES.values() if series.kind == HISTOGRAM
        }

    def observe(self, series: Series, labels: Labels, value: float, seen: Seen | None) -> None:
        """Count a value in its bucket."""
        with self._lock:
            found = self._histograms[series]
            histogram = found.get(labels)
            if histogram is None:
                histogram = found[labels] = _Histogram(len(series.buckets))
            bucket = bisect_left(series.buckets, value)
            histogram.counts[bucket] += 1
            histogram.total += value
            if seen is not None:
                histogram.exemplars[bucket] = Seen(seen.trace_id, seen.span_id, seen.unix_s, value)

    def add(self, series: Series, labels: Labels, amount: float) -> None:
        """Advance a counter; what is negative adds nothing."""
        with self._lock:
            values = self._values[series]
            values[labels] = values.get(labels, 0.0) + max(0.0, amount)

    def advance(self, series: Series, totals: Mapping[Labels, float]) -> None:
        """Bring a counter up to running totals kept elsewhere; none ever goes back."""
        with self._lock:
            values = self._values[series]
            for labels, total in totals.items():
                values[labels] = max(values.get(labels, 0.0), float(total))

    def put(self, series: Series, values: Mapping[Labels, float]) -> None:
        """Replace all values of a series: labels that are not in it are gone."""
        with self._lock:
            self._values[series] = dict(values)

    def remove(self, series: Series, labels: Labels) -> None:
        """Take one value away."""
        with self._lock:
            self._values[series].pop(labels, None)

    def collect(self) -> Iterator[Metric]:
        """Yield what there is, as prometheus_client's registry wants it."""
        with self._lock:
            values = {series: dict(found) for series, found in self._values.items() if found}
            histograms = {
                series: {
                    labels: (list(one.counts), one.total, dict(one.exemplars))
                    for labels, one in found.items()
                }
                for series, found in self._histograms.items()
                if found
            }
        for series, told in histograms.items():
            yield _histogram_family(series, told)
        for series, numbers in values.items():
            family = Metric(series.family, series.meaning, series.kind)
            for labels, value in numbers.items():
                family.add_sample(series.name, _told(series, labels), value)
            yield family


def _begins_at_zero(series: Series) -> bool:
    return series.kind == COUNTER and series.name.startswith(_OWN) and not series.labels


def _histogram_family(
    series: Series, told: Mapping[Labels, tuple[list[int], float, dict[int, Seen]]]
) -> Metric:
    family = Metric(series.family, series.meaning, series.kind)
    bounds = [floatToGoString(bound) for bound in (*series.buckets, float("inf"))]  # type: ignore[no-untyped-call]
    for values, (counts, total, exemplars) in told.items():
        labels = _told(series, values)
        cumulative = 0
        for bucket, bound in enumerate(bounds):
            cumulative += counts[bucket]
            seen = exemplars.get(bucket)
            family.add_sample(
                series.name + "_bucket", {**labels, "le": bound}, cumulative,
                exemplar=None if seen is None else exemplar(seen),
            )  # fmt: skip
        family.add_sample(series.name + "_count", labels, cumulative)
        family.add_sample(series.name + "_sum", labels, total)
    return family


def _told(series: Series, labels: Labels) -> dict[str, str]:
    """Return the labels by name; one without a value is the same as none."""
    return {name: value for name, value in zip(series.labels, labels, strict=True) if value}


def exemplar(seen: Seen) -> Exemplar:
    """Write an observation as an exemplar, whose labels are those that Prometheus and Grafana look for."""
    ids = {"trace_id": f"{seen.trace_id:032x}", "span_id": f"{seen.span_id:016x}"}
    return Exemplar(ids, seen.value, seen.unix_s)
