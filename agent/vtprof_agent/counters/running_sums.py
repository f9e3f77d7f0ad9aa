"""Sums over time that go on at one end and are forgotten at the other, read between any two times."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ROOM: Final = 1024
"""Points more that a curve has room for when it moves, at least; memory is taken in such pieces."""


def read_curve(times: Array, values: Array, at: Array) -> Array:
    """Interpolate cumulative values (n x columns, or more axes) linearly; flat before the first and behind the last time."""
    right = np.minimum(np.maximum(np.searchsorted(times, at, side="right"), 1), len(times) - 1)
    left = right - 1
    span = times[right] - times[left]
    part = np.divide(at - times[left], span, out=np.ones_like(at), where=span > 0)
    part = np.minimum(np.maximum(part, 0.0), 1.0)  # np.clip takes several times as long for a few
    low = values[left]
    result: Array = low + (values[right] - low) * part.reshape(-1, *(1,) * (values.ndim - 1))
    return result


def read_between(times: Array, values: Array, starts: Array, ends: Array) -> Array:
    """Return by how much cumulative values rise in each of the stretches; most follow each other without a gap."""
    if np.array_equal(starts[1:], ends[:-1]):
        read = read_curve(times, values, np.concatenate((starts, ends[-1:])))
        return read[1:] - read[:-1]
    read = read_curve(times, values, np.concatenate((starts, ends)))
    return read[len(starts) :] - read[: len(starts)]


class RunningSums:
    """Cumulative values at times in order, the oldest of which are left behind."""

    def __init__(self, columns: int) -> None:
        self._times, self._values = np.empty(0), np.empty((0, columns))
        self._first = self._size = 0

    def __len__(self) -> int:
        return self._size - self._first

    @property
    def times(self) -> Array:
        return self._times[self._first : self._size]

    @property
    def values(self) -> Array:
        return self._values[self._first : self._size]

    def append(self, times: Array, rows: Array) -> None:
        """Go on with rows to be added up."""
        count = len(times)
        if self._size + count > len(self._times):
            self._move(count)
        begin, self._size = self._size, self._size + count
        self._times[begin : self._size] = times
        values = self._values[begin : self._size]
        np.cumsum(rows, axis=0, out=values)
        if begin:
            values += self._values[begin - 1]

    def leave(self, count: int) -> None:
        """Leave so many of the oldest behind."""
        self._first += count

    def between(self, starts: Array, ends: Array) -> Array:
        """Return by how much the values rise in each of the stretches."""
        if len(self) < 2:
            return np.zeros((len(starts), self._values.shape[1]))
        return read_between(self.times, self.values, starts, ends)

    def _move(self, more: int) -> None:
        """Give up what was left behind, with room for more and for some time to come, so that it is done seldom."""
        kept = len(self)
        room = -(-(kept + more + max(ROOM, kept // 4)) // ROOM) * ROOM
        times, values = np.empty(room), np.empty((room, self._values.shape[1]))
        if kept:
            times[:kept] = self.times
            np.subtract(self.values, self.values[0], out=values[:kept])
        self._times, self._values, self._first, self._size = times, values, 0, kept
