"""Makes the file of a ring: settings from the environment, a safe directory, memory reserved, header complete.

A ring becomes visible under its name only when it is whole: it is built under a temporary name and linked.
"""

import mmap
import os
import stat
import zlib
from typing import Mapping, NamedTuple, Optional

from vtprof_probe.clock import monotonic_ns
from vtprof_probe.process_identity import ProcessIdentity
from vtprof_schemas import names, records

_NAMES_TO_TRY = 10
"""A process that closed a ring may open another; so may one that looks the same from another PID namespace."""


class RingSettings(NamedTuple):
    """Where rings go and how large they are."""

    directory: str = names.DEFAULT_RING_DIR
    capacity: int = records.DEFAULT_CAPACITY
    """Records; a power of two."""
    group: Optional[int] = None
    """Group id that may read the ring beside the owner."""
    faults: int = 0
    """Values of the environment that could not be used; the defaults stand for them."""


class RingFile(NamedTuple):
    """A mapped ring."""

    path: str
    memory: mmap.mmap
    capacity: int


def valid_capacity(capacity: int) -> bool:
    """Tell whether a ring may have this many records: a power of two within the layout's bounds."""
    in_range = records.MIN_CAPACITY <= capacity <= records.MAX_CAPACITY
    return in_range and capacity & (capacity - 1) == 0


def ring_settings(environ: Mapping[str, str]) -> RingSettings:
    """Read ``VTPROF_RING_DIR``, ``VTPROF_RING_RECORDS`` and ``VTPROF_RING_GROUP``; never raises."""
    directory = environ.get(names.ENV_RING_DIR) or names.DEFAULT_RING_DIR
    capacity, group, faults = records.DEFAULT_CAPACITY, None, 0
    if not os.path.isabs(directory) or "\0" in directory:
        directory, faults = names.DEFAULT_RING_DIR, faults + 1
    text = environ.get(names.ENV_RING_RECORDS)
    if text:
        number = _number(text)
        if valid_capacity(number):
            capacity = number
        else:
            faults += 1
    text = environ.get(names.ENV_RING_GROUP)
    if text:
        number = _group_id(text)
        if number >= 0:
            group = number
        else:
            faults += 1
    return RingSettings(directory, capacity, group, faults)


def create_ring_file(settings: RingSettings, role: str, rank: int, identity: ProcessIdentity) -> RingFile:
    """Create the ring of this process, all its memory reserved. Raises OSError with a reason in its text."""
    mode = 0o600 if settings.group is None else 0o660
    size = records.HEADER_BYTES + settings.capacity * records.RECORD_BYTES
    directory = _open_directory(settings.directory, settings.group)
    try:
        temporary = ".%d-%d-%d.tmp" % (identity.pid, identity.start_ticks, monotonic_ns())
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(temporary, flags, mode, dir_fd=directory)
        try:
            if settings.group is not None:
                os.fchown(file, -1, settings.group)
            os.fchmod(file, mode)
            # On a full tmpfs this fails here and now; a sparse file would kill the host with SIGBUS later.
            os.posix_fallocate(file, 0, size)
            memory = mmap.mmap(file, size)
            _write_header(memory, settings.capacity, role, rank, identity)
            name = _link(directory, temporary, "%d-%d" % (identity.pid, identity.start_ticks))
        finally:
            os.close(file)
            os.unlink(temporary, dir_fd=directory)
    finally:
        os.close(directory)
    return RingFile(os.path.join(settings.directory, name), memory, settings.capacity)


def why_no_ring(settings: RingSettings) -> str:
    """Return why no ring can be made in the directory, which is made if need be; empty when one can."""
    try:
        directory = _open_directory(settings.directory, settings.group)
        try:
            writable = os.access(".", os.W_OK | os.X_OK, dir_fd=directory)
        finally:
            os.close(directory)
    except OSError as error:
        return error.strerror or str(error)
    return "" if writable else "no permission to write there"


def _open_directory(path: str, group: Optional[int]) -> int:
    """Return a descriptor of the ring directory, made if need be, so that it cannot be swapped from here on."""
    made = False
    if os.environ.get(names.ENV_RING_DIR_FIXED) != "1":
        try:
            os.makedirs(path, 0o700)
            made = True
        except FileExistsError:
            pass
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if made:
            if group is not None:
                os.fchown(directory, -1, group)
            os.fchmod(directory, 0o700 if group is None else 0o2770)
        status = os.fstat(directory)
        # A shared volume belongs to root and to the group that was named: then the group vouches for it.
        if status.st_uid != os.geteuid() and (group is None or status.st_gid != group):
            raise PermissionError("%s belongs to user %d" % (path, status.st_uid))
        if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            raise PermissionError("%s can be written by everybody and has no sticky bit" % path)
    except OSError:
        os.close(directory)
        raise
    return directory


def _link(directory: int, temporary: str, stem: str) -> str:
    for attempt in range(_NAMES_TO_TRY):
        name = stem + ("-%d" % attempt if attempt else "") + records.RING_SUFFIX
        try:
            os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            continue
        return name
    raise FileExistsError("%d rings of this process exist already" % _NAMES_TO_TRY)


def _write_header(memory: mmap.mmap, capacity: int, role: str, rank: int, identity: ProcessIdentity) -> None:
    fixed = records.FIXED_HEADER.pack(
        records.MAGIC,
        records.LAYOUT_VERSION,
        records.HEADER_BYTES,
        records.RECORD_BYTES,
        capacity,
        identity.pid,
        rank,
        identity.start_ticks,
        monotonic_ns(),
        identity.boot_id,
        role.encode("ascii", "replace")[:16],
        identity.pid_namespace,
    )
    memory[: records.FIXED_HEADER_BYTES] = fixed + records.CRC.pack(zlib.crc32(fixed))
    start = records.CONTROL_OFFSET
    memory[start : start + records.CONTROL.size] = records.CONTROL.pack(records.DETAIL_DEFAULT)


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return -1


def _group_id(text: str) -> int:
    if text.isdigit():
        number = _number(text)
        return number if number < 1 << 31 else -1
    try:
        import grp

        return grp.getgrnam(text).gr_gid
    except (ImportError, KeyError, ValueError, OSError):
        return -1
