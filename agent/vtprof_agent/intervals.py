"""Time intervals that must not overlap: takes pieces in order of precedence, gives back what of each is still free.

taken   |----|      |---|
new        |-----------------|
free          |----|     |---|
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable


class Timeline:
    """The part of a time line that is already spoken for: disjoint, sorted, half-open intervals in nanoseconds."""

    def __init__(self, start_ns: int, end_ns: int) -> None:
        """Open the line between two times; whatever lies outside is cut off."""
        self._start_ns = start_ns
        self._end_ns = max(start_ns, end_ns)
        self._taken: list[tuple[int, int]] = []

    def clamp(self, time_ns: int) -> int:
        """Return the nearest time within the line."""
        return min(max(time_ns, self._start_ns), self._end_ns)

    def take(self, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        """Claim an interval and return the fragments of it that nobody had claimed, in order; empty when none."""
        start_ns, end_ns = self.clamp(start_ns), self.clamp(end_ns)
        if start_ns >= end_ns:
            return []
        free = []
        position = start_ns
        first = max(0, bisect_right(self._taken, (start_ns, start_ns)) - 1)
        last = bisect_left(self._taken, (end_ns, end_ns))
        for taken_start, taken_end in self._taken[first:last]:
            if taken_end <= position:
                continue
            if taken_start > position:
                free.append((position, taken_start))
            position = max(position, taken_end)
        if position < end_ns:
            free.append((position, end_ns))
        for fragment in free:
            insort(self._taken, fragment)
        return free


def union_ns(intervals: Iterable[tuple[int, int]], start_ns: int, end_ns: int) -> int:
    """Return how much of ``start_ns..end_ns`` the intervals cover, overlaps counted once, ns."""
    line = Timeline(start_ns, end_ns)
    return sum(
        free_end - free_start for interval in intervals for free_start, free_end in line.take(*interval)
    )
