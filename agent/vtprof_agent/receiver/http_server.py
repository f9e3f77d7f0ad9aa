"""OTLP over HTTP: POST /v1/traces with protobuf or JSON, plain or gzip; other signals are answered as not taken."""

import base64
import binascii
import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from google.protobuf.json_format import MessageToJson, ParseDict, ParseError
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from vtprof_agent.receiver.address import shown
from vtprof_agent.receiver.intake import MAX_REQUEST_BYTES, Answer, Intake, TooLarge, Verdict, unpack
from vtprof_schemas.errors import ConfigError

PATH: Final = "/v1/traces"
PROTOBUF, JSON = "application/x-protobuf", "application/json"
MAX_CONNECTIONS: Final = 64
IDLE_S: Final = 60.0
_CODES: Final = {Verdict.MALFORMED: HTTPStatus.BAD_REQUEST, Verdict.BUSY: HTTPStatus.SERVICE_UNAVAILABLE}
_IDS: Final = frozenset(("traceId", "spanId", "parentSpanId"))


class _Refused(Exception):
    """A request that is answered without a look at its spans."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], intake: Intake) -> None:
        self.intake = intake
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a sender that went away is no fault of the agent's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server: _Server

    def do_POST(self) -> None:
        """Answer one export request."""
        kind = self.headers.get_content_type()
        try:
            self._answer(kind, self._take(kind))
        except _Refused as refused:
            answer = self.server.intake.malformed(str(refused))
            self.close_connection = True  # its body may still be on the wire
            self._send_status(kind, refused.status, answer.message)

    def _take(self, kind: str) -> Answer:
        if self.path.split("?")[0].rstrip("/") != PATH:
            raise _Refused(HTTPStatus.NOT_FOUND, f"vtprof-agent takes traces only, at {PATH}")
        if kind not in (PROTOBUF, JSON):
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"content type must be {PROTOBUF} or {JSON}")
        body = self._body()
        if kind == PROTOBUF:
            return self.server.intake.offer_bytes(body)
        try:
            request = parse_json(body)
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"not OTLP JSON: {error}") from error
        return self.server.intake.offer(request, len(body))

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "Content-Length is needed")
        if len(length) > 12 or int(length) > MAX_REQUEST_BYTES:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_REQUEST_BYTES} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body ends early")
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding == "identity":
            return body
        if encoding != "gzip":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content encoding must be gzip or identity")
        try:
            return unpack(body)
        except TooLarge as error:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from error
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from error

    def _answer(self, kind: str, answer: Answer) -> None:
        if answer.verdict is not Verdict.TAKEN:
            self._send_status(kind, _CODES[answer.verdict], answer.message)
            return
        response = answer.response()
        body = MessageToJson(response).encode() if kind == JSON else response.SerializeToString()
        self._send(HTTPStatus.OK, JSON if kind == JSON else PROTOBUF, body)

    def _send_status(self, kind: str, status: HTTPStatus, message: str) -> None:
        told = Status(message=message[:500])
        body = MessageToJson(told).encode() if kind == JSON else told.SerializeToString()
        self._send(status, JSON if kind == JSON else PROTOBUF, body)

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: requests are counted."""


def parse_json(body: bytes) -> ExportTraceServiceRequest:
    """Parse OTLP JSON, in which ids are hexadecimal where protobuf's own JSON has base64; raises ValueError."""
    try:
        document = json.loads(body)
        request = ExportTraceServiceRequest()
        ParseDict(_ids_to_base64(document), request, ignore_unknown_fields=True)
    except (ParseError, RecursionError, binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(str(error)[:200]) from error
    return request


def _ids_to_base64(value: Any) -> Any:
    if isinstance(value, list):
        return [_ids_to_base64(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: base64.b64encode(bytes.fromhex(inner)).decode()
        if key in _IDS and isinstance(inner, str)
        else _ids_to_base64(inner)
        for key, inner in value.items()
    }


def serve_http(host: str, port: int, intake: Intake, flag: str) -> tuple[str, Callable[[], None]]:
    """Serve; return the address and a function that stops it. Raises ConfigError when the port is taken."""
    try:
        server = _Server((host, port), intake)
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
