"""Forecast of when the KV cache of an instance is full, from the trend of its use.

Of each 10 s the most that was in use is kept, for half an hour. The trend of that, and of its last quarter of an hour,
is the median of the slopes between all pairs (Theil, Sen). Its interval takes into account that neighbours are alike:
what is left beyond a slow curve is taken for a process whose values follow from the one before, and few of those are
independent.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import numpy as np

from vtprof_analyzer.regress.noise import critical
from vtprof_analyzer.regress.requests import Floats, Integers
from vtprof_analyzer.watch.events import KvSample, Why

HORIZON_S: Final = 30 * 60.0
LEAST_USED: Final = 0.5
"""Below this share of the capacity nothing is forecast: half of it still takes any sudden rise."""
FULL: Final = 0.98
"""From here on it is full, whatever the trend."""
CALM_USED: Final = 0.9
"""An alert ends only below."""
BUCKET_S: Final = 10
WINDOW_BUCKETS: Final = 180
LEAST_BUCKETS: Final = 90
"""A trend of less than a quarter of an hour is none."""
MOST_INSTANCES: Final = 256
"""The one that was silent for longest gives way to a new one."""
LEVEL: Final = 0.025
"""Probability that a growth as large comes from noise alone, on its side."""
_WINDOWS: Final = 2
"""That the trend is looked for in: each has its part of the level."""
_STEP_BUCKETS: Final = 3
"""Judged every 30 s."""
_FIRES_AFTER: Final = 6
"""Times in succession: 3 minutes. At half of that noise about 65 % fired every other day, so never in 8."""
_ENDS_AFTER: Final = 10
_LEVEL_BUCKETS: Final = 6
_RECENT_BUCKETS: Final = 60
_ENDING: Final = 0.5
"""A growth that was less than half in the last 10 minutes is coming to its end."""
_SWING: Final = 0.1
"""A fall by so much of the capacity makes what was before it a peak."""
_PEAKS_KEPT_S: Final = 24 * 3600
_MOST_PEAKS: Final = 64
_BUCKET_NS: Final = BUCKET_S * 1_000_000_000
_MOST_ALIKE: Final = 0.99


@dataclass(frozen=True)
class Trend:
    """How the use of a cache goes, as shares of its capacity."""

    used_ratio: float
    """Median of the last minute."""
    growth_per_s: float
    growth_low_per_s: float
    """Ends of the interval, 95 %."""
    growth_high_per_s: float
    recent_per_s: float
    """Growth of the last 10 minutes alone."""


@dataclass(frozen=True)
class Exhaustion:
    """The KV cache of an instance will be full soon, if its use goes on as it does."""

    instance: str
    used_ratio: float
    growth_per_hour_ratio: float
    seconds: float
    """Until it is full; 0: it is."""
    seconds_low: float
    seconds_high: float | None
    """None: it may never be."""
    began_unix_nano: int
    time_unix_nano: int


@dataclass(frozen=True)
class ExhaustionOver:
    """It will not, or that is not known any more."""

    instance: str
    time_unix_nano: int
    why: Why = "recovered"


class Instance:
    """The use of one cache."""

    def __init__(self, name: str, horizon_s: float) -> None:
        self.name = name
        self._horizon_s = horizon_s
        self._buckets: deque[tuple[int, float]] = deque(maxlen=WINDOW_BUCKETS)
        self._peaks: deque[tuple[int, float]] = deque(maxlen=_MOST_PEAKS)
        self._high = self._low = math.nan
        self._rises = True
        self._fires = False
        self._for = 0
        self._calm = 0
        self.forecast: Exhaustion | None = None
        """The newest one; None: it does not grow, or that is not known."""

    @property
    def newest(self) -> int:
        """Return the newest bucket; -1: none."""
        return self._buckets[-1][0] if self._buckets else -1

    @property
    def used_ratio(self) -> float:
        """Return the newest use."""
        return self._buckets[-1][1] if self._buckets else math.nan

    @property
    def fires(self) -> bool:
        """Return whether its alert fires."""
        return self._fires

    def add(self, bucket: int, used_ratio: float) -> Exhaustion | ExhaustionOver | None:
        """Take a value; judge what came before where it begins a new bucket."""
        if bucket < self.newest:
            return None  # a late one: its bucket has been judged
        if bucket == self.newest:
            self._buckets[-1] = (bucket, max(used_ratio, self._buckets[-1][1]))
            return None
        told = None
        if self._buckets:
            self._follow_swings(*self._buckets[-1])
            if self.newest // _STEP_BUCKETS != bucket // _STEP_BUCKETS:
                told = self._judge()
        self._buckets.append((bucket, used_ratio))
        return told

    def state(self) -> dict[str, Any]:
        """Return all as plain JSON."""
        return {
            "buckets": [list(pair) for pair in self._buckets],
            "peaks": [list(pair) for pair in self._peaks],
            "high": None if math.isnan(self._high) else self._high,
            "low": None if math.isnan(self._low) else self._low,
            "rises": self._rises,
            "fires": self._fires,
            "for": self._for,
            "calm": self._calm,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises ValueError, KeyError or TypeError where it is none."""
        self._buckets = deque(_pairs(state["buckets"]), maxlen=WINDOW_BUCKETS)
        self._peaks = deque(_pairs(state["peaks"]), maxlen=_MOST_PEAKS)
        self._high, self._low = (
            math.nan if state[name] is None else float(state[name]) for name in ("high", "low")
        )
        self._rises, self._fires = bool(state["rises"]), bool(state["fires"])
        self._for, self._calm = int(state["for"]), int(state["calm"])

    def _judge(self) -> Exhaustion | ExhaustionOver | None:
        at = (self.newest + 1) * _BUCKET_NS
        self.forecast = forecast = self._forecast(at)
        soon = forecast is not None and forecast.seconds_low <= self._horizon_s
        later = forecast is None or forecast.seconds_low > 2 * self._horizon_s
        used = self._used()
        self._for = self._for + 1 if soon and not self._usual(used) else 0
        self._calm = self._calm + 1 if later and used < CALM_USED else 0
        if not self._fires and self._for >= _FIRES_AFTER:
            self._fires = True
            return forecast
        if self._fires and self._calm >= _ENDS_AFTER:
            self._fires = False
            return ExhaustionOver(self.name, at)
        return None

    def _forecast(self, at: int) -> Exhaustion | None:
        """Return when it is full; None where it does not surely grow, or has room enough."""
        used, begin = self._used(), self._buckets[0][0] * _BUCKET_NS
        if used >= FULL:
            return Exhaustion(self.name, used, 0.0, 0.0, 0.0, 0.0, begin, at)
        if used <= LEAST_USED or len(self._buckets) < LEAST_BUCKETS:
            return None
        buckets = np.array([bucket for bucket, _ in self._buckets])
        values = np.array([value for _, value in self._buckets])
        # A growth that began a quarter of an hour ago is a bend in the half hour, and no trend of it.
        sure = [
            found
            for last in sorted({len(buckets), LEAST_BUCKETS}, reverse=True)
            if (found := trend(buckets[-last:], values[-last:])) is not None
            and found.growth_low_per_s > 0
            and found.recent_per_s >= _ENDING * found.growth_per_s
        ]
        if not sure:
            return None
        found = max(sure, key=lambda one: one.growth_per_s)
        room = 1 - used
        return Exhaustion(
            instance=self.name,
            used_ratio=used,
            growth_per_hour_ratio=found.growth_per_s * 3600,
            seconds=room / found.growth_per_s,
            seconds_low=room / found.growth_high_per_s,
            seconds_high=room / found.growth_low_per_s,
            began_unix_nano=begin,
            time_unix_nano=at,
        )

    def _used(self) -> float:
        last = [value for _, value in list(self._buckets)[-_LEVEL_BUCKETS:]]
        return float(np.median(last))

    def _usual(self, used: float) -> bool:
        """Return whether it has been so full at least twice within a day, and turned before it was full."""
        peaks = sorted(
            (
                peak
                for bucket, peak in self._peaks
                if (self.newest - bucket) * BUCKET_S <= _PEAKS_KEPT_S and peak < FULL
            ),
            reverse=True,
        )
        return len(peaks) >= 2 and used <= peaks[1]

    def _follow_swings(self, bucket: int, value: float) -> None:
        """Note a peak when the use has fallen clearly below it."""
        if self._rises:
            self._high = value if math.isnan(self._high) else max(self._high, value)
            if value < self._high - _SWING:
                self._peaks.append((bucket, self._high))
                self._rises, self._low = False, value
        else:
            self._low = min(self._low, value)
            if value > self._low + _SWING:
                self._rises, self._high = True, value


class KvForecast:
    """The caches of all instances."""

    def __init__(self, horizon_s: float = HORIZON_S) -> None:
        self._horizon_s = horizon_s
        self._instances: dict[str, Instance] = {}
        self.unusable = 0
        """Samples without a capacity, or with values that cannot be."""

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Return what is known of each instance."""
        return tuple(self._instances.values())

    def add(self, samples: Iterable[KvSample]) -> list[Exhaustion | ExhaustionOver]:
        """Take samples in order of time; return whose caches will be full soon, and whose no longer."""
        told: list[Exhaustion | ExhaustionOver] = []
        for sample in samples:
            if not (
                0 < sample.capacity_tokens < math.inf
                and 0 <= sample.used_tokens < math.inf
                and sample.time_ns > 0
            ):
                self.unusable += 1
                continue
            instance = self._instances.get(sample.instance)
            if instance is None:
                told += self._make_room(sample.time_ns)
                instance = self._instances[sample.instance] = Instance(sample.instance, self._horizon_s)
            used = min(sample.used_tokens / sample.capacity_tokens, 1.0)
            event = instance.add(sample.time_ns // _BUCKET_NS, used)
            if event is not None:
                told.append(event)
        return told

    def settle(self, until_ns: int) -> list[ExhaustionOver]:
        """Forget instances that told nothing for as long as a trend takes: their servers have gone."""
        gone = [
            name
            for name, instance in self._instances.items()
            if until_ns // _BUCKET_NS - instance.newest > WINDOW_BUCKETS
        ]
        return [over for name in gone for over in self._forget(name, until_ns)]

    def state(self) -> dict[str, Any]:
        """Return all as plain JSON."""
        return {"instances": {name: instance.state() for name, instance in self._instances.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises ValueError, KeyError or TypeError where it is none."""
        restored = {}
        for name, one in state["instances"].items():
            restored[name] = Instance(name, self._horizon_s)
            restored[name].restore(one)
        self._instances = restored

    def _make_room(self, now_ns: int) -> list[ExhaustionOver]:
        if len(self._instances) < MOST_INSTANCES:
            return []
        return self._forget(min(self._instances.values(), key=lambda one: one.newest).name, now_ns)

    def _forget(self, name: str, now_ns: int) -> list[ExhaustionOver]:
        fired = self._instances.pop(name).fires
        return [ExhaustionOver(name, now_ns, "no_longer_judged")] if fired else []


def trend(buckets: Integers, used: Floats) -> Trend | None:
    """Return the trend of a use by numbered buckets; None where there are too few."""
    count = len(buckets)
    if count < LEAST_BUCKETS:
        return None
    times = (buckets - buckets[-1]).astype(float) * BUCKET_S
    growth = _median_slope(times, used)
    # The noise is what a slow curve leaves: a growth that bends is still one.
    scaled = times / -times[0]
    residuals = used - np.polynomial.Polynomial.fit(scaled, used, 2)(scaled)
    spread = float(np.sqrt(residuals @ residuals / (count - 3)))
    alike = 0.0
    if spread > 0:
        neighbours = float(residuals[1:] @ residuals[:-1] / (residuals @ residuals))
        # Estimated around a curve that was itself estimated, it comes out too low (Kendall).
        alike = min(max(neighbours + (3 + 4 * neighbours) / count, 0.0), _MOST_ALIKE)
    inflation = (1 + alike) / (1 - alike)
    # Of its spread such a process tells more than of its mean.
    freedom = max(count * (1 - alike**2) / (1 + alike**2) - 3, 1.0)
    centred = times - times.mean()
    margin = critical(LEVEL / _WINDOWS, freedom) * spread * math.sqrt(inflation / float(centred @ centred))
    recent = min(_RECENT_BUCKETS, count)
    return Trend(
        used_ratio=float(np.median(used[-_LEVEL_BUCKETS:])),
        growth_per_s=growth,
        growth_low_per_s=growth - margin,
        growth_high_per_s=growth + margin,
        recent_per_s=_median_slope(times[-recent:], used[-recent:]),
    )


def _median_slope(times: Floats, values: Floats) -> float:
    first, second = _pairs_of(len(times))
    return float(np.median((values[second] - values[first]) / (times[second] - times[first])))


@lru_cache(maxsize=WINDOW_BUCKETS)
def _pairs_of(count: int) -> tuple[Integers, Integers]:
    first, second = np.triu_indices(count, 1)
    return first, second


def _pairs(given: Iterable[Iterable[Any]]) -> list[tuple[int, float]]:
    pairs = [(int(bucket), float(value)) for bucket, value in given]
    if any(not 0 <= value <= 1 for _, value in pairs) or any(
        before[0] >= after[0] for before, after in pairwise(pairs)
    ):
        raise ValueError("a use that cannot be")
    return pairs
