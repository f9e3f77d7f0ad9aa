"""Reads one sampler again and again in a thread of its own, so that one that hangs or fails holds nobody else."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from vtprof_agent.samplers.health import SILENT, Absence
from vtprof_agent.samplers.sampler import ALL, QUIET_S, Device, Sample, Sampler
from vtprof_schemas.errors import BackendError

logger = logging.getLogger(__name__)
REOPEN_S: Final = 60.0
"""A source that is not here is looked for so often: a driver may be installed after the agent started."""
RELIST_S: Final = 30.0
"""Between two looks at which devices there are: MIG devices are made and removed."""
_MOST_TOLD: Final = 1024


class Reader:
    """The thread opens, reads and closes its sampler; nothing of it is called from elsewhere."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Sampler],
        least_period_s: float,
        sink: Callable[[list[Sample], float], None],
        failed: Callable[[str, Exception], None],
        *,
        asked: bool = False,
    ) -> None:
        """Start. ``sink`` gets the samples and the period of each reading, ``failed`` each fault; the thread calls both.

        ``asked``: the settings name this source, so that it is missed where it is not.
        """
        self.name = name
        self.devices: list[Device] = []
        """What it lists, and what it lost."""
        self.looked = threading.Event()
        """Set once it is known whether the source is here."""
        self._make, self._least_period_s = make, least_period_s
        self._sink, self._failed = sink, failed
        self._asked = asked
        # What follows is written by the thread alone; others read it, and copy what may change under them.
        self._off: Absence | None = Absence("it does not answer", time.monotonic())
        """Why none of its devices can be read, as it says itself."""
        self._failure: str | None = None
        """Why the last reading failed."""
        self._lost: dict[str, Absence] = {}
        self._refused: dict[str, Absence] = {}
        self.missing: Mapping[str, Mapping[str, str]] = {}
        """By device why quantities of it are not told, by key."""
        self._told_s: dict[str, float] = {}
        """By device when it last told of it."""
        self._opened_s: float | None = None
        self._begun_s: float | None = None
        """When the reading under way began."""
        self._quiet_s = QUIET_S
        self._next_list_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"vtprof-{name}", daemon=True)
        self._thread.start()

    def absence(self, now_s: float) -> Absence | None:
        """Return why nothing is read, since when; None: something is. ``now_s`` is monotonic."""
        begun_s, off, opened_s = self._begun_s, self._off, self._opened_s
        if begun_s is not None and now_s - begun_s > self._quiet_s:
            return Absence("a reading of it hangs", begun_s)
        if off is not None or opened_s is None:
            return off
        told_s = max(self._told_s.copy().values(), default=opened_s)
        if now_s - told_s <= self._quiet_s:
            return None
        if self._failure is not None:
            return Absence(self._failure, told_s)
        refused = min(self._refused.values(), key=lambda one: one.since_s, default=None)
        if refused is not None and not self._lost:
            return Absence(refused.reason, refused.since_s)
        if not self._told_s:
            return Absence("no device here tells it anything", opened_s, missed=self._asked)
        return None if self._lost else Absence(SILENT, told_s)

    def told_of(self, now_s: float) -> dict[str, Absence | None]:
        """Return by UUID of the devices that it told of, or lists, why one is not read; None: it is."""
        told, lost, opened_s = self._told_s.copy(), self._lost, self._opened_s or now_s
        found: dict[str, Absence | None] = {
            device.uuid: Absence(SILENT, opened_s, missed=False)
            for device in self.devices
            if now_s - opened_s > self._quiet_s
        }
        found |= {
            uuid: Absence(SILENT, told_s) if now_s - told_s > self._quiet_s else None
            for uuid, told_s in told.items()
        }
        return found | self._refused | lost

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
            self._off = Absence(repr(error), time.monotonic())
            self._failed(self.name, error)
        finally:
            self.looked.set()
            if sampler is not None:
                self._close(sampler)

    def _opened(self, sampler: Sampler) -> bool:
        """Open it, however long it takes until it is here; False when the stop came first."""
        warned = False
        while True:
            reason = sampler.why_not()
            if reason is None:
                try:
                    sampler.open()
                    self._quiet_s = sampler.quiet_s
                    self._list(sampler, time.monotonic())
                    self._opened_s, self._off = time.monotonic(), None
                    self.looked.set()
                    return True
                except BackendError as error:
                    reason = str(error)
                    if not warned:
                        logger.warning("sampler %s is off: %s", self.name, error)
                        warned = True
            if not self.looked.is_set():
                logger.debug("sampler %s is off: %s", self.name, reason)
            missed = self._asked or warned
            self._off = Absence(reason, self._off.since_s if self._off else time.monotonic(), missed)
            self.looked.set()
            if self._stop.wait(REOPEN_S):
                return False

    def _read(self, sampler: Sampler) -> None:
        # From begin to begin it is never less than the period: a late reading makes a longer window, not a shorter next.
        period_s = max(self._least_period_s, sampler.period_s)
        self._quiet_s = max(sampler.quiet_s, 3 * period_s)
        nobody: frozenset[int] = frozenset()
        while not self._stop.is_set():
            self._begun_s = begun_s = time.monotonic()
            try:
                samples = sampler.sample(nobody)
                self._failure = None
                self._note(sampler, samples, time.monotonic())
                self._sink(samples, period_s)
            except Exception as error:
                self._failure = repr(error)
                self._failed(self.name, error)
            self._begun_s = None
            self._stop.wait(max(0.0, begun_s + period_s - time.monotonic()))

    def _note(self, sampler: Sampler, samples: list[Sample], now_s: float) -> None:
        """Note of what a reading told, and what the sampler knows to be lost."""
        known = len(self._told_s)
        for sample in samples:
            if sample.hw_id is not None:
                self._told_s[sample.hw_id] = now_s
        lost = sampler.lost()
        if lost or self._lost or self._off is not None:
            why, was_off = lost.get(ALL), self._off is not None
            self._off = None if why is None else Absence(why, self._off.since_s if self._off else now_s)
            before = self._lost
            self._lost = {
                uuid: Absence(reason, before[uuid].since_s if uuid in before else now_s)
                for uuid, reason in lost.items()
                if uuid != ALL
            }
            if before.keys() != self._lost.keys():
                self._next_list_s = now_s
            # What could not be asked has not been silent.
            back = self._told_s.keys() if was_off and self._off is None else before.keys() - self._lost.keys()
            self._told_s |= dict.fromkeys(back & self._told_s.keys(), now_s)
        self.missing = sampler.missing()
        refused = sampler.refused()
        if refused or self._refused:
            since_s = {uuid: one.since_s for uuid, one in self._refused.items()}
            self._refused = {
                uuid: Absence(reason, since_s.get(uuid, now_s), alone=True)
                for uuid, reason in refused.items()
            }
        if len(self._told_s) != known or now_s >= self._next_list_s:
            self._list(sampler, now_s)

    def _list(self, sampler: Sampler, now_s: float) -> None:
        """Look at what there is; what is lost stays listed, what is neither is no longer."""
        self._next_list_s = now_s + RELIST_S
        found = {device.uuid: device for device in sampler.devices()}
        before = {device.uuid: device for device in self.devices}
        if before or found:
            found |= {uuid: before.get(uuid, Device(uuid, "")) for uuid in self._lost if uuid not in found}
        self.devices = [found[uuid] for uuid in dict.fromkeys((*before, *found)) if uuid in found]
        for uuid in list(self._told_s)[: max(0, len(self._told_s) - _MOST_TOLD)]:
            del self._told_s[uuid]

    def _close(self, sampler: Sampler) -> None:
        try:
            sampler.close()
        except Exception as error:
            self._failed(self.name, error)
