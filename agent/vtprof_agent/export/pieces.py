"""Sends a message that is too large for the endpoint in halves, and those in halves, until they are taken."""

import logging
from collections.abc import Callable

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from vtprof_agent.export.destination import Outcome
from vtprof_agent.export.parcel import Parcel, Signal, pack
from vtprof_agent.export.transport import Answer

logger = logging.getLogger(__name__)
MOST_ALONE = 8
"""After so many spans or metrics in a row that are too large each by itself, the rest of a message is not tried."""


class Pieces:
    """What is left to send of one message, over retries: no piece that was taken is sent again."""

    def __init__(self, target: str, send: Callable[[Parcel], Answer]) -> None:
        """Send by the ``send`` of a transport; ``target`` is for the log."""
        self._target, self._send = target, send
        self._whole: Parcel | None = None
        self._left: list[Parcel] = []
        """The next one last."""
        self._taken = False
        self._rejected = self._alone = 0
        self._reason = ""
        """Of the last piece that was refused."""
        self._said = False

    def send(self, parcel: Parcel, broken_off: Callable[[], bool]) -> Answer:
        """Send a message and say what became of it as a whole; it takes at most twice as many calls as it has spans."""
        if parcel is not self._whole:
            self._whole, self._left = parcel, [parcel]
            self._taken, self._rejected, self._alone, self._reason = False, 0, 0, ""
        while True:
            answer = self._send(self._left[-1])
            if answer.outcome is Outcome.RETRY:
                return answer
            piece = self._left.pop()
            if piece is parcel and not (answer.too_large and self._halve(piece)):
                self._whole = None
                return answer
            if piece is not parcel:
                self._note(piece, answer)
            if not self._left:
                return self._result(parcel)
            if broken_off():
                return Answer(Outcome.RETRY, "the agent stops")

    def _note(self, piece: Parcel, answer: Answer) -> None:
        if answer.outcome is Outcome.DELIVERED:
            self._taken, self._alone = True, 0
            self._rejected += min(answer.rejected, piece.spans)
            self._reason = answer.reason or self._reason
        elif not (answer.too_large and self._halve(piece)):
            self._refuse(piece, answer)
            self._alone += answer.too_large
            if self._alone >= MOST_ALONE:
                while self._left:
                    self._refuse(self._left.pop(), answer)

    def _refuse(self, piece: Parcel, answer: Answer) -> None:
        self._rejected += max(1, piece.spans)
        self._reason = answer.reason

    def _halve(self, piece: Parcel) -> bool:
        """Put two halves in the place of a piece that was refused; False when it has no halves."""
        found = halves(piece)
        if found is None:
            return False
        if not self._said:
            self._said = True
            logger.warning(
                "%s: a message is too large for it; sending it in halves: raise its limit, or set a smaller batch_spans",
                self._target,
            )
        self._left += reversed(found)
        return True

    def _result(self, parcel: Parcel) -> Answer:
        self._whole = None
        # Batches of metric points are counted as a whole: one of which a part was refused did not arrive.
        refused = not self._taken or (parcel.signal is Signal.METRICS and self._rejected)
        if refused:
            return Answer(Outcome.REFUSED, self._reason, too_large=True)
        return Answer(Outcome.DELIVERED, self._reason, self._rejected)


def halves(parcel: Parcel) -> tuple[Parcel, Parcel] | None:
    """Return two messages with half the spans or metrics each, in order; None for fewer than two, or none of ours."""
    spans = parcel.signal is Signal.TRACES
    kind = ExportTraceServiceRequest if spans else ExportMetricsServiceRequest
    outer, middle, inner = (
        ("resource_spans", "scope_spans", "spans")
        if spans
        else ("resource_metrics", "scope_metrics", "metrics")
    )
    try:
        whole = kind.FromString(parcel.message())
    except (ValueError, DecodeError):
        return None
    groups = [(one, scope) for one in getattr(whole, outer) for scope in getattr(one, middle)]
    count = sum(len(getattr(scope, inner)) for _, scope in groups)
    if count < 2:
        return None
    parts, left = (kind(), kind()), count // 2
    for resource, scope in groups:
        items = getattr(scope, inner)
        for part, some in zip(parts, (items[:left], items[left:]), strict=True):
            if some:
                made = getattr(part, outer).add(resource=resource.resource, schema_url=resource.schema_url)
                made = getattr(made, middle).add(scope=scope.scope, schema_url=scope.schema_url)
                getattr(made, inner).extend(some)
        left = max(0, left - len(items))
    numbers = (count // 2, count - count // 2) if spans else (0, 0)
    first, second = (
        Parcel(parcel.signal, parcel.number, number, pack(part.SerializeToString()))
        for part, number in zip(parts, numbers, strict=True)
    )
    return first, second
