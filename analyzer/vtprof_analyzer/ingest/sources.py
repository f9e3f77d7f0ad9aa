"""Find the input files: what the user named becomes a sorted list of trace files and a count of the others."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vtprof_schemas.errors import DataError

_TEXT_SUFFIXES = (".jsonl", ".json", ".ndjson")
_PACKED_SUFFIXES = (".gz", ".zst")


@dataclass(frozen=True)
class Sources:
    """The files to read, in order, and how many files of a folder were none of ours."""

    files: list[Path]
    skipped: int


def is_trace_file(path: Path) -> bool:
    """Say whether a file of a folder is read, by its name."""
    name = path.name.lower()
    for suffix in _PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    # A writer's half-made file starts with a dot; the agent renames it when it is whole.
    return name.endswith(_TEXT_SUFFIXES) and not name.startswith(".")


def find_sources(paths: Iterable[Path]) -> Sources:
    """Return the trace files under files and folders; a file named by the user is read whatever its name.

    Raises DataError for a path that does not exist or cannot be listed.
    """
    found: dict[Path, Path] = {}
    skipped = 0
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; give the folder that the agent wrote traces to")
        if not path.is_dir():
            found.setdefault(path.resolve(), path)
            continue
        try:
            inside = sorted(p for p in path.rglob("*") if p.is_file())
        except OSError as error:
            raise DataError(f"{path}: cannot be listed ({error.strerror}); check its permissions") from error
        for candidate in inside:
            if is_trace_file(candidate):
                found.setdefault(candidate.resolve(), candidate)
            elif not candidate.name.startswith("."):
                skipped += 1
    return Sources(list(found.values()), skipped)
