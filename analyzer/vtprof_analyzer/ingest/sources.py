"""Find the input files: what the user named becomes a sorted list of trace files and a count of the others."""

import glob
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vtprof_analyzer.report.format import safe
from vtprof_schemas.errors import DataError

CACHE_FOLDER: Final = ".vtprof-cache"
"""A folder of our own beside traces; never read as traces, nor counted."""
_SUFFIXES: Final = (".jsonl", ".json", ".ndjson", ".pb", ".binpb", ".otlp", ".parquet")
_PACKED_SUFFIXES: Final = (".gz", ".zst")
_WILDCARD: Final = re.compile(r"[*?\[]")
_ANYTHING: Final = ("*", "**")


@dataclass(frozen=True)
class Sources:
    """The files to read, in order, and how many files of a folder were none of ours or out of reach."""

    files: list[Path]
    skipped: int
    faults: list[tuple[Path, str]] = field(default_factory=list)
    """What could not be looked into, and why; each is counted in ``skipped``."""
    sizes: dict[Path, int] = field(default_factory=dict)
    """Bytes of each file when it was listed: what a writer adds later is left for the next time."""


def is_trace_file(path: Path) -> bool:
    """Say whether a file of a folder is read, by its name."""
    name = path.name.lower()
    for suffix in _PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    # A writer's half-made file starts with a dot; the agent renames it when it is whole.
    return name.endswith(_SUFFIXES) and not name.startswith(".")


def find_sources(paths: Iterable[Path]) -> Sources:
    """Return the trace files under files, folders and patterns such as ``traces/**/*.jsonl``.

    A file that is named is read whatever its name, and so is one that a pattern's last part describes. Raises DataError
    for a path that does not exist, cannot be looked into, or is neither file nor folder.
    """
    search = _Search()
    for path in paths:
        if _WILDCARD.search(os.fspath(path)) and not os.path.lexists(path):
            search.add_matches(path)
        else:
            search.add(path)
    files = list(search.found.values())
    sizes = {path: search.sizes[path] for path in files}
    return Sources(files, search.skipped + len(search.faults), search.faults, sizes)


class _Search:
    """What was found so far; a file that is found twice is kept under its first name."""

    def __init__(self) -> None:
        self.found: dict[Path, Path] = {}
        self.sizes: dict[Path, int] = {}
        self.skipped = 0
        self.faults: list[tuple[Path, str]] = []

    def add(self, path: Path) -> None:
        """Add a file, or what lies in a folder. Raises DataError."""
        status = _status(path)
        if stat.S_ISREG(status.st_mode):
            self._keep(path, status.st_size)
            return
        for candidate in _walk(path, self.faults):
            self._consider(candidate)

    def add_matches(self, pattern: Path) -> None:
        """Add what a pattern matches. Raises DataError when that is nothing."""
        matches = [
            Path(name)
            for name in sorted(glob.glob(os.fspath(pattern), recursive=True))  # noqa: PTH207 (parts may be absolute)
            if CACHE_FOLDER not in Path(name).parts
        ]
        if not matches:
            raise DataError(f"{safe(pattern)}: no file matches; check the pattern, ** stands for any folders")
        for path in matches:
            if path.is_dir():
                # Below a folder `**` matches the files too.
                if pattern.name != "**":
                    self.add(path)
            elif pattern.name in _ANYTHING:
                self._consider(path)
            else:
                self.add(path)

    def _consider(self, path: Path) -> None:
        """Add a file that nobody named, if it is one of ours."""
        if not is_trace_file(path):
            self.skipped += not path.name.startswith(".")
            return
        try:
            status = path.stat()
        except OSError as error:
            self.faults.append((path, f"cannot be read ({error.strerror}); left out"))
            return
        if stat.S_ISREG(status.st_mode):
            self._keep(path, status.st_size)
        else:
            self.faults.append((path, "is no regular file; left out"))

    def _keep(self, path: Path, size: int) -> None:
        self.sizes[self.found.setdefault(path.resolve(), path)] = size


def _status(path: Path) -> os.stat_result:
    """Return the status of a path that the user named; only files and folders pass."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            # Listing an unreadable folder would only fail later, as an empty one.
            with os.scandir(path):
                pass
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{safe(path)}: no such file or folder; give the folder that the agent wrote traces to"
        ) from error
    except OSError as error:
        raise DataError(f"{safe(path)}: cannot be read ({error.strerror}); check the path") from error
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise DataError(f"{safe(path)}: is neither a file nor a folder; write its content to a file first")
    return status


def _walk(folder: Path, faults: list[tuple[Path, str]]) -> list[Path]:
    """Return all entries under a folder that are no folders, sorted; note the folders that cannot be listed."""

    def note(error: OSError) -> None:
        faults.append((Path(error.filename), f"cannot be listed ({error.strerror}); left out"))

    entries = []
    for at, folders, inside in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if name != CACHE_FOLDER]
        entries += [Path(at, name) for name in inside]
    return sorted(entries)
