"""What waits for an endpoint: messages in memory, and before them those in the spool; in order, none lost uncounted.

A batch is settled, so that the cursor of its ring may move on, when it was delivered, lies in the spool, or was dropped.
"""

import logging
import threading
from collections import deque

from vtprof_agent.export.destination import Outcome
from vtprof_agent.export.parcel import Encoded, Parcel, Signal
from vtprof_agent.export.segment import Loss
from vtprof_agent.export.spool import Spool
from vtprof_agent.export.transport import Answer

logger = logging.getLogger(__name__)
LITTLE_BEHIND = 8
"""So many messages may wait in memory while the endpoint takes them; beyond that they go to the spool."""
MEMORY_BYTES = 16 * 1024 * 1024
"""Of messages in memory at most, whatever their number."""


class Backlog:
    """The queue between the agent's loop, which puts, and the thread that delivers."""

    def __init__(self, capacity: int, spool: Spool | None = None, memory_bytes: int = MEMORY_BYTES) -> None:
        """Keep at most ``capacity`` batches in memory, and all others in the spool, where there is one."""
        self.spans_delivered = 0
        self.messages_replayed = 0
        """Messages delivered out of the spool."""
        self.left_in_rings = 0
        """Spans that the stop left to be read again by the next agent."""
        self._spool = spool
        self._capacity = capacity
        self._memory_bytes = memory_bytes
        self._waiting: deque[Parcel] = deque()
        self._bytes = 0
        self._newest = 0
        self._settled_at_close: int | None = None
        self._sending: Parcel | None = None
        self._lost = Loss()
        self._notes_told = 0
        self._away = False
        self._spool_failed = False
        self._lock = threading.Lock()

    @property
    def spans_dropped(self) -> int:
        """Spans that will not arrive."""
        with self._lock:
            return self._total_lost().spans

    @property
    def metrics_dropped(self) -> int:
        """Batches of metric points that will not arrive."""
        with self._lock:
            return self._total_lost().metrics

    def inherit(self, spans: int, metrics: int) -> None:
        """Go on counting from what was lost up to the end of the last agent."""
        with self._lock:
            self._lost.spans += spans
            self._lost.metrics += metrics

    def losses(self) -> tuple[int, int]:
        """Return the spans and batches of metric points lost up to now, to be stored."""
        with self._lock:
            self._notes_told = 0 if self._spool is None else self._spool.noted()
            total = self._total_lost()
            return total.spans, total.metrics

    def losses_stored(self) -> None:
        """Note that what ``losses`` returned last is stored, so that traces of it may go."""
        with self._lock:
            if self._spool is not None:
                self._spool.forget_notes(self._notes_told)
                self._notes_told = 0

    @property
    def spool_bytes(self) -> int:
        """Return how much waits on disk."""
        with self._lock:
            return self._spool.bytes if self._spool else 0

    @property
    def spool_messages(self) -> int:
        """Return how many messages wait on disk."""
        with self._lock:
            return self._spool.messages if self._spool else 0

    @property
    def spools(self) -> bool:
        """Whether there is a spool."""
        return self._spool is not None

    def put(self, encoded: Encoded) -> None:
        """Add a batch behind all others; may write to the spool, and drops the oldest where there is no more room."""
        with self._lock:
            assert self._settled_at_close is None, "closed"
            self._lost.spans += encoded.spans_refused
            self._lost.metrics += encoded.metrics_refused
            self._newest = max(self._newest, encoded.number)
            self._waiting += encoded.parcels
            self._bytes += sum(len(parcel.payload) for parcel in encoded.parcels)
            if self._away or len(self._waiting) > LITTLE_BEHIND:
                self._spill()
            self._bound()

    def take(self) -> Parcel | None:
        """Return the oldest message, to be sent; it stays until ``done`` says what became of it."""
        with self._lock:
            self._sending = self._oldest()
            return self._sending

    def done(self, parcel: Parcel, answer: Answer) -> None:
        """Note what became of a message that was taken."""
        with self._lock:
            self._sending = None
            if self._settled_at_close is not None:
                return  # it was left to the next agent, or counted
            still_here = self._oldest() is parcel
            self._away = answer.outcome is Outcome.RETRY
            if not self._away:
                self._count(parcel, answer)
                if still_here:
                    self._pass(parcel, answer)
            elif still_here:
                self._spill()
            else:  # dropped for want of room while it was sent
                self._lost.add(parcel.signal, parcel.spans)

    def settled(self) -> int:
        """Return the number of the newest batch that, with all before it, is delivered, in the spool, or dropped."""
        with self._lock:
            if self._settled_at_close is not None:
                return self._settled_at_close
            return self._settled()

    def close(self, *, last: bool = False) -> int:
        """Leave what waits to the next agent in the spool; drop the rest and return how many spans that lost.

        Spans that the next agent reads again from rings are not: ``left_in_rings``. After the ``last`` there is none.
        """
        with self._lock:
            self._spill()
            self._settled_at_close = self._settled()
            rest = Loss()
            for parcel in self._waiting:
                again = 0 if last else parcel.again
                rest.add(parcel.signal, parcel.spans - again)
                self.left_in_rings += again
            self._lost.spans += rest.spans
            self._lost.metrics += rest.metrics
            self._waiting.clear()
            self._bytes = 0
            if self._spool is not None:
                self._spool.close()
            return rest.spans

    def _total_lost(self) -> Loss:
        spooled = Loss() if self._spool is None else self._spool.lost
        return Loss(self._lost.spans + spooled.spans, self._lost.metrics + spooled.metrics)

    def _settled(self) -> int:
        return self._waiting[0].number - 1 if self._waiting else self._newest

    def _oldest(self) -> Parcel | None:
        spooled = self._spool.head() if self._spool is not None else None
        return spooled or (self._waiting[0] if self._waiting else None)

    def _pass(self, parcel: Parcel, answer: Answer) -> None:
        if self._waiting and self._waiting[0] is parcel:
            self._waiting.popleft()
            self._bytes -= len(parcel.payload)
        elif self._spool is not None:
            self._spool.advance()
            self.messages_replayed += answer.outcome is Outcome.DELIVERED

    def _count(self, parcel: Parcel, answer: Answer) -> None:
        if answer.outcome is not Outcome.DELIVERED:
            self._lost.add(parcel.signal, parcel.spans)
        elif parcel.signal is Signal.TRACES:
            rejected = min(answer.rejected, parcel.spans)
            self.spans_delivered += parcel.spans - rejected
            self._lost.spans += rejected

    def _spill(self) -> None:
        """Move what is in memory to the spool, as far as the disk takes it."""
        spool = self._spool
        if spool is None:
            return
        while self._waiting:
            parcel = self._waiting[0]
            try:
                spool.append(parcel)
            except OSError as error:
                self._spare_sent(spool)
                if not self._spool_failed:
                    logger.error(
                        "%s: cannot write (%s); batches wait in memory", spool.folder, error.strerror
                    )
                self._spool_failed = True
                return
            self._waiting.popleft()
            self._bytes -= len(parcel.payload)
            self._spare_sent(spool)
        if self._spool_failed:
            logger.info("%s: can write again", spool.folder)
        self._spool_failed = False

    def _spare_sent(self, spool: Spool) -> None:
        """Do not count as lost what is being sent and went with the oldest segment: its answer will say."""
        if self._sending is not None and spool.spare(self._sending):
            self._sending = None

    def _bound(self) -> None:
        """Drop the oldest batches in memory beyond the limits."""
        while self._waiting and (
            self._waiting[-1].number - self._waiting[0].number >= self._capacity
            or self._bytes > self._memory_bytes
        ):
            lost = self._waiting.popleft()
            self._bytes -= len(lost.payload)
            if lost is self._sending:
                self._sending = None  # its answer says whether it was lost
            else:
                self._lost.add(lost.signal, lost.spans)
