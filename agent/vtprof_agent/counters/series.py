"""One counter of one GPU: its windows, the rolling fit on the work in them, and what the fit gives to each class."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final
from zlib import crc32

import numpy as np

from vtprof_agent.counters.assessment import Assessment, assess
from vtprof_agent.counters.co_tenant import CoTenant
from vtprof_agent.counters.gpu_work import GpuWork
from vtprof_agent.counters.idle_power import IdlePower
from vtprof_agent.counters.kept_windows import KEEP_NS, KeptWindows, Windows
from vtprof_agent.counters.lag import FEWEST, MOST_LAG_NS, find_lag
from vtprof_agent.counters.meter import CounterWindow
from vtprof_agent.counters.nonnegative import Array
from vtprof_agent.counters.rolling_fit import SMALL, Fit, RollingFit
from vtprof_agent.counters.work_curve import ALL, BYTES, COLUMNS, TO_CLASS
from vtprof_schemas import names

_INEXACT_NS: Final = 1_000_000_000
"""Windows with uncertain edges are added up to so much, where an edge matters little."""
_LONG_ENOUGH_NS: Final = 900_000_000
"""Windows with uncertain edges of so much, nominally a second, are used as they come."""
_MOST_FINE: Final = 300
_EXACT_ENOUGH: Final = 0.06
"""Relative error of windows at their own length below which their edges, the lag corrected, are as good as exact."""
_MOST_SCALE: Final = 2.0
"""What is more than so many times the prediction is not ours."""
_LAG_EVERY: Final = ((6, 2.5e9), (11, 120e9), (inf, 600e9))
"""Up to which search how long to the next: a source's delay hardly changes, and each search is dear."""
_ALL_SEARCH: Final = 6
"""So many searches each counter makes by itself; then one goes on for all that are read in the same sample."""
_WIDE_EVERY: Final = 5
"""Of later searches every so many looks at all delays."""
_SPREAD_NS: Final = 1e9
"""Over so much time the first searches of many GPUs spread."""
_LAG_MATTERS_NS: Final = 2e6
_SMALL_COUNTABLE: Final = 0.1
"""Bytes follow the work without rounding up to tiles: small amounts of them are known to a share of themselves too."""
_LEAST_POWER: Final = 10_000 / 1e9
"""10 W, mJ a ns: by so much the power of an idle GPU moves with its temperature and clocks."""
_LEAST_RATIO: Final = 0.005
"""Half a percent of what the GPU can do: so much of background work of the driver is nobody's load."""
_MOST_AMOUNT: Final = 1e18
"""Of a window: more than a second of 10^9 GPUs, or 10^15 J."""
_MANY: Final = 300
"""Windows from which on a fit is made anew by time alone."""
_LESS: Final = 2.0
"""So many times longer a fit is used as long as it predicts what is measured,"""
_SELDOM: Final = 6.0
"""So many times longer a fit is used that came out like the one before, as long as it predicts what is measured; but
for no longer than it was made from."""
_LIKE: Final = 0.02
_UNUSUAL, _LEAST_UNUSUAL = 5.0, 0.1
"""A window that lies so many standard deviations, and so much of it, from what is predicted holds other work than known."""
_FARTHEST: Final = 100.0
_UNLIKE: Final = 0.03
"""Relative difference of what two fits give a class; of what is measured from what is predicted."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Windows whose amounts are given away, in the time of the work."""

    starts: Array
    ends: Array
    costs: Array
    """What a unit of each column of work is given in each window."""
    given: Array
    """What each class, and behind them nobody, is given in each window."""
    off: Array
    """How far each lies from what was predicted, relative, where that is more than usual; 0 elsewhere."""


class Series:
    """Windows of one counter of one GPU, in order."""

    def __init__(
        self, hw_id: str, key: str, work: GpuWork, peers: "list[Series]",
        window_s: float, block_s: float, refit_s: float, idle: IdlePower | None = None,
    ) -> None:  # fmt: skip
        """``work``: all work on the GPU; ``peers``: its counters; both may grow. ``idle``: what is known of idle power."""
        self.hw_id, self.key, self._gpu = hw_id, key, work
        self._block_ns = block_s * 1e9
        self._countable = key == names.GPU_DRAM_BANDWIDTH_RATIO
        self._unknowns = BYTES if self._countable else ALL
        self._always_idle = key == names.GPU_ENERGY_MJ
        small = _SMALL_COUNTABLE if self._countable else SMALL
        self._rolling = RollingFit(
            window_s,
            block_s,
            always_idle=self._always_idle,
            small=small,
            idle=idle,
            unknowns=self._unknowns,
        )
        self._idle = idle
        self._refit_ns = refit_s * 1e9
        self._phase = crc32(hw_id.encode()) / 2**32
        """Its place in the time between fits, and in that between searches, so that those of many GPUs spread."""
        self._pending: deque[tuple[float, float, float]] = deque()
        self._open: tuple[float, float, float] | None = None
        self._fine: deque[tuple[float, float, float]] = deque(maxlen=_MOST_FINE)
        self._edges_known = False
        self._exact = False
        """Whether the last window's edges were exact: it comes from a sample that holds other counters too."""
        self._unfitted: list[Windows] = []
        self._kept = KeptWindows()
        self._due_ns, self._soon_ns, self._due_amounts = 0.0, 0.0, 0
        self._lag_due_ns, self._lag_searches = 0.0, 0
        self.lag_ns, self.lag_gain, self._lag_error = 0.0, 0.0, 1.0
        self._leader: Series | None = None
        """The counter whose delay is this one's too."""
        self._peers = peers
        peers.append(self)
        self.end_ns = 0
        """End of the last window taken."""
        self.period_ns = 0
        """Length of the last window, or what was expected."""
        self.refused = 0
        self.failures = 0
        """Fits and searches that could not be computed."""
        self.totals = [0.0, 0.0, 0.0, 0.0]
        """Given to each class, and to nobody."""
        self._beside_ns = 0.0
        self._others = CoTenant(self._kept, self._unknowns, small, always_idle=self._always_idle)
        self.fit: Fit | None = None
        self.assessment: Assessment | None = None

    @property
    def co_tenant(self) -> bool:
        """Return whether others may use the GPU, as this counter or its memory bandwidth shows."""
        return bool(self.end_ns < self._beside_ns) or self._memory_shows_it(otherwise=False)

    @property
    def shared(self) -> bool:
        """Return whether several schedulers use the GPU: a unit of work is held to cost the same for all of them."""
        return self._gpu.shared

    @property
    def windows(self) -> int:
        """Return how many windows the next fit has."""
        return self._rolling.amounts() + sum(len(batch[2]) for batch in self._unfitted)

    def take(self, window: CounterWindow) -> None:
        """Take the next window, or refuse and count it."""
        length = window.end_ns - window.start_ns
        overlap = self.end_ns - window.start_ns
        usable = 0 <= window.amount <= _MOST_AMOUNT and length > 0
        if not usable or (self.end_ns and overlap > length // 4):
            self.refused += 1
            return
        start = float(max(window.start_ns, self.end_ns))
        self.end_ns, self.period_ns, self._exact = window.end_ns, length, window.exact_edges
        if not window.exact_edges and length < _LONG_ENOUGH_NS:
            self._fine.append((start, float(window.end_ns), window.amount))
        alone = window.exact_edges or self._edges_known or length >= _LONG_ENOUGH_NS
        if self._open is not None and (alone or start - self._open[1] > length / 4):  # it is not continued
            self._pending.append(self._open)
            self._open = None
        if alone:
            self._pending.append((start, float(window.end_ns), window.amount))
            return
        begun = self._open or (start, start, 0.0)
        self._open = (begun[0], float(window.end_ns), begun[2] + window.amount)
        if self._open[1] - self._open[0] >= _INEXACT_NS:
            self._pending.append(self._open)
            self._open = None

    def learn(self, told_ns: float) -> Windows | None:
        """Take the windows that no work is to come for any more, and learn from them; None when there are none.

        ``told_ns``: every step that ended by then was added.
        """
        covered_ns = self._gpu.covered_ns(told_ns) + self.lag_ns
        due: list[tuple[float, float, float]] = []
        while self._pending and self._pending[0][1] <= covered_ns:
            due.append(self._pending.popleft())
        if not due:
            return None
        starts, ends, amounts = np.array(due).T
        self._guarded(lambda: self._search_lag(ends[-1], covered_ns - self.lag_ns))
        windows = (starts, ends, amounts, self._work(starts, ends))
        self._learn(*windows)
        return windows

    def settle(self, windows: Windows) -> Settled:
        """Give away windows that it learned from, after all counters of the GPU have learned from theirs."""
        if self._kept:
            self._guarded(lambda: self._refit(windows[1][-1]))
        return self._give(*windows)

    def _learn(self, *batch: Array) -> None:
        """Take windows into the fit, but not those across the begin of what is known: work without a record is in them."""
        begin_ns = self._gpu.begin_ns + self.lag_ns
        known = (batch[0] >= begin_ns) | (batch[1] <= begin_ns)
        starts, ends, amounts, work = (array[known] for array in batch)
        if not len(starts):
            return
        self._kept.add((starts, ends, amounts, work))
        if self._unfitted and ends[-1] // self._block_ns != self._unfitted[0][1][-1] // self._block_ns:
            self._fold()
        self._unfitted.append((starts, ends, amounts, work))

    def _guarded(self, compute: Callable[[], None]) -> None:
        """Go on with the last fit where numbers defy computing; counted."""
        try:
            compute()
        except (ArithmeticError, ValueError):  # LinAlgError is one
            self.failures += 1

    def _work(self, starts: Array, ends: Array) -> Array:
        return self._gpu.between(starts - self.lag_ns, ends - self.lag_ns)

    def _fold(self) -> None:
        """Add to the fit what came since the last time: a block at once, as each turn costs."""
        if self._unfitted:
            starts, ends, amounts, work = map(np.concatenate, zip(*self._unfitted, strict=True))
            self._rolling.add(float(ends[-1]), work, ends - starts, amounts)
            self._unfitted = []

    def _refit(self, now_ns: float) -> None:
        amounts = self.windows
        if now_ns < self._due_ns and (amounts < self._due_amounts or amounts > _MANY):
            return
        before, many = self.fit, self._due_amounts > _MANY
        self._soon_ns = now_ns + self._refit_ns * (1.0 if many else 0.5 + self._phase / 2)
        self._due_ns, self._due_amounts = self._soon_ns, max(amounts + 5, int(amounts * 1.1))
        if many:
            self._due_ns = now_ns + _LESS * self._refit_ns
        self._fold()
        self.fit = self._rolling.fit(self._gpu.kinds())
        if self.fit is not None:
            starts, ends, kept, work = self._kept.all()
            self.assessment = assess(
                self.fit, starts, ends, kept, work, countable=self._countable, always_idle=self._always_idle,
                least_rate=_LEAST_POWER if self._always_idle else _LEAST_RATIO,
            )  # fmt: skip
            if many and before is not None and not self.assessment.co_tenant:
                given, given_before = (
                    (one.costs * work[:, :COLUMNS].sum(axis=0)) @ TO_CLASS for one in (self.fit, before)
                )
                if bool((np.abs(given - given_before) <= _LIKE * given).all()):
                    self._due_ns = now_ns + min(_SELDOM * self._refit_ns, now_ns - starts[0])
            if self.assessment.co_tenant:
                self._beside_ns = now_ns + KEEP_NS  # its windows are in the fit for longer than it shows
            if self._memory_shows_it(otherwise=self.assessment.co_tenant):
                self.fit = self._others.fit_without(self._told_by_all(), self._idle) or self.fit
            else:
                self._others.forget()

    def _told_by_all(self) -> list[CoTenant]:
        return [one._others for one in self._peers]

    def _memory_shows_it(self, *, otherwise: bool) -> bool:
        """Tell whether memory bandwidth shows a co-tenant; where it does not, another counter may not follow the work."""
        memory = [
            one
            for one in self._peers
            if one.key == names.GPU_DRAM_BANDWIDTH_RATIO and one.assessment is not None
        ]
        return any(one.end_ns < one._beside_ns for one in memory) if memory else otherwise

    def _look_at_edges(self, covered_ns: float) -> None:
        """Find out whether a lag alone is wrong with uncertain edges: then the windows are used as they come."""
        starts, ends, amounts = np.array(self._fine).T
        known = ends < covered_ns - MOST_LAG_NS
        found = find_lag(self._gpu.done, starts[known], ends[known], amounts[known], self.lag_ns, wide=True)
        if found.error < _EXACT_ENOUGH:
            self._edges_known, self.lag_ns, self._due_ns = True, found.lag_ns, 0.0
            self._fold()
            self._rolling.clear()
            self._kept.clear()
            self._fine.clear()

    def _search_lag(self, now_ns: float, covered_ns: float) -> None:
        if not self._lag_due_ns:
            self._lag_due_ns = now_ns + _LAG_EVERY[0][1] + _SPREAD_NS * self._phase
        if self._leader is not None:
            self._assume(self._leader.lag_ns)
        if now_ns < self._lag_due_ns or not self._gpu or not (self._kept or self._fine):
            return
        self._lag_searches += 1
        if self._fine and not self._edges_known:
            self._look_at_edges(covered_ns)
        if not self._kept:
            return
        self._lag_due_ns = now_ns + next(every for most, every in _LAG_EVERY if self._lag_searches < most)
        if self._lag_searches > _ALL_SEARCH:
            self._leader = self._find_leader()
            if self._leader is not None:
                return
        starts, ends, amounts, _ = self._kept.all()
        begun_ns = self._gpu.begin_ns + MOST_LAG_NS
        known = (ends < covered_ns - MOST_LAG_NS) & (starts > begun_ns)
        starts, ends, amounts = starts[known], ends[known], amounts[known]
        if len(amounts) < FEWEST:
            self._lag_searches -= 1
            self._lag_due_ns = now_ns + _LAG_EVERY[0][1]
            return
        wide = self._lag_searches <= _ALL_SEARCH or self._lag_searches % _WIDE_EVERY == 0
        found = find_lag(
            self._gpu.done, starts, ends, amounts, self.lag_ns, wide=wide, told_ns=self._told_lag_ns()
        )
        self.lag_gain, self._lag_error = found.gain, found.error
        self._assume(found.lag_ns)

    def _assume(self, lag_ns: float) -> None:
        """Take a delay for true, also of what came so far where that matters."""
        moved_ns, self.lag_ns = abs(lag_ns - self.lag_ns), lag_ns
        if moved_ns < _LAG_MATTERS_NS:
            return
        self._fold()
        self._rolling.clear()
        self._due_ns = 0.0
        begun_ns = self._gpu.begin_ns + MOST_LAG_NS
        for starts, ends, amounts, work in self._kept.again(begun_ns, self._work):
            self._rolling.add(ends[-1], work, ends - starts, amounts, again=True)

    def _find_leader(self) -> "Series | None":
        """Return the counter that is read in the same sample and tells most of its delay, if this one is not it."""
        if self._leader is not None and self._read_with(self._leader):
            return self._leader
        leading = [
            one for one in self._peers if one is self or (one._leader is None and self._read_with(one))
        ]
        best = max(leading, key=lambda one: (one.lag_gain, -one._lag_error))
        return None if best is self else best

    def _read_with(self, other: "Series") -> bool:
        return self._exact and other._exact and self._ends_with(other)

    def _told_lag_ns(self) -> float | None:
        """Return the lag of the counter of this GPU that is read by the same clock and has most evidence."""
        same = [one for one in self._peers if self._ends_with(one)]
        surest = max(same, key=lambda one: one.lag_gain, default=self)
        return surest.lag_ns if surest.lag_gain > self.lag_gain else None

    def _ends_with(self, other: "Series") -> bool:
        """Tell whether another's windows end when the latest of these do; from the newest on, as there are many."""
        ends = self._kept.newest[1]
        for _, others, _, _ in reversed(other._kept):
            if others[-1] < ends[0]:
                return False
            if np.isin(ends, others).any():
                return True
        return False

    def _give(self, starts: Array, ends: Array, amounts: Array, work: Array) -> Settled:
        """Scale what the fit predicts to what was measured; the idle part, and what is far too much, is nobody's."""
        costs, idle = (self.fit.costs, self.fit.idle) if self.fit else (np.zeros(COLUMNS), 0.0)
        classes = (work[:, :COLUMNS] * costs) @ TO_CLASS
        predicted = classes.sum(axis=1) + idle * (ends - starts)
        if self._due_ns > self._soon_ns:
            whole = float(predicted.sum())
            if abs(float(amounts.sum()) - whole) > _UNLIKE * whole:
                self._due_ns = self._soon_ns
        scale = np.divide(amounts, predicted, out=np.zeros_like(amounts), where=predicted > 0)
        begun = self._gpu.begun_in(starts - self.lag_ns, ends - self.lag_ns)
        scale = np.minimum(scale, np.where(begun, 1.0, _MOST_SCALE))
        off = self._off(amounts, classes, predicted)
        there = self._others.there(ends, self._told_by_all())
        if there is not None:
            scale = np.where(there, np.minimum(scale, 1.0), scale)
            off[there] = 0.0
        given = np.empty((len(amounts), len(self.totals)))
        np.multiply(classes, scale[:, None], out=given[:, :-1])
        np.maximum(amounts - given[:, :-1].sum(axis=1), 0.0, out=given[:, -1])
        for place, amount in enumerate(given.sum(axis=0).tolist()):
            self.totals[place] += amount
        return Settled(starts - self.lag_ns, ends - self.lag_ns, costs * scale[:, None], given, off)

    def _off(self, amounts: Array, classes: Array, predicted: Array) -> Array:
        """Return how much more or less than predicted windows hold, where that is unusual: 0.5 is half as much again."""
        off = np.zeros(len(amounts))
        if self.assessment is None:
            return off
        usual = np.sqrt(((classes * self.assessment.spread) ** 2).sum(axis=1))
        least = np.maximum(predicted, SMALL * self.assessment.mean)  # of smaller ones it is no wonder
        far = np.abs(amounts - predicted) > np.maximum(_UNUSUAL * usual, _LEAST_UNUSUAL * least)
        more, less = np.maximum(amounts, predicted)[far], np.minimum(amounts, predicted)[far]
        off[far] = (
            np.divide(more, less, out=np.full_like(more, _FARTHEST), where=less * _FARTHEST > more) - 1.0
        )
        return off
