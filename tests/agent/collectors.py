"""Collectors for the agent's tests: real HTTP and gRPC servers that take, refuse or hang, and say what they were sent."""

import gzip
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from vtprof_agent.export.destination import Batch
from vtprof_agent.metric_points import Point, metrics_data
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.sampler import Sample
from vtprof_schemas import names

NODE = agent_resource("test")


def span(number: int, start: int = 1) -> ReadableSpan:
    """Return a span whose id is ``number``."""
    return ReadableSpan("one", SpanContext(1, number, False), resource=NODE, start_time=start, end_time=start)


def metrics(time_ns: int = 1) -> MetricsData | None:
    """Return one metric point."""
    return metrics_data([Point(NODE, Sample(names.ENGINE_RUNNING, 1), time_ns)], 0)


def batch(number: int, spans: int = 2, with_metrics: bool = False) -> Batch:
    """Return a batch of spans with ids ``100 * number + 1`` and on."""
    return Batch(
        number, [span(100 * number + at) for at in range(1, spans + 1)], metrics() if with_metrics else None
    )


def ids(*numbers: int, spans: int = 2) -> list[int]:
    """Return the ids of the spans of such batches."""
    return [100 * number + at for number in numbers for at in range(1, spans + 1)]


def wait_for(reached: Callable[[], object], within_s: float = 30.0) -> None:
    """Wait until a condition holds; fails after a time that no loaded machine needs."""
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.005)


@contextmanager
def speaking(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """Give the URL of a server that hands each connection to ``speak``, in a thread of its own."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=speak, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@contextmanager
def dripping(begun: bytes, most_s: float = 15.0) -> Iterator[str]:
    """Give the URL of a server whose answers begin so and go on byte by byte, each sooner than any timeout."""
    over, read_to_the_end = threading.Event(), threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(begun)
            for _ in range(int(most_s / 0.02)):
                connection.sendall(b"x")
                if over.wait(0.02):
                    return
            read_to_the_end.set()

    with speaking(drip) as url:
        try:
            yield url
            assert not read_to_the_end.is_set(), "an answer without end was waited for"
        finally:
            over.set()


class Seen:
    """What a collector was sent, and how it answers."""

    def __init__(self) -> None:
        self.spans: list[int] = []
        """Ids of the spans it took, in order."""
        self.metrics = 0
        self.calls: list[str] = []
        """Signals in the order they came, taken or not."""
        self.headers: list[dict[str, str]] = []
        self.encodings: list[str] = []
        self.away = False
        self.hang = threading.Event()
        self.hang.set()
        """Cleared: it does not answer until it is set."""
        self.answers: list[Any] = []
        """Statuses (or gRPC codes) to give first."""
        self.answer_metrics: Any = None
        """The status (or code) of every answer to metrics."""
        self.rejects = 0
        self.answer_headers: dict[str, str] = {}
        self.refusal = b""
        """The body of an answer over HTTP that is not 200."""
        self.most_bytes: int | None = None
        """Of an uncompressed message over HTTP; larger ones are answered with ``too_large``."""
        self.too_large = 413
        self.trailers: tuple[tuple[str, bytes], ...] = ()
        self.url = ""

    def take(self, request: ExportTraceServiceRequest | ExportMetricsServiceRequest) -> None:
        """Note a message that is taken."""
        if isinstance(request, ExportTraceServiceRequest):
            self.spans += [
                int.from_bytes(one.span_id, "big")
                for group in request.resource_spans
                for scope in group.scope_spans
                for one in scope.spans
            ]
        else:
            self.metrics += len(request.resource_metrics)

    def status(self, signal: str, away: Any) -> Any:
        """Return what to answer, None to take it."""
        self.calls.append(signal)
        self.hang.wait(30)
        if self.answers:
            return self.answers.pop(0)
        if self.away:
            return away
        return self.answer_metrics if signal == "metrics" else None

    def response(self, signal: str) -> ExportTraceServiceResponse | ExportMetricsServiceResponse:
        """Return the body of an answer."""
        if signal == "metrics":
            return ExportMetricsServiceResponse()
        response = ExportTraceServiceResponse()
        if self.rejects:
            response.partial_success.rejected_spans = self.rejects
            response.partial_success.error_message = "too old"
        return response


@contextmanager
def http_collector(
    seen: Seen | None = None, tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[Seen]:
    """Serve OTLP over HTTP; away, it answers 503."""
    seen = seen or Seen()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.headers.append({key.lower(): value for key, value in self.headers.items()})
            seen.encodings.append(self.headers.get("Content-Encoding", ""))
            signal = self.path.rpartition("/")[2]
            status = seen.status(signal, 503)
            answer = seen.refusal
            if status is None and seen.most_bytes is not None:
                status = seen.too_large if len(gzip.decompress(body)) > seen.most_bytes else None
            if status is None:
                kind = ExportTraceServiceRequest if signal == "traces" else ExportMetricsServiceRequest
                seen.take(kind.FromString(gzip.decompress(body)))
                answer = seen.response(signal).SerializeToString()
            self.send_response(status or 200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            for key, value in seen.answer_headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            return

    server = Server(("127.0.0.1", port), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    seen.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    try:
        yield seen
    finally:
        seen.hang.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Servicer:
    def __init__(self, seen: Seen, signal: str) -> None:
        self._seen, self._signal = seen, signal

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802  # the service's
        metadata = dict(context.invocation_metadata())
        self._seen.headers.append({key: str(value) for key, value in metadata.items()})
        code = self._seen.status(self._signal, grpc.StatusCode.UNAVAILABLE)
        if code is not None:
            context.set_trailing_metadata(self._seen.trailers)
            context.abort(code, "as told")
        self._seen.take(request)
        return self._seen.response(self._signal)


@contextmanager
def grpc_collector(
    seen: Seen | None = None,
    port: int = 0,
    tls: grpc.ServerCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
    with_metrics: bool = True,
) -> Iterator[Seen]:
    """Serve OTLP over gRPC with the stubs of opentelemetry-proto."""
    seen = seen or Seen()
    pool = ThreadPoolExecutor(4)
    server = grpc.server(pool, options=[("grpc.so_reuseport", 0), *options])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Servicer(seen, "traces"), server)
    if with_metrics:
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Servicer(seen, "metrics"), server)
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    server.start()
    seen.url = f"http{'s' if tls else ''}://127.0.0.1:{bound}"
    try:
        yield seen
    finally:
        seen.hang.set()
        server.stop(0).wait()
        pool.shutdown(wait=False)


_AUTHORITY = """
[ca]
default_ca = own
[own]
database = {folder}/index
new_certs_dir = {folder}
default_md = sha256
rand_serial = yes
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = {host}
"""


def make_certificate(
    folder: Path,
    name: str = "server",
    host: str = "IP:127.0.0.1",
    valid: tuple[str, str] = ("20200101000000Z", "20900101000000Z"),
) -> tuple[Path, Path]:
    """Make a self-signed certificate with openssl, valid from and to; return its file and that of its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    request, settings = folder / f"{name}.csr", folder / f"{name}.cnf"
    (folder / "index").write_bytes(b"")
    settings.write_text(_AUTHORITY.format(folder=folder, host=host))
    subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", str(key), "-out", str(request), "-subj", "/CN=127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(
        ["openssl", "ca", "-batch", "-notext", "-selfsign", "-config", str(settings), "-in", str(request),
         "-keyfile", str(key), "-out", str(certificate), "-startdate", valid[0], "-enddate", valid[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key
