"""Follows a growing folder of traces, a lake of Parquet or a growing request table: each poll returns the requests that are
complete since. Where it stands is plain JSON, and a new follower goes on there: no request is lost or comes twice, but
for files that were removed meanwhile.
"""

import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np

from vtprof_analyzer.held_folder import held_folder
from vtprof_analyzer.regress.requests import Requests, joined
from vtprof_analyzer.report.format import safe
from vtprof_analyzer.watch.events import FOREVER_NS, Batch
from vtprof_analyzer.watch.follow_files import Files, Piece, Told
from vtprof_analyzer.watch.follow_spans import SpanStore, Taken
from vtprof_schemas.errors import BackendError, DataError, NoData
from vtprof_schemas.units import NS_PER_S

GRACE_S: Final = 5.0
"""How long after a request's end, by the spans' own time, the others of its spans may come."""
_LONGEST_S: Final = 120
"""A request that takes longer may come late: others are not held back for it."""
_FADE: Final = 0.9
"""What is left after a poll of the longest time that a request took."""
_VERSION: Final = 1
_CONTENTS: Final = ("piece-", "plain-", "waiting.", "resources.", "done.")
_AHEAD_S: Final = 600


class Follower:
    """Follows what lies under a path. Not for several threads."""

    def __init__(
        self,
        path: Path,
        state: Mapping[str, Any] | None = None,
        *,
        grace_s: float = GRACE_S,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Begin, or go on from the ``state`` of another; raises ValueError, KeyError or TypeError where it is none."""
        stack = ExitStack()
        try:
            folder = stack.enter_context(held_folder("vtprof-watch-", Path(tempfile.gettempdir()), _CONTENTS))
        except OSError as error:
            raise BackendError(
                f"temporary folder: {error.strerror}; free some space or set TMPDIR"
            ) from error
        self.close = weakref.finalize(self, stack.close)
        """Remove what lies in the temporary folder; done at exit too."""
        self._path = path
        self._files = Files(path, folder)
        self._spans = SpanStore(folder, grace_s)
        self._grace_ns = int(grace_s * NS_PER_S)
        self._now_ns = now_ns
        self._longest_ns = 0.0
        self._newest_ns = 0
        self._settled_ns = 0
        self._origin: dict[str, tuple[str, int]] = {}
        """Of pieces with spans that wait: their file's key, and where they begin in it."""
        if state is not None:
            self._restore(state)

    def poll(self) -> Batch:
        """Return what came since the last poll; what cannot be read is counted and noted. Raises where a disk is full."""
        return self._poll(last=False)

    def finish(self) -> Batch:
        """Return what still waited for more of it to come: nothing more comes."""
        return self._poll(last=True)

    def _poll(self, *, last: bool) -> Batch:
        told = Told()
        pieces, all_read = self._files.poll(told, final=last)
        tables: list[Requests] = []
        taken: Taken | None = None
        try:
            traces = [piece for piece in pieces if piece.content == "traces"]
            if traces or (last and self._spans.waits):
                self._origin |= {str(piece.staged): (piece.key, piece.begin) for piece in traces}
                names = {str(piece.staged): self._files.name(piece.key) for piece in traces}
                taken = self._spans.add(traces, self._now_ns(), told, names, last=last and all_read)
                tables.append(taken.requests)
                self._origin = {name: place for name, place in self._origin.items() if name in taken.held}
                self._longest_ns = max(self._longest_ns * _FADE, min(taken.longest_ns, _LONGEST_S * NS_PER_S))
                self._newest_ns = max(self._newest_ns, self._spans.newest_ns)
            tables += [self._table(piece, told) for piece in pieces if piece.content == "table"]
        finally:
            for piece in pieces:
                piece.staged.unlink(missing_ok=True)
        settled_ns = FOREVER_NS if last and all_read else self._settled()
        kv = taken.kv if taken else ()
        return Batch(joined(tables), kv, settled_ns, told.skipped, tuple(told.notes), all_read)

    def _settled(self) -> int:
        """Return up to which start requests are known: those that took as long as the longest of late have ended since."""
        newest_ns = self._newest_ns
        behind_ns = self._files.behind_ns()
        if behind_ns is not None:
            newest_ns = min(newest_ns, behind_ns)
        self._settled_ns = max(self._settled_ns, int(newest_ns - self._longest_ns - self._grace_ns), 0)
        return self._settled_ns

    def _table(self, piece: Piece, told: Told) -> Requests:
        from vtprof_analyzer.runs.tables import read_table

        shown = safe(self._files.name(piece.key))
        found = []
        try:
            for run in read_table(piece.staged, shown):
                found.append(run.requests)
                for reason, count in run.skipped.items():
                    told.count(reason, count)
                told.notes += run.notes
        except NoData:
            pass  # whatever it had is counted elsewhere, or there was nothing
        except DataError as error:
            told.count("part of a table that cannot be read")
            told.notes.append(str(error))
        requests = joined(found)
        if len(requests):
            output = np.maximum(np.nan_to_num(requests.output_tokens) - 1, 0)
            took_ns = (np.nan_to_num(requests.ttft_ms) + np.nan_to_num(requests.tpot_ms) * output) * 1e6
            took_ns = np.minimum(took_ns, _LONGEST_S * NS_PER_S)
            latest_ns = self._now_ns() + _AHEAD_S * NS_PER_S
            ends = (requests.start_ns + took_ns.astype(np.int64))[requests.start_ns <= latest_ns]
            self._newest_ns = max(self._newest_ns, int(ends.max(initial=0)))
            self._longest_ns = max(self._longest_ns, float(took_ns.max()))
        return requests

    def state(self) -> dict[str, Any]:
        """Return where it stands, as plain JSON."""
        resume: dict[str, int] = {}
        for key, begin in self._origin.values():
            resume[key] = min(begin, resume.get(key, begin))
        return {
            "version": _VERSION,
            "files": self._files.state(resume),
            "spans": self._spans.state(),
            "newest_ns": self._newest_ns,
            "longest_ns": self._longest_ns,
            "settled_ns": self._settled_ns,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        if state["version"] != _VERSION:
            raise ValueError(f"state of version {state['version']}")
        self._files.restore(state["files"])
        self._spans.restore(state["spans"])
        self._newest_ns, self._settled_ns = int(state["newest_ns"]), int(state["settled_ns"])
        self._longest_ns = float(state["longest_ns"])
