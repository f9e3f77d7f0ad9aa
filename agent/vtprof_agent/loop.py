"""The agent's loop: finds rings, reads them, exports what is finished, and stores how far it got only after that.

One thread; the clock and the wait are injected. Everything that was read is written before the loop returns.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.export.destination import Batch, Destination
from vtprof_agent.export.prometheus import PrometheusPage
from vtprof_agent.facts import Value
from vtprof_agent.follower import Progress, RingFollower
from vtprof_agent.inbox.discovery import Liveness, RingDirectory, process_alive, remove_ring
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_agent.metric_points import Point, metrics_data
from vtprof_agent.progress_store import ProgressStore
from vtprof_agent.resource import RingResource
from vtprof_agent.sampling import Sampling, agent_points
from vtprof_schemas.errors import BackendError
from vtprof_schemas.units import NS_PER_S

logger = logging.getLogger(__name__)
READ_RECORDS = 4096
FAST_RECORDS = 512
"""So many records in one turn, and the next turn comes as early as it may."""
DRAIN_LAPS = 2
"""At a stop a ring is read for at most so many times its size: a writer that never pauses must not hold us."""


@dataclass(frozen=True)
class LoopSettings:
    """Periods and sizes of the loop."""

    poll_min_s: float = 0.01
    poll_max_s: float = 0.05
    scan_s: float = 1.0
    flush_s: float = 1.0
    batch_spans: int = 512
    sample_s: float = 1.0
    stop_s: float = 5.0


class Agent:
    """Follows every ring of a directory and feeds the destinations."""

    def __init__(
        self,
        ring_dir: Path,
        destinations: Sequence[Destination],
        node: RingResource,
        settings: LoopSettings,
        assembly: AssemblySettings,
        *,
        page: PrometheusPage | None = None,
        sampling: Sampling | None = None,
        host_peaks: Mapping[str, Value] | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Prepare; nothing is read yet."""
        self._directory = RingDirectory(ring_dir)
        self._store = ProgressStore(ring_dir)
        self._destinations = destinations
        self._node = node
        self._settings = settings
        self._assembly = assembly
        self._page = page
        self._sampling = sampling
        self._host_peaks = host_peaks or {}
        self._clock_ns = clock_ns
        self._unix_ns = unix_ns
        self._started_unix_ns = unix_ns()
        self._rings: dict[Path, RingFollower] = {}
        self._drained: dict[Path, RingFollower] = {}
        """Rings whose process ended and whose records are all read; removed once their spans are delivered."""
        self._retired_read = self._retired_lost = self._retired_unusable = 0
        self._spans: list[ReadableSpan] = []
        self._points: list[Point] = []
        self._batches = 0
        self._unsettled: deque[tuple[int, dict[str, Progress]]] = deque()
        self._stored: dict[str, Progress] = {}
        self._store_failed = False
        self._next_scan = self._next_flush = self._next_sample = 0
        if self._store.problem:
            logger.warning("%s", self._store.problem)

    def run(self, stopped: Callable[[], bool], wait: Callable[[float], object]) -> None:
        """Follow the rings until ``stopped``; then read, write and store what there is."""
        pause_s = self._settings.poll_min_s
        while not stopped():
            busy = self.turn()
            # A turn costs the same for one record as for fifty: wait longer unless they come fast.
            pause_s = (
                self._settings.poll_min_s
                if busy >= FAST_RECORDS
                else min(pause_s * 2, self._settings.poll_max_s)
            )
            if busy < READ_RECORDS:
                wait(pause_s)
        self.stop()

    def turn(self) -> int:
        """Do one round; return how many records were read."""
        now = self._clock_ns()
        if now >= self._next_scan:
            self._next_scan = now + int(self._settings.scan_s * NS_PER_S)
            self._scan()
        read = 0
        for path, ring in list(self._rings.items()):
            read += self._read(path, ring, now)
            ring.advance(now)
            self._collect(ring)
        if self._sampling is not None and self._settings.sample_s and now >= self._next_sample:
            self._next_sample = now + int(self._settings.sample_s * NS_PER_S)
            self._sample(self._sampling)
        if now >= self._next_flush or len(self._spans) >= self._settings.batch_spans:
            self._next_flush = now + int(self._settings.flush_s * NS_PER_S)
            self._flush()
        return read

    def stop(self) -> None:
        """Drain every ring, export all, store the progress. Open requests of living processes are left to the next agent."""
        self._scan()
        for path, ring in list(self._rings.items()):
            budget = DRAIN_LAPS * ring.reader.capacity
            while budget > 0 and (read := self._read(path, ring, self._clock_ns())):
                budget -= read
            if path in self._rings:
                self._end(path, ring, process_gone=ring.reader.state().closed)
        left = sum(ring.open_requests for ring in self._drained.values())
        if left:
            logger.info("%d requests in flight are left to the next agent", left)
        self._flush()
        for destination in self._destinations:
            destination.close(self._settings.stop_s)
        self._settle()
        self._refresh_page()
        if self._sampling is not None:
            self._sampling.close()

    # --- Rings ---------------------------------------------------------------------------------------------

    def _scan(self) -> None:
        found = self._directory.scan()
        for problem in found.problems:
            logger.warning("%s", problem)
        for path in found.rings:
            if path not in self._rings and path not in self._drained:
                self._follow(path)
        for path, ring in list(self._rings.items()):
            ring.refresh()
            # Asked before the rest is read: nothing is written by a process that was dead then.
            gone = process_alive(ring.reader.identity) is Liveness.DEAD or ring.reader.state().closed
            if gone:
                while self._read(path, ring, self._clock_ns(), writer_gone=True):
                    self._collect(ring)
                if path in self._rings:
                    self._end(path, ring, process_gone=True)

    def _follow(self, path: Path) -> None:
        try:
            reader = RingReader.open(path)
            progress = self._store.get(reader.identity.instance_id)
            ring = RingFollower(reader, self._assembly, self._host_peaks, progress)
        except BackendError as error:
            logger.warning("%s", error)
            return
        self._rings[path] = ring
        logger.info("following %s (PID %d) from record %d", path.name, ring.pid, reader.cursor)

    def _read(self, path: Path, ring: RingFollower, now_ns: int, writer_gone: bool = False) -> int:
        try:
            return ring.read(READ_RECORDS, now_ns, writer_gone)
        except BackendError as error:
            logger.error("%s", error)
            self._end(path, ring, process_gone=True)
            return 0

    def _end(self, path: Path, ring: RingFollower, process_gone: bool) -> None:
        """Finish a ring: nothing more is read from it."""
        ring.finish(process_gone)
        self._collect(ring)
        self._points += agent_points(ring, self._unix_ns())
        del self._rings[path]
        self._drained[path] = ring
        logger.info("%s: %d records read, %d lost", path.name, ring.records_read, ring.records_lost)

    def _retire(self) -> None:
        """Forget rings whose file is gone; remove those of dead processes once everything of them is delivered."""
        for path, ring in list(self._drained.items()):
            removed = remove_ring(path)
            if not removed and path.exists():
                continue
            self._retired_read += ring.records_read
            self._retired_lost += ring.records_lost
            self._retired_unusable += ring.unusable_requests
            ring.reader.close()
            self._store.forget(ring.reader.identity.instance_id)
            del self._drained[path]

    # --- Export --------------------------------------------------------------------------------------------

    def _collect(self, ring: RingFollower) -> None:
        self._take(ring)
        if len(self._spans) >= self._settings.batch_spans:
            self._flush()

    def _take(self, ring: RingFollower) -> None:
        self._spans += ring.spans()
        if self._page is not None:
            for finished in ring.finished:
                self._page.observe(finished)

    def _sample(self, sampling: Sampling) -> None:
        rings = list(self._rings.values())
        now = self._unix_ns()
        points = sampling.sample(rings, self._node, now)
        self._points += points
        for ring in rings:
            self._points += agent_points(ring, now)
        if self._page is not None:
            for hw_id, total_mj in {
                p.sample.hw_id: p.sample.value for p in points if p.sample.cumulative
            }.items():
                self._page.add_energy(hw_id or "", int(total_mj))

    def _flush(self) -> None:
        """Hand everything collected to the destinations, then note the progress that it stands for."""
        rings = (*self._rings.values(), *self._drained.values())
        for ring in rings:
            self._take(ring)  # progress is only true of a ring whose spans are all here
        size = self._settings.batch_spans
        metrics = metrics_data(self._points, self._started_unix_ns)
        chunks = [self._spans[at : at + size] for at in range(0, len(self._spans), size)]
        self._spans, self._points = [], []
        if metrics is not None and not chunks:
            chunks = [[]]
        for position, chunk in enumerate(chunks):
            self._batches += 1
            batch = Batch(self._batches, chunk, metrics if position == 0 else None)
            for destination in self._destinations:
                destination.submit(batch)
        progress = {ring.reader.identity.instance_id: ring.progress() for ring in rings}
        self._unsettled.append((self._batches, progress))
        self._settle()
        self._refresh_page()

    def _settle(self) -> None:
        """Store the newest progress that every destination has settled."""
        settled = min((d.outbox.settled() for d in self._destinations), default=self._batches)
        reached: dict[str, Progress] | None = None
        while self._unsettled and self._unsettled[0][0] <= settled:
            reached = self._unsettled.popleft()[1]
        if reached is None:
            return
        try:
            if reached != self._stored:
                self._store.save(reached)
                self._stored = reached
            self._store_failed = False
        except BackendError as error:
            if not self._store_failed:
                logger.error("%s", error)
            self._store_failed = True
        if not self._unsettled:
            self._retire()

    def _refresh_page(self) -> None:
        page = self._page
        if page is None:
            return
        rings = (*self._rings.values(), *self._drained.values())
        held = [kv for kv in (ring.kv_bytes() for ring in self._rings.values()) if kv is not None]
        if held:
            page.set_kv_bytes(sum(visual for visual, _ in held), sum(other for _, other in held))
        page.rings.set(len(self._rings))
        page.open_requests.set(sum(ring.open_requests for ring in self._rings.values()))
        outboxes = [destination.outbox for destination in self._destinations]
        page.refresh(
            {
                page.records_read: self._retired_read + sum(ring.records_read for ring in rings),
                page.records_lost: self._retired_lost + sum(ring.records_lost for ring in rings),
                page.requests_unusable: self._retired_unusable
                + sum(ring.unusable_requests for ring in rings),
                page.spans_exported: sum(outbox.spans_delivered for outbox in outboxes),
                page.spans_dropped: sum(outbox.spans_dropped for outbox in outboxes),
            }
        )
