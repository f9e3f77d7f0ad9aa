"""A batch that cannot be put into a message is dropped and counted; what comes after it arrives."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from vtprof_agent.export.destination import Batch, Outbox
from vtprof_agent.export.files import FileDestination
from vtprof_agent.export.otlp_http import HttpDestination
from vtprof_agent.export.rotating import Rotation
from vtprof_agent.metric_points import Point, metrics_data
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.sampler import Sample
from vtprof_schemas import names

NODE = agent_resource("test")


def _span(start: int = 1) -> ReadableSpan:
    return ReadableSpan("one", SpanContext(1, 1, False), resource=NODE, start_time=start, end_time=start)


def _metrics(time_ns: int = 1) -> MetricsData | None:
    return metrics_data([Point(NODE, Sample(names.ENGINE_RUNNING, 1), time_ns)], 0)


@contextmanager
def _collector() -> Iterator[tuple[str, list[str]]]:
    """Serve; gives the URL and the paths of what came."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _counts(outbox: Outbox) -> tuple[int, int, int, int]:
    return outbox.spans_delivered, outbox.spans_dropped, outbox.metrics_dropped, outbox.settled()


def test_metric_points_that_cannot_be_encoded_cost_neither_their_spans_nor_the_next_batch() -> None:
    with _collector() as (url, seen):
        destination = HttpDestination(url, timeout_s=5.0, queued_batches=8)
        destination.submit(Batch(1, [_span()], _metrics(2**70)))
        destination.submit(Batch(2, [_span()], _metrics()))
        destination.close(10.0)
        assert seen == ["/v1/traces", "/v1/traces", "/v1/metrics"]
        assert _counts(destination.outbox) == (2, 0, 1, 2)


def test_spans_that_cannot_be_encoded_do_not_hold_up_the_next_batch() -> None:
    with _collector() as (url, seen):
        destination = HttpDestination(url, timeout_s=5.0, queued_batches=8)
        destination.submit(Batch(1, [_span(2**70)]))
        destination.submit(Batch(2, [_span()]))
        destination.close(10.0)
        assert seen == ["/v1/traces"]
        assert _counts(destination.outbox) == (1, 1, 0, 2)


def test_a_collector_that_is_away_is_waited_for() -> None:
    destination = HttpDestination("http://127.0.0.1:9", timeout_s=0.2, queued_batches=2)
    destination.submit(Batch(1, [], _metrics()))
    assert not destination.outbox.pump()
    assert destination.outbox.settled() == 0
    destination.close(0.1)
    assert destination.outbox.metrics_dropped == 1


def test_files_go_on_after_what_cannot_be_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = FileDestination(tmp_path, "x", Rotation(1 << 30, 3600.0, None))
    encode = destination.outbox.sender._metric_exporter._exporter._encode  # type: ignore[attr-defined]

    def fails_once(data: MetricsData) -> object:
        monkeypatch.undo()
        raise TypeError("no")

    exporter = destination.outbox.sender._metric_exporter._exporter  # type: ignore[attr-defined]
    monkeypatch.setattr(exporter, "_encode", fails_once)
    destination.submit(Batch(1, [_span()], _metrics()))
    destination.submit(Batch(2, [_span()], _metrics()))
    assert exporter._encode == encode
    destination.close(1.0)
    assert _counts(destination.outbox) == (2, 0, 1, 2)
