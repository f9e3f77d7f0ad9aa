"""Keeps the progress of each ring and what was lost, beside the rings, and keeps a second agent away from them."""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from vtprof_agent.export.passing_folder import nothing_left
from vtprof_agent.follower import Progress
from vtprof_agent.inbox.cursors import CursorStore
from vtprof_agent.inbox.ring_header import RingFile
from vtprof_agent.regular_file import open_regular
from vtprof_schemas import names, records
from vtprof_schemas.errors import BackendError

CURSORS_FILE = "agent.cursors.json"
LOCK_FILE = "agent.lock"
_FIELDS = ("exported_through", "passed", "records_lost", "lost_ahead", "clock_offset_ns")
_LOST = ("spans", "metrics")
_TOTALS = frozenset(("lost", "retired"))
"""What stands before ``#`` in keys that are no ring's."""


class ProgressStore:
    """Progress by ring; the cursor under the id itself, the rest beside it (shifted by one: 0 is not stored).

    Beside them totals: what destinations lost, and what was read and lost of rings that are gone.
    """

    def __init__(self, ring_dir: Path) -> None:
        """Load what an earlier agent left in this folder."""
        self._ring_dir = ring_dir
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
        fields = {name: self._get(f"{ring_id}#{name}") for name in _FIELDS}
        # More lost than passed: of a file that was tampered with, and its reading would be negative.
        fields["records_lost"] = min(fields["records_lost"], fields["passed"])
        return Progress(cursor, **fields)

    def lost(self, target: str) -> tuple[int, int]:
        """Return the spans and batches of metric points that a destination lost up to the last save."""
        return self._get(f"lost#spans#{target}"), self._get(f"lost#metrics#{target}")

    def retired(self) -> tuple[int, int]:
        """Return the records that were read and lost of the rings forgotten so far."""
        return self._get("retired#records_read"), self._get("retired#records_lost")

    def save(
        self, progress: Mapping[str, Progress], losses: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        """Store the progress of rings and, by destination, the spans and batches of metric points lost, all or nothing.

        Raises BackendError when the file cannot be written.
        """
        for ring_id, reached in progress.items():
            self._store.set(ring_id, reached.cursor)
            for name in _FIELDS:
                self._set(f"{ring_id}#{name}", getattr(reached, name))
        for target, counts in (losses or {}).items():
            for name, count in zip(_LOST, counts, strict=True):
                self._set(f"lost#{name}#{target}", count)
        if progress or losses:
            self._store.save()

    def forget(self, ring_id: str) -> None:
        """Drop a ring that was removed; what was read and lost of it stays in ``retired``."""
        gone = self.get(ring_id)
        if gone is not None:
            read, lost = self.retired()
            self._set("retired#records_read", read + gone.passed - gone.records_lost)
            self._set("retired#records_lost", lost + gone.records_lost)
        self._store.forget(ring_id)
        for name in _FIELDS:
            self._store.forget(f"{ring_id}#{name}")

    def retire_gone(self) -> None:
        """Forget rings that are not there any more: an agent that removed them was killed before it could say so."""
        there = set()
        for path in self._ring_dir.glob(f"*{records.RING_SUFFIX}"):
            try:
                ring = RingFile(path)
            except BackendError:
                continue
            except OSError:
                return  # of this process: it cannot tell which are there
            there.add(ring.identity.ring_id)
            ring.close()
        # With the rings whose cursor could not be used, of which fields are left.
        for ring_id in {key.partition("#")[0] for key in self._store.keys()} - _TOTALS - there:  # noqa: SIM118  # no mapping
            self.forget(ring_id)

    def _get(self, key: str) -> int:
        return (self._store.get(key) or 1) - 1

    def _set(self, key: str, value: int) -> None:
        self._store.set(key, value + 1)


def claim(ring_dir: Path) -> int:
    """Make the ring folder if need be and lock it for this agent; return the lock's file descriptor.

    Raises BackendError when another agent follows it already: two would export everything twice.
    """
    try:
        _make(ring_dir)
        lock = open_regular(ring_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise _unusable(ring_dir, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise BackendError(
            f"{ring_dir}: another vtprof-agent follows these rings; stop it or give --ring-dir"
        ) from error
    return lock


def claim_anew(ring_dir: Path, lock: int) -> None:
    """Lock a ring folder that was removed and made anew since, by the same descriptor.

    Raises BackendError when another agent was quicker.
    """
    try:
        if os.path.samestat(os.fstat(lock), (ring_dir / LOCK_FILE).lstat()):
            return
    except FileNotFoundError:
        pass
    except OSError:  # a folder that cannot be read at present is no other
        return
    if ring_dir.is_dir():
        fresh = claim(ring_dir)
        os.dup2(fresh, lock, inheritable=False)
        os.close(fresh)


def check(ring_dir: Path) -> None:
    """Raise BackendError where ``claim`` could not make or use the folder; leave nothing behind, lock nothing."""
    try:
        with nothing_left(ring_dir):
            _make(ring_dir)
            if not os.access(ring_dir, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(13, "no permission", str(ring_dir))
            if (ring_dir / LOCK_FILE).exists():
                os.close(open_regular(ring_dir / LOCK_FILE, os.O_RDWR))
    except OSError as error:
        raise _unusable(ring_dir, error) from error


def _make(ring_dir: Path) -> None:
    if not ring_dir.is_dir():
        ring_dir.mkdir(parents=True, mode=0o700)
        if os.environ.get(names.ENV_RING_GROUP):
            _open_to_group(ring_dir, os.environ[names.ENV_RING_GROUP])


def _unusable(ring_dir: Path, error: OSError) -> BackendError:
    return BackendError(
        f"{error.filename or ring_dir}: cannot be used as ring folder: {error.strerror}; give --ring-dir"
    )


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
