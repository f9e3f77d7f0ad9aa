"""What work was given at each moment, summed over the GPUs that share it: where the shares of a step are read off."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vtprof_agent.counters.meter import CLASSES, COUNTERS, Share, StepCounters, Work
from vtprof_agent.counters.nonnegative import Array
from vtprof_agent.counters.series import Series, Settled
from vtprof_agent.counters.work_curve import CLASS_COLUMNS, COLUMNS, ENCODE_COLUMNS, read_curve, row_of
from vtprof_schemas import names

KEEP_NS: Final = 30_000_000_000
"""How long after a step its shares can be asked for."""
_Z: Final = 1.8
"""Within so many standard deviations lie 90 %: of a normal distribution 1.645, but these have longer tails."""
_STEP: Final = 2.0
"""The work of one step is not the mean of its class: its costs are known so much worse."""
_GIVEN: Final = slice(COLUMNS, COLUMNS + len(CLASSES) + 1)
_COVERED: Final = COLUMNS + len(CLASSES) + 1
_WIDTH: Final = _COVERED + 1
_ALONE: Final = 0.98
"""Share of the amount that one class must have to count as measured."""
_WHOLE: Final = 0.98
"""Share of a step's time that must lie in windows."""
_TO_CLASS: Final = np.zeros((COLUMNS, len(CLASSES)))
for _place, _columns in enumerate(CLASS_COLUMNS):
    _TO_CLASS[_columns, _place] = 1.0
_NO_SHARE: Final = Share(0.0, 0.0, 0.0)


class ShareGrid:
    """The settled windows of one set of GPUs over the last time."""

    def __init__(self) -> None:
        """Begin without any."""
        self._parts: dict[tuple[str, str], list[Settled]] = {}
        self._ends: dict[tuple[str, str], float] = {}
        self._times: list[float] = []
        self._values = np.zeros((0, len(COUNTERS), _WIDTH))
        self._errors = np.zeros((len(COUNTERS), len(CLASSES)))
        self._spreads = np.zeros((len(COUNTERS), len(CLASSES)))
        self._sound = np.zeros((len(COUNTERS), len(CLASSES)), dtype=bool)
        self._costs = np.zeros((len(COUNTERS), COLUMNS))
        self._gpus = 0

    @property
    def end_ns(self) -> float:
        """Return up to where, in the time of the work, all counters are settled."""
        return self._times[-1] if self._times else 0.0

    def take(self, series: Series, settled: Settled) -> None:
        """Take windows of one of the set's counters."""
        key = (series.hw_id, series.key)
        self._parts.setdefault(key, []).append(settled)
        self._ends[key] = float(settled.ends[-1])

    def merge(self, live: Sequence[Series]) -> None:
        """Go on up to where all counters that still come are settled, or, without any, to the end of all."""
        waited = [self._ends.get((series.hw_id, series.key), 0.0) for series in live]
        end = min(waited) if waited else max(self._ends.values(), default=0.0)
        begin = self.end_ns
        if end <= begin:
            return
        pieces = {key: _cumulative(parts) for key, parts in self._parts.items() if parts}
        edges = np.concatenate([times for times, _ in pieces.values()])
        edges = np.unique(edges[(edges > begin) & (edges <= end)])
        if not self._times:
            edges = np.concatenate(([min(float(times[0]) for times, _ in pieces.values())], edges))
            begin = float(edges[0])
        more = np.zeros((len(edges), len(COUNTERS), _WIDTH))
        for (_, counter), (times, values) in pieces.items():
            read = read_curve(times, values, np.concatenate(([begin], edges)))
            more[:, COUNTERS.index(counter)] += read[1:] - read[0]
        self._append(edges, more)
        for key, parts in self._parts.items():
            self._parts[key] = [part for part in parts if part.ends[-1] > end]

    def judge(self, series: Sequence[Series]) -> None:
        """Take over how sure the fits of the set's counters are."""
        for place, counter in enumerate(COUNTERS):
            mine = [one for one in series if one.key == counter and one.fit and one.assessment]
            fits = [one.fit for one in mine if one.fit]
            seen = [one.assessment for one in mine if one.assessment]
            if not mine:
                continue
            self._errors[place] = np.mean([fit.class_error for fit in fits], axis=0)
            self._spreads[place] = np.mean([one.spread for one in seen], axis=0)
            self._sound[place] = np.all([one.sound for one in seen], axis=0)
            self._sound[place] &= not any(one.co_tenant for one in seen)
            self._costs[place] = np.sum([fit.costs for fit in fits], axis=0)
        self._gpus = len({one.hw_id for one in series if one.fit})

    def of(self, work: Work, where: tuple[int, int, int]) -> StepCounters | None:
        """Return the shares of a step that lies there; by the fit alone, estimated, where no window is settled."""
        start, middle, end = where
        row = np.array(row_of(work))
        if not self._times or start < self._times[0] or end > self._times[-1]:
            return self._predicted(row)
        first, last = self._at(start), self._at(end)
        whole = last - first
        length = float(end - start)
        covered = whole[:, _COVERED] / length
        gpus = int(np.ceil(covered.max() - 0.02))
        if gpus < 1:
            return self._predicted(row)
        unit = np.empty((len(COUNTERS), COLUMNS))
        if middle > start:
            between = self._at(middle)
            _mean(between - first, unit, slice(0, ENCODE_COLUMNS), whole)
            rest = last - between if end > middle else whole
        else:
            unit[:, :ENCODE_COLUMNS] = _per_covered(whole)[:, :ENCODE_COLUMNS]
            rest = whole
        _mean(rest, unit, slice(ENCODE_COLUMNS, COLUMNS), whole)
        amounts = (unit * row) @ _TO_CLASS * gpus
        given = whole[:, _GIVEN]
        return self._answer(amounts, given, covered, gpus)

    def _answer(self, amounts: Array, given: Array, covered: Array, gpus: int) -> StepCounters:
        mix = given / np.maximum(given.sum(axis=1, keepdims=True), 1e-300)
        theirs = (mix[:, : len(CLASSES)] * self._spreads) ** 2
        error = (_STEP * self._errors) ** 2 + self._spreads**2 + theirs.sum(axis=1, keepdims=True) - theirs
        half = _Z * np.sqrt(error)
        present = amounts > 0
        alone: NDArray[np.bool_] = np.where(present, mix[:, : len(CLASSES)], 0.0).max(axis=1) >= _ALONE
        sound: NDArray[np.bool_] = (self._sound | ~present).all(axis=1) & (covered >= _WHOLE * gpus)
        known: NDArray[np.bool_] = covered > 0
        return self._counters(amounts, half, _flags(known), _flags(alone), _flags(sound), gpus)

    def _counters(
        self, amounts: Array, half: Array, known: list[bool], alone: list[bool], sound: list[bool], gpus: int
    ) -> StepCounters:
        shares: dict[str, tuple[Share, Share, Share]] = {}
        quality: dict[str, str] = {}
        low = (amounts * np.maximum(1.0 - half, 0.0)).tolist()
        high = (amounts * (1.0 + half)).tolist()
        middle = amounts.tolist()
        for place, counter in enumerate(COUNTERS):
            if known[place]:
                encode, prefill, decode = (
                    Share(*three) if three[0] else _NO_SHARE
                    for three in zip(middle[place], low[place], high[place], strict=True)
                )
                shares[counter] = (encode, prefill, decode)
                quality[counter] = (
                    names.QUALITY_ESTIMATED if not sound[place]
                    else names.QUALITY_MEASURED if alone[place] else names.QUALITY_ATTRIBUTED
                )  # fmt: skip
        return StepCounters(shares, quality, gpus)

    def _predicted(self, row: Array) -> StepCounters | None:
        """Say what the fit says of a step whose windows are missing."""
        known = self._costs.any(axis=1)
        if not self._gpus or not known.any():
            return None
        amounts = (self._costs * row) @ _TO_CLASS
        half = _Z * np.sqrt((_STEP * self._errors) ** 2 + 2 * self._spreads**2)
        nothing = [False] * len(COUNTERS)
        return self._counters(amounts, half, _flags(known), nothing, nothing, self._gpus)

    def _append(self, edges: Array, more: Array) -> None:
        values = self._values
        if len(values):
            more = more + values[-1]
        first = bisect_right(self._times, float(edges[-1]) - KEEP_NS)
        self._times = self._times[first:] + edges.tolist()
        values = np.concatenate((values[first:], more))
        self._values = values - values[0]

    def _at(self, time_ns: float) -> Array:
        times = self._times
        right = min(max(bisect_right(times, time_ns), 1), len(times) - 1)
        left = right - 1
        low = self._values[left]
        value: Array = low + (self._values[right] - low) * (
            (time_ns - times[left]) / (times[right] - times[left])
        )
        return value


def _flags(values: Any) -> list[bool]:
    return [bool(value) for value in values]


def _cumulative(parts: Sequence[Settled]) -> tuple[Array, Array]:
    """Return edges of windows, and what was given up to each; flat in gaps between windows."""
    starts = np.concatenate([part.starts for part in parts])
    ends = np.concatenate([part.ends for part in parts])
    length = (ends - starts)[:, None]
    rows = np.column_stack(
        (
            np.concatenate([part.costs for part in parts]) * length,
            np.concatenate([part.given for part in parts]),
            length,
        )
    )
    times = np.column_stack((starts, ends)).ravel()
    values = np.zeros((len(times), _WIDTH))
    values[1::2] = np.cumsum(rows, axis=0)
    values[2::2] = values[1:-1:2]
    return np.maximum.accumulate(times), values


def _per_covered(part: Array) -> Array:
    """Return the mean cost while covered, for one GPU."""
    covered = part[:, _COVERED : _COVERED + 1]
    mean: Array = np.divide(
        part[:, :COLUMNS], covered, out=np.zeros_like(part[:, :COLUMNS]), where=covered > 0
    )
    return mean


def _mean(part: Array, unit: Array, columns: slice, whole: Array) -> None:
    """Fill in the mean cost over a part of a step; over all of it where no window lies in the part."""
    mean, instead = _per_covered(part), _per_covered(whole)
    covered = part[:, _COVERED : _COVERED + 1] > 0
    unit[:, columns] = np.where(covered, mean, instead)[:, columns]
