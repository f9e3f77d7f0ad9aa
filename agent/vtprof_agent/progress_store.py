"""Keeps the progress of each ring in the cursor store, beside the rings, and keeps a second agent away from them."""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from vtprof_agent.follower import Progress
from vtprof_agent.inbox.cursors import CursorStore
from vtprof_agent.regular_file import open_regular
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError

CURSORS_FILE = "agent.cursors.json"
LOCK_FILE = "agent.lock"
_FIELDS = ("exported_through", "passed", "records_lost", "lost_ahead")


class ProgressStore:
    """Progress by ring; the cursor under the id itself, the rest beside it (shifted by one: 0 is not stored)."""

    def __init__(self, ring_dir: Path) -> None:
        """Load what an earlier agent left in this folder."""
        self._store = CursorStore(ring_dir / CURSORS_FILE)

    @property
    def problem(self) -> str | None:
        """Return why stored progress could not be used, or None."""
        return self._store.problem

    def get(self, ring_id: str) -> Progress | None:
        """Return the progress of a ring, None for a new one."""
        cursor = self._store.get(ring_id)
        if cursor is None:
            return None
        rest = {name: (self._store.get(f"{ring_id}#{name}") or 1) - 1 for name in _FIELDS}
        return Progress(cursor, **rest)

    def save(self, progress: Mapping[str, Progress]) -> None:
        """Store the progress of rings; raises BackendError when the file cannot be written."""
        for ring_id, reached in progress.items():
            self._store.set(ring_id, reached.cursor)
            for name in _FIELDS:
                self._store.set(f"{ring_id}#{name}", getattr(reached, name) + 1)
        if progress:
            self._store.save()

    def forget(self, ring_id: str) -> None:
        """Drop a ring that was removed."""
        self._store.forget(ring_id)
        for name in _FIELDS:
            self._store.forget(f"{ring_id}#{name}")


def claim(ring_dir: Path) -> int:
    """Make the ring folder if need be and lock it for this agent; return the lock's file descriptor.

    Raises BackendError when another agent follows it already: two would export everything twice.
    """
    try:
        if not ring_dir.is_dir():
            ring_dir.mkdir(parents=True, mode=0o700)
            if os.environ.get(names.ENV_RING_GROUP):
                _open_to_group(ring_dir, os.environ[names.ENV_RING_GROUP])
        lock = open_regular(ring_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise BackendError(
            f"{error.filename or ring_dir}: cannot be used as ring folder: {error.strerror}; give --ring-dir"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise BackendError(
            f"{ring_dir}: another vtprof-agent follows these rings; stop it or give --ring-dir"
        ) from error
    return lock


def _open_to_group(folder: Path, group: str) -> None:
    import grp

    try:
        gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise BackendError(
            f"{names.ENV_RING_GROUP}={group}: no such group; give its name or number"
        ) from error
    os.chown(folder, -1, gid)
    folder.chmod(0o2770)
