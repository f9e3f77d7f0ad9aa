"""What every destination does alike: a bounded queue of numbered batches, delivered in order, dropped oldest first.

The loop stores a ring's cursor only when every destination has settled the batch that the cursor covers.
"""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan

logger = logging.getLogger(__name__)


class Outcome(Enum):
    """What became of a batch that was sent."""

    DELIVERED = "delivered"
    SPANS_ONLY = "spans only"
    """The spans are delivered; the destination will never take the metric points."""
    RETRY = "retry"
    """The destination is away: try again later."""
    REFUSED = "refused"
    """The destination will never take this batch."""


@dataclass(frozen=True)
class Batch:
    """Spans and metric points that leave together."""

    number: int
    spans: Sequence[ReadableSpan] = ()
    metrics: MetricsData | None = None


class Sender(Protocol):
    """Delivers one batch."""

    target: str

    def send(self, batch: Batch) -> Outcome:
        """Deliver a batch and say what became of it; raises nothing."""

    def close(self) -> None:
        """Release what the sender holds; a ``send`` under way returns soon."""


class Outbox:
    """The queue in front of one sender."""

    def __init__(self, sender: Sender, capacity: int) -> None:
        """Keep at most ``capacity`` batches that could not be delivered yet."""
        self.sender = sender
        self.spans_delivered = 0
        self.spans_dropped = 0
        self.metrics_dropped = 0
        """Batches of metric points."""
        self._capacity = capacity
        self._waiting: deque[Batch] = deque()
        self._settled = 0
        self._failing = False
        self._metrics_refused = False
        """Ever; a Collector without a metrics pipeline refuses them all."""
        self._lock = threading.Lock()
        self._sending = threading.Lock()

    def put(self, batch: Batch) -> None:
        """Queue a batch; when the queue is full the oldest one is dropped and counted."""
        with self._lock:
            self._waiting.append(batch)
            if len(self._waiting) > self._capacity:
                lost = self._waiting.popleft()
                self._drop(lost)
                self._settled = max(self._settled, lost.number)

    def pump(self) -> bool:
        """Deliver what waits, in order, until the first failure; return whether nothing is left."""
        with self._sending:
            while True:
                with self._lock:
                    if not self._waiting:
                        return True
                    batch = self._waiting[0]
                outcome = self.sender.send(batch)
                self._note(outcome)
                if outcome is Outcome.RETRY:
                    return False
                with self._lock:
                    # While it was sent it may have been dropped as the oldest; then it was counted as lost.
                    if self._waiting and self._waiting[0] is batch:
                        self._waiting.popleft()
                        self._settled = max(self._settled, batch.number)
                        if outcome is Outcome.REFUSED:
                            self._drop(batch)
                        else:
                            self.spans_delivered += len(batch.spans)
                            self.metrics_dropped += outcome is Outcome.SPANS_ONLY

    def settled(self) -> int:
        """Return the number of the newest batch that, with all before it, is delivered or dropped."""
        with self._lock:
            return self._settled

    def _drop(self, batch: Batch) -> None:
        self.spans_dropped += len(batch.spans)
        self.metrics_dropped += batch.metrics is not None

    def _note(self, outcome: Outcome) -> None:
        if outcome is Outcome.REFUSED:
            logger.error("%s: refused a batch; dropped", self.sender.target)
        elif outcome is Outcome.SPANS_ONLY and not self._metrics_refused:
            self._metrics_refused = True
            logger.warning("%s: does not take metric points; dropping and counting them", self.sender.target)
        elif outcome in (Outcome.DELIVERED, Outcome.SPANS_ONLY) and self._failing:
            logger.info("%s: delivering again", self.sender.target)
        elif outcome is Outcome.RETRY and not self._failing:
            logger.warning("%s: cannot deliver; keeping up to %d batches", self.sender.target, self._capacity)
        self._failing = outcome is Outcome.RETRY

    def abandon(self) -> None:
        """Drop and count what still waits: the agent stops and the destination does not answer."""
        with self._lock:
            lost = sum(len(batch.spans) for batch in self._waiting)
            for batch in self._waiting:
                self._drop(batch)
            self._waiting.clear()
        if lost:
            logger.error("%s: %d spans were not delivered", self.sender.target, lost)


class Destination(Protocol):
    """Takes batches and says how far it got."""

    outbox: Outbox

    def submit(self, batch: Batch) -> None:
        """Take a batch; does not wait for a slow network."""

    def close(self, timeout_s: float) -> None:
        """Deliver what waits, within the time, and release everything."""
