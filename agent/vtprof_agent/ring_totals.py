"""Sums over rings: what the agent read and lost of them, and what their probes say of themselves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vtprof_agent.export.destination import Outbox
from vtprof_agent.export.prometheus import PrometheusPage
from vtprof_agent.follower import RingFollower


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
    page: PrometheusPage,
    followed: Sequence[RingFollower],
    totals: RingTotals,
    outboxes: Sequence[Outbox],
    faults: int,
    feeds: Mapping[str, int],
) -> None:
    """Bring the metrics page up to date: what the rings followed now hold, all totals, and the counts of feeds."""
    held = [kv for kv in (ring.kv_bytes() for ring in followed) if kv is not None]
    if held or not followed:
        page.set_kv_bytes(sum(visual for visual, _ in held), sum(other for _, other in held))
    else:
        page.forget_kv_bytes()
    page.rings.set(len(followed))
    page.open_requests.set(sum(ring.open_requests for ring in followed))
    page.refresh(
        {
            page.records_read: totals.records_read,
            page.records_lost: totals.records_lost,
            page.records_dropped: totals.records_dropped,
            page.hook_errors: totals.hook_errors,
            page.requests_unusable: totals.requests_unusable,
            page.spans_exported: sum(outbox.spans_delivered for outbox in outboxes),
            page.spans_dropped: sum(outbox.spans_dropped for outbox in outboxes),
            page.metrics_dropped: sum(outbox.metrics_dropped for outbox in outboxes),
            page.faults: faults,
            **{counter: feeds.get(name, 0) for name, counter in page.feed_counts.items()},
        }
    )
