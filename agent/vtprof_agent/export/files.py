"""OTLP JSON-lines files: OpenTelemetry's own file exporters over rotating streams, traces and metrics apart."""

from pathlib import Path
from typing import IO, cast

from opentelemetry.exporter.otlp.json.file import FileMetricExporter, FileSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.trace.export import SpanExportResult

from vtprof_agent.export.destination import Batch, Outbox, Outcome
from vtprof_agent.export.rotating import RotatingLines, Rotation

QUEUED_BATCHES = 64
"""What a full disk may hold back in memory."""


class _Lines(RotatingLines):
    """Tells whether a line came to be written."""

    tried = False

    def write(self, line: str) -> int:
        self.tried = True
        return super().write(line)


class FileSender:
    """Writes batches to ``*.traces.jsonl`` and ``*.metrics.jsonl`` in a folder."""

    def __init__(self, folder: Path, instance: str, rotation: Rotation) -> None:
        """Prepare the files; raises ConfigError when the folder cannot be used."""
        self.target = str(folder)
        self._traces = _Lines(folder, instance, "traces", rotation)
        self._metrics = _Lines(folder, instance, "metrics", rotation)
        # The exporters only write, flush and ask whether the stream is closed: all that IO[str] is needed for here.
        self._span_exporter = FileSpanExporter(stream=cast(IO[str], self._traces))
        self._metric_exporter = FileMetricExporter(stream=cast(IO[str], self._metrics))
        self._spans_written = 0

    def send(self, batch: Batch) -> Outcome:
        """Write a batch; to be tried again when the file system refused."""
        # A retry after the metrics failed must not write the spans again.
        if batch.spans and batch.number != self._spans_written:
            self._traces.tried = False
            if self._span_exporter.export(batch.spans) is not SpanExportResult.SUCCESS:
                # What cannot be encoded never can; what could not be written may be later.
                return Outcome.RETRY if self._traces.tried else Outcome.REFUSED
            self._spans_written = batch.number
        self._metrics.tried = False
        if (
            batch.metrics is not None
            and self._metric_exporter.export(batch.metrics) is not MetricExportResult.SUCCESS
        ):
            return Outcome.RETRY if self._metrics.tried else Outcome.SPANS_ONLY
        return Outcome.DELIVERED

    def close(self) -> None:
        """End both files."""
        self._span_exporter.shutdown()
        self._metric_exporter.shutdown()
        self._traces.close()
        self._metrics.close()


class FileDestination:
    """Writes at once, in the caller's thread."""

    def __init__(self, folder: Path, instance: str, rotation: Rotation) -> None:
        """Prepare the files; raises ConfigError when the folder cannot be used."""
        self.outbox = Outbox(FileSender(folder, instance, rotation), QUEUED_BATCHES)

    def submit(self, batch: Batch) -> None:
        """Write the batch, and before it what could not be written earlier."""
        self.outbox.put(batch)
        self.outbox.pump()

    def close(self, timeout_s: float) -> None:  # noqa: ARG002  # the protocol's
        """Write what waits and end the files."""
        if not self.outbox.pump():
            self.outbox.abandon()
        self.outbox.sender.close()
