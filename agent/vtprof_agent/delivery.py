"""Hands finished spans to the destinations in batches, and stores the progress they stand for once all have settled it.

What the destinations lost is stored with it, so that a kill takes neither a span nor the count of one.
"""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial

from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.export.destination import Batch, Destination
from vtprof_agent.faults import Faults
from vtprof_agent.follower import Progress
from vtprof_agent.progress_store import ProgressStore
from vtprof_schemas.errors import BackendError

logger = logging.getLogger(__name__)


class Delivery:
    """The destinations of an agent, and what it may forget."""

    def __init__(
        self, destinations: Sequence[Destination], store: ProgressStore, batch_spans: int, faults: Faults
    ) -> None:
        """Start with nothing handed over."""
        self.destinations = destinations
        self._store = store
        self._batch_spans = batch_spans
        self._faults = faults
        self._batches = 0
        self._unsettled: deque[tuple[int, Mapping[str, Progress]]] = deque()
        self._stored: Mapping[str, Progress] = {}
        self._store_failed = False
        for destination in destinations:
            destination.outbox.inherit(*store.lost(destination.target))
        self.dropped_before = (
            sum(one.outbox.spans_dropped for one in destinations),
            sum(one.outbox.metrics_dropped for one in destinations),
        )
        """Spans and batches of metric points that were lost under earlier agents."""
        self._losses_stored = {one.target: store.lost(one.target) for one in destinations}

    def submit(self, spans: Sequence[ReadableSpan], metrics: MetricsData | None, from_rings: int = 0) -> None:
        """Hand spans, of which the first so many come ``from_rings``, and metrics to every destination."""
        size = self._batch_spans
        chunks = [spans[at : at + size] for at in range(0, len(spans), size)]
        if metrics is not None and not chunks:
            chunks = [[]]
        for position, chunk in enumerate(chunks):
            self._batches += 1
            again = min(len(chunk), max(0, from_rings - position * size))
            batch = Batch(self._batches, chunk, metrics if position == 0 else None, again)
            for destination in self.destinations:
                self._faults.guard("exporting", partial(destination.submit, batch))

    def reached(self, progress: Mapping[str, Progress]) -> None:
        """Note the progress that everything handed over so far stands for."""
        self._unsettled.append((self._batches, progress))

    def settle(self) -> bool:
        """Store the newest progress that every destination has settled; True when nothing else is under way."""
        settled = min((d.outbox.settled() for d in self.destinations), default=self._batches)
        reached: Mapping[str, Progress] | None = None
        while self._unsettled and self._unsettled[0][0] <= settled:
            reached = self._unsettled.popleft()[1]
        self._save(self._stored if reached is None else reached)
        return reached is not None and not self._unsettled

    def _save(self, reached: Mapping[str, Progress]) -> None:
        # Asked after what is settled: whatever was dropped to settle it is among them.
        losses = {one.target: one.outbox.losses() for one in self.destinations}
        try:
            if reached != self._stored or losses != self._losses_stored:
                self._store.save(reached, losses)
                self._stored, self._losses_stored = reached, losses
            for one in self.destinations:
                one.outbox.losses_stored()
            self._store_failed = False
        except BackendError as error:
            if not self._store_failed:
                logger.error("%s", error)
            self._store_failed = True

    def close(self, timeout_s: float, *, last: bool = False) -> None:
        """Close the destinations, each within a time; ``last``: nobody reads the rings after us."""
        for destination in self.destinations:
            self._faults.guard("closing a destination", partial(destination.close, timeout_s, last=last))
