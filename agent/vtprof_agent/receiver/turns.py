"""Turns at being read from: few senders at a time, and who keeps the others waiting longest is cut off for them."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LINGER_S: Final = 1.0
"""A message may be on its way for so long while others wait to be read; those of exporters take milliseconds."""
LEAST_LINGER_S: Final = 0.1
"""The same while so many wait that the last of them would otherwise wait for several seconds."""


class Turns:
    """Turns of threads, each of which reads one message of one sender."""

    def __init__(
        self, most: int, linger_s: float = LINGER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Give so many turns at a time."""
        self._most, self._linger_s, self._clock = most, linger_s, clock
        self._lock = threading.RLock()  # who is cut off may give its turn back at once
        self._taken = 0
        self._waiting: deque[threading.Condition] = deque()
        """For a turn, in the order in which they came; only the first needs to be woken by time."""
        self._reading: dict[object, tuple[float, Callable[[], None]]] = {}
        """Since when a turn waits for its sender, and how to end that; the oldest first."""

    @contextmanager
    def turn(self, cut_off: Callable[[], None]) -> Iterator[Callable[[], None]]:
        """Wait for a turn and hold it; the function it gives says that the message is there.

        ``cut_off`` ends the wait for the message, from another thread and at once; it is not called after that.
        """
        key = object()
        self._take(key, cut_off)
        try:
            yield lambda: self._arrived(key)
        finally:
            self._give_back(key)

    def _take(self, key: object, cut_off: Callable[[], None]) -> None:
        with self._lock:
            mine = threading.Condition(self._lock)
            self._waiting.append(mine)
            self._wake_first()  # the more wait, the sooner it may cut off
            while self._waiting[0] is not mine or self._taken >= self._most:
                mine.wait(self._until_one_goes() if self._waiting[0] is mine else None)
            self._waiting.popleft()
            self._taken += 1
            self._reading[key] = (self._clock(), cut_off)
            self._wake_first()

    def _wake_first(self) -> None:
        if self._waiting:
            self._waiting[0].notify()

    def _until_one_goes(self) -> float | None:
        """Cut off who has lingered, and return how long to wait for the next; None: nobody's sender is waited for."""
        linger_s = self._allowed_s()
        for key, (since_s, cut_off) in list(self._reading.items()):
            left_s = since_s + linger_s - self._clock()
            if left_s > 0:
                return left_s
            del self._reading[key]
            cut_off()
            break
        return linger_s if self._reading else None

    def _allowed_s(self) -> float:
        """Return how long a sender may linger, such that all who wait get their turns within about ``LINGER_S``."""
        shared_s = self._linger_s * self._most / max(self._most, len(self._waiting))
        return max(min(LEAST_LINGER_S, self._linger_s), shared_s)

    def _arrived(self, key: object) -> None:
        with self._lock:
            self._reading.pop(key, None)

    def _give_back(self, key: object) -> None:
        with self._lock:
            self._reading.pop(key, None)
            self._taken -= 1
            self._wake_first()
