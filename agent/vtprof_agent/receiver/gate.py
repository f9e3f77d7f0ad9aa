"""Refuses spans of others while the agent's memory or CPU time is short: before detail of the servers is shed for it."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import psutil

from vtprof_agent.budget import release_memory

logger = logging.getLogger(__name__)
SHARE: Final = 0.85
"""Of the memory budget: beyond it what comes is refused. The rest is for what is under way, and for the rings."""
AS_OBJECTS: Final = 16
"""So many times its size on the wire a request takes once parsed and decoded: measured 3 to 18, most for bare spans."""
RELEASE_S: Final = 5.0
"""How often memory is sought that the system could have back."""


class Gate:
    """Lets requests in while the agent is within its budget with what they take; a memory budget of 0 is none."""

    def __init__(
        self,
        budget_bytes: int = 0,
        strained: Callable[[], bool] = lambda: False,
        used: Callable[[], int] | None = None,
        release: Callable[[], None] = release_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``strained`` tells whether CPU time is short, ``used`` the resident bytes of this process."""
        self._limit = int(SHARE * budget_bytes)
        own = psutil.Process()
        self._strained = strained
        self._used = used or (lambda: int(own.memory_info().rss))
        self._release, self._clock = release, clock
        self._lock = threading.Lock()
        self._under_way = 0
        """Bytes that requests let in will take as objects."""
        self._refused = self._said = False
        self._released_s = -RELEASE_S

    @contextmanager
    def open_for(self, size: int) -> Iterator[bool]:
        """Tell whether a request of so many bytes may be parsed, while in this context."""
        takes = AS_OBJECTS * size if self._limit else 0
        with self._lock:
            is_open = not self._strained() and (
                not self._limit or self._used() + self._under_way + takes <= self._limit
            )
            self._under_way += takes if is_open else 0
            self._refused = self._refused or not is_open
        try:
            yield is_open
        finally:
            with self._lock:
                self._under_way -= takes if is_open else 0

    def tell(self) -> None:
        """Say once that requests were refused, and give back memory that is free: for a thread that may take its time."""
        with self._lock:
            refused, self._refused = self._refused, False
        if not refused:
            return
        if not self._said:
            self._said = True
            logger.warning(
                "OTLP spans that others send are refused, as they would take the agent over its budget: send fewer, or"
                " raise budget_rss_bytes and budget_cpu_ratio; said once"
            )
        if self._clock() - self._released_s >= RELEASE_S:
            self._released_s = self._clock()
            self._release()
