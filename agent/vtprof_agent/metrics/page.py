"""Serves ``/metrics`` (Prometheus text, or OpenMetrics with exemplars to who asks for it) and ``/healthz``; nothing else.

A connection carries one request, which must come in time. Beyond this machine it takes what the guard demands.
"""

import io
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from vtprof_agent.listening import Guard, listen_address, shown
from vtprof_agent.receiver.deadline import DeadlineReader
from vtprof_agent.receiver.room import Room
from vtprof_schemas.errors import ConfigError

METRICS: Final = "/metrics"
HEALTH: Final = "/healthz"
MAX_CONNECTIONS: Final = 64
"""Beyond them who has kept us waiting longest is cut off, so that silent connections never keep a reader out."""
REQUEST_S: Final = 5.0
"""For the handshake, and for a request, however slowly it comes."""
SEND_S: Final = 5.0
"""For an answer, if nobody reads it."""
_PLAIN: Final = "text/plain; charset=utf-8"
_NO_ROOM: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the page and its content type: OpenMetrics where an Accept header names it, else the older text."""
    kinds = (kind.partition(";")[0].strip() for kind in accept.split(","))
    if "application/openmetrics-text" in kinds:
        # Our names need no escaping: this one saves the search for what would, which is a third of the time.
        page: bytes = openmetrics.generate_latest(registry, openmetrics.ALLOWUTF8)  # type: ignore[no-untyped-call]
        return page, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 2 * MAX_CONNECTIONS

    def __init__(
        self, address: tuple[str, int], registry: CollectorRegistry, guard: Guard, alive: Callable[[], bool]
    ) -> None:
        self.registry, self.guard, self.alive = registry, guard, alive
        self.rendering = threading.Lock()
        # Who comes now may be a reader; who is waited for while so many others came is none.
        self._room = Room(MAX_CONNECTIONS, linger_s=0.0)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking a name server for our name, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = address = self.socket.getsockname()
        self.server_name, self.server_port = str(address[0]), int(address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection, or turn it away."""
        if not self._room.enter():
            self.guard.turn_away(request, _NO_ROOM)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        try:
            self._room.await_sender(request)
            try:
                request = self.guard.accept(request, REQUEST_S)
            except OSError:  # no TLS: never answered in plain text
                self.shutdown_request(request)
                return
            super().process_request_thread(request, client_address)
        finally:
            self._room.no_longer()
            self._room.leave()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, under all its names."""
        self._room.no_longer()
        super().shutdown_request(request)

    def no_longer_waited_for(self) -> None:
        """Note that the request of this thread's connection is there: it is answered, whoever comes."""
        self._room.no_longer()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a reader that went away is no fault of the agent's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        """Read against a deadline."""
        super().setup()
        self.rfile.close()
        reader = DeadlineReader(self.connection)
        reader.allow(REQUEST_S)
        self.rfile = io.BufferedReader(reader)

    def handle(self) -> None:
        """Answer the one request of this connection."""
        self.close_connection = True
        self.handle_one_request()

    def parse_request(self) -> bool:
        """Read the request's headers."""
        sound = super().parse_request()
        self.server.no_longer_waited_for()
        return sound

    def do_GET(self) -> None:
        """Answer with a body."""
        path = self.path.partition("?")[0]
        if path == HEALTH:
            alive = self.server.alive()
            status = HTTPStatus.OK if alive else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, b"ok\n" if alive else b"the agent's loop stands still\n", _PLAIN)
        elif path != METRICS:
            self._answer(HTTPStatus.NOT_FOUND, f"{METRICS} and {HEALTH} only\n".encode(), _PLAIN)
        elif not self.server.guard.allows(self.headers.get("Authorization")):
            self._answer(HTTPStatus.UNAUTHORIZED, b"a bearer token is needed\n", _PLAIN)
        else:
            with self.server.rendering:
                page, kind = render(self.server.registry, self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, page, kind)

    do_HEAD = do_GET  # noqa: N815

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Answer every other method alike."""
        if not name.startswith("do_"):
            raise AttributeError(name)
        return lambda: self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"GET and HEAD only\n", _PLAIN)

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.connection.settimeout(SEND_S)
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """Name no versions to who asks from outside."""
        return "vtprof-agent"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def serve(
    registry: CollectorRegistry,
    address: str,
    guard: Guard | None = None,
    alive: Callable[[], bool] = lambda: True,
    filled: threading.Event | None = None,
) -> tuple[str, Callable[[], None]]:
    """Serve the page; return its URL and a function that stops it. ``alive``: whether the agent's loop turns.

    Until ``filled`` is set, where it is given, who asks waits: counters that begin at 0 would read as a restart of them.
    Raises ConfigError for an address that cannot be listened at, or not without TLS and a token.
    """
    guard = guard or Guard()
    host, port = listen_address(address, "--metrics", guard)
    own = guard.at(host)
    try:
        server = _Server((host, port), registry, own, alive)
    except (OSError, UnicodeError, OverflowError) as error:  # UnicodeError: a host that is no name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--metrics {address!r}: cannot listen there ({reason}); choose another") from error

    def answer() -> None:
        if filled is not None:
            filled.wait()
        server.serve_forever()

    thread = threading.Thread(target=answer, name="vtprof-metrics", daemon=True)
    thread.start()

    def stop() -> None:
        if filled is not None:
            filled.set()  # what never answered cannot be shut down
        server.shutdown()
        server.server_close()
        thread.join(1.0)

    scheme = "http" if own.ssl_context() is None else "https"
    return f"{scheme}://{shown(host, server.server_port)}{METRICS}", stop
