"""Keeps the series of GPUs: what samplers read of them and what was attributed, under a limited number of labels."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Final

from vtprof_agent.counters.rolling import CounterState
from vtprof_agent.metric_points import Point
from vtprof_agent.metrics import series
from vtprof_agent.metrics.series import Series
from vtprof_agent.metrics.store import Labels, Store
from vtprof_schemas import names

logger = logging.getLogger(__name__)
MOST_GPUS: Final = 64
"""With a label of their own: eight GPUs in seven MIG instances each are 56."""
MOST_COUNTED: Final = 4096
"""What is told of more than that is no GPU of a node; it is passed over."""
OTHER: Final = "other"
HOLD_S: Final = 90.0
"""A GPU of which nobody told for so long is gone: a dcgm-exporter reads every 30 s."""
LEAST_HOLD_S: Final = 10.0
"""For so long at least a gauge stays that nobody renews, and as long as ``HOLD_GAPS`` of the times between its renewals."""
HOLD_GAPS: Final = 3
_LABEL_CHARACTERS: Final = 80
_PHASES: Final = frozenset((*names.PHASES, names.UNATTRIBUTED))
_QUALITIES: Final = (names.QUALITY_MEASURED, names.QUALITY_ATTRIBUTED, names.QUALITY_ESTIMATED)
_COUNTER_LABEL: Final = {
    key: key.removeprefix("vtprof.gpu.").removesuffix("_mj").removesuffix("_ratio")
    for key in series.ATTRIBUTED
}


def label_text(text: str) -> str:
    """Return a text as it may stand in a label, never ``OTHER``: a name like it begins with one more ``=``."""
    shown = text[:_LABEL_CHARACTERS].encode("utf-8", "replace").decode()
    return f"={shown}" if shown.lstrip("=") == OTHER else shown


class GpuSeries:
    """The GPUs of this node as series."""

    def __init__(self, store: Store) -> None:
        """Write to a store."""
        self._store = store
        self._shown: dict[str, str] = {}
        """By GPU its label."""
        self._beyond: set[str] = set()
        """GPUs without a label of their own."""
        self._said = False
        self._gone: set[str] = set()
        """GPUs that no sampler tells of any more, though the meter still has their totals."""
        self._gauges: dict[Series, dict[str, tuple[float, str]]] = {}
        """By GPU the value, and the key of the quantity."""
        self._fresh: dict[tuple[str, str], tuple[float, float]] = {}
        """By GPU and key when it was told, and until when that holds."""
        self._seen: dict[tuple[str, str], tuple[str, float]] = {}
        """By GPU and key of a running total: who told it, and its last value."""
        self._told_s: dict[str, float] = {}
        """When any sampler last told of a GPU."""
        self._attributed: frozenset[str] = frozenset()
        self._now_s = 0.0

    def sampled(self, points: Iterable[Point], now_s: float) -> None:
        """Take the samples of a round, those of the same GPU and key once; ``now_s`` is of any steady clock."""
        done: set[tuple[str, str]] = set()
        for point in points:
            sample = point.sample
            if sample.hw_id is None or (sample.hw_id, sample.key) in done or not math.isfinite(sample.value):
                continue
            gauge = None if sample.cumulative else series.GPU_GAUGES.get(sample.key)
            counter = series.GPU_COUNTERS.get(sample.key) if sample.cumulative else None
            if gauge is None and counter is None:
                continue
            if sample.hw_id not in self._told_s and len(self._told_s) >= MOST_COUNTED:
                continue
            done.add((sample.hw_id, sample.key))
            self._told_s[sample.hw_id] = now_s
            self._renew(sample.hw_id, sample.key, now_s)
            self._gone.discard(sample.hw_id)
            if gauge is not None:
                self._gauges.setdefault(gauge[0], {})[sample.hw_id] = (sample.value * gauge[1], sample.key)
            elif counter is not None:
                grown = self._growth(sample.hw_id, sample.key, sample.source, sample.value)
                self._store.add(counter[0], (self._label(sample.hw_id),), grown * counter[1])
        self._now_s = now_s
        self._forget(now_s)
        self._show_gauges()

    def attributed(
        self, totals: Mapping[tuple[str, str, str], float], states: Iterable[CounterState]
    ) -> None:
        """Show the meter's running totals by (GPU, counter, phase), and how well it can tell."""
        fits = tuple(states)
        self._attributed = frozenset(gpu for gpu, _, _ in totals) | {fit.hw_id for fit in fits}
        self._gone &= self._attributed
        for gpu in [gpu for gpu in self._shown if gpu not in self._told_s and gpu not in self._attributed]:
            del self._shown[gpu]
        sums: dict[Series, dict[Labels, float]] = {found[0]: {} for found in series.ATTRIBUTED.values()}
        for (gpu, key, phase), amount in totals.items():
            found = series.ATTRIBUTED.get(key)
            if found is not None and phase in _PHASES and math.isfinite(amount) and gpu not in self._gone:
                labels = (self._label(gpu), phase)
                sums[found[0]][labels] = sums[found[0]].get(labels, 0.0) + amount * found[1]
        for counter, values in sums.items():
            self._store.put(counter, values)
        self._show_fits([fit for fit in fits if fit.key in _COUNTER_LABEL and fit.hw_id not in self._gone])

    def _show_fits(self, fits: Iterable[CounterState]) -> None:
        shown: dict[Series, dict[Labels, float]] = {
            series.FIT_CONDITION: {}, series.FIT_QUALITY: {}, series.FIT_COTENANT: {}, series.FIT_REFUSED: {},
        }  # fmt: skip
        for fit in fits:
            if self._stale(fit.hw_id, fit.key):
                continue
            labels = (self._label(fit.hw_id), _COUNTER_LABEL[fit.key])
            if labels[0] == OTHER:
                continue
            if fit.condition_number is not None:
                shown[series.FIT_CONDITION][labels] = fit.condition_number
            for quality in _QUALITIES:
                shown[series.FIT_QUALITY][*labels, quality] = float(quality == fit.quality)
            shown[series.FIT_COTENANT][labels] = float(fit.co_tenant)
            shown[series.FIT_REFUSED][labels] = fit.refused
        for one, values in shown.items():
            self._store.put(one, values)

    def _renew(self, gpu: str, key: str, now_s: float) -> None:
        """Note that a quantity was told, which holds for some times as long as it took since it was told last."""
        before_s, until_s = self._fresh.get((gpu, key), (now_s, 0.0))
        known = now_s <= until_s
        hold_s = max(LEAST_HOLD_S, HOLD_GAPS * (now_s - before_s)) if known else HOLD_S
        self._fresh[gpu, key] = now_s, now_s + hold_s

    def _stale(self, gpu: str, key: str) -> bool:
        """Tell whether a quantity was told, and too long ago."""
        return self._now_s > self._fresh.get((gpu, key), (0.0, math.inf))[1]

    def _growth(self, gpu: str, key: str, source: str, value: float) -> float:
        """Return what a running total grew by; 0 where it began anew, or another source tells it now."""
        before = self._seen.get((gpu, key))
        self._seen[gpu, key] = (source, value)
        return 0.0 if before is None or before[0] != source else max(0.0, value - before[1])

    def _label(self, gpu: str) -> str:
        label = self._shown.get(gpu)
        if label is not None:
            return label
        if len(self._shown) < MOST_GPUS:
            text = label_text(gpu)
            label = self._shown[gpu] = OTHER if text in self._shown.values() else text
            self._beyond.discard(gpu)
            return label
        if not self._said:
            logger.warning(
                "more than %d GPUs: metrics count the others together, as gpu=%s", MOST_GPUS, OTHER
            )
            self._said = True
        if len(self._beyond) < MOST_COUNTED:
            self._beyond.add(gpu)
        return OTHER

    def _forget(self, now_s: float) -> None:
        """Remove the series of GPUs that nobody tells of any more."""
        for gpu in [gpu for gpu, told_s in self._told_s.items() if now_s - told_s > HOLD_S]:
            del self._told_s[gpu]
            self._beyond.discard(gpu)
            if gpu in self._attributed:
                self._gone.add(gpu)
            for place in [place for place in self._fresh if place[0] == gpu]:
                del self._fresh[place]
            for found in self._gauges.values():
                found.pop(gpu, None)
            label = self._shown.pop(gpu, OTHER)
            for key, (counter, _) in series.GPU_COUNTERS.items():
                self._seen.pop((gpu, key), None)
                if label != OTHER:
                    self._store.remove(counter, (label,))

    def _show_gauges(self) -> None:
        for gauge, found in self._gauges.items():
            for gpu in [gpu for gpu, (_, key) in found.items() if self._stale(gpu, key)]:
                del found[gpu]
            labelled = ((self._label(gpu), value) for gpu, (value, _) in found.items())
            self._store.put(gauge, {(label,): value for label, value in labelled if label != OTHER})
        if self._said:
            self._store.put(series.GPU_BEYOND, {(): len(self._beyond)})
