"""What a unit of work was given over a stretch of time, by counter: a step's shares are read off by plain arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, sqrt
from operator import mul
from typing import Final

from vtprof_agent.counters.meter import CLASSES, COUNTERS, Share, StepCounters, Work
from vtprof_agent.counters.work_curve import (
    CLASS_COLUMNS,
    COLUMNS,
    ENCODE_COLUMNS,
    only_decodes,
    row_of,
    shape,
)
from vtprof_schemas import names

COVERED: Final = COLUMNS + len(CLASSES) + 1
"""Column of the time in windows, behind what a unit of each column of work, each class and nobody is given."""
OFF: Final = COVERED + 1
"""And of this time, times how far windows lie from what was predicted (``series.Settled``)."""
_Z: Final = 1.8
"""Within so many standard deviations lie 90 %: of a normal distribution 1.645, but these have longer tails."""
_STEP: Final = 2.0
"""The work of one step is not the mean of its class: its costs are known so much worse."""
_PEAK: Final = 3.0
"""A step takes no more than so many times the mean power over its windows,"""
_BEYOND: Final = 1.05
"""What is given more than that times what can be is given wrongly."""
_BRIEF_NS: Final = 100_000_000
"""or, when it is shorter than this, than that would be in this time."""
_ALONE: Final = 0.98
"""Share of the amount that one class must have to count as measured."""
_MOST_OFF: Final = 0.02
"""So far off, in the mean, a step's windows may lie for its values to be more than an estimate."""
_WHOLE: Final = 0.98
"""Share of a step's time that must lie in windows."""
_DECODE: Final = CLASS_COLUMNS[2]
_NO_SHARE: Final = Share(0.0, 0.0, 0.0)
_NOTHING: Final = (0.0, 0.0, 0.0)

Three = Sequence[float]


@dataclass(frozen=True, slots=True)
class Trust:
    """How sure the fits of one counter are, by class, over the GPUs of a set."""

    squares: Three = _NOTHING
    """Square of the relative error of a step in which no other class ran."""
    spreads: Three = _NOTHING
    """Relative standard deviation in one window around the mean."""
    sound: Sequence[bool] = (False, False, False)
    costs: Sequence[float] = (0.0,) * COLUMNS
    """What the fits say that a unit of each column costs, all GPUs together."""
    typical: Three = _NOTHING
    """What a step with work of the class is given of it, all GPUs together: less is not known better than that."""

    @classmethod
    def of(
        cls, errors: Three, spreads: Three, sound: Sequence[bool], costs: Sequence[float], typical: Three
    ) -> "Trust":
        """``errors``: relative standard errors of the means of the classes."""
        both = zip(errors, spreads, strict=True)
        squares = [(_STEP * error) ** 2 + spread**2 for error, spread in both]
        return cls(squares, spreads, sound, costs, typical)


class _Counter:
    """What one counter says in a stretch of time."""

    __slots__ = (
        "decode",
        "decode_quality",
        "half",
        "key",
        "mix",
        "peak",
        "scale",
        "sound",
        "typical",
        "unit",
        "whole",
    )

    def __init__(
        self, key: str, unit: Sequence[float], scale: float, mix: Three, half: Three, trust: Trust, whole: bool, peak: float
    ) -> None:  # fmt: skip
        """``unit`` times ``scale`` is what a unit of each column is given: only that of decoding is asked for often."""
        self.key, self.unit, self.scale, self.mix, self.whole, self.peak = key, unit, scale, mix, whole, peak
        self.half, self.sound, self.typical = half, trust.sound, trust.typical
        self.decode = (key, tuple(cost * scale for cost in unit[_DECODE]), half[2], self.typical[2], peak)
        self.decode_quality = names.QUALITY_ESTIMATED
        if whole and self.sound[2]:
            alone = mix[2] >= _ALONE
            self.decode_quality = names.QUALITY_MEASURED if alone else names.QUALITY_ATTRIBUTED

    def quality(self, encode: float, prefill: float, decode: float) -> str:
        """Return the label of amounts of the three classes."""
        present = (encode > 0, prefill > 0, decode > 0)
        if not self.whole or any(there and not sure for there, sure in zip(present, self.sound, strict=True)):
            return names.QUALITY_ESTIMATED
        most = max(share if there else 0.0 for there, share in zip(present, self.mix, strict=True))
        return names.QUALITY_MEASURED if most >= _ALONE else names.QUALITY_ATTRIBUTED


class UnitCosts:
    """What a unit of work of each column is given by each counter, and how sure that is."""

    __slots__ = ("_by_requests", "_counters", "_decode", "_quality", "gpus")

    def __init__(self, counters: list[_Counter], gpus: int) -> None:
        """Use ``of_stretch`` or ``of_fits``."""
        self._counters, self.gpus = counters, gpus
        self._decode = [one.decode for one in counters]
        self._by_requests: dict[int, list[float]] = {}
        """What a step that only decodes is given by counter, but for its context: steps that follow each other are alike."""
        self._quality = {one.key: one.decode_quality for one in counters}

    @classmethod
    def of_stretch(
        cls, rows: Sequence[Sequence[float]], length: float, trust: Sequence[Trust]
    ) -> "UnitCosts | None":
        """Read them off windows; None when these cover no GPU.

        ``rows``: by counter what each unit was given times the time, what each class and nobody was, the time in windows,
        and that times how far these are off, summed over GPUs; ``length``: of the stretch.
        """
        gpus = ceil(max(row[COVERED] for row in rows) / length - 0.02)
        if gpus < 1:
            return None
        counters = []
        for key, row, mine in zip(COUNTERS, rows, trust, strict=True):
            covered = row[COVERED]
            if covered > 0:
                scale = gpus / covered
                given = row[COLUMNS:COVERED]
                whole = max(sum(given), 1e-300)
                mix = [one / whole for one in given[:3]]
                off = row[OFF] / covered
                whole_time = covered / length >= _WHOLE * gpus and off <= _MOST_OFF
                half = [one + off for one in _half(mine, mix)]
                energy = key == names.GPU_ENERGY_MJ
                peak = _PEAK * sum(given) * scale if energy else float(gpus)
                counters.append(_Counter(key, row, scale, mix, half, mine, whole_time, peak))
        return cls(counters, gpus)

    @classmethod
    def of_fits(cls, trust: Sequence[Trust], gpus: int) -> "UnitCosts | None":
        """Read them off the fits, where windows are missing: only estimates; None when there is no fit."""
        counters = []
        for key, mine in zip(COUNTERS, trust, strict=True):
            if any(mine.costs):
                both = zip(mine.squares, mine.spreads, strict=True)
                half = [_Z * sqrt(square + spread**2) for square, spread in both]
                peak = inf if key == names.GPU_ENERGY_MJ else float(gpus)
                counters.append(_Counter(key, mine.costs, 1.0, _NOTHING, half, mine, False, peak))
        return cls(counters, gpus) if counters and gpus else None

    def shares(self, work: Work) -> StepCounters:
        """Return what a step is given."""
        shares: dict[str, tuple[Share, Share, Share]] = {}
        if work.decode_requests > 0 and work.decode_context_tokens >= 0 and only_decodes(work):
            requests, context = work.decode_requests, work.decode_context_tokens
            costs = self._by_requests.get(requests)
            if costs is None:
                row = (0.0, requests, *shape(requests))  # without drafts
                costs = self._by_requests[requests] = [sum(map(mul, one[1], row)) for one in self._decode]
            time_ns = work.end_ns - work.start_ns
            for (key, unit, half, typical, peak), cost in zip(self._decode, costs, strict=True):
                amount, most = unit[0] * context + cost, _most(key, peak, time_ns)
                if not 0 < amount <= most:
                    break
                shares[key] = (_NO_SHARE, _NO_SHARE, _share(amount, half, typical, most))
            else:
                return StepCounters(shares, self._quality, self.gpus)
        whole = row_of(work)
        labels: dict[str, str] = {}
        for one in self._counters:
            amounts = [
                one.scale * sum(map(mul, one.unit[columns], whole[columns])) for columns in CLASS_COLUMNS
            ]
            limits = [_most(one.key, one.peak, time_ns) for time_ns in _times(work)]
            encode, prefill, decode = (
                _share(_possible(one.key, amount, limit), half, typical, limit)
                for amount, half, typical, limit in zip(amounts, one.half, one.typical, limits, strict=True)
            )
            shares[one.key] = (encode, prefill, decode)
            labels[one.key] = one.quality(*amounts)
            if any(_wrong(one.key, amount, limit) for amount, limit in zip(amounts, limits, strict=True)):
                labels[one.key] = names.QUALITY_ESTIMATED
        return StepCounters(shares, labels, self.gpus)

    def run(
        self, steps: int, time_ns: float, work: Sequence[float], amounts: Mapping[str, float] | None = None
    ) -> StepCounters:
        """Return what steps of decoding alone, which take so much time, are given together.

        ``work``: the sum of their columns of decoding; ``amounts`` by counter where they are known better than from that.
        """
        shares: dict[str, tuple[Share, Share, Share]] = {}
        labels = self._quality
        for key, unit, half, typical, peak in self._decode:
            amount = sum(map(mul, unit, work)) if amounts is None else amounts[key]
            most = _most(key, peak, time_ns)
            possible = _possible(key, amount, most)
            shares[key] = (_NO_SHARE, _NO_SHARE, _share(possible, half, typical * steps, most))
            if _wrong(key, amount, most):
                labels = {**labels, key: names.QUALITY_ESTIMATED}
        return StepCounters(shares, labels, self.gpus, steps)


def join_parts(
    whole: Sequence[Sequence[float]], encode: Sequence[Sequence[float]], rest: Sequence[Sequence[float]]
) -> list[list[float]]:
    """Return the rows of a step with the costs of its encoder's part and of the rest, each as its own windows say.

    Where no window lies in a part, those of the whole step count.
    """
    return [
        [
            *_means(one, first, slice(0, ENCODE_COLUMNS)),
            *_means(one, second, slice(ENCODE_COLUMNS, COLUMNS)),
            *one[COLUMNS:],
        ]
        for one, first, second in zip(whole, encode, rest, strict=True)
    ]


def _means(whole: Sequence[float], part: Sequence[float], columns: slice) -> list[float]:
    """Return the mean costs over a part, times the time in windows of the whole."""
    if part[COVERED] <= 0:
        return list(whole[columns])
    scale = whole[COVERED] / part[COVERED]
    return [cost * scale for cost in part[columns]]


def _half(trust: Trust, mix: Three) -> list[float]:
    """Return by class half the width of the interval, relative: its own errors, and the others' that went to it."""
    first, second, third = ((share * spread) ** 2 for share, spread in zip(mix, trust.spreads, strict=True))
    one, two, three = trust.squares
    return [
        _Z * sqrt(one + second + third),
        _Z * sqrt(two + first + third),
        _Z * sqrt(three + first + second),
    ]


def _most(key: str, peak: float, time_ns: float) -> float:
    """Return the most that can have flowed in a step of so much time."""
    return peak * (max(time_ns, _BRIEF_NS) if key == names.GPU_ENERGY_MJ else time_ns)


def _times(work: Work) -> Three:
    """Return how long each class can have run in a step, ns: the encoder apart from the rest, where that is told."""
    whole = work.end_ns - work.start_ns
    encode = min(max(work.encode_ns, 0), whole)
    rest = whole - encode
    return encode or whole, rest or whole, rest or whole


def _share(amount: float, half: float, typical: float, most: float) -> Share:
    """Return an amount with its interval, which ends at the most that can be; what is not known at all goes that far."""
    if not amount:
        return _NO_SHARE
    within = half * max(amount, typical)
    low, high = amount - within, amount + within
    return Share(amount, low if low > 0.0 else 0.0, high if high < most else max(amount, most))


def _possible(key: str, amount: float, most: float) -> float:
    """Return an amount as far as it can have flowed: a ratio is 1 at most; of power only the order of magnitude is known."""
    return amount if key == names.GPU_ENERGY_MJ else min(amount, most)


def _wrong(key: str, amount: float, most: float) -> bool:
    return key != names.GPU_ENERGY_MJ and amount > _BEYOND * most
