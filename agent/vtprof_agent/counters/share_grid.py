"""What work was given at each moment, summed over the GPUs that share it: where the shares of a step are read off."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

import numpy as np

from vtprof_agent.counters.assessment import Assessment
from vtprof_agent.counters.meter import COUNTERS, StepCounters, Work
from vtprof_agent.counters.nonnegative import Array
from vtprof_agent.counters.rolling_fit import Fit
from vtprof_agent.counters.running_sums import read_between, read_curve
from vtprof_agent.counters.series import Series, Settled
from vtprof_agent.counters.unit_costs import COVERED, OFF, Trust, UnitCosts, join_parts
from vtprof_agent.counters.work_curve import CLASS_COLUMNS, rows_of_decoding

KEEP_NS: Final = 30_000_000_000
"""How long after a step its shares can be asked for."""
_WIDTH: Final = OFF + 1
_DECODE: Final = CLASS_COLUMNS[2]


class ShareGrid:
    """The settled windows of one set of GPUs over the last time."""

    def __init__(self) -> None:
        """Begin without any."""
        self._parts: dict[tuple[str, str], list[Settled]] = {}
        self._ends: dict[tuple[str, str], float] = {}
        self._times: list[float] = []
        self._values = self._room = np.zeros((0, len(COUNTERS), _WIDTH))
        """Up to each of the times; within an array that has room for more."""
        self._trust = [Trust()] * len(COUNTERS)
        self._costs: dict[int, UnitCosts | None] = {}
        self._predicted: UnitCosts | None = None
        self._fitted: Array = np.zeros((_DECODE.stop - _DECODE.start, len(COUNTERS)))
        """What the fits say that a unit of each column of decoding costs, by counter."""
        self._judged: list[tuple[str, Fit | None, Assessment | None]] = []

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
        pieces = self._pieces()
        edges = pieces[0][1] if len(pieces) == 1 else np.concatenate([times for _, times, _ in pieces])
        edges = np.sort(edges[(edges > begin) & (edges <= end)])
        edges = edges[np.append(edges[1:] > edges[:-1], True)]
        if not self._times:
            edges = np.concatenate(([min(float(times[0]) for _, times, _ in pieces)], edges))
            begin = float(edges[0])
        more = np.zeros((len(edges), len(COUNTERS), _WIDTH))
        at = np.concatenate(([begin], edges))
        for places, times, values in pieces:
            read = read_curve(times, values, at)
            more[:, places] += (read[1:] - read[0]).reshape(len(edges), len(places), _WIDTH)
        self._append(edges, more)
        for key, parts in self._parts.items():
            self._parts[key] = [part for part in parts if part.ends[-1] > end]

    def _pieces(self) -> list[tuple[list[int], Array, Array]]:
        """Return the counters that have the same windows, these, and what was given up to each edge of them.

        GPUs that are read together have the same: they are added up first, which a set of eight saves most of the time.
        """
        found: dict[tuple[bytes, ...], tuple[list[Settled], dict[str, Array]]] = {}
        for (_, counter), parts in self._parts.items():
            if parts:
                edges = tuple(array.tobytes() for part in parts for array in (part.starts, part.ends))
                _, sums = found.setdefault(edges, (parts, {}))
                rows = _rows(parts)
                sums[counter] = sums[counter] + rows if counter in sums else rows
        return [
            ([COUNTERS.index(counter) for counter in sums], *_cumulative(parts, list(sums.values())))
            for parts, sums in found.values()
        ]

    def judge(self, series: Sequence[Series]) -> None:
        """Take over how sure the fits of the set's counters are, when there are new ones."""
        fits_now = [(one.key, one.fit, one.assessment) for one in series]
        if len(fits_now) == len(self._judged) and all(
            one[1] is other[1] and one[2] is other[2]
            for one, other in zip(fits_now, self._judged, strict=True)
        ):
            return
        self._judged = fits_now
        for place, counter in enumerate(COUNTERS):
            mine = [one for one in series if one.key == counter and one.fit and one.assessment]
            fits = [one.fit for one in mine if one.fit]
            seen = [one.assessment for one in mine if one.assessment]
            if not mine:
                continue
            sound = np.all([one.sound for one in seen], axis=0) & (
                not any(one.co_tenant or one.shared for one in mine)
            )
            self._trust[place] = Trust.of(
                np.mean([fit.class_error for fit in fits], axis=0).tolist(),
                np.mean([one.spread for one in seen], axis=0).tolist(),
                sound.tolist(),
                np.sum([fit.costs for fit in fits], axis=0).tolist(),
                np.sum([one.typical for one in seen], axis=0).tolist(),
            )
        self._costs.clear()
        self._fitted = np.array([trust.costs[_DECODE] for trust in self._trust]).T
        self._predicted = UnitCosts.of_fits(self._trust, len({one.hw_id for one in series if one.fit}))

    def of(self, work: Work, where: tuple[int, int, int]) -> StepCounters | None:
        """Return the shares of a step that lies there; by the fit alone, estimated, where no window is settled."""
        start, middle, end = where
        times, costs = self._times, self._predicted
        if times and times[0] <= start and end <= times[-1]:
            place = bisect_right(times, start) - 1
            if middle > start or end > times[place + 1]:
                read = self._read(start, middle, end)
            else:
                if place not in self._costs:  # most steps lie between two edges, and share what is read there
                    rows = (self._values[place + 1] - self._values[place]).tolist()
                    length = times[place + 1] - times[place]
                    self._costs[place] = UnitCosts.of_stretch(rows, length, self._trust)
                read = self._costs[place]
            costs = read or costs
        return costs.shares(work) if costs is not None else None

    def of_run(self, works: Sequence[Work], starts: Array, ends: Array) -> StepCounters | None:
        """Return what steps of decoding alone that lie there, one behind the other, are given together."""
        rows, common = rows_of_decoding(works)
        work = (rows.sum(axis=0) @ common).tolist()
        times = self._times
        costs = None
        first, last, ran_ns = float(starts.min()), float(ends.max()), float((ends - starts).sum())
        if times and times[0] <= first and last <= times[-1]:
            begin, behind = bisect_right(times, first) - 1, bisect_left(times, last) + 1
            given, covered = self._given(begin, behind, rows, common, starts, ends)
            costs = self._read(first, first, last)
        if costs is None:
            return self._predicted.run(len(works), ran_ns, work) if self._predicted is not None else None
        # Where windows are missing the fit alone tells, as of a single step.
        fitted = rows @ (common @ self._fitted / costs.gpus)
        amounts = np.divide(given, covered, out=fitted, where=covered > 0).sum(axis=0) * costs.gpus
        return costs.run(len(works), ran_ns, work, dict(zip(COUNTERS, amounts.tolist(), strict=True)))

    def _given(
        self, begin: int, behind: int, rows: Array, common: Array, starts: Array, ends: Array
    ) -> tuple[Array, Array]:
        """Return by step and counter what decoding was given times the time in windows, and that time.

        ``begin`` and ``behind`` are the edges around the steps; ``rows`` times ``common`` is their work.
        """
        around = self._values[begin:behind]
        values = np.empty((*around.shape[:2], rows.shape[1] + 1))
        values[:, :, :-1] = around[:, :, _DECODE] @ common.T
        values[:, :, -1] = around[:, :, COVERED]
        stretches = read_between(np.array(self._times[begin:behind]), values, starts, ends)
        return (stretches[:, :, :-1] * rows[:, None]).sum(axis=2), stretches[:, :, -1]

    def _read(self, start: float, middle: float, end: float) -> UnitCosts | None:
        """Return the costs over some time, those of the encoder over its first part."""
        first, last = self._at(start), self._at(end)
        rows = (last - first).tolist()
        if start < middle < end:
            between = self._at(middle)
            rows = join_parts(rows, (between - first).tolist(), (last - between).tolist())
        return UnitCosts.of_stretch(rows, end - start, self._trust)

    def _append(self, edges: Array, more: Array) -> None:
        if self._times:
            more += self._values[-1]
        self._times += edges.tolist()
        size, whole = len(self._values), len(self._times)
        if whole > len(self._room):
            self._room = np.empty((whole + whole // 4, *more.shape[1:]))
            self._room[:size] = self._values
        self._room[size:whole] = more
        self._values = self._room[:whole]
        self._costs.clear()
        old = bisect_right(self._times, self._times[-1] - KEEP_NS)
        if old > whole // 4:  # seldom, and so that the sums never grow large
            self._times = self._times[old:]
            self._room[: whole - old] = self._values[old:] - self._values[old]
            self._values = self._room[: whole - old]

    def _at(self, time_ns: float) -> Array:
        times = self._times
        right = min(max(bisect_right(times, time_ns), 1), len(times) - 1)
        left = right - 1
        low = self._values[left]
        value: Array = low + (self._values[right] - low) * (
            (time_ns - times[left]) / (times[right] - times[left])
        )
        return value


def _rows(parts: Sequence[Settled]) -> Array:
    """Return what was given in each window, and how long it is."""
    length = np.concatenate([part.ends - part.starts for part in parts])
    costs = np.concatenate([part.costs for part in parts])
    given = np.concatenate([part.given for part in parts])
    rows = np.empty((len(length), _WIDTH))
    rows[:, : costs.shape[1]] = costs * length[:, None]
    rows[:, costs.shape[1] : COVERED] = given
    rows[:, COVERED] = length
    rows[:, OFF] = np.concatenate([part.off for part in parts]) * length
    return rows


def _cumulative(parts: Sequence[Settled], rows: Sequence[Array]) -> tuple[Array, Array]:
    """Return edges of windows, and what was given up to each; flat in gaps between windows."""
    starts = np.concatenate([part.starts for part in parts])
    ends = np.concatenate([part.ends for part in parts])
    times = np.column_stack((starts, ends)).ravel()
    values = np.zeros((len(times), len(rows) * _WIDTH))
    values[1::2] = np.cumsum(np.concatenate(rows, axis=1), axis=0)
    values[2::2] = values[1:-1:2]
    return np.maximum.accumulate(times), values
