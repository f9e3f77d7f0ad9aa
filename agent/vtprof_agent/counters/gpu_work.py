"""The work on one GPU: the curves of all schedulers that use it, read as one."""

from math import inf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vtprof_agent.counters.nonnegative import Array
from vtprof_agent.counters.work_curve import COLUMNS, WorkCurve

_IDLE_NS: Final = 700_000_000
"""When no step came for so long behind a window, none runs: it would have to be longer."""
_AWAITED_NS: Final = 2_500_000_000
"""The same while requests are open, of which one may be in a long step: others on the GPU are held up meanwhile."""
_AWAITED_ALONE_NS: Final = 9_000_000_000
"""The same where there are no others."""


class GpuWork:
    """What the schedulers that share a GPU do on it, at the same time or by turns."""

    def __init__(self) -> None:
        """Begin without any."""
        self._curves: list[WorkCurve] = []
        self._watched_ns = inf
        """From when on the work was known of curves that left."""
        self._remembered: tuple[tuple[bytes, bytes, int], Array] | None = None

    def join(self, curve: WorkCurve) -> None:
        """Take the work of one more scheduler."""
        self._curves.append(curve)
        self._remembered = None

    def leave(self, curve: WorkCurve) -> None:
        """Forget a scheduler that has done no work for so long that nobody asks for it any more."""
        self._watched_ns = min(self._watched_ns, curve.begin_ns)
        self._curves.remove(curve)
        self._remembered = None

    def __bool__(self) -> bool:
        """Tell whether anything ever ran."""
        return bool(self._curves)

    @property
    def shared(self) -> bool:
        """Tell whether several schedulers did work lately."""
        return len(self._curves) > 1

    @property
    def begin_ns(self) -> float:
        """Return from when on all work is known: a scheduler that came later had done none before."""
        begun = min((curve.begin_ns for curve in self._curves), default=inf)
        return max(
            min(begun, self._watched_ns),
            max((curve.begin_ns for curve in self._curves if not curve.whole), default=-inf),
        )

    def covered_ns(self, told_ns: float) -> float:
        """Return up to where no more work is to come when all steps that ended by ``told_ns`` are known."""
        awaited_ns = _AWAITED_NS if self.shared else _AWAITED_ALONE_NS
        return min(
            (
                max(float(curve.end_ns), told_ns - (awaited_ns if curve.awaited else _IDLE_NS))
                for curve in self._curves
            ),
            # Nobody waits yet, and a server's first step may be its longest.
            default=told_ns - _AWAITED_ALONE_NS,
        )

    def done(self, starts: Array, ends: Array) -> Array:
        """Return the work in each of the windows, which are in order, and, last, the sum of the times that steps ran."""
        curves = self._within(starts, ends)
        if len(curves) == 1:
            return curves[0].between(starts, ends)
        work = np.zeros((len(starts), COLUMNS + 1))
        for curve in curves:
            begin = int(np.searchsorted(ends, curve.begin_ns, side="right"))
            behind = int(np.searchsorted(starts, curve.end_ns, side="left"))
            if begin < behind:
                work[begin:behind] += curve.between(starts[begin:behind], ends[begin:behind])
        return work

    def between(self, starts: Array, ends: Array) -> Array:
        """Return the work in each of the windows, which are in order, and, last, how long any step ran, ns.

        Not to be changed.
        """
        curves = self._within(starts, ends)
        if len(curves) < 2:
            return self.done(starts, ends)
        asked = starts.tobytes(), ends.tobytes(), sum(curve.points for curve in curves)
        if self._remembered is None or self._remembered[0] != asked:
            work = self.done(starts, ends)
            work[:, COLUMNS] = _ran_any(curves, starts, ends)
            self._remembered = asked, work
        return self._remembered[1]

    def begun_in(self, starts: Array, ends: Array) -> NDArray[np.bool_]:
        """Return in which of the windows, in order, a scheduler was first heard of: more may have run than is known."""
        begun: NDArray[np.bool_] = np.zeros(len(starts), dtype=bool)
        for curve in self._curves:
            if curve.whole and starts[0] < (begin_ns := curve.begin_ns) < ends[-1]:
                begun |= (starts < begin_ns) & (begin_ns < ends)
        return begun

    def kinds(self) -> Array | None:
        """Return what was done lately, as ``WorkCurve.kinds``; None when nothing ever ran."""
        if not self._curves:
            return None
        if len(self._curves) == 1:
            return self._curves[0].kinds()
        summed: Array = np.sum([curve.kinds() for curve in self._curves], axis=0)
        return summed

    def _within(self, starts: Array, ends: Array) -> list[WorkCurve]:
        if len(self._curves) < 2 or not len(starts):
            return self._curves
        first, last = starts[0], ends[-1]
        return [curve for curve in self._curves if curve.end_ns > first and curve.begin_ns < last]


def _ran_any(curves: list[WorkCurve], starts: Array, ends: Array) -> Array:
    """Return how long a step of any of the curves ran in each window: between two of their points all or none of it."""
    points = [curve.times(starts[0], ends[-1]) for curve in curves]
    at = np.unique(np.concatenate((starts, ends, *points)))
    ran = np.max([np.diff(curve.ran_ns(at)) for curve in curves], axis=0)
    summed = np.concatenate(([0.0], np.cumsum(ran)))
    between: Array = summed[np.searchsorted(at, ends)] - summed[np.searchsorted(at, starts)]
    return between
