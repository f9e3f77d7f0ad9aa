"""All that the agent tells beside spans: its metrics, the points of its samplers, what it costs and how far it came."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial

from opentelemetry.sdk.metrics.export import MetricsData

from vtprof_agent.config import without_secrets
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.faults import Faults
from vtprof_agent.follower import RingFollower
from vtprof_agent.idle_power_store import IdlePowerStore
from vtprof_agent.metric_points import Point, metrics_data
from vtprof_agent.metrics import series
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.metrics.otel import attributed_metrics, registry_metrics, with_metrics
from vtprof_agent.metrics.series import Series
from vtprof_agent.oversight import Account, Oversight
from vtprof_agent.resource import RingResource
from vtprof_agent.sampling import Sampling, agent_points
from vtprof_schemas import records
from vtprof_schemas.units import NS_PER_S

logger = logging.getLogger(__name__)


class Observer:
    """Tells; whatever fails in it costs neither the rings nor the spans."""

    def __init__(
        self,
        node: RingResource,
        metrics: Metrics,
        *,
        sampling: Sampling | None = None,
        sample_s: float = 1.0,
        series_s: float = 15.0,
        meter: RollingMeter | None = None,
        oversight: Oversight | None = None,
        idle_power: IdlePowerStore | None = None,
        started_unix_ns: int = 0,
    ) -> None:
        """Sample each ``sample_s``; points and metrics leave each ``series_s``, or for 0 points at once and metrics never.

        Together, because what is around a point (its resource, its metric) costs several times as much as the point.
        """
        self._node, self._metrics = node, metrics
        self._sampling, self._meter, self._oversight = sampling, meter, oversight
        self._sample_ns, self._series_ns = int(sample_s * NS_PER_S), int(series_s * NS_PER_S)
        self._started_unix_ns, self._idle_power = started_unix_ns, idle_power
        self._next_sample_ns = self._next_series_ns = 0
        self._waiting: list[Point] = []
        self._account: Account | None = None
        self._faults = Faults()

    @property
    def faults(self) -> int:
        """Return how many faults of its own it survived."""
        return self._faults.count + self._sampler_faults

    def follow(self, ring: RingFollower) -> None:
        """Have a ring that is new to this agent recorded and folded at the level in force."""
        if self._oversight is not None and ring.detail != self._oversight.level:
            ring.set_detail(self._oversight.level)

    def finished(self, ring: RingFollower) -> None:
        """Count the requests that a ring has just finished."""
        for finished in ring.finished:
            self._metrics.observe(finished, ring.trace(finished))

    def turn(self, now_ns: int, told_ns: int, unix_ns: int, rings: Sequence[RingFollower]) -> list[Point]:
        """Do what is due in a turn of the loop; return the points that it gave.

        ``told_ns``: all that the rings held by then has been used.
        """
        if self._meter is not None:
            self._faults.guard("attributing", partial(self._meter.advance, told_ns))
        if self._oversight is not None:
            self._faults.guard("keeping the budget", partial(self._oversight.look, now_ns, rings))
        if self._idle_power is not None:
            self._faults.guard("storing idle power", partial(self._idle_power.look, now_ns))
        points: list[Point] = []
        if self._sample_ns and now_ns >= self._next_sample_ns:
            self._next_sample_ns = now_ns + self._sample_ns
            self._faults.guard("sampling", partial(self._sample, unix_ns, rings, points))
        return points

    def data(
        self, points: Sequence[Point], now_ns: int, unix_ns: int, *, last: bool = False
    ) -> MetricsData | None:
        """Return what leaves beside the spans when it is time or the ``last``: the points so far and the metrics."""
        self._waiting += points
        if now_ns < self._next_series_ns and not last:
            return None
        data = metrics_data(self._waiting, self._started_unix_ns)
        self._waiting = []
        if not self._series_ns:
            return data
        self._next_series_ns = now_ns + self._series_ns
        ours = registry_metrics(self._metrics.registry, self._started_unix_ns, unix_ns)
        if self._meter is not None:
            ours += attributed_metrics(self._meter.totals(), self._started_unix_ns, unix_ns)
        return with_metrics(data, self._node, ours)

    def refresh(self, account: Account, followed: Sequence[RingFollower], feeds: Mapping[str, int]) -> None:
        """Bring the metrics and the state for `status` up to date."""
        self._account = account
        more: dict[Series, float] = {series.SAMPLER_FAULTS: self._sampler_faults}
        states: dict[Series, float | None] = {}
        if self._oversight is not None:
            more |= self._oversight.totals()
            states = self._oversight.states(account.destinations)
            self._faults.guard("telling `status`", partial(self._oversight.tell, account))
        self._metrics.kv_bytes(_kv_held(followed))
        self._metrics.delivered(
            {
                without_secrets(one.target): (
                    one.outbox.spans_delivered,
                    one.outbox.spans_dropped,
                    one.outbox.metrics_dropped,
                )
                for one in account.destinations
            }
        )
        self._metrics.refresh(_totals(account, feeds) | more, _states(account) | states)
        if self._meter is not None:
            self._metrics.attributed(self._meter.totals(), self._meter.state())

    def leave(self, ring: RingFollower) -> None:
        """Let a process that lives on record everything again: nobody follows its ring any more."""
        if ring.detail != records.DETAIL_DEFAULT:
            ring.set_detail(records.DETAIL_DEFAULT)

    def close(self) -> None:
        """Stop the samplers, store what they told of idle power, tell `status` no more, and say what was done."""
        if self._oversight is not None:
            self._oversight.close()
        if self._sampling is not None:
            self._sampling.close()
        if self._idle_power is not None:
            self._faults.guard("storing idle power", self._idle_power.close)
        if self._account is not None:
            logger.info("stopped; %s", self._account.told())

    @property
    def _sampler_faults(self) -> int:
        return self._sampling.faults if self._sampling is not None else 0

    def _sample(self, unix_ns: int, rings: Sequence[RingFollower], points: list[Point]) -> None:
        for ring in rings:
            points += agent_points(ring, unix_ns)
        if self._oversight is not None and self._account is not None:
            points += self._oversight.points(self._node, self._account, unix_ns)
        if self._sampling is not None:
            sampled = self._sampling.sample(rings, self._node, unix_ns)
            points += sampled
            self._metrics.gpu(sampled)


def _totals(account: Account, feeds: Mapping[str, int]) -> dict[Series, float]:
    """Return running totals: what was lost over all agents, for no loss may be missed, and all else of this agent."""
    totals = account.totals
    return {
        series.RECORDS_READ: account.records_read,
        series.RECORDS_LOST: totals.records_lost,
        series.RECORDS_DROPPED: totals.records_dropped,
        series.HOOK_ERRORS: totals.hook_errors,
        series.REQUESTS_UNUSABLE: totals.requests_unusable,
        series.FAULTS: account.faults,
        **{counter: feeds.get(name, 0) for name, counter in series.FEEDS.items()},
    }


def _states(account: Account) -> dict[Series, float | None]:
    return {
        series.RINGS: account.rings,
        series.OPEN_REQUESTS: account.running_requests,
        series.HELD_REQUESTS: account.held_requests,
    }


def _kv_held(followed: Sequence[RingFollower]) -> dict[str, tuple[int, int] | None]:
    """Return by model the bytes held by visual and by other tokens; None: its requests run, and no ring knows."""
    found: dict[str, tuple[int, int] | None] = {}
    for ring in followed:
        held, before = ring.kv_bytes(), found.setdefault(ring.model, None)
        if held is not None:
            found[ring.model] = held if before is None else (before[0] + held[0], before[1] + held[1])
    return found
