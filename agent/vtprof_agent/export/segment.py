"""One file of the spool: framed messages behind each other, and how far they were delivered.

Whatever a file holds is taken as untrusted: lengths are bounded, headers and payloads have checksums, and damage costs
no entry but those it hit. A file belongs to the agent that holds its lock.

The name of a file says how many spans and batches of metric points were ever put into it: what a crash of the machine
leaves of its content, which may be nothing but zeros, does not.
"""

import fcntl
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vtprof_agent.export.parcel import MAX_MESSAGE_BYTES, Parcel, Signal

_FILE = struct.Struct("<8sII")
"""Magic, version, crc32 of both."""
_MAGIC, _VERSION = b"vtpspool", 1
_POSITION = struct.Struct("<QI")
"""Offset of the first entry that was not delivered yet, and the spans before it; behind both, their crc32."""
_POSITION_AT = _FILE.size
FIRST_ENTRY = 32
_ENTRY = struct.Struct("<4sB3xQIIQI")
"""Mark, signal, batch number, spans, payload bytes, spans before it in this file, crc32 of the payload."""
_CRC = struct.Struct("<I")
_MARK = b"\xa5vtE"
SUFFIX, LOST_SUFFIX = ".spool", ".lost"
_NAME = re.compile(r"\d+-[0-9a-f]+-(\d{1,18})-(\d{1,18})")
"""Age and a random part; then spans and batches of metric points, which a file has from its first entry on."""
ENTRY_BYTES = _ENTRY.size + _CRC.size
"""What an entry takes beside its payload."""
_LOOK_BYTES = 1 << 20
_MOST_SPANS = 1 << 62
_MOST_STORED = (1 << 32) - 1


class Foreign(Exception):
    """A file that is no segment of a spool."""


class InUse(Exception):
    """A segment of another agent, or one just removed."""


@dataclass(frozen=True, slots=True)
class _Entry:
    at: int
    signal: Signal
    number: int
    spans: int
    length: int
    spans_before: int
    crc: int

    @property
    def end(self) -> int:
        return self.at + ENTRY_BYTES + self.length


@dataclass
class Loss:
    """What was lost, in spans and batches of metric points."""

    spans: int = 0
    metrics: int = 0

    def add(self, signal: Signal, spans: int) -> None:
        """Count one entry."""
        self.spans += spans
        self.metrics += signal is Signal.METRICS

    def take(self, signal: Signal, spans: int) -> None:
        """Count one entry less."""
        self.spans -= spans
        self.metrics -= signal is Signal.METRICS


class Segment:
    """An open, locked segment file."""

    def __init__(self, path: Path, fd: int) -> None:
        """Start empty; made by ``create`` and ``open``."""
        self.path = path
        self.size = FIRST_ENTRY
        self.lost = Loss()
        """By damage."""
        self.cut_bytes = 0
        """Behind the last whole entry when it was opened: what a killed agent had written of the next, or damage."""
        self.start_damaged = False
        """When it was opened: all that is in it counts as not delivered."""
        self.entries = 0
        """Still to be delivered, and what is in them and was in those that are damaged."""
        self.waiting = Loss()
        self._fd = fd
        self._at = FIRST_ENTRY
        self._spans = self._passed_spans = 0
        """Before the end of the file, and before ``_at``; with them those of entries that are damaged."""
        self._metrics = 0
        """Before the end of the file."""
        self._head: _Entry | None = None

    @classmethod
    def create(cls, path: Path) -> "Segment":
        """Make a file, owner only; raises OSError. It appears under its name once it is locked and has a header."""
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(fd, _START, 0)
            fresh.rename(path)
        except OSError:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise
        return cls(path, fd)

    @classmethod
    def open(cls, path: Path) -> "Segment":
        """Take over a file that no living agent holds; raises Foreign, InUse, OSError."""
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _lock(fd, path)
            found = cls(path, fd)
            found._scan(told_by(path))
        except BaseException:
            os.close(fd)
            raise
        return found

    def append(self, parcel: Parcel) -> None:
        """Add an entry; raises OSError, then nothing of it is kept."""
        head = _ENTRY.pack(
            _MARK, parcel.signal, parcel.number, parcel.spans, len(parcel.payload), self._spans,
            zlib.crc32(parcel.payload),
        )  # fmt: skip
        data = head + _CRC.pack(zlib.crc32(head)) + parcel.payload
        try:
            _write(self._fd, data, self.size)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)
        self._spans += parcel.spans
        self._metrics += parcel.signal is Signal.METRICS
        self.entries += 1
        self.waiting.add(parcel.signal, parcel.spans)
        self._rename(self._spans, self._metrics, SUFFIX)

    def head(self) -> Parcel | None:
        """Return the oldest entry that was not delivered; None when there is none. Damaged ones are lost and counted."""
        for entry in _entries(self._fd, self._at, self.size):
            # Counted only where it is passed: an agent that is killed before leaves the same damage to the next.
            self._lose(max(0, entry.spans_before - self._passed_spans))
            self._passed_spans = max(self._passed_spans, entry.spans_before)
            payload = _read(self._fd, entry.at + ENTRY_BYTES, entry.length)
            if zlib.crc32(payload) == entry.crc:
                self._head = entry
                return Parcel(entry.signal, entry.number, entry.spans, payload)
            self.lost.add(entry.signal, entry.spans)
            self._pass(entry)
        self.entries, self._at = 0, self.size
        return None

    def advance(self) -> None:
        """Step past the head: it was delivered, or will never be."""
        if self._head is None:  # appended just now and never read back
            self._head = next(_entries(self._fd, self._at, self.size), None)
        if self._head is not None:
            self._pass(self._head)
        self._head = None
        with suppress(OSError):  # then a restart delivers it again
            _write(self._fd, _position(self._at, self._passed_spans), _POSITION_AT)

    def remove(self) -> None:
        """Delete the file."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.close()

    def bury(self) -> None:
        """Drop what waits: of the file remains an empty one, whose name says what is lost, until ``remove``.

        To be called again when less is lost.
        """
        if self._rename(max(0, self.waiting.spans), max(0, self.waiting.metrics), LOST_SUFFIX):
            with suppress(OSError):
                os.ftruncate(self._fd, 0)

    def close(self) -> None:
        """Let the file go, for the next agent."""
        os.close(self._fd)

    def _rename(self, spans: int, metrics: int, suffix: str) -> bool:
        """Have the name say so many spans and batches of metric points; False where that is not possible."""
        stem = "-".join(self.path.stem.split("-")[:2])
        named = self.path.with_name(f"{stem}-{spans}-{metrics}{suffix}")
        try:
            self.path.rename(named)
        except OSError:
            return False
        self.path = named
        return True

    def _lose(self, spans: int) -> None:
        self.lost.spans += spans
        self.waiting.spans -= spans

    def _pass(self, entry: _Entry) -> None:
        self._at = entry.end
        self._passed_spans = entry.spans_before + entry.spans
        self.entries -= 1
        self.waiting.spans -= entry.spans
        self.waiting.metrics -= entry.signal is Signal.METRICS

    def _scan(self, told: Loss) -> None:
        """Learn what is in the file, and cut off what is behind the last whole entry; raises Foreign.

        ``told``: what its name says was put into it.
        """
        size = os.fstat(self._fd).st_size
        start = _read(self._fd, 0, FIRST_ENTRY).ljust(FIRST_ENTRY, b"\0")
        magic, version, crc = _FILE.unpack_from(start)
        if magic == _MAGIC and version != _VERSION and crc == zlib.crc32(magic, version):
            raise Foreign
        self.start_damaged = start[: _FILE.size] != _START[: _FILE.size]
        at, passed = _POSITION.unpack_from(start, _POSITION_AT)
        if not self.start_damaged and at >= FIRST_ENTRY and start[_POSITION_AT:] == _position(at, passed):
            self._at, self._passed_spans = at, passed
        metrics_passed = 0
        for entry in _entries(self._fd, FIRST_ENTRY, size):
            if entry.at >= self._at:
                self.entries += 1
            else:
                metrics_passed += entry.signal is Signal.METRICS
            self._spans = entry.spans_before + entry.spans
            self._metrics += entry.signal is Signal.METRICS
            self.size = entry.end
        if self.start_damaged:
            if self.size == FIRST_ENTRY:
                raise Foreign
            _write(self._fd, _START, 0)
        self._spans = max(self._spans, told.spans, self._passed_spans)
        self._metrics = max(self._metrics, told.metrics)
        self.waiting = Loss(self._spans - self._passed_spans, self._metrics - metrics_passed)
        self._at = min(self._at, self.size)
        self.cut_bytes = max(0, size - self.size)
        if self.cut_bytes:
            os.ftruncate(self._fd, self.size)


def told_by(path: Path) -> Loss:
    """Return how many spans and batches of metric points a file's name says were put into it, or lost with it."""
    told = _NAME.fullmatch(path.stem)
    return Loss() if told is None else Loss(int(told[1]), int(told[2]))


def read_note(path: Path) -> tuple["Segment", Loss]:
    """Take over what a killed agent left of a segment that it had dropped; raises Foreign, InUse, OSError."""
    if _NAME.fullmatch(path.stem) is None:
        raise Foreign
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _lock(fd, path)
        os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return Segment(path, fd), told_by(path)


def _lock(fd: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Foreign
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse from error
    try:
        same = os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        same = False
    if not same:  # removed or renamed by another agent just now
        raise InUse


def _position(at: int, passed: int) -> bytes:
    place = _POSITION.pack(at, min(passed, _MOST_STORED))
    return place + _CRC.pack(zlib.crc32(place))


_START = _FILE.pack(_MAGIC, _VERSION, zlib.crc32(_MAGIC, _VERSION)) + _position(FIRST_ENTRY, 0)


def _entries(fd: int, at: int, size: int) -> Iterator[_Entry]:
    """Walk whole entries by their headers, which are checked; where one is damaged, go on with the next that is not."""
    while True:
        entry = _entry_at(fd, at, size)
        if entry is None:
            found = _next_mark(fd, at + 1, size)
            if found is None:
                return
            at = found
            continue
        yield entry
        at = entry.end


def _entry_at(fd: int, at: int, size: int) -> _Entry | None:
    raw = _read(fd, at, ENTRY_BYTES)
    if len(raw) < ENTRY_BYTES or _CRC.unpack_from(raw, _ENTRY.size)[0] != zlib.crc32(raw[: _ENTRY.size]):
        return None
    mark, signal, number, spans, length, before, crc = _ENTRY.unpack_from(raw)
    if mark != _MARK or signal not in iter(Signal) or length > MAX_MESSAGE_BYTES or before >= _MOST_SPANS:
        return None
    entry = _Entry(at, Signal(signal), number, spans, length, before, crc)
    return entry if entry.end <= size else None


def _next_mark(fd: int, at: int, size: int) -> int | None:
    """Return where an entry's mark is found next."""
    while at < size:
        block = _read(fd, at, _LOOK_BYTES)
        found = block.find(_MARK)
        if found >= 0:
            return at + found
        if len(block) < _LOOK_BYTES:
            return None
        at += len(block) - len(_MARK) + 1
    return None


def _read(fd: int, at: int, length: int) -> bytes:
    """Read so many bytes, fewer at the end of the file; what the disk will not give reads as missing."""
    parts = []
    while length > 0:
        try:
            part = os.pread(fd, length, at)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
        at, length = at + len(part), length - len(part)
    return b"".join(parts)


def _write(fd: int, data: bytes, at: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(fd, data[written:], at + written)
