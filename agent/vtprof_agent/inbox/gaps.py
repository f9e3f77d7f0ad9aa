"""Remembers which record numbers were not delivered, so that a later agent that meets them again counts them once."""

from collections import deque
from collections.abc import Iterable

MAX_RUNS = 1024
"""Beyond so many runs the two oldest are kept as one; only how the loss lies within it is forgotten."""


class Gaps:
    """Runs of lost numbers, in order, of bounded size."""

    def __init__(self) -> None:
        """Start without any."""
        self._runs: deque[tuple[int, int, int]] = deque()

    def add(self, gaps: Iterable[tuple[int, int]]) -> None:
        """Note runs, given by first and last number, that follow those before."""
        for first, last in gaps:
            self._runs.append((first, last, last - first + 1))
            if len(self._runs) > MAX_RUNS:
                oldest, second = self._runs.popleft(), self._runs.popleft()
                self._runs.appendleft((oldest[0], second[1], oldest[2] + second[2]))

    def from_number(self, number: int) -> int:
        """Return how many lost numbers lie at ``number`` or above; those below are forgotten."""
        while self._runs and self._runs[0][1] < number:
            self._runs.popleft()
        return sum(min(count, last - max(first, number) + 1) for first, last, count in self._runs)
