"""The ledger of a destination that keeps everything in memory: what a test submits is delivered at once."""

from typing import Protocol

from vtprof_agent.export.destination import Batch, Outcome


class Keeper(Protocol):
    """Takes a batch."""

    def send(self, batch: Batch) -> Outcome: ...


class Outbox:
    """Hands every batch to its keeper."""

    def __init__(self, keeper: Keeper, capacity: int = 8) -> None:
        self.spans_delivered = 0
        self.spans_dropped = 0
        self.metrics_dropped = 0
        self._keeper = keeper
        self._settled = 0

    def put(self, batch: Batch) -> None:
        assert self._keeper.send(batch) is Outcome.DELIVERED
        self.spans_delivered += len(batch.spans)
        self._settled = batch.number

    def pump(self) -> bool:
        return True

    def inherit(self, spans: int, metrics: int) -> None:
        self.spans_dropped += spans
        self.metrics_dropped += metrics

    def losses(self) -> tuple[int, int]:
        return self.spans_dropped, self.metrics_dropped

    def losses_stored(self) -> None:
        return

    def settled(self) -> int:
        return self._settled
