"""Which files under a path may be followed, by name: traces, request tables, and what rotation makes of their names."""

import glob
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from vtprof_analyzer.ingest.prepare import shown_name
from vtprof_analyzer.ingest.sources import CACHE_FOLDER, is_trace_file
from vtprof_analyzer.report.format import safe
from vtprof_analyzer.runs.kinds import is_named_table

_ROTATED: Final = re.compile(r"[.\-_]\d[\dTZ:.\-_]*$")
_PACKED: Final = (".gz", ".zst")
_METRICS: Final = ".metrics.jsonl"
"""What the agent calls the files that have nothing but readings of counters."""
_WILDCARD: Final = re.compile(r"[*?\[]")


def is_followed(path: Path) -> bool:
    """Say whether a file is followed, by its name: ``traces.jsonl``, ``traces.jsonl.1``, ``traces-2026-11-22.jsonl.gz``."""
    name = path.name
    if _METRICS in name:
        return False
    if is_trace_file(path) or is_named_table(path):
        return True
    for suffix in _PACKED:
        name = name.removesuffix(suffix)
    stem = _ROTATED.sub("", name)
    return stem != name and (is_trace_file(path.with_name(stem)) or is_named_table(path.with_name(stem)))


def listed(
    path: Path, known: set[tuple[int, int]], note: Callable[[str], None]
) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files under a path that may be followed, and their status; ``known`` places are, whatever their name.

    What cannot be looked into is noted.
    """
    for candidate, named in _candidates(path, note):
        try:
            status = candidate.stat()
        except FileNotFoundError:
            continue  # it went while the folder was listed
        except OSError as error:
            note(f"{safe(shown_name(candidate))}: cannot be read ({error.strerror})")
            continue
        if named or is_followed(candidate) or (status.st_dev, status.st_ino) in known:
            yield candidate, status


def _candidates(path: Path, note: Callable[[str], None]) -> Iterator[tuple[Path, bool]]:
    """Yield files, and whether the user named them."""
    if _WILDCARD.search(os.fspath(path)) and not os.path.lexists(path):
        for name in sorted(glob.glob(os.fspath(path), recursive=True)):  # noqa: PTH207 (parts may be absolute)
            if CACHE_FOLDER not in Path(name).parts:
                yield from _below(Path(name), note, named=path.name not in ("*", "**"))
        return
    yield from _below(path, note, named=True)


def _below(path: Path, note: Callable[[str], None], *, named: bool) -> Iterator[tuple[Path, bool]]:
    if not path.is_dir():
        if os.path.lexists(path):
            yield path, named
        return

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            note(f"{safe(shown_name(Path(error.filename)))}: cannot be listed ({error.strerror})")

    for at, folders, names in os.walk(path, onerror=refuse):
        folders[:] = sorted(name for name in folders if name != CACHE_FOLDER)
        yield from ((Path(at, name), False) for name in sorted(names))
