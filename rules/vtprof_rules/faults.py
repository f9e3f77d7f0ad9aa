"""One fault of a rule pack: where it is and what is wrong, as a line that is safe to print."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vtprof_rules.expressions import control_characters

_MAX_MESSAGE = 300


@dataclass(frozen=True)
class Fault:
    """A fault at ``key`` (dotted, as ``evidence.where``) of a file; ``column`` counts from 1 within the value."""

    path: Path
    key: str
    message: str
    column: int | None = None

    def __str__(self) -> str:
        message = self.message if len(self.message) <= _MAX_MESSAGE else self.message[:_MAX_MESSAGE] + "…"
        place = f" (column {self.column})" if self.column else ""
        return printable(
            f"{self.path}:{self.key}: {message}{place}" if self.key else f"{self.path}: {message}{place}"
        )


def printable(text: str) -> str:
    """Escape what a terminal would obey instead of show; a foreign pack's text and file names are only data."""
    return "".join(c.encode("unicode_escape").decode("ascii") if control_characters(c) else c for c in text)


def sorted_lines(faults: Iterable[Fault]) -> str:
    """Return the faults as text, one line each, in the order of files and keys."""
    return "\n".join(str(fault) for fault in sorted(faults, key=lambda f: (str(f.path), f.key, f.message)))
