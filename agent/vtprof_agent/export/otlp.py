"""An OTLP endpoint as destination: a thread delivers what the loop hands over, so that nothing waits for the network."""

import logging
import threading
import time
from pathlib import Path

from vtprof_agent.export.backlog import Backlog
from vtprof_agent.export.backoff import Backoff
from vtprof_agent.export.destination import Batch, Outcome
from vtprof_agent.export.otlp_grpc import GrpcTransport
from vtprof_agent.export.otlp_http import HttpTransport
from vtprof_agent.export.parcel import Parcel, encode
from vtprof_agent.export.pieces import Pieces
from vtprof_agent.export.report import Report
from vtprof_agent.export.spool import Spool
from vtprof_agent.export.transport import Answer, Transport, route
from vtprof_schemas.errors import ConfigError

logger = logging.getLogger(__name__)
HTTP, GRPC = "http/protobuf", "grpc"
PROTOCOLS = (HTTP, GRPC)
BREAK_OFF_S = 1.0
"""How long a stop waits for a call that it broke off."""


def connect(
    endpoint: str, protocol: str, timeout_s: float, token_file: Path | None, ca_file: Path | None
) -> Transport:
    """Return the transport of a protocol; raises ConfigError."""
    if protocol not in PROTOCOLS:
        raise ConfigError(f"--otlp-protocol {protocol!r}: give {' or '.join(PROTOCOLS)}")
    kind = GrpcTransport if protocol == GRPC else HttpTransport
    return kind(endpoint, timeout_s, token_file, ca_file)


class OtlpDestination:
    """A backlog, and the thread that empties it."""

    def __init__(
        self,
        endpoint: str,
        *,
        protocol: str = HTTP,
        timeout_s: float = 10.0,
        queued_batches: int = 256,
        token_file: Path | None = None,
        ca_file: Path | None = None,
        spool: Spool | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """Start the thread; raises ConfigError for a URL, a token or a certificate that cannot be used."""
        self._transport = connect(endpoint, protocol, timeout_s, token_file, ca_file)
        self.outbox = Backlog(queued_batches, spool)
        self._backoff = backoff or Backoff()
        self._report = Report(
            route(self._transport), f"in {spool.folder}" if spool else f"in memory, up to {queued_batches}"
        )
        self._pieces = Pieces(self._transport.target, self._transport.send)
        self._wake = threading.Event()
        self._wake.set()  # for what an earlier agent left
        self._stop = threading.Event()
        self._break_off = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="vtprof-otlp", daemon=True)
        self._thread.start()

    @property
    def target(self) -> str:
        """The endpoint, without a password."""
        return self._transport.target

    @property
    def spool_bytes(self) -> int | None:
        """What waits on disk; None without a spool."""
        return self.outbox.spool_bytes if self.outbox.spools else None

    @property
    def problem(self) -> str | None:
        """Why nothing can be delivered at present; None while it can."""
        return self._report.problem

    def submit(self, batch: Batch) -> None:
        """Queue a batch; waits for no network."""
        self.outbox.put(encode(batch))
        self._wake.set()

    def close(self, timeout_s: float, *, last: bool = False) -> None:
        """Deliver what waits for at most ``timeout_s``; the rest goes to the spool.

        Without one it is left in the rings; what came from none, or all of it where this is the ``last`` agent, is lost.
        """
        self._deadline = time.monotonic() + timeout_s
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)
        self._break_off.set()
        self._transport.close()
        self._thread.join(BREAK_OFF_S)
        left = self.outbox.spool_messages
        lost = self.outbox.close(last=last)
        if kept := self.outbox.left_in_rings:
            logger.warning(
                "%s: %d spans were not delivered; the next agent reads them again",
                self._transport.target,
                kept,
            )
        if lost:
            logger.error("%s: %d spans were not delivered", self._transport.target, lost)
        elif left:
            logger.warning("%s: %d messages are left to the next agent", self._transport.target, left)

    def _run(self) -> None:
        while not self._break_off.is_set():
            self._wake.wait()
            self._wake.clear()
            stopping = self._stop.is_set()
            while (wait_s := self._deliver()) is not None:
                # With a spool one try after the stop is enough: nothing is lost that waits for the next agent.
                if stopping and self.outbox.spools:
                    return
                if stopping:
                    left_s = max(0.0, self._deadline - time.monotonic())
                    if self._break_off.wait(min(wait_s, left_s)) or not left_s:
                        return
                else:
                    stopping = self._stop.wait(wait_s)
            if stopping:
                return

    def _deliver(self) -> float | None:
        """Deliver what waits, in order, until the first failure; return the pause after it, None when nothing is left."""
        while not self._break_off.is_set():
            parcel = self.outbox.take()
            if parcel is None:
                return None
            answer = self._send(parcel)
            self.outbox.done(parcel, answer)
            self._report.note(parcel, answer)
            if answer.outcome is Outcome.RETRY:
                return self._backoff.pause_s(answer.wait_s)
            self._backoff.reset()
        return None

    def _send(self, parcel: Parcel) -> Answer:
        try:
            return self._pieces.send(parcel, self._break_off.is_set)
        except Exception as error:  # a fault of a library costs a pause, not the thread
            return Answer(Outcome.RETRY, repr(error))
