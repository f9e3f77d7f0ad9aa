"""Remembers, over restarts of the agent, how far each ring was read: one JSON file, replaced as a whole."""

import json
import os
import tempfile
from pathlib import Path

from vtprof_agent.regular_file import open_regular
from vtprof_schemas.errors import BackendError

_FORMAT_VERSION = 1
_HIGHEST_SEQUENCE = 1 << 62


class CursorStore:
    """Next wanted sequence number of each ring, by ``RingIdentity.ring_id``."""

    def __init__(self, path: Path) -> None:
        """Load the file; one that is missing or broken leaves an empty store, the latter with a ``problem``."""
        self.path = path
        self.problem: str | None = None
        """Why stored cursors could not be used, in one line; None when all is well."""
        self._cursors: dict[str, int] = {}
        try:
            with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
                self._cursors = _parse(file.read())
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
        """Note the next wanted number of a ring; ``save`` makes it last."""
        self._cursors[ring_id] = sequence

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
                json.dump(document, file, sort_keys=True)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise BackendError(f"{self.path}: cursors cannot be stored: {error.strerror}") from error


def _parse(text: bytes) -> dict[str, int]:
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("version") != _FORMAT_VERSION:
        raise ValueError(f"not a cursor file of version {_FORMAT_VERSION}")
    cursors = document.get("cursors")
    if not isinstance(cursors, dict):
        raise ValueError("it holds no cursors")
    for ring_id, sequence in cursors.items():
        if type(sequence) is not int or not 1 <= sequence <= _HIGHEST_SEQUENCE:
            raise ValueError(f"cursor of {ring_id} is {sequence!r}")
    return cursors
