"""Turns at being read from: few senders at a time, and who keeps the others waiting longest is cut off for them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LINGER_S: Final = 1.0
"""A message may be on its way for so long while others wait to be read; those of exporters take milliseconds."""


class Turns:
    """Turns of threads, each of which reads one message of one sender."""

    def __init__(
        self, most: int, linger_s: float = LINGER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Give so many turns at a time."""
        self._most, self._linger_s, self._clock = most, linger_s, clock
        self._changed = threading.Condition()
        self._taken = 0
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
        with self._changed:
            while self._taken >= self._most:
                self._changed.wait(self._until_one_goes())
            self._taken += 1
            self._reading[key] = (self._clock(), cut_off)

    def _until_one_goes(self) -> float | None:
        """Cut off who has lingered, and return how long to wait for the next; None: nobody's sender is waited for."""
        for key, (since_s, cut_off) in list(self._reading.items()):
            left_s = since_s + self._linger_s - self._clock()
            if left_s > 0:
                return left_s
            del self._reading[key]
            cut_off()
            break
        return self._linger_s if self._reading else None

    def _arrived(self, key: object) -> None:
        with self._changed:
            self._reading.pop(key, None)

    def _give_back(self, key: object) -> None:
        with self._changed:
            self._reading.pop(key, None)
            self._taken -= 1
            self._changed.notify()
