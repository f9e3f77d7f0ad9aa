"""Writes records into the ring: 0.7 µs each, never blocking, never raising into the host, safe from several threads.

What cannot be written is counted in the ring's state block. A forked child never writes into its parent's ring: it
gets one of its own at its first record, and none if it records nothing.
"""

import itertools
import json
import mmap
import os
import threading
import weakref
import zlib
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

from vtprof_probe.clock import read_anchor
from vtprof_probe.process_identity import read_process_identity
from vtprof_probe.ring_file import RingFile, RingSettings, create_ring_file, ring_settings, valid_capacity
from vtprof_schemas import names, records
from vtprof_schemas.records import RecordKind

Memory = Union[mmap.mmap, bytearray]

_CLOSED, _DROPPED, _HOOK_ERRORS, _PROBE_NS = (records.STATE_OFFSET + 8 * place for place in range(4))
_U64 = (1 << 64) - 1
_BYTE_LIMITS: Dict[int, Tuple[Tuple[int, int], ...]] = {
    kind.code: limits
    for kind in records.KINDS.values()
    for limits in [
        tuple((place, int(fmt[:-1])) for place, (_, fmt, _) in enumerate(kind.fields) if fmt.endswith("s"))
    ]
    if limits
}
"""By kind: (place, most bytes) of its texts. struct would cut a longer one without a word."""
_JSON_MARGIN_BYTES = 64
"""Room kept for the mark that values were left out."""


class RingWriter:
    """The ring of this process, or, with a ``reason``, a stand-in that swallows everything."""

    write: Callable[..., None]
    """``write(kind, *values)`` writes one record; a plain function, so that callers may keep it in a local variable."""
    reason: str
    """Why nothing is recorded; empty while records go to a ring."""
    path: str

    def __init__(self, settings: RingSettings, role: str, rank: int, info: Mapping[str, object]) -> None:
        """Open a ring in ``settings.directory``; on any failure become inert and say why in ``reason``."""
        self._settings, self._role, self._rank = settings, role, rank
        self._info = dict(info)
        self._memory: Memory = bytearray(0)
        self._info_version = 0
        self._lock = threading.Lock()
        self._closed = False
        self._awaits_first = False
        self._become(self._create())
        self.write, self._redirect = _make_write(self._memory, self._capacity, self._count_dropped)
        for _ in range(settings.faults):
            self.count_hook_error()
        _writers.add(self)

    @classmethod
    def create(
        cls,
        directory: str,
        capacity: int,
        role: str,
        rank: int,
        info: Mapping[str, object],
        group: Optional[int] = None,
    ) -> "RingWriter":
        """Open a ring of ``capacity`` records (a power of two; else the default, counted as a hook error)."""
        if valid_capacity(capacity):
            return cls(RingSettings(directory, capacity, group), role, rank, info)
        return cls(RingSettings(directory, group=group, faults=1), role, rank, info)

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], role: str, rank: int, info: Mapping[str, object]
    ) -> "RingWriter":
        """Open a ring as ``VTPROF_RING_DIR``, ``_RECORDS`` and ``_GROUP`` say; bad values count as hook errors."""
        return cls(ring_settings(environ), role, rank, info)

    def set_info(self, info: Mapping[str, object]) -> None:
        """Publish the resource attributes of the process; of what does not fit, the longest values are left out."""
        try:
            self._info = dict(info)
            text = _info_text(self._info)
            self._info_version = (self._info_version + 1) & 0xFFFFFFFF
            block = records.INFO_BLOCK.pack(self._info_version, len(text), zlib.crc32(text))
            # Text first: until the block follows, its checksum does not fit and a reader reads again.
            self._memory[records.INFO_OFFSET : records.INFO_OFFSET + len(text)] = text
            start = records.INFO_BLOCK_OFFSET
            self._memory[start : start + len(block)] = block
        except Exception:
            self.count_hook_error()

    def refresh_anchor(self) -> None:
        """Publish a fresh pair of monotonic and wall time; call it now and then, so that clock steps are seen."""
        try:
            times = records.ANCHOR_TIMES.pack(*read_anchor())
            block = records.CRC.pack(zlib.crc32(times)) + times
            start = records.ANCHOR_OFFSET
            self._memory[start : start + len(block)] = block
        except Exception:
            self.count_hook_error()

    def control(self) -> Tuple[int, bool]:
        """Return the agent's wish: (detail level 0..3, whether to detach). Unknown bits are ignored."""
        if self._pid != os.getpid():
            # Forked behind Python's back: at_fork handlers did not run.
            self._after_fork()
        word = records.CONTROL.unpack_from(self._memory, records.CONTROL_OFFSET)[0]
        return word & records.CONTROL_DETAIL_MASK, bool(word & records.CONTROL_DETACH)

    def add_probe_ns(self, spent_ns: int) -> None:
        """Add to the time that the probe took from its host; call it from one thread."""
        self._probe_ns += spent_ns
        self._store(_PROBE_NS, self._probe_ns)

    def count_hook_error(self) -> None:
        """Count an exception that a hook swallowed."""
        self._store(_HOOK_ERRORS, next(self._hook_errors))

    def close(self) -> None:
        """Mark a clean end; later records are swallowed. The file stays for the reader, which removes it."""
        if self._closed:
            return
        self._closed, self._awaits_first = True, False
        memory, path = self._memory, self.path
        self._become(None)
        self.path, self.reason = path, "closed"
        self._redirect(self._memory, self._capacity)
        if isinstance(memory, mmap.mmap):
            memory[_CLOSED : _CLOSED + 8] = (1).to_bytes(8, "little")

    def _create(self) -> Optional[RingFile]:
        try:
            file = create_ring_file(self._settings, self._role, self._rank, read_process_identity())
        except Exception as error:
            self.reason = "no ring in %s: %s" % (self._settings.directory, error)
            return None
        self.reason = ""
        return file

    def _become(self, file: Optional[RingFile]) -> None:
        """Write to this file from now on, or to memory that nobody reads."""
        self._pid = os.getpid()
        self._dropped = itertools.count(1)
        self._hook_errors = itertools.count(1)
        self._probe_ns = 0
        if file is None:
            self.path, self._capacity = "", records.MIN_CAPACITY
            size = records.HEADER_BYTES + self._capacity * records.RECORD_BYTES
            self._memory = bytearray(size)
            self._memory[records.CONTROL_OFFSET] = records.DETAIL_DEFAULT
            return
        self.path, self._memory, self._capacity = file.path, file.memory, file.capacity
        self.set_info(self._info)
        self.refresh_anchor()

    def _after_fork(self) -> None:
        """In the child: let go of the parent's ring; the next record, if one comes, opens another."""
        was_recording = not self.reason or self._awaits_first
        self._lock = threading.Lock()
        self._become(None)
        self._awaits_first = False
        if not was_recording:
            self._redirect(self._memory, self._capacity)
            return
        self.reason = "forked: nothing recorded yet"
        self._awaits_first = True
        self._redirect(self._memory, self._capacity, self._first_number_of_child)

    def _first_number_of_child(self) -> int:
        # Not waiting: this may be a signal handler on top of the very thread that holds the lock.
        if not self._lock.acquire(False):
            raise BlockingIOError
        try:
            if self._awaits_first:
                self._become(self._create())
                self._awaits_first = False
                self._first_number = self._redirect(self._memory, self._capacity)
            return self._first_number()
        finally:
            self._lock.release()

    def _count_dropped(self) -> None:
        self._store(_DROPPED, next(self._dropped))

    def _store(self, offset: int, value: int) -> None:
        # One aligned word in one copy: a reader sees the old or the new count.
        self._memory[offset : offset + 8] = (value & _U64).to_bytes(8, "little")


def _make_write(
    memory: Memory, capacity: int, count_dropped: Callable[[], None]
) -> Tuple[Callable[..., None], Callable[..., Callable[[], int]]]:
    """Return the function that writes a record and the one that turns it to other memory.

    Everything the hot path touches is a variable of this closure: attribute lookups would cost a quarter more.
    """
    crc32 = zlib.crc32
    store = records.SLOT.pack_into
    next_number: Callable[[], int] = itertools.count().__next__
    mask = capacity - 1
    base = records.HEADER_BYTES
    byte_limits = _BYTE_LIMITS

    def write(kind: RecordKind, *values: Any) -> None:
        number = -1
        try:
            number = next_number()
            code = kind[0]
            if code in byte_limits:
                for place, most in byte_limits[code]:
                    if len(values[place]) > most:
                        raise ValueError
            body = kind[3].pack(code, 0, number + 1, *values)
            store(memory, base + ((number & mask) << 7), crc32(body), body)
        except Exception:
            give_up(number)

    def give_up(number: int) -> None:
        # A number that was taken must show, or the reader would wait for it.
        try:
            if number >= 0:
                body = records.RECORD_PREFIX.pack(records.VOID_CODE, 0, number + 1)
                body += bytes(records.PAYLOAD_BYTES)
                store(memory, base + ((number & mask) << 7), crc32(body), body)
            count_dropped()
        except Exception:
            pass

    def redirect(
        to_memory: Memory, to_capacity: int, first: Optional[Callable[[], int]] = None
    ) -> Callable[[], int]:
        nonlocal memory, mask, next_number
        # Another thread may be between any two of these lines: the smaller mask holds for both memories, and
        # no number of the new ring is given out before the new ring is in place.
        mask = min(mask, to_capacity - 1)
        memory = to_memory
        mask = to_capacity - 1
        next_number = first or itertools.count().__next__
        return next_number

    return write, redirect


def _info_text(info: Mapping[str, object]) -> bytes:
    """Return the attributes as JSON text that fits the header, without those that are None."""
    parts = {key: _json(value) for key, value in info.items() if value is not None}
    sizes: List[Tuple[int, str]] = sorted((len(_json(key)) + len(text), key) for key, text in parts.items())
    left_out = 0
    room = records.INFO_MAX_BYTES - _JSON_MARGIN_BYTES
    total = sum(size + 2 for size, _ in sizes)
    while sizes and total > room:
        size, key = sizes.pop()
        total -= size + 2
        left_out += 1
        del parts[key]
    if left_out:
        parts[names.INFO_TRUNCATED] = str(left_out)
    return ("{" + ",".join(_json(key) + ":" + text for key, text in parts.items()) + "}").encode("ascii")


def _json(value: object) -> str:
    return json.dumps(value, default=str, separators=(",", ":"))


def _after_fork_in_child() -> None:
    for writer in list(_writers):
        writer._after_fork()


_writers: "weakref.WeakSet[RingWriter]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
