"""Reads one sampler again and again in a thread of its own, so that one that hangs or fails holds nobody else."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from vtprof_agent.samplers.sampler import Device, Sample, Sampler
from vtprof_schemas.errors import BackendError

logger = logging.getLogger(__name__)
REOPEN_S: Final = 60.0
"""A source that is not here is looked for so often: a driver may be installed after the agent started."""


class Reader:
    """The thread opens, reads and closes its sampler; nothing of it is called from elsewhere."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Sampler],
        least_period_s: float,
        sink: Callable[[list[Sample], float], None],
        failed: Callable[[str, Exception], None],
    ) -> None:
        """Start. ``sink`` gets the samples and the period of each reading, ``failed`` each fault; the thread calls both."""
        self.name = name
        self.devices: list[Device] = []
        """What it found when it was opened."""
        self.reason: str | None = "it does not answer"
        """Why it is not read; None while it is."""
        self.looked = threading.Event()
        """Set once it is known whether the source is here."""
        self._make, self._least_period_s = make, least_period_s
        self._sink, self._failed = sink, failed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"vtprof-{name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False when it hangs: it is left behind, and ends with the process."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        sampler: Sampler | None = None
        try:
            sampler = self._make()
            if self._opened(sampler):
                self._read(sampler)
        except Exception as error:
            self.reason = repr(error)
            self._failed(self.name, error)
        finally:
            self.looked.set()
            if sampler is not None:
                self._close(sampler)

    def _opened(self, sampler: Sampler) -> bool:
        """Open it, however long it takes until it is here; False when the stop came first."""
        warned = False
        while True:
            self.reason = sampler.why_not()
            if self.reason is None:
                try:
                    sampler.open()
                    self.devices = sampler.devices()
                    self.looked.set()
                    return True
                except BackendError as error:
                    self.reason = str(error)
                    if not warned:
                        logger.warning("sampler %s is off: %s", self.name, error)
                        warned = True
            if not self.looked.is_set():
                logger.debug("sampler %s is off: %s", self.name, self.reason)
            self.looked.set()
            if self._stop.wait(REOPEN_S):
                return False

    def _read(self, sampler: Sampler) -> None:
        # From begin to begin it is never less than the period: a late reading makes a longer window, not a shorter next.
        period_s = max(self._least_period_s, sampler.period_s)
        nobody: frozenset[int] = frozenset()
        while not self._stop.is_set():
            begun_s = time.monotonic()
            try:
                self._sink(sampler.sample(nobody), period_s)
            except Exception as error:
                self._failed(self.name, error)
            self._stop.wait(max(0.0, begun_s + period_s - time.monotonic()))

    def _close(self, sampler: Sampler) -> None:
        try:
            sampler.close()
        except Exception as error:
            self._failed(self.name, error)
