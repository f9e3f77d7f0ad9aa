"""Makes of the samples of all GPU sources what is exported each second, and the counter windows that are attributed.

Of two sources that tell the same quantity of one GPU exactly one counts: the better one for as long as it tells it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Final

from vtprof_agent.counters.meter import COUNTERS, CounterWindow
from vtprof_agent.samplers.sampler import SAMPLERS, Sample
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

ENERGY_WINDOW_NS: Final = NS_PER_S
"""Energy counters are renewed every 100 ms or so at times unknown: shorter windows would say little of their edges."""
_JITTER_NS: Final = 50_000_000
LONGEST_WINDOW_NS: Final = 60 * NS_PER_S
"""An energy counter that stood still for longer makes no window: what ran in it was told without energy long before."""
_FELL, _CAUGHT_UP = 0.75, 1.1
"""An energy counter that misses the power before by so much, and exceeds it next, stopped for part of the time."""
_HELD_NS: Final = 5 * NS_PER_S
"""Only windows up to this length are held: what waits for longer ones waits long enough."""
MOST_MW: Final = 5_000_000
"""No GPU draws more, where its power limit is not known."""
OVER_LIMIT: Final = 2
"""A board may draw more than its limit for moments, and be allowed more than it was made for."""
_LATE_NS: Final = NS_PER_S
"""A counter is renewed by a clock of its own: it may advance by so much more time than passed between two readings."""
_CAUSES: Final = 2
"""Times with lowered clocks are sums over two causes, which may hold at the same time."""
_TIMES: Final = frozenset((names.GPU_THROTTLE_POWER_NS, names.GPU_THROTTLE_THERMAL_NS))
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
    base: tuple[int, float] | None = None
    """Of a running total: since when the source's counter stands where it stood when last believed, and where."""
    doubted: tuple[int, float] | None = None
    """The last reading, which cannot follow ``base``; the next one tells which of the two was wrong."""
    total: float = 0.0
    """Of a running total: since we began."""
    window_start: tuple[int, float] | None = None
    """Of energy: when the open window began, and the counter then."""
    held: CounterWindow | None = None
    """Of energy: the last window, in which the counter may have stopped."""
    stood: bool = False
    """Whether it stood still after that."""
    power: float | None = None
    """Of the last window that was given, mJ a ns."""

    def silent(self, now_ns: int) -> bool:
        """Tell whether it was told too long ago for its source to tell it still."""
        return now_ns - self.told_ns > max(SILENT_PERIODS * self.period_ns, LEAST_SILENT_NS)


@dataclass(frozen=True, slots=True)
class Expected:
    """That windows of a counter of a GPU will come."""

    hw_id: str
    key: str
    period_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reading of a running total that its counter cannot have come to."""

    hw_id: str
    key: str
    before: float
    value: float
    passed_ns: int


class Tally:
    """Adds up; not safe to use from several threads at a time."""

    def __init__(self) -> None:
        """Start with nothing told."""
        self._series: dict[tuple[str, str], _Series] = {}
        self._gpus: set[str] = set()
        self.beyond = False
        """Whether more than ``MOST_GPUS`` were told of; of those beyond nothing is taken."""
        self.limits_mw: dict[str, int] = {}
        """By GPU the power limit that it was made for, where that is known."""
        self._refusals: list[Refusal] = []

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
                windows += self._count(series, sample, now_ns)
            elif sample.start_ns is not None and sample.end_ns is not None:
                windows += _weigh(series, sample, sample.start_ns, sample.end_ns, period_ns)
            else:
                series.latest = sample
                series.interval_ns = sample.interval_ns
            if sample.key in COUNTERS and not series.expected:
                series.expected = True
                every_ns = ENERGY_WINDOW_NS if sample.cumulative else sample.interval_ns or period_ns
                expected.append(Expected(sample.hw_id, sample.key, max(every_ns, period_ns) / NS_PER_S))
        return expected, windows

    def told(self, now_ns: int) -> set[tuple[str, str]]:
        """Return the GPUs and quantities that somebody tells at present."""
        return {place for place, series in self._series.items() if not series.silent(now_ns)}

    def refusals(self) -> list[Refusal]:
        """Return what was not believed since the last call."""
        refusals, self._refusals = self._refusals, []
        return refusals

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

    def _count(self, series: _Series, sample: Sample, now_ns: int) -> list[CounterWindow]:
        """Advance a running total by what its counter advanced, as far as that can be.

        A reading that cannot follow the one before waits for the next. That one follows the former: the doubted reading
        was wrong, and nothing is lost. It follows the doubted: the counter began anew there, by how much is not known.
        """
        end_ns = now_ns if sample.end_ns is None else sample.end_ns
        now = (end_ns, float(sample.value))
        most_per_ns = self._most_per_ns(sample)
        if series.base is None and isfinite(now[1]):
            series.base = series.window_start = now
        if series.base is None or not _follows(series.base, now, most_per_ns):
            if series.doubted is None or not _follows(series.doubted, now, most_per_ns):
                (before_ns, before), series.doubted = series.base or (end_ns, 0.0), now
                refusal = Refusal(str(sample.hw_id), sample.key, before, now[1], end_ns - before_ns)
                self._refusals.append(refusal)
                return []
            series.base = series.window_start = series.doubted
            series.held = series.power = None
        series.doubted, series.latest = None, sample
        advance = now[1] - series.base[1]
        if advance > 0:  # else the base keeps its time: what is caught up after a stop is of all of it
            series.total += advance
            series.base = now
        if sample.key not in COUNTERS or series.window_start is None:
            return []
        start_ns, begun = series.window_start
        if not advance or end_ns - start_ns < ENERGY_WINDOW_NS - _JITTER_NS:
            series.stood = series.stood or not advance
            return []
        series.window_start = now
        window = CounterWindow(
            str(sample.hw_id), sample.key, start_ns, end_ns, now[1] - begun, exact_edges=False
        )
        return _whole(series, window)

    def _most_per_ns(self, sample: Sample) -> float:
        """Return how much a running total can advance in a ns."""
        if sample.key == names.GPU_ENERGY_MJ:
            limit_mw = self.limits_mw.get(str(sample.hw_id))
            return (MOST_MW if limit_mw is None else OVER_LIMIT * limit_mw) / NS_PER_S
        return _CAUSES if sample.key in _TIMES else inf

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
            better = _rank(sample.source) < _rank(series.source)
            if not better and not series.silent(now_ns):
                return None
            series.source, series.expected = sample.source, False
            series.base = series.doubted = series.window_start = series.held = series.power = None
        series.told_ns, series.period_ns = now_ns, max(period_ns, sample.interval_ns or 0)
        return series


def _rank(source: str) -> int:
    return _RANK.get(source, len(_RANK))


def _weigh(
    series: _Series, sample: Sample, start_ns: int, end_ns: int, period_ns: int
) -> list[CounterWindow]:
    """Add a mean over a window; one that overlaps what is known, as of another source, is left out."""
    length_ns = end_ns - start_ns
    if length_ns <= 0 or start_ns < series.end_ns:
        return []
    amount = float(sample.value) * length_ns
    series.end_ns = end_ns
    series.weighted += amount
    series.weight_ns += length_ns
    series.integral_ns += amount
    series.interval_ns = sample.interval_ns or period_ns
    series.latest = sample
    if sample.key not in COUNTERS:
        return []
    return [CounterWindow(str(sample.hw_id), sample.key, start_ns, end_ns, amount, sample.exact_edges)]


def _follows(before: tuple[int, float], now: tuple[int, float], most_per_ns: float) -> bool:
    """Tell whether a counter can have come from the one reading, (ns, value), to the other."""
    advance = now[1] - before[1]
    return isfinite(now[1]) and 0 <= advance <= most_per_ns * (now[0] - before[0] + _LATE_NS)


def _whole(series: _Series, window: CounterWindow) -> list[CounterWindow]:
    """Return the windows of energy in which the counter surely went on; those in which it stopped become one.

    One with less power than that before is held until the next reading tells: the counter may have stopped within it.
    """
    held, series.held = series.held, None
    stood, series.stood = series.stood, False
    before, power = series.power or 0.0, _power(window)
    given: list[CounterWindow] = []
    if held is not None and (stood or (_power(held) < _FELL * before and power > _CAUGHT_UP * before)):
        window = replace(window, start_ns=held.start_ns, amount=held.amount + window.amount)
    else:
        if held is not None:
            given, before = [held], _power(held)
        if power < before and window.end_ns - window.start_ns <= _HELD_NS:
            series.held, series.power = window, before
            return given
    if window.end_ns - window.start_ns > LONGEST_WINDOW_NS:
        return given
    series.power = _power(window)
    return [*given, window]


def _power(window: CounterWindow) -> float:
    return window.amount / (window.end_ns - window.start_ns)
