"""A batch as lines of OTLP JSON: OpenTelemetry's own encoders, one line for the spans and one for the metric points."""

import json
from collections.abc import Sequence

from opentelemetry.exporter.otlp.json.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan


def spans_line(spans: Sequence[ReadableSpan]) -> bytes:
    """Return spans as a line; raises what a value that is none of OpenTelemetry's raises."""
    return json.dumps(encode_spans(spans).to_dict(), separators=(",", ":")).encode() + b"\n"


def metrics_line(metrics: MetricsData) -> bytes:
    """Return metric points as a line."""
    return json.dumps(encode_metrics(metrics).to_dict(), separators=(",", ":")).encode() + b"\n"
