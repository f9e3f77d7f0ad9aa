"""The agent's metrics, kept whether or not anybody reads them: what the loop tells, and what is made of it."""

import logging
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import psutil
from prometheus_client import CollectorRegistry

from vtprof_agent.counters.rolling import CounterState
from vtprof_agent.facts import FinishedRequest
from vtprof_agent.metric_points import Point
from vtprof_agent.metrics import requests, series
from vtprof_agent.metrics.gpus import OTHER, GpuSeries, label_text
from vtprof_agent.metrics.series import Series
from vtprof_agent.metrics.store import Labels, Store
from vtprof_schemas import SCHEMA_VERSION, names

logger = logging.getLogger(__name__)
MOST_MODELS: Final = 16
"""With a label of their own: each has up to forty histograms."""
MODALITY_VISUAL = "visual"
MODALITY_OTHER = "other"
ALIVE_S = 30.0
"""The loop refreshes about once a second; after so long without, it stands still."""


class Metrics:
    """All series, in a registry of their own; the loop writes, the page and the exporter read."""

    def __init__(
        self,
        version: str,
        unix_s: Callable[[], float] = time.time,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin at nothing; ``unix_s`` dates exemplars, ``steady_s`` tells when a GPU was last heard of."""
        self._store = Store()
        self.registry = CollectorRegistry()
        self.registry.register(self._store)
        self._gpus = GpuSeries(self._store)
        self._unix_s, self._steady_s = unix_s, steady_s
        self._models: dict[str, str] = {}
        """By model its label."""
        self._held_kv: set[Labels] = set()
        """Labels of KV that was held once."""
        self._said = False
        self._own = psutil.Process()
        self._store.put(series.BUILD, {(version, str(SCHEMA_VERSION), platform.python_version()): 1})
        self._refreshed_s = steady_s()
        self._own_cost()

    def observe(self, finished: FinishedRequest, trace: tuple[int, int] | None = None) -> None:
        """Count a finished request; ``trace``: ids of its trace and root span, None when they are not exported."""
        model = self._model(str(finished.attributes.get(names.REQUEST_MODEL, "")))
        requests.count(self._store, finished, trace, self._unix_s(), model)

    def refresh(self, totals: Mapping[Series, float], gauges: Mapping[Series, float | None]) -> None:
        """Take running totals and states kept elsewhere, None for what is not known; about once a second."""
        self._refreshed_s = self._steady_s()
        for counter, total in totals.items():
            self._store.advance(counter, {(): total})
        for gauge, value in gauges.items():
            self._store.put(gauge, {} if value is None else {(): value})
        self._own_cost()

    def alive(self) -> bool:
        """Tell whether somebody still refreshes this."""
        return self._steady_s() - self._refreshed_s < ALIVE_S

    def kv_bytes(self, held: Mapping[str, tuple[int, int] | None]) -> None:
        """Take by model the bytes held now by visual and by other tokens; None: its requests run, and no ring knows.

        A model that held some and is not told of stays at 0, so that means over time have no gap where there was none.
        """
        values: dict[Labels, float] = dict.fromkeys(self._held_kv, 0.0)
        for model, kv in (held or {"": (0, 0)}).items():
            for place, modality in enumerate((MODALITY_VISUAL, MODALITY_OTHER)):
                labels = modality, self._model(model)
                if kv is None:
                    values.pop(labels, None)
                else:
                    values[labels] = values.get(labels, 0.0) + kv[place]
        self._held_kv |= {labels for labels, value in values.items() if value}
        self._store.put(series.KV_BYTES, values)

    def delivered(self, destinations: Mapping[str, tuple[int, int, int]]) -> None:
        """Take by destination the spans that it took, those that it did not, and the batches of metric points not taken."""
        counts = {label_text(one): count for one, count in destinations.items()} or {"": (0, 0, 0)}
        for place, counter in enumerate(
            (series.SPANS_EXPORTED, series.SPANS_DROPPED, series.METRICS_DROPPED)
        ):
            self._store.advance(counter, {(label,): count[place] for label, count in counts.items()})

    def gpu(self, points: Iterable[Point]) -> None:
        """Take what samplers read in a round."""
        self._gpus.sampled(points, self._steady_s())

    def attributed(
        self, totals: Mapping[tuple[str, str, str], float], states: Iterable[CounterState]
    ) -> None:
        """Take what the meter gave to each phase so far, and how well it can tell."""
        self._gpus.attributed(totals, states)

    def _model(self, name: str) -> str:
        """Return a model's label; "other" beyond the limit, for adapters may be loaded without end."""
        label = self._models.get(name, "")
        if name and not label:
            if len(self._models) >= MOST_MODELS:
                if not self._said:
                    self._said = True
                    logger.warning(
                        "more than %d models: metrics count the others together, as model=%s",
                        MOST_MODELS,
                        OTHER,
                    )
                return OTHER
            text = label_text(name)
            label = self._models[name] = OTHER if text in self._models.values() else text
        return label

    def _own_cost(self) -> None:
        times = self._own.cpu_times()
        self._store.advance(series.CPU_SECONDS, {(): times.user + times.system})
        self._store.put(series.RSS, {(): self._own.memory_info().rss})
