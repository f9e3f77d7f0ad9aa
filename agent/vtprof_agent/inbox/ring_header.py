"""Opens a ring file and reads all but its records: identity, info, clock anchor, counters. Trusts nothing in it.

The file is read with ``pread`` and not mapped: a writer that truncates it then costs a fault, not the agent's life.
"""

import errno
import json
import logging
import math
import os
import stat
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vtprof_schemas import names, records
from vtprof_schemas.errors import BackendError
from vtprof_schemas.units import NS_PER_S

logger = logging.getLogger(__name__)
InfoValue = int | float | str

_ATTEMPTS = 8
"""Reads of a block that its writer may be changing just then; each takes microseconds."""
_MOST_COUNTED = 1 << 48
"""Of records dropped and of hook errors: at a million a second it takes nine years."""
_MOST_THREADS = 64
"""Of a process in the probe's hooks at a time: so much faster than the clock its time there may grow."""
_MOST_PROBE_NS = 1 << 60
_LATEST_NS = 1 << 62
"""Of either clock of an anchor: the year 2116. A later one is a forgery, and what is computed of it fits nowhere."""
_OUR_LIMITS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
_KNOWN_INFO = {
    key: attribute
    for key, attribute in names.ATTRIBUTES.items()
    if attribute.where in ("resource", "probe") or key == names.REQUEST_MODEL
}


@dataclass(frozen=True)
class RingIdentity:
    """The process that wrote a ring, and which of its rings it is."""

    boot_id: bytes
    pid: int
    start_ticks: int
    pid_namespace: int
    """Inode of the writer's PID namespace; 0 unknown."""
    role: str
    rank: int
    created_ns: int
    """Monotonic ns; tells apart the rings of one process."""

    @property
    def instance_id(self) -> str:
        """Return the name of the process, whichever of its rings this is."""
        return f"{self.boot_id.hex()}-{self.pid}-{self.start_ticks}"

    @property
    def ring_id(self) -> str:
        """Return a key that no two rings share."""
        return f"{self.instance_id}-{self.created_ns}"


@dataclass(frozen=True)
class RingState:
    """What the writer says of itself."""

    closed: bool
    dropped: int
    """Records that the writer could not pack."""
    hook_errors: int
    probe_ns: int


@dataclass(frozen=True)
class ClockAnchor:
    """One instant on the writer's monotonic clock and on the wall clock."""

    monotonic_ns: int
    wall_ns: int


@dataclass(frozen=True)
class RingInfo:
    """The resource attributes of a process, cleaned."""

    version: int
    values: dict[str, InfoValue]
    unknown_keys: int
    refused_values: int
    """Values of another type than their key's, and out of range."""


class RingFile:
    """An open ring file: its header blocks and raw bytes. Raises BackendError, naming file and field.

    Opening one also raises the OSErrors that tell of this process and not of the file: too many open files, no memory.
    """

    def __init__(self, path: Path, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """Open and check the file; it is left alone otherwise."""
        self.path = path
        self._clock_ns = clock_ns
        self._state_ns: int | None = None
        self._damage_said = False
        self.writable = True
        self._info: RingInfo | None = None
        self._anchor: ClockAnchor | None = None
        self._state = RingState(False, 0, 0, 0)
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            try:
                self._file = os.open(path, os.O_RDWR | flags)
            except PermissionError:
                self._file = os.open(path, os.O_RDONLY | flags)
                self.writable = False
        except OSError as error:
            if error.errno in _OUR_LIMITS:
                raise
            raise BackendError(f"{path}: ring cannot be opened: {error.strerror}") from error
        try:
            self.capacity, self.identity = self._read_fixed_header()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def status(self) -> os.stat_result:
        """Return the status of the open file."""
        return os.fstat(self._file)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer from a place of the file, all of it."""
        done = 0
        # One call may bring less than was asked for, though more is there.
        while done < len(buffer):
            try:
                got = os.preadv(self._file, [buffer[done:]], offset + done)
            except OSError as error:
                raise BackendError(f"{self.path}: ring cannot be read: {error.strerror}") from error
            if got == 0:
                raise BackendError(f"{self.path}: ring was truncated: byte {offset + done} is missing")
            done += got

    def state(self) -> RingState:
        """Return the writer's counters; they never go back, and those that cannot be leave the former ones."""
        closed, *counters = records.STATE.unpack(self._read(records.STATE_OFFSET, records.STATE.size))
        last, now_ns = self._state, self._clock_ns()
        seen = (last.dropped, last.hook_errors, last.probe_ns)
        possible = max(counters[:2]) <= _MOST_COUNTED and counters[2] <= self._most_probe_ns(now_ns)
        if possible:
            self._state_ns = now_ns
        elif not self._damage_said:
            self._damage_said = True
            told = "%s: the probe's own counters cannot be (%d dropped, %d errors, %d ns) and are not used; said once"
            logger.warning(told, self.path.name, *counters)
        self._state = RingState(last.closed or closed == 1, *map(max, seen, counters if possible else seen))
        return self._state

    def _most_probe_ns(self, now_ns: int) -> int:
        """Return what the probe's time can have come to: the block has no checksum."""
        since_ns = self.identity.created_ns if self._state_ns is None else self._state_ns
        if since_ns > now_ns:
            return _MOST_PROBE_NS  # by the clock of an earlier boot, or of another time namespace
        return self._state.probe_ns + _MOST_THREADS * (now_ns - since_ns + NS_PER_S)

    def anchor(self) -> ClockAnchor | None:
        """Return the newest clock anchor, or None before the first."""
        for _ in range(_ATTEMPTS):
            block = self._read(records.ANCHOR_OFFSET, records.ANCHOR.size)
            crc, monotonic_ns, wall_ns = records.ANCHOR.unpack(block)
            if zlib.crc32(block[records.CRC.size :]) == crc:
                if 0 <= monotonic_ns < _LATEST_NS and 0 <= wall_ns < _LATEST_NS:
                    self._anchor = ClockAnchor(monotonic_ns, wall_ns)
                break
        return self._anchor

    def info(self) -> RingInfo | None:
        """Return the newest resource attributes, or None before the first."""
        for _ in range(_ATTEMPTS):
            block = self._read(records.INFO_BLOCK_OFFSET, records.INFO_BLOCK.size)
            version, length, crc = records.INFO_BLOCK.unpack(block)
            if version == 0 or (self._info is not None and version == self._info.version):
                break
            if length > records.INFO_MAX_BYTES:
                continue
            text = self._read(records.INFO_OFFSET, length)
            if zlib.crc32(text) == crc:
                self._info = parse_info(version, text)
                break
        return self._info

    def set_control(self, detail: int, detach: bool = False) -> bool:
        """Tell the probe its detail level (0..3) and whether to detach; False when the file may not be written."""
        if not 0 <= detail <= records.CONTROL_DETAIL_MASK:
            raise ValueError(f"detail level {detail} is not in 0..{records.CONTROL_DETAIL_MASK}")
        if not self.writable:
            return False
        try:
            # A detach that was asked for stands, whoever writes.
            word = detail | (records.CONTROL_DETACH if detach else self._control() & records.CONTROL_DETACH)
            os.pwrite(self._file, records.CONTROL.pack(word), records.CONTROL_OFFSET)
        except (OSError, BackendError):
            return False
        return True

    def detail(self) -> int:
        """Return the detail level that the probe was last told. Raises BackendError when the file was truncated."""
        return self._control() & records.CONTROL_DETAIL_MASK

    def _control(self) -> int:
        word: int = records.CONTROL.unpack(self._read(records.CONTROL_OFFSET, records.CONTROL.size))[0]
        return word

    def _read(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def _read_fixed_header(self) -> tuple[int, RingIdentity]:
        status = self.status()
        if not stat.S_ISREG(status.st_mode):
            raise BackendError(f"{self.path}: ring is not a regular file")
        if status.st_size < records.HEADER_BYTES:
            raise BackendError(f"{self.path}: ring has {status.st_size} bytes, less than a header")
        header = self._read(0, records.FIXED_HEADER_BYTES)
        magic, version, header_bytes, record_bytes, capacity, *rest = records.FIXED_HEADER.unpack_from(header)
        pid, rank, start_ticks, created_ns, boot_id, role, pid_namespace = rest
        self._require("magic", magic, magic == records.MAGIC)
        self._require("layout version", version, version == records.LAYOUT_VERSION)
        crc = records.CRC.unpack_from(header, records.FIXED_CRC_OFFSET)[0]
        self._require("checksum", crc, crc == zlib.crc32(header[: records.FIXED_CRC_OFFSET]))
        self._require("header bytes", header_bytes, header_bytes == records.HEADER_BYTES)
        self._require("record bytes", record_bytes, record_bytes == records.RECORD_BYTES)
        in_range = records.MIN_CAPACITY <= capacity <= records.MAX_CAPACITY
        self._require("capacity", capacity, in_range and capacity & (capacity - 1) == 0)
        size = records.HEADER_BYTES + capacity * records.RECORD_BYTES
        self._require("file size", status.st_size, status.st_size == size)
        text = role.rstrip(b"\0").decode("ascii", "replace")
        self._require("role", role, text.isprintable() and text.isascii())
        return capacity, RingIdentity(boot_id, pid, start_ticks, pid_namespace, text, rank, created_ns)

    def _require(self, field: str, value: object, holds: bool) -> None:
        if not holds:
            raise BackendError(
                f"{self.path}: ring header's {field} is {value!r}: not a ring that this version reads"
            )


def parse_info(version: int, text: bytes) -> RingInfo:
    """Keep of a JSON object the known resource attributes whose values have the right type and count the others."""
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return RingInfo(version, {}, 0, 1)
    if not isinstance(document, dict):
        return RingInfo(version, {}, 0, 1)
    values: dict[str, InfoValue] = {}
    refused = unknown = 0
    for key, given in document.items():
        attribute = _KNOWN_INFO.get(key)
        if attribute is None:
            unknown += 1
            continue
        value = _coerce(attribute.type, given)
        if value is None:
            refused += 1
        else:
            values[key] = value
    return RingInfo(version, values, unknown, refused)


def _refuse_constant(text: str) -> float:
    raise ValueError(text)


def _coerce(type_: str, value: object) -> InfoValue | None:
    if isinstance(value, bool):
        return None
    if type_ == names.STRING:
        return value if isinstance(value, str) and _is_unicode(value) else None
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            return None
        return float(value) if type_ == names.DOUBLE else value
    if not isinstance(value, float) or not math.isfinite(value):
        return None
    if type_ == names.DOUBLE:
        return value
    return int(value) if value.is_integer() and -(2.0**63) <= value < 2.0**63 else None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
