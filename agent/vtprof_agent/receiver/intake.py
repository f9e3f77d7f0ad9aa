"""Takes export requests of any transport: parses, decodes, queues within bounds, and says what to answer."""

import threading
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.receiver.decode import Lookup, decode
from vtprof_agent.receiver.gate import Gate
from vtprof_schemas.printable import one_line

MAX_REQUEST_BYTES: Final = 4 << 20
"""Of one request, unpacked, as gRPC and Collectors have it; an exporter's batch of 512 spans is some 0.5 MB."""
MAX_QUEUED_BYTES: Final = 16 << 20
"""Of all requests that wait for the next flush, unpacked; ``gate`` says what they take as objects."""
MAX_QUEUED_SPANS: Final = 65_536
"""The same in spans: bare ones are small on the wire and large as objects."""
OVER_BUDGET: Final = "over the agent's budget of memory or CPU time; try again, with smaller batches"
BUSY_S: Final = 0.5
"""Who is refused hears of it so much later: a sender that tries again at once must not cost more than one we take."""
RECEIVED: Final = "vtprof_agent_otlp_spans_received_total"
REFUSED: Final = "vtprof_agent_otlp_spans_refused_total"
MALFORMED: Final = "vtprof_agent_otlp_requests_malformed_total"
TURNED_AWAY: Final = "vtprof_agent_otlp_requests_turned_away_total"
CONTENTS: Final = "vtprof_agent_otlp_contents_dropped_total"


class Verdict(Enum):
    """What became of a request."""

    TAKEN = "taken"
    MALFORMED = "malformed"
    BUSY = "busy"
    """Too much waits already; the sender may try again."""


@dataclass(frozen=True)
class Answer:
    """What to tell the sender."""

    verdict: Verdict
    message: str = ""
    rejected: int = 0

    def response(self) -> ExportTraceServiceResponse:
        """Return the response of a request that was taken, with what of it was not."""
        response = ExportTraceServiceResponse()
        if self.rejected:
            response.partial_success.rejected_spans = self.rejected
            response.partial_success.error_message = self.message
        return response


class TooLarge(ValueError):
    """A body that unpacks to more than the limit."""


class Intake:
    """The bounded queue between the receivers' threads and the loop."""

    def __init__(
        self,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
        lookup: Lookup | None = None,
        gate: Gate | None = None,
    ) -> None:
        """Start empty; ``lookup`` gives what the ring of a sender's process tells. By default any is afforded."""
        self._limit = max_queued_bytes
        self._gate = gate or Gate()
        self._lookup = lookup
        self._lock = threading.Lock()
        self._spans: list[ReadableSpan] = []
        self._bytes = 0
        self._closed = False
        self._counts: Counter[str] = Counter(
            dict.fromkeys((RECEIVED, REFUSED, MALFORMED, TURNED_AWAY, CONTENTS), 0)
        )

    def offer_bytes(self, body: bytes, local: bool = True) -> Answer:
        """Take a protobuf request; ``local``: from this machine."""

        def parsed() -> Answer:
            request = ExportTraceServiceRequest()
            try:
                request.ParseFromString(body)
            except DecodeError:
                return self.malformed("not an ExportTraceServiceRequest in protobuf")
            return self.offer(request, len(body), local)

        return self.within_budget(len(body), parsed)

    def within_budget(self, size: int, take: Callable[[], Answer]) -> Answer:
        """Return the answer of ``take``, which parses and offers so many bytes, if the agent can afford it."""
        with self._gate.open_for(size) as is_open:
            return take() if is_open else self.turned_away(OVER_BUDGET)

    def offer(self, request: ExportTraceServiceRequest, size: int, local: bool = True) -> Answer:
        """Take a parsed request of so many bytes."""
        total = sum(len(s.spans) for group in request.resource_spans for s in group.scope_spans)
        if total > MAX_QUEUED_SPANS:
            return self.malformed(f"more than {MAX_QUEUED_SPANS} spans in one request")
        if self._full(size, total):
            with self._lock:
                self._counts[REFUSED] += total
            return Answer(Verdict.BUSY, "too many spans wait to be written; try again")
        try:
            decoded = decode(request, self._lookup, local)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            return self.malformed(f"a span that cannot be read: {error}")
        with self._lock:
            self._spans += decoded.spans
            self._bytes += size
            self._counts[RECEIVED] += len(decoded.spans)
            self._counts[REFUSED] += decoded.invalid
            self._counts[CONTENTS] += decoded.contents
        message = "spans without a valid trace id and span id" if decoded.invalid else ""
        return Answer(Verdict.TAKEN, message, decoded.invalid)

    def malformed(self, message: str) -> Answer:
        """Count a request that is none of ours and return the answer to it."""
        with self._lock:
            self._counts[MALFORMED] += 1
        return Answer(Verdict.MALFORMED, one_line(message, 500))

    def turned_away(self, message: str) -> Answer:
        """Count a request or connection for which there is no room or no time and return the answer to it."""
        with self._lock:
            self._counts[TURNED_AWAY] += 1
        return Answer(Verdict.BUSY, message)

    def take(self) -> list[ReadableSpan]:
        """Return what waits, and forget it."""
        self._gate.tell()
        with self._lock:
            spans, self._spans, self._bytes = self._spans, [], 0
        return spans

    def close(self) -> None:
        """Refuse whatever comes from now on."""
        with self._lock:
            self._closed = True

    def counts(self) -> Mapping[str, int]:
        """Return the running totals."""
        with self._lock:
            return dict(self._counts)

    def _full(self, size: int, spans: int) -> bool:
        with self._lock:
            if self._closed:
                return True
            # One request alone is always taken: its size has a limit of its own.
            over = self._bytes + size > self._limit or len(self._spans) + spans > MAX_QUEUED_SPANS
            return self._bytes > 0 and over


def unpack(body: bytes, limit: int = MAX_REQUEST_BYTES) -> bytes:
    """Unpack gzip, never to more than ``limit`` bytes; raises TooLarge, or ValueError on damaged data."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        plain = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise ValueError(f"damaged gzip data: {error}") from error
    if len(plain) > limit:
        raise TooLarge(f"unpacks to more than {limit} bytes")
    if not unpacker.eof:
        raise ValueError("gzip data ends early")
    return plain
