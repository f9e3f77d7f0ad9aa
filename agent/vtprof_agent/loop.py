"""The agent's loop: finds rings, reads them, exports what is finished, and stores how far it got only after that.

One thread; the clock and the wait are injected. Everything that was read is written before the loop returns.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.delivery import Delivery
from vtprof_agent.export.destination import Destination
from vtprof_agent.facts import Value
from vtprof_agent.family import Families
from vtprof_agent.faults import Faults
from vtprof_agent.feed import Feeds
from vtprof_agent.follower import Keep, RingFollower
from vtprof_agent.inbox.discovery import Liveness, RingDirectory, process_alive, remove_ring, remove_temporary
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_agent.metric_points import Point
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.observer import Observer
from vtprof_agent.oversight import Account, Losses
from vtprof_agent.pace import ROOMY_RECORDS, next_pause_s
from vtprof_agent.processes import Processes
from vtprof_agent.progress_store import ProgressStore
from vtprof_agent.resource import agent_resource
from vtprof_agent.ring_totals import RingTotals
from vtprof_agent.sampling import agent_points
from vtprof_agent.step_work import Measures
from vtprof_schemas.errors import BackendError
from vtprof_schemas.units import NS_PER_S

logger = logging.getLogger(__name__)
READ_RECORDS = 4096
FAST_FILL = 16
"""The next turn comes as early as it may when a ring was filled to this part since the last turn."""
TURN_RECORDS = 8 * READ_RECORDS
"""Of all rings together in one turn, so that with many rings none waits long, nor does a stop."""
LEAST_RECORDS = 64
DRAIN_LAPS = 2
"""At a stop a ring is read for at most so many times its size: a writer that never pauses must not hold us."""
DRAIN_S = 10.0
"""At a stop reading goes on for so long; what is left then waits for the next agent."""
LAST_DRAIN_S = 60.0
"""The same when nobody will read these rings after us."""


@dataclass(frozen=True)
class LoopSettings:
    """Periods and sizes of the loop."""

    poll_min_s: float = 0.01
    poll_max_s: float = 1.0
    scan_s: float = 1.0
    flush_s: float = 2.0
    batch_spans: int = 512
    stop_s: float = 5.0
    max_rings: int = 1024
    """Followed at a time; each holds a file open."""


class Agent:
    """Follows every ring of a directory and feeds the destinations."""

    def __init__(
        self,
        ring_dir: Path,
        destinations: Sequence[Destination],
        settings: LoopSettings,
        assembly: AssemblySettings,
        *,
        observer: Observer | None = None,
        host_peaks: Mapping[str, Value] | None = None,
        feeds: Feeds | None = None,
        measures: Measures | None = None,
        keep: Keep | None = None,
        processes: Processes | None = None,
        claim: Callable[[], None] | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Prepare; nothing is read yet. ``claim`` raises BackendError when the folder has become another agent's."""
        self._claim = claim
        self._directory = RingDirectory(ring_dir)
        self._store = ProgressStore(ring_dir)
        self._settings = settings
        self._assembly = assembly
        self._observer = observer or Observer(
            agent_resource("agent"), Metrics("unknown"), sample_s=0, series_s=0
        )
        self._host_peaks = host_peaks or {}
        self._feeds = feeds or Feeds()
        self._measures, self._keep = measures, keep
        self._processes = processes or Processes()
        self._clock_ns = clock_ns
        self._unix_ns = unix_ns
        self._families = Families()
        self._rings: dict[Path, RingFollower] = {}
        self._drained: dict[Path, RingFollower] = {}
        """Rings whose process ended and whose records are all read; removed once their spans are delivered."""
        self.records_read = 0
        """By this agent, over all rings."""
        self.rings_met = 0
        """How many rings were followed."""
        self._ended: set[Path] = set()
        """Of ``_rings``, those whose process writes no more: read to their end, then drained."""
        self._aside: set[Path] = set()
        """Files that are not followed: faulty, or records that we failed on."""
        self._store.retire_gone()
        self._retired = RingTotals(*self._store.retired())
        self._before = RingTotals(*self._store.retired())
        """As earlier agents left it, of rings that are gone and of those that are followed on."""
        self._faults = Faults()
        self._delivery = Delivery(destinations, self._store, settings.batch_spans, self._faults)
        self._full = False
        self._filling = False
        """Whether a ring had filled far since the turn before."""
        self._behind = self._holding = False
        """Whether a ring still holds what was written before the turn; whether records wait for other rings."""
        self._told_ns = self._turned_ns = 0
        """All that was written by then has been read and used."""
        self.living: list[int] = []
        """PIDs of the processes that still recorded at the stop."""
        self._spans: list[ReadableSpan] = []
        self._points: list[Point] = []
        self._next_scan = self._next_flush = 0
        if self._store.problem:
            logger.warning("%s", self._store.problem)

    def look(self) -> None:
        """Find the rings, and bring the metrics up to what earlier agents counted of them."""
        self._faults.guard("looking for rings", self._scan)
        self._faults.guard("the metrics", self._refresh_metrics)

    def run(self, stopped: Callable[[], bool], wait: Callable[[float], object]) -> None:
        """Follow the rings until ``stopped``; then read, write and store what there is."""
        self.follow(stopped, wait)
        self.stop()

    def follow(self, stopped: Callable[[], bool], wait: Callable[[float], object]) -> None:
        """Follow the rings until ``stopped``; ``stop`` is to come."""
        pause_s = self._settings.poll_min_s
        while not stopped():
            busy = self.turn()
            pause_s = next_pause_s(
                pause_s, busy, filling=self._filling, least_s=self._settings.poll_min_s,
                most_s=self._settings.poll_max_s,
                capacity=min((ring.reader.capacity for ring in self._rings.values()), default=ROOMY_RECORDS),
            )  # fmt: skip
            if busy < READ_RECORDS:
                wait(pause_s)

    def turn(self) -> int:
        """Do one round; return how many records were read."""
        now, self._filling = self._clock_ns(), False
        if now >= self._next_scan or any(ring.awaits_scan for ring in self._rings.values()):
            self._next_scan = now + int(self._settings.scan_s * NS_PER_S)
            self._faults.guard("looking for rings", self._scan)
        read, self._behind, self._holding = 0, False, False
        share = min(READ_RECORDS, max(LEAST_RECORDS, TURN_RECORDS // max(1, len(self._rings))))
        for path, ring in self._in_order():
            read += self._read(path, ring, share)
        if not self._behind:
            # What rings of a server hold for each other is used in the next turn.
            self._told_ns = self._turned_ns if self._holding else now
        self._turned_ns = now
        self._points += self._observer.turn(now, self._told_ns, self._unix_ns(), list(self._rings.values()))
        if now >= self._next_flush or len(self._spans) >= self._settings.batch_spans:
            self._next_flush = now + int(self._settings.flush_s * NS_PER_S)
            self._flush()
        return read

    def stop(self, last: bool = False) -> None:
        """Drain every ring, export all, store the progress.

        Open requests of living processes are left to the next agent, unless this is the ``last``: then they end here.
        """
        deadline = self._clock_ns() + int((LAST_DRAIN_S if last else DRAIN_S) * NS_PER_S)
        self._faults.guard("looking for rings", self._scan)
        while self._rings:
            self._drain(deadline)
            for path, ring in self._in_order():
                if process_alive(ring.reader.identity) is Liveness.ALIVE:
                    self.living.append(ring.pid)
                    self._observer.leave(ring)
                self._end(path, ring, process_gone=last)
            if self._clock_ns() < deadline:
                # There may be more than could be followed at a time.
                self._faults.guard("looking for rings", self._scan)
        left = 0 if last else sum(ring.running_requests for ring in self._drained.values())
        if left:
            logger.info("%d requests in flight are left to the next agent", left)
        self._feeds.close()
        self._flush(last=True)
        # What a ring held that somebody removed is read by nobody again.
        gone = any(not path.exists() for path in self._drained)
        self._delivery.close(self._settings.stop_s, last=last or gone)
        self._faults.guard("storing the progress", self._settle)
        self._faults.guard("the metrics", self._refresh_metrics)
        self._observer.close()

    def _drain(self, deadline_ns: int) -> None:
        """Read the rings followed now to their ends, those of a family by turns: they wait for each other."""
        budgets = {path: DRAIN_LAPS * ring.reader.capacity for path, ring in self._in_order()}
        busy = True
        while busy:
            busy = False
            for path, ring in self._in_order():
                if self._clock_ns() >= deadline_ns:
                    logger.warning("%s: may not be read to its end: the agent stops", path.name)
                    busy = False
                elif budgets[path] > 0:
                    held = ring.held
                    read = self._read(path, ring, READ_RECORDS)
                    budgets[path] -= read
                    busy = busy or read > 0 or ring.held < held

    # --- Rings ---------------------------------------------------------------------------------------------

    def _in_order(self) -> list[tuple[Path, RingFollower]]:
        """Return the rings in the order in which they are read: who tells of arrivals before who names them."""
        return sorted(self._rings.items(), key=lambda item: item[1].order)

    def _scan(self) -> None:
        if self._claim is not None:
            self._claim()
        found = self._directory.scan()
        for problem in found.problems:
            logger.warning("%s", problem)
        for path in found.temporaries:
            if remove_temporary(path, self._unix_ns()):
                logger.info("removed %s: its writer was killed before the ring was ready", path.name)
        self._aside.intersection_update(found.rings)
        known = {*self._rings, *self._drained, *self._aside}
        fresh = [path for path in found.rings if path not in known]
        room = max(0, self._settings.max_rings - len(self._rings))
        for path in fresh[:room]:
            self._follow(path)
        if len(fresh) > room and not self._full:
            logger.warning(
                "%d rings wait: %d at a time are followed; raise the limit of open files (ulimit -n)",
                len(fresh) - room,
                self._settings.max_rings,
            )
        self._full = len(fresh) > room
        for path, ring in list(self._rings.items()):
            ring.scanned()
            try:
                ring.refresh()
            except BackendError as error:
                logger.error("%s", error)
                self._end(path, ring, process_gone=True)
                continue
            except Exception as error:
                self._put_aside(path, ring, error)
                continue
            # Asked before the rest is read: nothing is written by a process that was dead then.
            if ring.state.closed or process_alive(ring.reader.identity) is Liveness.DEAD:
                self._ended.add(path)
        self._processes.take(self._rings.values())

    def _follow(self, path: Path) -> None:
        try:
            reader = RingReader.open(path)
        except BackendError as error:
            logger.warning("%s", error)
            self._aside.add(path)
            return
        except OSError as error:
            self._faults.note("opening a ring", error)  # the next look tries again
            return
        try:
            progress = self._store.get(reader.identity.ring_id)
            ring = RingFollower(
                reader, self._assembly, self._host_peaks, progress, self._families, self._measures, self._keep
            )
        except Exception as error:
            reader.close()
            self._aside.add(path)
            if isinstance(error, BackendError):
                logger.warning("%s", error)
            else:
                self._faults.note(f"following {path.name}", error)
            return
        self._rings[path] = ring
        if progress is not None:
            self._before.add(ring)
        self.rings_met += 1
        self._observer.follow(ring)
        logger.info("following %s (PID %d) from record %d", path.name, ring.pid, reader.cursor)

    def _read(self, path: Path, ring: RingFollower, most: int) -> int:
        """Read a ring and collect what is finished; end it when that was its end. Return the records passed."""
        now_ns = self._clock_ns()
        try:
            batch = ring.read(most, now_ns, path in self._ended)
            self.records_read += batch.count
            ring.advance(now_ns)
            self._collect(ring)
        except BackendError as error:
            logger.error("%s", error)
            self._end(path, ring, process_gone=True)
            return 0
        except OSError as error:
            self._faults.note(f"reading {path.name}", error)
            return 0
        except Exception as error:
            self._put_aside(path, ring, error)
            return 0
        self._behind = self._behind or batch.passed >= most
        self._holding = self._holding or not ring.at_end
        self._filling = self._filling or batch.passed * FAST_FILL >= ring.reader.capacity
        if batch.passed == 0 and path in self._ended and ring.at_end:
            self._end(path, ring, process_gone=True)
        return min(batch.passed, most)

    def _end(self, path: Path, ring: RingFollower, process_gone: bool) -> None:
        """Finish a ring: nothing more is read from it."""
        try:
            ring.finish(process_gone)
            self._collect(ring)
        except Exception as error:
            self._put_aside(path, ring, error)
            return
        self._points += agent_points(ring, self._unix_ns())
        self._let_go(path, ring)
        self._drained[path] = ring
        logger.info("%s: %d records read, %d lost", path.name, ring.records_read, ring.records_lost)

    def _put_aside(self, path: Path, ring: RingFollower, error: Exception) -> None:
        """Follow a ring no further, on whose records we failed: that must cost no other ring."""
        self._faults.note(f"following {path.name} any further", error)
        self._points += agent_points(ring, self._unix_ns())
        self._let_go(path, ring)
        self._drained.pop(path, None)
        self._aside.add(path)
        self._retired.add(ring)

    def _let_go(self, path: Path, ring: RingFollower) -> None:
        self._rings.pop(path, None)
        self._ended.discard(path)
        ring.close()

    def _retire(self) -> None:
        """Forget rings whose file is gone; remove closed ones and those of dead processes once all is delivered."""
        for path, ring in list(self._drained.items()):
            if not ring.settled and path.exists():
                continue
            removed = remove_ring(path)
            if not removed and path.exists():
                continue
            self._retired.add(ring)
            ring_id = ring.reader.identity.ring_id
            if not self._directory.repeated(
                ring_id
            ):  # else the next agent would read it anew by its other name
                self._store.forget(ring_id)
            del self._drained[path]

    # --- Export --------------------------------------------------------------------------------------------

    def _collect(self, ring: RingFollower) -> None:
        self._take(ring)
        if len(self._spans) >= self._settings.batch_spans:
            self._flush()

    def _take(self, ring: RingFollower) -> None:
        self._spans += ring.spans()
        self._observer.finished(ring)

    def _flush(self, last: bool = False) -> None:
        self._faults.guard("exporting", partial(self._export, last))

    def _export(self, last: bool) -> None:
        """Hand everything collected to the destinations, then note the progress that it stands for."""
        for path, ring in (*self._rings.items(), *self._drained.items()):
            try:
                self._take(ring)  # progress is only true of a ring whose spans are all here
            except Exception as error:
                self._put_aside(path, ring, error)
        from_rings = len(self._spans)
        self._feeds.take(self._spans, self._points)
        rings = (*self._rings.values(), *self._drained.values())
        spans, points, self._spans, self._points = self._spans, self._points, [], []
        data = self._observer.data(points, self._clock_ns(), self._unix_ns(), last=last)
        self._delivery.submit(spans, data, from_rings)
        self._delivery.reached({ring.reader.identity.ring_id: ring.progress() for ring in rings})
        self._faults.guard("storing the progress", self._settle)
        self._faults.guard("the metrics", self._refresh_metrics)

    def _settle(self) -> None:
        if self._delivery.settle():
            self._retire()

    def _refresh_metrics(self) -> None:
        account = Account(
            self._retired.plus((*self._rings.values(), *self._drained.values())),
            len(self._rings),
            sum(ring.running_requests for ring in self._rings.values()),
            sum(ring.held_requests for ring in self._rings.values()),
            self._faults.count + self._observer.faults,
            self._delivery.destinations,
            Losses(self._before, *self._delivery.dropped_before),
        )
        self._observer.refresh(account, list(self._rings.values()), self._feeds.counts())
