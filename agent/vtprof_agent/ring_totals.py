"""Sums over rings: what the agent read and lost of them, and what their probes say of themselves."""

from collections.abc import Iterable
from dataclasses import dataclass

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
