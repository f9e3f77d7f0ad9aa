"""Find the input files: what the user named becomes a sorted list of trace files and a count of the others."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vtprof_analyzer.report.format import safe
from vtprof_schemas.errors import DataError

_TEXT_SUFFIXES = (".jsonl", ".json", ".ndjson")
_PACKED_SUFFIXES = (".gz", ".zst")


@dataclass(frozen=True)
class Sources:
    """The files to read, in order, and how many files of a folder were none of ours or out of reach."""

    files: list[Path]
    skipped: int
    faults: list[tuple[Path, str]] = field(default_factory=list)
    """What could not be looked into, and why; each is counted in ``skipped``."""


def is_trace_file(path: Path) -> bool:
    """Say whether a file of a folder is read, by its name."""
    name = path.name.lower()
    for suffix in _PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    # A writer's half-made file starts with a dot; the agent renames it when it is whole.
    return name.endswith(_TEXT_SUFFIXES) and not name.startswith(".")


def find_sources(paths: Iterable[Path]) -> Sources:
    """Return the trace files under files and folders; a file named by the user is read whatever its name.

    Raises DataError for a path that does not exist, cannot be looked into, or is neither file nor folder.
    """
    found: dict[Path, Path] = {}
    skipped = 0
    faults: list[tuple[Path, str]] = []
    for path in paths:
        if stat.S_ISREG(_mode(path)):
            found.setdefault(path.resolve(), path)
            continue
        for candidate in _walk(path, faults):
            if not is_trace_file(candidate):
                skipped += not candidate.name.startswith(".")
            elif (fault := _why_not(candidate)) is None:
                found.setdefault(candidate.resolve(), candidate)
            else:
                faults.append((candidate, fault))
    return Sources(list(found.values()), skipped + len(faults), faults)


def _mode(path: Path) -> int:
    """Return the mode of a path that the user named; only files and folders pass."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            # Listing an unreadable folder would only fail later, as an empty one.
            with os.scandir(path):
                pass
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{safe(path)}: no such file or folder; give the folder that the agent wrote traces to"
        ) from error
    except OSError as error:
        raise DataError(f"{safe(path)}: cannot be read ({error.strerror}); check the path") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{safe(path)}: is neither a file nor a folder; write its content to a file first")
    return mode


def _walk(folder: Path, faults: list[tuple[Path, str]]) -> list[Path]:
    """Return all entries under a folder that are no folders, sorted; note the folders that cannot be listed."""

    def note(error: OSError) -> None:
        faults.append((Path(error.filename), f"cannot be listed ({error.strerror}); left out"))

    return sorted(Path(at, name) for at, _, inside in os.walk(folder, onerror=note) for name in inside)


def _why_not(path: Path) -> str | None:
    """Return why an entry of a folder that looks like a trace is none; None when it is one."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        return f"cannot be read ({error.strerror}); left out"
    return None if regular else "is no regular file; left out"
