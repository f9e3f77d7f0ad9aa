"""Finds ring files, tells whether their writers live, and removes what dead ones left. Takes the /proc root."""

import enum
import os
import re
import stat
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vtprof_agent.inbox.pid_namespaces import namespace_inode, outer_pid, read_stat, sees_all
from vtprof_agent.inbox.ring_header import RingFile, RingIdentity
from vtprof_schemas import records
from vtprof_schemas.errors import BackendError
from vtprof_schemas.units import NS_PER_S

_GONE_STATES = (b"Z", b"X", b"x")

_TEMPORARY = re.compile(r"\.(\d{1,10})-(\d{1,20})-\d{1,20}\.tmp")
"""What the probe calls a ring until it is whole: PID, start time in ticks, monotonic ns."""
TEMPORARY_AGE_S = 300.0
"""A ring is made in milliseconds. Its PID may be of another PID namespace, so that age must speak too."""

_NOT_YET = "not yet"
"""Key of the line about rings that this process could not open for a want of its own."""

FileKey = tuple[str, int, int]


class Liveness(enum.Enum):
    """Whether the writer of a ring still runs."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    """It lives in a PID namespace that cannot be seen from here: only the machine's first one sees all."""


@dataclass(frozen=True)
class Scan:
    """What one look at the ring directory showed."""

    rings: tuple[Path, ...]
    """Files whose headers are sound, sorted by name; of a ring with several names one."""
    problems: tuple[str, ...]
    """One line for each fault that was not reported before."""
    temporaries: tuple[Path, ...] = ()
    """Rings in the making, or left so by a process that was killed."""


class RingDirectory:
    """The directory that probes put their rings into."""

    def __init__(self, path: Path) -> None:
        """Watch this directory; it need not exist yet."""
        self.path = path
        self._sound: dict[FileKey, RingIdentity] = {}
        self._first: dict[str, Path] = {}
        """By ring the name that it is read under, as long as it has any."""
        self._others: dict[str, list[Path]] = {}
        """By ring its other names, and copies of it."""
        self._reported: set[FileKey | str] = set()

    def scan(self) -> Scan:
        """Look once. Headers are checked when a file is first seen; faulty files are reported once."""
        try:
            entries = sorted(os.scandir(self.path), key=lambda entry: entry.name)
        except FileNotFoundError:
            return Scan((), ())
        except OSError as error:
            return Scan((), self._once(str(self.path), f"{self.path}: cannot be listed: {error.strerror}"))
        names: dict[str, list[tuple[bool, int, Path]]] = {}
        problems: list[str] = []
        temporaries: list[Path] = []
        present: set[FileKey | str] = {str(self.path), _NOT_YET}
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name):
                temporaries.append(self.path / entry.name)
            if not entry.name.endswith(records.RING_SUFFIX) or entry.name.startswith("."):
                continue
            path = self.path / entry.name
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            key = (entry.name, status.st_ino, status.st_ctime_ns if entry.is_symlink() else 0)
            present.add(key)
            if key not in self._sound and key not in self._reported:
                try:
                    ring = RingFile(path)
                    ring.close()
                except BackendError as error:
                    problems.extend(self._once(key, str(error)))
                except OSError as error:
                    line = (
                        f"{path}: ring cannot be opened yet: {error.strerror}; raise the limit of open files"
                    )
                    problems.extend(self._once(_NOT_YET, line))
                else:
                    self._sound[key] = ring.identity
            identity = self._sound.get(key)
            if identity is not None:
                foreign = not entry.name.startswith(f"{identity.pid}-{identity.start_ticks}")
                names.setdefault(identity.ring_id, []).append((foreign, len(entry.name), path))
        self._sound = {key: identity for key, identity in self._sound.items() if key in present}
        rings = self._by_one_name(names)
        for ring_id, others in self._others.items():
            for path in others:
                present.add(str(path))
                first = self._first[ring_id].name
                line = (
                    f"{path}: another name of the ring {first}, or a copy of it, and is not read; remove it"
                )
                problems.extend(self._once(str(path), line))
        self._reported &= present
        return Scan(tuple(rings), tuple(problems), tuple(temporaries))

    def repeated(self, ring_id: str) -> bool:
        """Tell whether a ring had more than one name at the last look."""
        return ring_id in self._others

    def _by_one_name(self, names: dict[str, list[tuple[bool, int, Path]]]) -> list[Path]:
        """Return each ring under the name that it was first read under, else the one that its writer gives."""
        self._first = {ring_id: self._first.get(ring_id) or min(found)[2] for ring_id, found in names.items()}
        paths = {ring_id: [path for *_, path in found] for ring_id, found in names.items()}
        others = {
            ring_id: [one for one in found if one != self._first[ring_id]] for ring_id, found in paths.items()
        }
        self._others = {ring_id: found for ring_id, found in others.items() if found}
        return sorted(
            self._first[ring_id] for ring_id, found in paths.items() if self._first[ring_id] in found
        )

    def _once(self, key: FileKey | str, problem: str) -> tuple[str, ...]:
        if key in self._reported:
            return ()
        self._reported.add(key)
        return (problem,)


def process_alive(identity: RingIdentity, proc_root: Path = Path("/proc")) -> Liveness:
    """Tell whether the process that wrote a ring still runs; a later process of the same PID is not it."""
    boot_id = read_boot_id(proc_root)
    if boot_id and any(identity.boot_id) and boot_id != identity.boot_id:
        return Liveness.DEAD
    if identity.start_ticks == 0 or identity.pid_namespace == 0:
        return Liveness.UNKNOWN
    pid = pid_here(identity, proc_root)
    if pid is None:
        return Liveness.DEAD if sees_all(proc_root) else Liveness.UNKNOWN
    folder = proc_root / str(pid)
    try:
        state, start_ticks = read_stat(folder)
    except (FileNotFoundError, ProcessLookupError):
        return Liveness.DEAD
    except (OSError, ValueError, IndexError):
        return Liveness.UNKNOWN
    if start_ticks != identity.start_ticks:
        return Liveness.DEAD
    # A main thread that ended shows as a zombie though others go on.
    if state in _GONE_STATES and _thread_count(folder) <= 1:
        return Liveness.DEAD
    return Liveness.ALIVE


def pid_here(identity: RingIdentity, proc_root: Path = Path("/proc")) -> int | None:
    """Return the number that the process that wrote a ring has, or had, for us; None where it cannot be seen from here."""
    if identity.pid_namespace == namespace_inode(proc_root):
        return identity.pid
    return outer_pid(identity.pid, identity.start_ticks, proc_root) if sees_all(proc_root) else None


def read_boot_id(proc_root: Path = Path("/proc")) -> bytes:
    """Return the 16 bytes of this boot's id, or nothing when it cannot be read."""
    try:
        return _boot_id(proc_root)
    except (OSError, ValueError):
        return b""


@lru_cache(maxsize=8)
def _boot_id(proc_root: Path) -> bytes:
    """Read it once: it stays while this process lives."""
    return uuid.UUID((proc_root / "sys/kernel/random/boot_id").read_text("ascii").strip()).bytes


def remove_ring(path: Path, proc_root: Path = Path("/proc")) -> bool:
    """Remove a drained ring; False, and the file stays, unless it is a ring, closed or of a dead process, and ours.

    ``ours`` is: owned by this user, shared with a group of ours (``VTPROF_RING_GROUP``), or this user is root. A writer
    closes its ring for good: at the end of its process, and when it is detached.
    """
    try:
        ring = RingFile(path)
    except (BackendError, OSError):
        return False
    try:
        status = ring.status()
        if not _ours(status):
            return False
        if not ring.state().closed and process_alive(ring.identity, proc_root) is not Liveness.DEAD:
            return False
        now = os.lstat(path)
        if (now.st_dev, now.st_ino) != (status.st_dev, status.st_ino):
            return False
        path.unlink()
    except OSError:
        return False
    finally:
        ring.close()
    return True


def _ours(status: os.stat_result) -> bool:
    shared = status.st_mode & stat.S_IWGRP and status.st_gid in (os.getegid(), *os.getgroups())
    return bool(shared) or os.geteuid() in (0, status.st_uid)


def remove_temporary(path: Path, unix_ns: int, proc_root: Path = Path("/proc")) -> bool:
    """Remove a ring that its writer left half made; False, and the file stays, unless it is old, ours, and nobody's.

    Nobody's is: no process here has the PID and start time in the name. ``ours`` as for ``remove_ring``.
    """
    named = _TEMPORARY.fullmatch(path.name)
    if named is None:
        return False
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or not _ours(status):
            return False
        if unix_ns - status.st_mtime_ns < TEMPORARY_AGE_S * NS_PER_S:
            return False
        namespace = namespace_inode(proc_root)
        writer = RingIdentity(b"", int(named[1]), int(named[2]), namespace, "", 0, 0)
        if process_alive(writer, proc_root) is not Liveness.DEAD:
            return False
        path.unlink()
    except OSError:
        return False
    return True


def _thread_count(folder: Path) -> int:
    try:
        return sum(1 for _ in (folder / "task").iterdir())
    except OSError:
        return 0
