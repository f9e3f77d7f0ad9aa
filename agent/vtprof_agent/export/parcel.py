"""A batch as messages, one for each signal: encoded once (for sending OTLP protobuf, gzip'ed), then kept, spooled, sent."""

import gzip
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.export.destination import Batch

logger = logging.getLogger(__name__)
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Uncompressed; what OpenTelemetry's own exporters send at most."""
_GZIP_LEVEL = 1
"""A batch of spans shrinks to a thirtieth; higher levels cost twice the time for a third less."""
_GZIP_FORMAT = 31


class Signal(IntEnum):
    """What a message holds; the values stand in spool files."""

    TRACES = 1
    METRICS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """One message; told from another by identity."""

    signal: Signal
    number: int
    """Of its batch."""
    spans: int
    payload: bytes
    """For sending the protobuf message, gzip'ed; for files a line of JSON."""
    again: int = 0
    """Of the spans, those that the next agent reads again from rings if this one does not settle the batch."""

    def message(self) -> bytes:
        """Return the protobuf message; raises ValueError when the payload is not that of one."""
        inflate = zlib.decompressobj(_GZIP_FORMAT)
        try:
            message = inflate.decompress(self.payload, MAX_MESSAGE_BYTES)
        except zlib.error as error:
            raise ValueError(f"not gzip: {error}") from error
        if not inflate.eof:
            raise ValueError("cut off, or too large")
        return message


@dataclass(frozen=True)
class Encoded:
    """The messages of a batch, and what of it cannot be put into one."""

    number: int
    parcels: tuple[Parcel, ...]
    spans_refused: int = 0
    metrics_refused: int = 0
    """Batches of metric points."""


def protobuf_spans(spans: Sequence[ReadableSpan]) -> bytes:
    """Encode spans for sending."""
    return pack(encode_spans(spans).SerializeToString())


def protobuf_metrics(metrics: MetricsData) -> bytes:
    """Encode metric points for sending."""
    return pack(encode_metrics(metrics).SerializeToString())


def encode(
    batch: Batch,
    spans_bytes: Callable[[Sequence[ReadableSpan]], bytes] = protobuf_spans,
    metrics_bytes: Callable[[MetricsData], bytes] = protobuf_metrics,
) -> Encoded:
    """Encode a batch; spans and metric points that cannot be encoded are left out and counted, each by itself."""
    parcels, spans_refused, metrics_refused = [], 0, 0
    if batch.spans:
        payload = _attempt(partial(spans_bytes, batch.spans), "spans")
        if payload is None:
            spans_refused = len(batch.spans)
        else:
            parcels.append(Parcel(Signal.TRACES, batch.number, len(batch.spans), payload, batch.again))
    if batch.metrics is not None:
        payload = _attempt(partial(metrics_bytes, batch.metrics), "metric points")
        if payload is None:
            metrics_refused = 1
        else:
            parcels.append(Parcel(Signal.METRICS, batch.number, 0, payload))
    return Encoded(batch.number, tuple(parcels), spans_refused, metrics_refused)


def _attempt(run: Callable[[], bytes], what: str) -> bytes | None:
    try:
        return run()
    except Exception as error:  # whatever the encoders meet in a value that is not ours
        logger.error("a batch of %s cannot be encoded and is dropped: %s", what, error)
        return None


def pack(message: bytes) -> bytes:
    """Return the payload of a protobuf message; raises ValueError for one that is larger than any is sent."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise ValueError(f"{len(message)} bytes are too many to send")
    return gzip.compress(message, _GZIP_LEVEL, mtime=0)
