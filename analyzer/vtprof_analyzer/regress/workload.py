"""How the two sides' work and load differ: what may make requests slower without the engine being any slower."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vtprof_analyzer.regress.comparison import Shift
from vtprof_analyzer.regress.noise import block_variance
from vtprof_analyzer.regress.requests import Floats, Requests
from vtprof_analyzer.regress.thin import of_model

COST_RATIO: Final = 0.08
SHARE_POINTS: Final = 0.08
STANDARD_DIFFERENCE: Final = 0.2
ARRIVALS_RATIO: Final = 0.10
LOAD_RATIO: Final = 0.15
"""Of the queue, or of requests in flight, that come with more arrivals."""
_MOST_SHARES: Final = 50
"""Models whose share is looked at."""
_LEAST_LOG: Final = 0.02
"""Where all requests are alike any difference is many standard deviations."""
_SIZES: Final = (
    ("visual tokens of requests that have them", "visual_tokens", "tokens"),
    ("text tokens per request", "text_tokens", "tokens"),
    ("audio tokens of requests that have them", "audio_tokens", "tokens"),
    ("output tokens per request", "output_tokens", "tokens"),
    ("images per request that has them", "images", "images"),
)
_SURE_OF_RATES: Final = 2.0
"""Arrivals are counted, not sampled: it is enough that bursts alone would hardly do it."""
Sides = Sequence[Sequence[Requests]]
Columns = Sequence[Sequence[Floats]]
_SURE: Final = 3.3
"""Standard deviations: one chance in a thousand."""


@dataclass(frozen=True)
class Changed:
    """What differs beyond its threshold."""

    shifts: tuple[Shift, ...]

    @property
    def mix(self) -> bool:
        """Say whether requests ask for other work."""
        return any(shift.kind == "mix" for shift in self.shifts)

    @property
    def more_load(self) -> bool:
        """Say whether more of them arrive."""
        return any(shift.kind == "load" and shift.new > shift.base for shift in self.shifts)

    @property
    def less_load(self) -> bool:
        """Say whether fewer of them arrive."""
        return any(shift.kind == "load" and shift.new < shift.base for shift in self.shifts)


def changes(base: Sequence[Requests], new: Sequence[Requests], costs: Sequence[Floats] | None) -> Changed:
    """Return what changed of mix and load; ``costs`` holds each run's work at BASE's speed [ms], where a model tells it."""
    sides = (base, new)
    if not all(sum(len(q) for q in side) for side in sides):
        return Changed(())
    found: list[Shift] = []
    if costs is not None:
        means, sure = _means(sides, (costs[: len(base)], costs[len(base) :]))
        if means[0] > 0 and abs(means[1] / means[0] - 1) > COST_RATIO and sure:
            found.append(Shift("work per request", means[0], means[1], "ms of work at BASE's speed", "mix"))
    names = sorted({name for side in sides for q in side for name in q.models})[:_MOST_SHARES]
    for name in names if len(names) > 1 else ():
        shares = [[of_model(q, name).astype(np.float64) for q in side] for side in sides]
        found += _share(f"share of model {name or 'without a name'}", sides, shares)
    media = [
        [np.where(np.isnan(q.visual_tokens), np.nan, q.visual_tokens > 0) for q in side] for side in sides
    ]
    found += _share("share of requests with images or video", sides, media)
    for what, column, unit in _SIZES:
        found += _logged(what, sides, [[getattr(q, column) for q in side] for side in sides], unit)
    return Changed((*found, *_load(base, new)))


def _load(base: Sequence[Requests], new: Sequence[Requests]) -> list[Shift]:
    """Return more (or less) load: arrivals that changed, and with them the queue, or the requests in flight."""
    sides = (base, new)
    rates, sure = _rates(sides)
    if not (rates[0] > 0 and sure and _beyond(rates, ARRIVALS_RATIO)):
        return []
    shifts = [Shift("arrivals", rates[0], rates[1], "requests/s", "load")]
    queues = [_mean(side, [q.queue_ms for q in side]) for side in sides]
    if _beyond(queues) and (queues[1] > queues[0]) == (rates[1] > rates[0]):
        shifts.append(Shift("time in queue, mean", queues[0], queues[1], "ms", "load"))
    beside = [_in_flight(side) for side in sides]
    if _beyond(beside) and (beside[1] > beside[0]) == (rates[1] > rates[0]):
        shifts.append(Shift("requests in flight, mean", beside[0], beside[1], "requests", "load"))
    return shifts if len(shifts) > 1 else []


def _beyond(values: Sequence[float], ratio: float = LOAD_RATIO) -> bool:
    """Say whether two values differ by more than a ratio."""
    return min(values) > 0 and max(values) > (1 + ratio) * min(values)


def _rates(sides: Sequence[Sequence[Requests]]) -> tuple[list[float], bool]:
    """Return arrivals per second of both sides, and whether they surely differ, by counts in forty parts of each run."""
    rates, variance = [], 0.0
    for side in sides:
        counts, seconds = [], 0.0
        for q in side:
            length = float(q.start_ns[-1] - q.start_ns[0]) / 1e9 if len(q) > 1 else 0.0
            if length <= 0:
                return [0.0, 0.0], False
            place = np.minimum((q.start_ns - q.start_ns[0]) / (length * 1e9) * 40, 39).astype(np.int64)
            counts.append(np.bincount(place, q.weight, 40))
            seconds += length
        rate = float(sum(count.sum() for count in counts)) / seconds
        spread = sum(float(np.square(count - count.mean()).sum()) * 40 / 39 for count in counts)
        follow = sum(float((count - count.mean())[1:] @ (count - count.mean())[:-1]) for count in counts)
        rates.append(rate)
        variance += (spread + 2 * max(follow, 0.0)) / seconds**2
    return rates, abs(rates[1] - rates[0]) > _SURE_OF_RATES * variance**0.5


def _in_flight(side: Sequence[Requests]) -> float:
    """Return how many requests were being served at a time, by Little's law."""
    busy, seconds = 0.0, 0.0
    for q in side:
        lasts = q.ttft_ms + np.nan_to_num(q.tpot_ms * np.maximum(q.output_tokens - 1, 0))
        known = np.isfinite(lasts)
        busy += float((lasts * q.weight)[known].sum()) / 1e3
        seconds += float(q.start_ns[-1] - q.start_ns[0]) / 1e9 if len(q) > 1 else 0.0
    return busy / seconds if seconds > 0 else np.nan


def _share(what: str, sides: Sides, columns: Columns) -> list[Shift]:
    means, sure = _means(sides, columns)
    if abs(means[1] - means[0]) > SHARE_POINTS and sure:
        return [Shift(what, means[0], means[1], "share", "mix")]
    return []


def _logged(what: str, sides: Sides, columns: Columns, unit: str) -> list[Shift]:
    """Return a shift where the logarithm's means lie 0.2 standard deviations apart, of values above zero."""
    above = [[np.where(one > 0, one, np.nan) for one in side] for side in columns]
    logs = [[np.log(one) for one in side] for side in above]
    means, sure = _means(sides, logs)
    if not sure:
        return []
    spreads = [
        _mean(side, [np.square(one - mean) for one in log])
        for side, log, mean in zip(sides, logs, means, strict=True)
    ]
    if abs(means[1] - means[0]) > max(STANDARD_DIFFERENCE * (sum(spreads) / 2) ** 0.5, _LEAST_LOG):
        plain = [_mean(side, one) for side, one in zip(sides, above, strict=True)]
        return [Shift(what, plain[0], plain[1], unit, "mix")]
    return []


def _means(sides: Sides, columns: Columns) -> tuple[list[float], bool]:
    """Return the weighted means of both sides, of what is known, and whether they surely differ."""
    means, variance = [], 0.0
    for side, values in zip(sides, columns, strict=True):
        weights = [np.where(np.isfinite(one), q.weight, 0.0) for q, one in zip(side, values, strict=True)]
        whole = sum(float(weight.sum()) for weight in weights)
        if whole <= 0:
            return [np.nan, np.nan], False
        mean = _mean(side, values)
        means.append(mean)
        parts = [
            (weight * (np.nan_to_num(one) - mean) / whole)[weight > 0]
            for weight, one in zip(weights, values, strict=True)
        ]
        variance += block_variance(parts)[0]
    return means, abs(means[1] - means[0]) > _SURE * variance**0.5


def _mean(side: Sequence[Requests], columns: Sequence[Floats]) -> float:
    """Return the weighted mean of what is known; NaN where nothing is."""
    above, whole = 0.0, 0.0
    for q, column in zip(side, columns, strict=True):
        known = np.isfinite(column)
        above += float(column[known] @ q.weight[known])
        whole += float(q.weight[known].sum())
    return above / whole if whole > 0 else np.nan
