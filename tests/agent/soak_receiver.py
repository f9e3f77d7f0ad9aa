"""An OTLP receiver in a process of its own, HTTP and gRPC: notes every span it takes before it says so, and can be killed.

``soak_receiver.py LOG HTTP_PORT GRPC_PORT``: one line a span in LOG, PID of the inference process, span id, name,
iterations of a step, digest of all that must be the same in a repeat: name, parent, length and attributes but counters.
"""

import gzip
import hashlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf.message import Message
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from vtprof_schemas import names

COUNTER_PREFIX = "vtprof.gpu."
"""A repeat after a kill may lack the counters of its time: nobody read them then."""


class Log:
    """Appends what was received; a line is on the disk, or at least in the kernel, before the sender hears of it."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: PTH123, SIM115  # open as long as the process
        self._lock = threading.Lock()

    def take(self, request: Any) -> None:
        """Note the spans of an ExportTraceServiceRequest."""
        lines = []
        for resource in request.resource_spans:
            pid = next(
                (a.value.int_value for a in resource.resource.attributes if a.key == names.PROCESS_PID), 0
            )
            lines += [line(pid, span) for scope in resource.scope_spans for span in scope.spans]
        with self._lock:
            self._file.write("".join(lines).encode())


def line(pid: int, span: Span) -> str:
    """Return what is noted of a span."""
    attributes = {a.key: a.value.SerializeToString(deterministic=True) for a in span.attributes}
    steps = next((a.value.int_value for a in span.attributes if a.key == names.STEP_COUNT), 0)
    same = [(key, value) for key, value in sorted(attributes.items()) if not key.startswith(COUNTER_PREFIX)]
    length_ns = span.end_time_unix_nano - span.start_time_unix_nano
    whole = repr((span.name, span.parent_span_id, length_ns, same))
    digest = hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()
    return f"{pid} {span.span_id.hex()} {span.name} {steps} {digest}\n"


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans over gRPC."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def Export(self, request: Any, context: Any) -> Message:  # noqa: N802  # the protocol's
        self._log.take(request)
        return trace_service_pb2.ExportTraceServiceResponse()


class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Takes metric points and forgets them."""

    def Export(self, request: Any, context: Any) -> Message:  # noqa: N802  # the protocol's
        return metrics_service_pb2.ExportMetricsServiceResponse()


def _handler(log: Log) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # the library's
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path.endswith("/v1/traces"):
                log.take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def serve(path: str, http_port: int, grpc_port: int) -> None:
    """Serve until killed."""
    log = Log(path)
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(log), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    server.start()
    web = ThreadingHTTPServer(("127.0.0.1", http_port), _handler(log))
    print("ready", flush=True)
    web.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
