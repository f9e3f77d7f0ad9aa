"""OTLP over HTTP (protobuf): a thread delivers batches, so that a slow or absent Collector never stops the reading."""

import logging
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.trace.export import SpanExportResult

from vtprof_agent.export.destination import Batch, Outbox, Outcome
from vtprof_schemas.errors import ConfigError

logger = logging.getLogger(__name__)
RETRY_S = 1.0
RETRYABLE = frozenset((401, 403, 404, 408, 429))
"""Statuses of a Collector that is not ready, not yet configured for us, or asks to slow down."""


def signal_urls(endpoint: str) -> tuple[str, str]:
    """Return the URLs for traces and metrics of a Collector's base URL (or of its traces URL); raises ConfigError."""
    try:
        parts = urlsplit(endpoint)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket that is not closed, a port out of range
        sound = False
    if not sound or not endpoint.isprintable() or " " in endpoint or parts.query or parts.fragment:
        raise ConfigError(
            f"--otlp-endpoint {endpoint!r}: not an http(s) URL; give one such as http://collector:4318"
        )
    base = endpoint.rstrip("/").removesuffix("/v1/traces")
    return f"{base}/v1/traces", f"{base}/v1/metrics"


class _Session(requests.Session):
    """Tells whether a batch was put on the wire, and what was answered."""

    def __init__(self) -> None:
        super().__init__()
        self.tried = False
        self.status: int | None = None

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        self.tried = True
        response = super().request(*args, **kwargs)
        self.status = response.status_code
        return response

    def forget(self) -> None:
        """Begin a batch."""
        self.tried, self.status = False, None


class HttpSender:
    """Posts batches with OpenTelemetry's exporters, which retry within the timeout."""

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        """Prepare; connects with the first batch. Headers and certificates come from OTEL_EXPORTER_OTLP_*."""
        traces_url, metrics_url = signal_urls(endpoint)
        self.target = endpoint
        self._spans_sent = 0
        self._closed = False
        # The exporters do not tell a refused batch from an endpoint that is away; what they asked for and got does.
        self._session = _Session()
        self._span_exporter = OTLPSpanExporter(
            traces_url, timeout=timeout_s, compression=Compression.Gzip, session=self._session
        )
        self._metric_exporter = OTLPMetricExporter(
            metrics_url, timeout=timeout_s, compression=Compression.Gzip, session=self._session
        )

    def send(self, batch: Batch) -> Outcome:
        """Post a batch; refused when the endpoint answers that it will not have it."""
        # A retry after the metrics failed must not post the spans again.
        if batch.spans and batch.number != self._spans_sent:
            self._session.forget()
            taken = self._span_exporter.export(batch.spans) is SpanExportResult.SUCCESS
            if not (taken and self._accepted()):
                return self._failure()
            self._spans_sent = batch.number
        if batch.metrics is not None:
            self._session.forget()
            taken = self._metric_exporter.export(batch.metrics) is MetricExportResult.SUCCESS
            if not (taken and self._accepted()):
                # A Collector without a metrics pipeline must not cost the spans behind it.
                return Outcome.SPANS_ONLY if self._failure() is Outcome.REFUSED else Outcome.RETRY
        return Outcome.DELIVERED

    def close(self) -> None:
        """Close the connections and break off a retry."""
        self._closed = True
        self._span_exporter.shutdown()  # type: ignore[no-untyped-call]
        self._metric_exporter.shutdown()

    def _accepted(self) -> bool:
        # To the exporters everything below 400 is a success; they follow no redirect.
        status = self._session.status
        return status is not None and 200 <= status < 300

    def _failure(self) -> Outcome:
        if not self._session.tried and not self._closed:
            return Outcome.REFUSED  # it cannot be encoded, or is too large: no later try would get further
        status = self._session.status
        refused = status is not None and status not in RETRYABLE and 300 <= status < 500
        return Outcome.REFUSED if refused else Outcome.RETRY


class HttpDestination:
    """A queue, and the thread that empties it."""

    def __init__(self, endpoint: str, timeout_s: float, queued_batches: int) -> None:
        """Start the thread; raises ConfigError on a URL that is none."""
        self.outbox = Outbox(HttpSender(endpoint, timeout_s), queued_batches)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vtprof-otlp", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch) -> None:
        """Queue a batch; returns at once."""
        self.outbox.put(batch)
        self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Deliver what waits for at most ``timeout_s``; the rest is dropped and counted."""
        deadline = time.monotonic() + timeout_s
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)
        self.outbox.sender.close()
        self._thread.join(max(0.0, min(1.0, deadline + 1.0 - time.monotonic())))
        self.outbox.abandon()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while not self.outbox.pump():
                if self._stop.wait(RETRY_S):
                    # One last try was made after the stop; the caller's time is worth more than a second one.
                    return
            if self._stop.is_set():
                return
