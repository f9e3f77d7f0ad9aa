"""Sums over rings: what the agent read and lost of them, and what their probes say of themselves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vtprof_agent.export.destination import Ledger
from vtprof_agent.follower import RingFollower
from vtprof_agent.metrics import series
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.metrics.series import Series


@dataclass
class RingTotals:
    """Running totals over rings, those of ended processes included."""

    records_read: int = 0
    records_lost: int = 0
    records_dropped: int = 0
    hook_errors: int = 0
    requests_unusable: int = 0

    def add(self, ring: RingFollower) -> None:
        """Add a ring as it stands."""
        self.records_read += ring.records_read
        self.records_lost += ring.records_lost
        self.records_dropped += ring.state.dropped
        self.hook_errors += ring.state.hook_errors
        self.requests_unusable += ring.unusable_requests

    def plus(self, rings: Iterable[RingFollower]) -> "RingTotals":
        """Return these totals with more rings in them."""
        totals = RingTotals(**vars(self))
        for ring in rings:
            totals.add(ring)
        return totals


def show(
    metrics: Metrics,
    followed: Sequence[RingFollower],
    totals: RingTotals,
    outboxes: Sequence[Ledger],
    faults: int,
    feeds: Mapping[str, int],
    more: Mapping[Series, float] | None = None,
    states: Mapping[Series, float | None] | None = None,
) -> None:
    """Bring the metrics up to date: what the rings followed hold, all totals, and the counts of feeds.

    ``more`` are further running totals, ``states`` further gauges, None for what is not known.
    """
    held = [kv for kv in (ring.kv_bytes() for ring in followed) if kv is not None]
    known = bool(held) or not followed
    metrics.kv_bytes((sum(visual for visual, _ in held), sum(other for _, other in held)) if known else None)
    metrics.refresh(
        {
            series.RECORDS_READ: totals.records_read,
            series.RECORDS_LOST: totals.records_lost,
            series.RECORDS_DROPPED: totals.records_dropped,
            series.HOOK_ERRORS: totals.hook_errors,
            series.REQUESTS_UNUSABLE: totals.requests_unusable,
            series.SPANS_EXPORTED: sum(outbox.spans_delivered for outbox in outboxes),
            series.SPANS_DROPPED: sum(outbox.spans_dropped for outbox in outboxes),
            series.METRICS_DROPPED: sum(outbox.metrics_dropped for outbox in outboxes),
            series.FAULTS: faults,
            **{counter: feeds.get(name, 0) for name, counter in series.FEEDS.items()},
            **(more or {}),
        },
        {
            series.RINGS: len(followed),
            series.OPEN_REQUESTS: sum(ring.open_requests for ring in followed),
            **(states or {}),
        },
    )
