"""What every destination has in common: it takes numbered batches and says how far it got.

The loop stores a ring's cursor only when every destination has settled the batch that the cursor covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan


class Outcome(Enum):
    """What became of a message that was sent."""

    DELIVERED = "delivered"
    RETRY = "retry"
    """The destination is away: try again later."""
    REFUSED = "refused"
    """The destination will never take this message."""


@dataclass(frozen=True)
class Batch:
    """Spans and metric points that leave together."""

    number: int
    spans: Sequence[ReadableSpan] = ()
    metrics: MetricsData | None = None
    again: int = 0
    """Of the spans, those from rings: while the batch is not settled the next agent reads them again."""


class Ledger(Protocol):
    """What a destination says of what it was given."""

    @property
    def spans_delivered(self) -> int:
        """Spans that arrived."""

    @property
    def spans_dropped(self) -> int:
        """Spans that will not arrive, those of earlier agents on the same rings among them."""

    @property
    def metrics_dropped(self) -> int:
        """Batches of metric points that will not arrive."""

    def inherit(self, spans: int, metrics: int) -> None:
        """Go on counting from what was lost up to the end of the last agent."""

    def losses(self) -> tuple[int, int]:
        """Return the spans and batches of metric points lost up to now, to be stored."""

    def losses_stored(self) -> None:
        """Note that what ``losses`` returned last is stored, so that traces of it may go."""

    def settled(self) -> int:
        """Return the number of the newest batch that, with all before it, needs nothing more of the agent."""


class Destination(Protocol):
    """Takes batches and says how far it got."""

    @property
    def outbox(self) -> Ledger:
        """The batches it was given."""

    @property
    def target(self) -> str:
        """Where it delivers to, as it may be shown."""

    @property
    def spool_bytes(self) -> int | None:
        """What waits on disk; None without a spool."""

    @property
    def problem(self) -> str | None:
        """Why nothing can be delivered at present; None while it can."""

    def submit(self, batch: Batch) -> None:
        """Take a batch; does not wait for a slow network."""

    def close(self, timeout_s: float, *, last: bool = False) -> None:
        """Deliver what waits, within the time, and release everything; ``last``: nobody reads the rings after us."""
