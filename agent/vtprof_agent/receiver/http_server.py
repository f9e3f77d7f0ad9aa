"""OTLP over HTTP: POST /v1/traces with protobuf or JSON, plain or gzip; other signals are answered as not taken.

Beyond this machine with TLS and a bearer token.
"""

import io
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep
from typing import Any, Final

from google.protobuf.json_format import MessageToJson
from google.rpc.status_pb2 import Status

from vtprof_agent.listening import Guard, is_loopback, shown
from vtprof_agent.receiver.deadline import DeadlineReader
from vtprof_agent.receiver.intake import BUSY_S, MAX_REQUEST_BYTES, Answer, Intake, TooLarge, Verdict, unpack
from vtprof_agent.receiver.otlp_json import parse_json
from vtprof_agent.receiver.room import Room
from vtprof_schemas.errors import ConfigError
from vtprof_schemas.printable import one_line

PATH: Final = "/v1/traces"
PROTOBUF, JSON = "application/x-protobuf", "application/json"
MAX_CONNECTIONS: Final = 64
MAX_UNPARSED_BYTES: Final = 16 << 20
"""Of the bodies of all connections together."""
_CHUNK: Final = 64 << 10
MAX_PARSED: Final = 2
"""Requests unpacked and parsed at a time: as objects they are many times as large as on the wire."""
MAX_DISCARDED_BYTES: Final = 64 << 20
"""Of a body that is not taken."""
REQUEST_S: Final = 10.0
"""For a request from its first byte to the parser, however slowly it comes."""
IDLE_S: Final = 10.0
"""For the next request to begin; exporters send every 5 s when they have something, and connect again."""
HANDSHAKE_S: Final = 5.0
SEND_S: Final = 1.0
"""For an answer, which a socket takes at once unless nobody reads."""
_CODES: Final = {Verdict.MALFORMED: HTTPStatus.BAD_REQUEST, Verdict.BUSY: HTTPStatus.SERVICE_UNAVAILABLE}
_NO_ROOM: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class _Refused(Exception):
    """A request that is answered without a look at its spans."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 2 * MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], intake: Intake, guard: Guard) -> None:
        self.intake = intake
        self.guard = guard
        self.local = is_loopback(address[0])
        self.parsers = threading.BoundedSemaphore(MAX_PARSED)
        self.room = Room(MAX_CONNECTIONS, MAX_UNPARSED_BYTES)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.room.enter():
            self.intake.turned_away("too many connections")
            self.guard.turn_away(request, _NO_ROOM)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            self.room.await_sender(request)
            try:
                secured = self.guard.accept(request, HANDSHAKE_S)
            except OSError:
                self.intake.turned_away("no TLS")
                self.shutdown_request(request)
                return
            super().process_request_thread(secured, client_address)
        finally:
            self.room.no_longer()
            self.room.leave()

    def shutdown_request(self, request: Any) -> None:
        self.room.no_longer()
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a sender that went away is no fault of the agent's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = REQUEST_S
    server: _Server

    def setup(self) -> None:
        """Read against a deadline."""
        super().setup()
        self._unread = 0
        self.rfile.close()
        self._reader = DeadlineReader(self.connection)
        self.rfile = self._buffered = io.BufferedReader(self._reader)

    def handle_one_request(self) -> None:
        """Wait for a request to begin, which may take long, then take it, which may not."""
        self.server.room.await_sender(self.connection)
        self._reader.allow(IDLE_S)
        try:
            begun = self._buffered.peek(1)
        except TimeoutError:
            begun = b""
        if not begun:
            self.close_connection = True
            return
        self._reader.allow(REQUEST_S)
        super().handle_one_request()
        self._count_slow()

    def _count_slow(self) -> None:
        if self._reader.expired:
            self._reader.expired = False
            self.server.intake.turned_away("too slow")

    def do_POST(self) -> None:
        """Answer one export request."""
        kind = self.headers.get_content_type()
        self._unread = self._announced() or 0
        try:
            if not self.server.guard.allows(self.headers.get("Authorization")):
                raise _Refused(HTTPStatus.UNAUTHORIZED, "a bearer token is needed")
            self._answer(kind, self._take(kind))
        except _Refused as refused:
            self.close_connection = True  # its body may still be on the wire
            if refused.status is not HTTPStatus.REQUEST_TIMEOUT:
                self.server.intake.malformed(str(refused))
            self._count_slow()
            self._send_status(kind, refused.status, str(refused))
        if self.close_connection:
            self._discard()

    def _take(self, kind: str) -> Answer:
        if self.path.split("?")[0].rstrip("/") != PATH:
            raise _Refused(HTTPStatus.NOT_FOUND, f"vtprof-agent takes traces only, at {PATH}")
        if kind not in (PROTOBUF, JSON):
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"content type must be {PROTOBUF} or {JSON}")
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip"):
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content encoding must be gzip or identity")
        body = bytearray()
        try:
            if not self._read_body(body):
                self.close_connection = True  # the rest is still on the wire
                return self.server.intake.turned_away("too much waits to be read; try again")
            self.server.room.no_longer()
            if not self.server.parsers.acquire(timeout=self._reader.left()):
                return self.server.intake.turned_away("too many requests at a time; try again")
            return self._parse(kind, encoding, bytes(body))
        finally:
            self.server.room.release(len(body))

    def _parse(self, kind: str, encoding: str, body: bytes) -> Answer:
        try:
            return self._offer(kind, unpack(body) if encoding == "gzip" else body)
        except TooLarge as error:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from error
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
        finally:
            self.server.parsers.release()

    def _offer(self, kind: str, body: bytes) -> Answer:
        if kind == PROTOBUF:
            return self.server.intake.offer_bytes(body, self.server.local)
        return self.server.intake.within_budget(len(body), lambda: self._offer_json(body))

    def _offer_json(self, body: bytes) -> Answer:
        try:
            request = parse_json(body)
        except TooLarge:
            raise
        except ValueError as error:
            raise ValueError(f"not OTLP JSON: {error}") from error
        return self.server.intake.offer(request, len(body), self.server.local)

    def _read_body(self, body: bytearray) -> bool:
        """Read as much as is announced; False: there is no room for it. The caller releases what was read."""
        length = self._announced()
        if length is None:
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "Content-Length is needed")
        if length > MAX_REQUEST_BYTES:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_REQUEST_BYTES} bytes")
        while len(body) < length:
            size = min(_CHUNK, length - len(body))
            if not self.server.room.hold(size):
                return False
            chunk = b""
            try:
                chunk = self.rfile.read(size)
            except TimeoutError as error:
                raise _Refused(HTTPStatus.REQUEST_TIMEOUT, f"not sent within {REQUEST_S:g} s") from error
            finally:
                self.server.room.release(size - len(chunk))
            body += chunk
            self._unread -= len(chunk)
            if len(chunk) < size:
                raise _Refused(HTTPStatus.BAD_REQUEST, "the body ends early")
        return True

    def _announced(self) -> int | None:
        """Return how long the body is said to be; None: it is not said."""
        length = self.headers.get("Content-Length", "")
        return int(length[:20]) if length.isascii() and length.isdecimal() else None

    def _discard(self) -> None:
        """Read what is left of a body, within bounds: who still sends when we close gets a broken pipe, and no answer."""
        left = min(self._unread, MAX_DISCARDED_BYTES)
        self.server.room.await_sender(self.connection)  # who may go for another
        with suppress(OSError):
            while left > 0 and (chunk := self._buffered.read1(min(left, _CHUNK))):
                left -= len(chunk)
        self._reader.expired = False  # its answer is told and counted

    def _answer(self, kind: str, answer: Answer) -> None:
        if answer.verdict is Verdict.BUSY:
            sleep(BUSY_S)
        if answer.verdict is not Verdict.TAKEN:
            self._send_status(kind, _CODES[answer.verdict], answer.message)
            return
        response = answer.response()
        body = MessageToJson(response).encode() if kind == JSON else response.SerializeToString()
        self._send(HTTPStatus.OK, JSON if kind == JSON else PROTOBUF, body)

    def _send_status(self, kind: str, status: HTTPStatus, message: str) -> None:
        told = Status(message=one_line(message, 500))
        body = MessageToJson(told).encode() if kind == JSON else told.SerializeToString()
        self._send(status, JSON if kind == JSON else PROTOBUF, body)

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.connection.settimeout(SEND_S)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: requests are counted."""


def serve_http(
    host: str, port: int, intake: Intake, flag: str, guard: Guard
) -> tuple[str, Callable[[], None]]:
    """Serve; return the address and a function that stops it. Raises ConfigError when the port is taken."""
    try:
        server = _Server((host, port), intake, guard.at(host))
    except OSError as error:
        raise ConfigError(
            f"{flag} {shown(host, port)}: cannot listen there ({error.strerror}); choose another port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="vtprof-otlp-http", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(1.0)

    return shown(host, server.server_port), stop
