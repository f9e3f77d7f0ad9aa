"""OTLP over gRPC, which engines speak by default; beyond this machine with TLS and a bearer token.

Needs grpcio, which is imported only when a server is opened.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from time import sleep
from typing import TYPE_CHECKING, Final

from vtprof_agent.listening import Guard, is_loopback, shown
from vtprof_agent.receiver.intake import BUSY_S, MAX_REQUEST_BYTES, Answer, Intake, Verdict
from vtprof_agent.receiver.turns import Turns
from vtprof_schemas.errors import ConfigError

if TYPE_CHECKING:
    import grpc

SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
MAX_CALLS: Final = 128
"""Under way at a time; more are refused, and whether one that tries again finds a place is luck. So many more than are read
that who comes while others keep us waiting gets in, and has his turn after them: within ``MAX_CALLS / MAX_READ`` times
``LEAST_LINGER_S``, 3.2 s; exporters wait 10 s for an answer. Each that is not read yet costs some 0.1 MB."""
MAX_THREADS: Final = 64
"""For calls; the others wait for one in the order in which they came."""
MAX_READ: Final = 4
"""Of them so many have their message read: each may grow to ``MAX_REQUEST_BYTES``."""
MAX_PARSED: Final = 2
"""The same of parsing: as objects messages are many times as large."""
HANDSHAKE_S: Final = 5.0
"""For a connection to begin as HTTP/2; those that do not would hold files that the rings need."""
STOP_S: Final = 1.0
MISSING: Final = (
    "OTLP over gRPC needs the package grpcio; reinstall 'vtprof[agent]', or let the engine send over HTTP:"
    " OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf in its environment"
)


def available() -> bool:
    """Return whether grpcio is installed."""
    return find_spec("grpc") is not None


def serve_grpc(
    host: str, port: int, intake: Intake, flag: str, guard: Guard
) -> tuple[str, Callable[[], None]]:
    """Serve; return the address and a function that stops it. Raises ConfigError: no grpcio, or the port is taken."""
    try:
        import grpc
    except ImportError as error:
        raise ConfigError(f"{flag} {shown(host, port)}: {MISSING}") from error
    _require_free(host, port, flag)
    guard, local = guard.at(host), is_loopback(host)
    pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="vtprof-otlp-grpc")
    server = grpc.server(
        pool,
        maximum_concurrent_rpcs=MAX_CALLS,
        options=[
            ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_S * 1000)),
            (
                "grpc.http2.bdp_probe",
                0,
            ),  # a stream whose message is not asked for yet buffers 64 KiB, not megabytes
        ],
    )

    turns, parsers = Turns(MAX_READ), threading.BoundedSemaphore(MAX_PARSED)

    def export(messages: Iterator[bytes], context: "grpc.ServicerContext") -> bytes:
        shown_token = dict(context.invocation_metadata()).get("authorization")
        if not guard.allows(shown_token if isinstance(shown_token, str) else None):
            intake.malformed("no bearer token")
            context.set_code(grpc.StatusCode.UNAUTHENTICATED)
            context.set_details("a bearer token is needed")
            return b""
        with turns.turn(context.cancel) as arrived:
            answer = take(messages, arrived)
        if answer.verdict is Verdict.BUSY and context.is_active():
            sleep(BUSY_S)
        if answer.verdict is Verdict.TAKEN:
            return bytes(answer.response().SerializeToString())
        malformed = answer.verdict is Verdict.MALFORMED
        context.set_code(grpc.StatusCode.INVALID_ARGUMENT if malformed else grpc.StatusCode.UNAVAILABLE)
        context.set_details(answer.message)
        return b""

    def take(messages: Iterator[bytes], arrived: Callable[[], None]) -> Answer:
        body = None
        with suppress(grpc.RpcError):
            body = next(messages, None)
        if body is None:
            return intake.turned_away("no message: not sent in time, given up, or too large")
        arrived()
        with parsers:
            return intake.offer_bytes(body, local)

    # As a stream of one message, which is the same on the wire: a unary handler is called once the message is there, and
    # until then holds a thread that nobody can free. Without a deserializer the bytes come as they are: what is malformed
    # is answered by us, and counted.
    methods = {"Export": grpc.stream_unary_rpc_method_handler(export)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    try:
        credentials = _credentials(guard)
        if credentials is None:
            bound = server.add_insecure_port(shown(host, port))
        else:
            bound = server.add_secure_port(shown(host, port), credentials)
    except RuntimeError:
        bound = 0
    if not bound:
        pool.shutdown(wait=False)
        raise _cannot_listen(host, port, flag)
    server.start()

    def stop() -> None:
        server.stop(STOP_S).wait()
        pool.shutdown(wait=False)

    return shown(host, bound), stop


def _credentials(guard: Guard) -> "grpc.ServerCredentials | None":
    """Return credentials that take each new certificate; None: plain text."""
    import grpc

    first = guard.pem()
    if first is None:
        return None
    number = [first[0]]

    def newest() -> "grpc.ServerCertificateConfiguration | None":
        pair = guard.pem()
        if pair is None or pair[0] == number[0]:
            return None  # as before
        number[0] = pair[0]
        return grpc.ssl_server_certificate_configuration([pair[1:]])

    configuration = grpc.ssl_server_certificate_configuration([first[1:]])
    return grpc.dynamic_ssl_server_credentials(configuration, newest)


def _require_free(host: str, port: int, flag: str) -> None:
    """Raise ConfigError when nobody could listen there: asked of gRPC, it would write lines of its own to stderr."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found[:1]:
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
                tried.listen(1)
    except OSError as error:
        raise _cannot_listen(host, port, flag) from error


def _cannot_listen(host: str, port: int, flag: str) -> ConfigError:
    return ConfigError(f"{flag} {shown(host, port)}: cannot listen there (port in use?); choose another port")
