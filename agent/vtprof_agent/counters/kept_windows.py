"""The windows of one counter that are kept as they came, with the work in them."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from vtprof_agent.counters.nonnegative import Array

Windows = tuple[Array, Array, Array, Array]
"""Begins and ends in the counter's time, amounts, work."""

KEEP_NS: Final = 120_000_000_000
"""For so long windows and work are kept: to assess a fit, and to fit again when the lag turns out."""
_FEW, _KEEP_FEW_NS = 1200, 300_000_000_000
"""Windows that are fewer than so many are kept for so long: as long as a fit remembers them."""
_SLACK: Final = 0.9


class KeptWindows:
    """Windows in order, taken some at a time."""

    def __init__(self) -> None:
        """Begin without any."""
        self._batches: deque[Windows] = deque()
        self._count = 0

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._batches)

    def __reversed__(self) -> Iterator[Windows]:
        """Yield what was taken together, from the newest on."""
        return reversed(self._batches)

    @property
    def newest(self) -> Windows:
        """Return what was taken last."""
        return self._batches[-1]

    def add(self, windows: Windows) -> None:
        """Take windows, and leave those that are too old."""
        self._batches.append(windows)
        self._count += len(windows[1])
        now_ns = windows[1][-1]
        while (age_ns := now_ns - self._batches[0][1][-1]) > KEEP_NS * _SLACK and (
            self._count > _FEW or age_ns > _KEEP_FEW_NS
        ):
            self._leave_oldest()

    def all(self) -> Windows:
        """Return all that are kept."""
        starts, ends, amounts, work = (np.concatenate(parts) for parts in zip(*self._batches, strict=True))
        return starts, ends, amounts, work

    def clear(self) -> None:
        """Leave all."""
        self._batches.clear()
        self._count = 0

    def again(self, begin_ns: float, work: Callable[[Array, Array], Array]) -> Iterator[Windows]:
        """Read the work anew, where it is known from ``begin_ns`` on; yield what was taken together."""
        while self._batches and self._batches[0][0][0] < begin_ns:
            self._leave_oldest()
        for place, (starts, ends, amounts, _) in enumerate(self._batches):
            self._batches[place] = (starts, ends, amounts, work(starts, ends))
            yield self._batches[place]

    def _leave_oldest(self) -> None:
        self._count -= len(self._batches.popleft()[1])
