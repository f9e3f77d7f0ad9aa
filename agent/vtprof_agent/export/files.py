"""OTLP JSON-lines files in a folder: rotating files, traces and metrics apart, written in the caller's thread."""

import logging
from pathlib import Path

from vtprof_agent.export.backlog import Backlog
from vtprof_agent.export.destination import Batch, Outcome
from vtprof_agent.export.json_lines import metrics_line, spans_line
from vtprof_agent.export.parcel import Parcel, Signal, encode
from vtprof_agent.export.report import Report
from vtprof_agent.export.rotating import RotatingLines, Rotation
from vtprof_agent.export.transport import Answer

logger = logging.getLogger(__name__)
QUEUED_BATCHES = 64
"""What a full disk may hold back in memory; beyond it, or beyond the backlog's bytes, the oldest is dropped."""


class FileDestination:
    """Writes batches to ``*.traces.jsonl`` and ``*.metrics.jsonl``, each at once."""

    def __init__(self, folder: Path, instance: str, rotation: Rotation) -> None:
        """Prepare the files; raises ConfigError when the folder cannot be used."""
        self.outbox = Backlog(QUEUED_BATCHES)
        self._folder = folder
        self._files = {
            signal: RotatingLines(folder, instance, signal.name.lower(), rotation) for signal in Signal
        }
        self._report = Report(str(folder), f"in memory, up to {QUEUED_BATCHES}")

    @property
    def target(self) -> str:
        """The folder."""
        return str(self._folder)

    @property
    def spool_bytes(self) -> int | None:
        """None: it has no spool."""
        return None

    @property
    def problem(self) -> str | None:
        """Why nothing can be written at present; None while it can."""
        return self._report.problem

    def submit(self, batch: Batch) -> None:
        """Write the batch, and before it what could not be written earlier."""
        self.outbox.put(encode(batch, spans_line, metrics_line))
        self._pump()

    def close(self, timeout_s: float, *, last: bool = False) -> None:  # noqa: ARG002  # the protocol's
        """Write what waits and end the files."""
        self._pump()
        if lost := self.outbox.close(last=last):
            logger.error("%s: %d spans were not written", self._folder, lost)
        if left := self.outbox.left_in_rings:
            logger.warning(
                "%s: %d spans were not written; the next agent reads them again", self._folder, left
            )
        for file in self._files.values():
            file.close()

    def _pump(self) -> None:
        while (parcel := self.outbox.take()) is not None:
            answer = self._write(parcel)
            self.outbox.done(parcel, answer)
            self._report.note(parcel, answer)
            if answer.outcome is Outcome.RETRY:
                return

    def _write(self, parcel: Parcel) -> Answer:
        try:
            self._files[parcel.signal].write(parcel.payload)
        except OSError as error:
            return Answer(Outcome.RETRY, error.strerror or str(error))
        return Answer(Outcome.DELIVERED)
