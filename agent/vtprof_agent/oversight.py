"""The agent's eye on itself, about once a second: what it costs, how much detail it can afford, what it tells of that."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from vtprof_agent.agent_state import AgentState, DestinationState, Loss, StateWriter
from vtprof_agent.budget import Budget, release_memory
from vtprof_agent.counters.rolling import CounterState, RollingMeter
from vtprof_agent.export.destination import Destination
from vtprof_agent.follower import RingFollower
from vtprof_agent.metric_points import Point
from vtprof_agent.metrics import series
from vtprof_agent.metrics.series import Series
from vtprof_agent.resource import RingResource
from vtprof_agent.ring_totals import RingTotals
from vtprof_agent.samplers.health import Health
from vtprof_agent.samplers.sampler import Sample
from vtprof_agent.tail_sampling import TailSampling
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

logger = logging.getLogger(__name__)
LOOK_S = 1.0


class Sources(Protocol):
    """What is told of samplers (see ``Sampling``)."""

    def health(self) -> Health:
        """Return what is read, and what is not since when and why."""


@dataclass(frozen=True)
class Losses:
    """What was lost before this agent started: of the rings that an earlier agent followed, and by destinations."""

    totals: RingTotals = field(default_factory=RingTotals)
    spans_dropped: int = 0
    metrics_dropped: int = 0


@dataclass(frozen=True)
class Account:
    """What the loop knows of its own work."""

    totals: RingTotals
    rings: int
    running_requests: int
    held_requests: int
    faults: int
    destinations: Sequence[Destination]
    before: Losses = field(default_factory=Losses)

    @property
    def records_read(self) -> int:
        """Return how many records this agent read that none before it had."""
        return max(0, self.totals.records_read - self.before.totals.records_read)

    def told(self) -> str:
        """Return in a line what was read, delivered and lost since this agent started."""
        read = self.records_read
        lost = self.totals.records_lost - self.before.totals.records_lost
        dropped = sum(one.outbox.spans_dropped for one in self.destinations) - self.before.spans_dropped
        sent = ", ".join(f"{one.outbox.spans_delivered} to {one.target}" for one in self.destinations)
        return f"records: {read} read, {lost or 'none'} lost; spans: {sent}, {dropped or 'none'} dropped"


class Oversight:
    """Keeps the agent within its budget, and tells of it in metrics, in points and to `status`."""

    def __init__(
        self,
        ring_dir: Path,
        version: str,
        budget: Budget,
        *,
        meter: RollingMeter | None = None,
        tail: TailSampling | None = None,
        sources: Sources | None = None,
        spool_limit_bytes: int | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Begin to count the agent's own cost; ``spool_limit_bytes`` is None without a spool."""
        self.budget = budget
        self._version = version
        self._meter, self._tail, self._sources = meter, tail, sources
        self._spool_limit_bytes = spool_limit_bytes
        self._writer = StateWriter(ring_dir, clock_ns, unix_ns)
        self._unix_ns = unix_ns
        self._losses: dict[str, Loss] = {}
        self._refused: tuple[int, ...] = ()
        self._own = psutil.Process()
        self._started_unix_ns = unix_ns()
        self._rss_bytes = 0
        self._next_ns = 0
        self._state_failed = False

    @property
    def level(self) -> int:
        """Return the level of detail in force."""
        return self.budget.level

    def look(self, now_ns: int, rings: Sequence[RingFollower]) -> None:
        """Judge what was spent, about once a second, and have the rings recorded and folded as can be afforded."""
        if now_ns < self._next_ns:
            return
        self._next_ns = now_ns + int(LOOK_S * NS_PER_S)
        times = self._own.cpu_times()
        self._rss_bytes = self._own.memory_info().rss
        spent_ns = {ring.reader.path.name: ring.state.probe_ns for ring in rings}
        verdict = self.budget.look(now_ns, times.user + times.system, self._rss_bytes, spent_ns)
        if verdict.said is not None:
            logger.warning("%s", verdict.said)
        if verdict.drop_caches:
            release_memory()
        for ring in rings:
            if ring.detail != verdict.level:
                ring.set_detail(verdict.level)
        self._refused = tuple(sorted({ring.pid for ring in rings if ring.detail_refused}))

    def points(self, node: RingResource, account: Account, unix_ns: int) -> list[Point]:
        """Return the agent's cost and losses as metric points of its own resource."""
        totals = {
            names.AGENT_SPANS_DROPPED: _spans_dropped(account.destinations),
            names.AGENT_REQUESTS_SAMPLED_OUT: self._left_out,
        }
        levels: dict[str, int | float] = {
            names.AGENT_CPU_RATIO: self.budget.cpu_ratio,
            names.AGENT_RSS_BYTES: self._rss_bytes,
            names.AGENT_PROBE_RATIO: self.budget.probe_ratio,
            names.AGENT_DETAIL: self.level,
            names.AGENT_SPOOL_BYTES: _spooled_bytes(account.destinations),
        }
        samples = [Sample(key, total, cumulative=True) for key, total in totals.items()]
        samples += [Sample(key, level) for key, level in levels.items()]
        return [Point(node, sample, unix_ns) for sample in samples]

    def totals(self) -> dict[Series, float]:
        """Return running totals for the metrics."""
        return {series.REQUESTS_SAMPLED_OUT: self._left_out}

    def states(self, destinations: Sequence[Destination]) -> dict[Series, float | None]:
        """Return present states for the metrics."""
        health = self._health()
        return {
            series.SAMPLERS_LOST: sum(one.reason is not None and one.missed for one in health.samplers),
            series.GPUS_LOST: sum(gpu.reason is not None for gpu in health.gpus),
            series.DETAIL: self.level,
            series.PROBE_RATIO: self.budget.probe_ratio,
            series.SPOOL_BYTES: _spooled_bytes(destinations),
            series.SPOOL_LIMIT: self._spool_limit_bytes,
        }

    def tell(self, account: Account) -> None:
        """Write the state for `status`, every other second; a folder that takes no file is said once."""
        self._note(account)
        try:
            if self._writer.write(lambda: self._state(account)):
                self._state_failed = False
        except OSError as error:
            if not self._state_failed:
                logger.error("the agent's state cannot be written: %s; `status` will not show it", error)
            self._state_failed = True

    def close(self) -> None:
        """Remove the state: no agent runs here any more."""
        try:
            self._writer.close()
        except OSError as error:
            logger.error("the agent's state cannot be removed: %s", error)

    def _note(self, account: Account) -> None:
        """Note which losses have grown."""
        totals, before = account.totals, account.before
        metrics_dropped = sum(one.outbox.metrics_dropped for one in account.destinations)
        counts = {
            "records lost in rings": (totals.records_lost, before.totals.records_lost),
            "records that a probe could not write": (totals.records_dropped, before.totals.records_dropped),
            "exceptions in a probe's hooks": (totals.hook_errors, before.totals.hook_errors),
            "requests without their arrival": (totals.requests_unusable, before.totals.requests_unusable),
            "spans dropped": (_spans_dropped(account.destinations), before.spans_dropped),
            "batches of metrics dropped": (metrics_dropped, before.metrics_dropped),
            "faults of the agent's own survived": (account.faults, 0),
        }
        for what, (count, earlier) in counts.items():
            known = self._losses.get(what, Loss(what, 0))
            grown = count - earlier > known.count - known.before
            last = self._unix_ns() if grown else known.last_unix_ns
            self._losses[what] = Loss(what, max(count, known.count), last, earlier)

    def _health(self) -> Health:
        return Health() if self._sources is None else self._sources.health()

    @property
    def _left_out(self) -> int:
        return 0 if self._tail is None else self._tail.left_out

    def _state(self, account: Account) -> AgentState:
        attribution: tuple[CounterState, ...] = () if self._meter is None else self._meter.state()
        health = self._health()
        return AgentState(
            pid=os.getpid(),
            version=self._version,
            started_unix_ns=self._started_unix_ns,
            cpu_ratio=self.budget.cpu_ratio,
            rss_bytes=self._rss_bytes,
            probe_ratio=self.budget.probe_ratio,
            detail=self.level,
            detail_reason=self.budget.reason,
            detail_seconds=dict(self.budget.seconds),
            destinations=tuple(_destination(one) for one in account.destinations),
            samplers=health.samplers,
            gpus=health.gpus,
            attribution=attribution,
            rings=account.rings,
            records_read=account.totals.records_read,
            records_read_before=account.before.totals.records_read,
            records_lost=account.totals.records_lost,
            open_requests=account.running_requests,
            held_requests=account.held_requests,
            keep_ratio=1.0 if self._tail is None else self._tail.keep_ratio,
            requests_sampled_out=self._left_out,
            faults=account.faults,
            losses=tuple(self._losses.values()),
            detail_refused=self._refused,
        )


def _spans_dropped(destinations: Sequence[Destination]) -> int:
    return sum(one.outbox.spans_dropped for one in destinations)


def _spooled_bytes(destinations: Sequence[Destination]) -> int:
    return sum(one.spool_bytes or 0 for one in destinations)


def _destination(one: Destination) -> DestinationState:
    outbox = one.outbox
    return DestinationState(
        one.target,
        outbox.spans_delivered,
        outbox.spans_dropped,
        outbox.metrics_dropped,
        one.spool_bytes,
        one.problem,
    )
