"""OTLP over HTTP against a real server that decodes with OpenTelemetry's own protobuf."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from ring_records import SINGLE, assemble

from vtprof_agent.align import Alignment
from vtprof_agent.export.destination import Batch
from vtprof_agent.export.otlp_http import HttpDestination, signal_urls
from vtprof_agent.identifiers import Origin
from vtprof_agent.metric_points import Point, metrics_data
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.sampler import Sample
from vtprof_agent.spans import SpanBuilder
from vtprof_schemas import names
from vtprof_schemas.errors import ConfigError


class Collector:
    """What a server was sent, and what it answers."""

    def __init__(self, statuses: list[int]) -> None:
        self.statuses = statuses
        self.spans: list[str] = []
        self.metrics: list[str] = []
        self.url = ""


@contextmanager
def _collector(*statuses: int, location: str = "") -> Iterator[Collector]:
    """Serve; answers the statuses in turn (with a place to go to instead), then 200."""
    seen = Collector(list(statuses))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            status = seen.statuses.pop(0) if seen.statuses else 200
            if status == 200 and self.path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    seen.spans += [span.name for scope in resource.scope_spans for span in scope.spans]
            elif status == 200 and self.path == "/v1/metrics":
                for metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    seen.metrics += [
                        metric.name for scope in metrics.scope_metrics for metric in scope.metrics
                    ]
            self.send_response(status)
            if location and 300 <= status < 400:
                self.send_header("Location", location)
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    seen.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _batch(number: int) -> Batch:
    requests, _, _ = assemble(SINGLE)
    resource = agent_resource("test")
    spans = SpanBuilder(Origin(b"b" * 16, 1, 2), resource, Alignment(10**18)).request(requests["1"])
    return Batch(
        number,
        spans,
        metrics_data([Point(resource, Sample(names.GPU_POWER_MW, 7, hw_id="GPU-1"), 10**18)], 0),
    )


def test_spans_and_metrics_arrive_at_the_collector() -> None:
    with _collector() as seen:
        destination = HttpDestination(seen.url, timeout_s=5.0, queued_batches=8)
        destination.submit(_batch(1))
        destination.close(10.0)
        assert seen.spans[0] == names.SPAN_REQUEST
        assert len(seen.spans) == 6
        assert seen.metrics == [names.GPU_POWER_MW]
        assert (destination.outbox.spans_delivered, destination.outbox.settled()) == (6, 1)


def test_a_batch_that_the_collector_refuses_is_dropped_and_the_next_arrives() -> None:
    with _collector(400) as seen:
        destination = HttpDestination(seen.url, timeout_s=5.0, queued_batches=8)
        destination.submit(_batch(1))
        destination.submit(_batch(2))
        destination.close(10.0)
        assert len(seen.spans) == 6
        assert (destination.outbox.spans_dropped, destination.outbox.spans_delivered) == (6, 6)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_an_answer_that_is_no_success_delivers_nothing_and_is_counted(status: int) -> None:
    with _collector(status, status, location="/elsewhere") as seen:
        destination = HttpDestination(seen.url, timeout_s=5.0, queued_batches=8)
        destination.submit(_batch(1))
        destination.submit(_batch(2))
        destination.close(10.0)
        # The first answer is that to the spans of the first batch, the second that to those of the second.
        assert (seen.spans, seen.metrics) == ([], [])
        assert (destination.outbox.spans_dropped, destination.outbox.spans_delivered) == (12, 0)


def test_a_collector_that_is_busy_gets_the_batch_again_and_once() -> None:
    with _collector(503) as seen:
        destination = HttpDestination(seen.url, timeout_s=5.0, queued_batches=8)
        destination.submit(_batch(1))
        destination.close(10.0)
        assert len(seen.spans) == 6
        assert destination.outbox.settled() == 1


def test_an_absent_collector_does_not_hold_up_the_stop_and_the_loss_is_counted() -> None:
    destination = HttpDestination("http://127.0.0.1:9", timeout_s=0.2, queued_batches=2)
    for number in (1, 2, 3):
        destination.submit(_batch(number))
    destination.close(1.0)
    assert destination.outbox.spans_dropped == 18
    assert destination.outbox.spans_delivered == 0


def test_the_endpoint_is_a_base_url_or_the_traces_url() -> None:
    expected = ("http://c:4318/v1/traces", "http://c:4318/v1/metrics")
    assert (
        signal_urls("http://c:4318")
        == signal_urls("http://c:4318/")
        == signal_urls("http://c:4318/v1/traces")
        == expected
    )


@pytest.mark.parametrize(
    "endpoint",
    ["collector:4318", "http://[::1", "http://c:99999", "http://c:port", "http://my collector:4318", "http://c/?a=b",
     "http://", "ftp://c", "http://c\0:1"],
)  # fmt: skip
def test_an_endpoint_that_is_no_url_is_one_clear_line(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"not an http\(s\) URL") as caught:
        signal_urls(endpoint)
    assert str(caught.value).isprintable()
