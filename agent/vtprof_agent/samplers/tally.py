"""Makes of the samples of all GPU sources what is exported each second, and the counter windows that are attributed.

Of two sources that tell the same quantity of one GPU exactly one counts: the better one for as long as it tells it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vtprof_agent.counters.meter import COUNTERS, CounterWindow
from vtprof_agent.samplers.sampler import SAMPLERS, Sample
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

ENERGY_WINDOW_NS: Final = NS_PER_S
"""Energy counters are renewed every 100 ms or so at times unknown: shorter windows would say little of their edges."""
_JITTER_NS: Final = 50_000_000
SILENT_PERIODS, LEAST_SILENT_NS = 3, 10 * NS_PER_S
"""A source that was silent for so many of its periods, and at least so long, gives way to a lesser one."""
FORGET_NS: Final = 3600 * NS_PER_S
"""A quantity that nobody told for so long is forgotten: MIG devices come and go under ever new names."""
MOST_GPUS: Final = 256
"""With their instances; a node has 128 at most. The page of a whole cluster must not fill the memory of each agent."""
_RANK: Final = {name: rank for rank, name in enumerate(SAMPLERS)}


@dataclass(slots=True)
class _Series:
    """One quantity of one GPU."""

    source: str
    told_ns: int
    period_ns: int
    expected: bool = False
    end_ns: int = 0
    """Until when its windows go."""
    weighted: float = 0.0
    weight_ns: int = 0
    integral_ns: float = 0.0
    interval_ns: int | None = None
    latest: Sample | None = None
    """What was told since it was last taken."""
    previous: float | None = None
    """Of a running total: as the source counts."""
    total: float = 0.0
    """Of a running total: since we began."""
    window_start: tuple[int, float] | None = None
    """Of energy: when the open window began, and the counter then."""


@dataclass(frozen=True, slots=True)
class Expected:
    """That windows of a counter of a GPU will come."""

    hw_id: str
    key: str
    period_s: float


class Tally:
    """Adds up; not safe to use from several threads at a time."""

    def __init__(self) -> None:
        """Start with nothing told."""
        self._series: dict[tuple[str, str], _Series] = {}
        self._gpus: set[str] = set()
        self.beyond = False
        """Whether more than ``MOST_GPUS`` were told of; of those beyond nothing is taken."""

    def add(
        self, samples: Sequence[Sample], now_ns: int, period_ns: int
    ) -> tuple[list[Expected], list[CounterWindow]]:
        """Take the samples of one reading of one source, which comes each ``period_ns``; return what attribution gets."""
        expected: list[Expected] = []
        windows: list[CounterWindow] = []
        for sample in samples:
            if sample.hw_id is None:
                continue
            series = self._chosen(sample, now_ns, period_ns)
            if series is None:
                continue
            if sample.cumulative:
                window = _count(series, sample, now_ns)
            elif sample.start_ns is not None and sample.end_ns is not None:
                window = _weigh(series, sample, sample.start_ns, sample.end_ns, period_ns)
            else:
                window = None
                series.latest = sample
                series.interval_ns = sample.interval_ns
            if sample.key in COUNTERS and not series.expected:
                series.expected = True
                every_ns = ENERGY_WINDOW_NS if sample.cumulative else sample.interval_ns or period_ns
                expected.append(Expected(sample.hw_id, sample.key, max(every_ns, period_ns) / NS_PER_S))
            if window is not None:
                windows.append(window)
        return expected, windows

    def take(self) -> list[Sample]:
        """Return what came since the last call: means over it, last values, and running totals until now."""
        samples: list[Sample] = []
        newest_ns = max((series.told_ns for series in self._series.values()), default=0)
        for place in [p for p, series in self._series.items() if series.told_ns < newest_ns - FORGET_NS]:
            del self._series[place]
            self._gpus = {gpu for gpu, _ in self._series}
        for (_, key), series in self._series.items():
            latest, series.latest = series.latest, None
            if latest is None:
                continue
            point = latest._replace(start_ns=None, end_ns=None, interval_ns=series.interval_ns)
            if latest.cumulative:
                samples.append(point._replace(value=int(series.total)))
                continue
            if series.weight_ns:
                point = point._replace(value=series.weighted / series.weight_ns)
                series.weighted, series.weight_ns = 0.0, 0
            samples.append(point)
            if key in names.GPU_INTEGRALS and latest.start_ns is not None:
                total = int(series.integral_ns)
                samples.append(point._replace(key=names.GPU_INTEGRALS[key], value=total, cumulative=True))
        return samples

    def _chosen(self, sample: Sample, now_ns: int, period_ns: int) -> _Series | None:
        """Return the series that a sample belongs to; None when a better source tells it."""
        place = (str(sample.hw_id), sample.key)
        series = self._series.get(place)
        if series is None:
            if place[0] not in self._gpus and len(self._gpus) >= MOST_GPUS:
                self.beyond = True
                return None
            self._gpus.add(place[0])
            series = self._series[place] = _Series(sample.source, now_ns, period_ns)
        elif series.source != sample.source:
            silent_ns = max(SILENT_PERIODS * series.period_ns, LEAST_SILENT_NS)
            better = _rank(sample.source) < _rank(series.source)
            if not better and now_ns - series.told_ns <= silent_ns:
                return None
            series.source, series.expected = sample.source, False
            series.previous = series.window_start = None
        series.told_ns, series.period_ns = now_ns, max(period_ns, sample.interval_ns or 0)
        return series


def _rank(source: str) -> int:
    return _RANK.get(source, len(_RANK))


def _weigh(
    series: _Series, sample: Sample, start_ns: int, end_ns: int, period_ns: int
) -> CounterWindow | None:
    """Add a mean over a window; one that overlaps what is known, as of another source, is left out."""
    length_ns = end_ns - start_ns
    if length_ns <= 0 or start_ns < series.end_ns:
        return None
    amount = float(sample.value) * length_ns
    series.end_ns = end_ns
    series.weighted += amount
    series.weight_ns += length_ns
    series.integral_ns += amount
    series.interval_ns = sample.interval_ns or period_ns
    series.latest = sample
    if sample.key not in COUNTERS:
        return None
    return CounterWindow(str(sample.hw_id), sample.key, start_ns, end_ns, amount, sample.exact_edges)


def _count(series: _Series, sample: Sample, now_ns: int) -> CounterWindow | None:
    """Advance a running total by what its counter advanced; one that fell began anew, by how much is not known."""
    value = float(sample.value)
    if series.previous is None or value < series.previous:
        series.window_start = None
    else:
        series.total += value - series.previous
    series.previous, series.latest = value, sample
    if sample.key not in COUNTERS:
        return None
    end_ns = now_ns if sample.end_ns is None else sample.end_ns
    if series.window_start is None:
        series.window_start = (end_ns, value)
        return None
    start_ns, begun = series.window_start
    if value <= begun or end_ns - start_ns < ENERGY_WINDOW_NS - _JITTER_NS:
        return None
    series.window_start = (end_ns, value)
    return CounterWindow(str(sample.hw_id), sample.key, start_ns, end_ns, value - begun, exact_edges=False)
