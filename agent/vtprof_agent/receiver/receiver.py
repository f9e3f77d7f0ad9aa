"""The OTLP receiver as a feed of the loop: the servers that the settings ask for, over one intake."""

import logging
from collections.abc import Callable, Mapping

from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.config import Config
from vtprof_agent.listening import LOOPBACK, Guard, listen_address
from vtprof_agent.metric_points import Point
from vtprof_agent.receiver import grpc_server, http_server
from vtprof_agent.receiver.decode import Lookup
from vtprof_agent.receiver.gate import Gate
from vtprof_agent.receiver.intake import Intake

logger = logging.getLogger(__name__)
BOTH = "--otlp-receive"
GRPC = "--otlp-receive-grpc"
HTTP = "--otlp-receive-http"
GRPC_PORT, HTTP_PORT = 4317, 4318
Serve = Callable[[str, int, Intake, str, Guard], tuple[str, Callable[[], None]]]


class Receiver:
    """Takes the spans that engines send by themselves."""

    def __init__(
        self,
        config: Config,
        guard: Guard | None = None,
        lookup: Lookup | None = None,
        gate: Gate | None = None,
    ) -> None:
        """Open what is asked for, beyond this machine under the guard; raises ConfigError, with nothing left open.

        ``lookup`` gives what the ring of a sender's process tells; ``gate`` may refuse what it sends.
        """
        guard = guard or Guard()
        self._intake = Intake(lookup=lookup, gate=gate)
        self._stops: list[Callable[[], None]] = []
        self.ports: list[int] = []
        """Where it listens, in the order gRPC, HTTP."""
        opened: list[str] = []
        try:
            for text, flag, scheme, serve in self.wanted(config):
                host, port = listen_address(text, flag, guard)
                address, stop = serve(host, port, self._intake, flag, guard)
                self._stops.append(stop)
                self.ports.append(int(address.rpartition(":")[2]))
                guarded = guard.at(host).ssl_context() is not None
                opened.append(f"{scheme}{address}{', with TLS and token' if guarded else ''}")
        except BaseException:
            self.close()
            raise
        for place in opened:  # only now: before, another might have failed to open
            logger.info("receiving OTLP traces at %s", place)

    @staticmethod
    def asked_for(config: Config) -> bool:
        """Return whether the settings ask for a receiver."""
        return config.otlp_receive or bool(config.otlp_receive_grpc or config.otlp_receive_http)

    @staticmethod
    def wanted(config: Config) -> list[tuple[str, str, str, Serve]]:
        """Return (address, flag that gave it, scheme, server) of each server that is to be opened."""
        over_grpc, over_http = config.otlp_receive_grpc, config.otlp_receive_http
        grpc_flag, http_flag = GRPC, HTTP
        if config.otlp_receive and over_http is None:
            over_http, http_flag = f"{LOOPBACK}:{HTTP_PORT}", BOTH
        if config.otlp_receive and over_grpc is None:
            if grpc_server.available():
                over_grpc, grpc_flag = f"{LOOPBACK}:{GRPC_PORT}", BOTH
            else:
                logger.warning("%s: HTTP only: %s", BOTH, grpc_server.MISSING)
        wanted: list[tuple[str, str, str, Serve]] = []
        if over_grpc is not None:
            wanted.append((over_grpc, grpc_flag, "grpc://", grpc_server.serve_grpc))
        if over_http is not None:
            wanted.append((over_http, http_flag, "http://", http_server.serve_http))
        return wanted

    def take(self) -> tuple[list[ReadableSpan], list[Point]]:
        """Return the spans that came since the last call."""
        return self._intake.take(), []

    def counts(self) -> Mapping[str, int]:
        """Return what was received and refused."""
        return self._intake.counts()

    def close(self) -> None:
        """Close the servers; requests under way are finished or refused."""
        for stop in self._stops:
            stop()
        self._stops.clear()
        self._intake.close()
