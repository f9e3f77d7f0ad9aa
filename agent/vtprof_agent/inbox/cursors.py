"""Remembers, over restarts of the agent, how far each ring was read: one JSON file, replaced as a whole."""

import json
import os
import tempfile
from pathlib import Path

from vtprof_agent.regular_file import open_regular
from vtprof_schemas.errors import BackendError
from vtprof_schemas.printable import one_line

_FORMAT_VERSION = 1
_HIGHEST_SEQUENCE = 1 << 62
_MOST_DIGITS = 20
_SHOWN = 120


class CursorStore:
    """Next wanted sequence number of each ring, by ``RingIdentity.ring_id``."""

    def __init__(self, path: Path) -> None:
        """Load the file; one that is missing or broken leaves an empty store, the latter with a ``problem``.

        Of a file with entries that cannot be, which are a ``problem`` too, the others are kept.
        """
        self.path = path
        self.problem: str | None = None
        """Why stored cursors could not be used, in one line; None when all is well."""
        self._cursors: dict[str, int] = {}
        try:
            with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
                self._cursors, refused = _parse(file.read())
            if refused:
                self.problem = (
                    f"{path}: {len(refused)} stored numbers cannot be used and are left out, as {refused[0]}"
                )
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError) as error:
            self.problem = (
                f"{path}: stored cursors cannot be used, rings are read from their beginning: {error}"
            )

    def get(self, ring_id: str) -> int | None:
        """Return the next wanted number of a ring, or None for a ring that is new."""
        return self._cursors.get(ring_id)

    def keys(self) -> list[str]:
        """Return what is stored."""
        return list(self._cursors)

    def set(self, ring_id: str, sequence: int) -> None:
        """Note the next wanted number of a ring, cut to what can be loaded again; ``save`` makes it last."""
        self._cursors[ring_id] = min(max(sequence, 1), _HIGHEST_SEQUENCE)

    def forget(self, ring_id: str) -> None:
        """Drop a ring that was removed."""
        self._cursors.pop(ring_id, None)

    def save(self, durable: bool = False) -> None:
        """Replace the file; ``durable`` waits for the disk. Raises BackendError when it cannot be written."""
        document = {"version": _FORMAT_VERSION, "cursors": self._cursors}
        temporary = ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            prefix = self.path.name + "."
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, prefix=prefix, delete=False) as file:
                temporary = file.name
                file.write(json.dumps(document, sort_keys=True))  # at a fraction of what ``dump`` takes
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise BackendError(f"{self.path}: cursors cannot be stored: {error.strerror}") from error


def _parse(text: bytes) -> tuple[dict[str, int], list[str]]:
    """Return the entries that can be used, and of the others what they are."""
    document = json.loads(text, parse_int=_int)
    if not isinstance(document, dict) or document.get("version") != _FORMAT_VERSION:
        raise ValueError(f"not a cursor file of version {_FORMAT_VERSION}")
    cursors = document.get("cursors")
    if not isinstance(cursors, dict):
        raise ValueError("it holds no cursors")
    good = {
        ring_id: sequence
        for ring_id, sequence in cursors.items()
        if type(sequence) is int and 1 <= sequence <= _HIGHEST_SEQUENCE
    }
    return good, [
        one_line(f"{ring_id} = {str(value)[:_SHOWN]}", _SHOWN)
        for ring_id, value in cursors.items()
        if ring_id not in good
    ]


def _int(digits: str) -> int | str:
    """Read a number; one too long for any clock or count stays text, which no entry may be."""
    return int(digits) if len(digits) <= _MOST_DIGITS else digits
