"""Trace and span ids, derived from what they name, so that a repeated export is identical and can be dropped.

An id is blake2b over (boot id, PID, start time, ring sequence, part): no two processes of one boot share them.
"""

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property

_NUMBERS = struct.Struct("<IQQ")
_PART = struct.Struct("<QI")
REQUEST = b"request"
STEP = b"step"
TRACE_ID_BYTES = 16
SPAN_ID_BYTES = 8


@dataclass(frozen=True)
class Origin:
    """The process that wrote a ring."""

    boot_id: bytes
    pid: int
    start_ticks: int
    created_ns: int = 0
    """Monotonic ns; tells apart the rings of one process, whose sequences begin anew."""

    @cached_property
    def _key(self) -> bytes:
        numbers = _NUMBERS.pack(
            self.pid & 0xFFFFFFFF, self.start_ticks & (2**64 - 1), self.created_ns & (2**64 - 1)
        )
        return hashlib.blake2b(self.boot_id + numbers, digest_size=32).digest()

    def trace_id(self, kind: bytes, sequence: int) -> int:
        """Derive the trace id of the object of a kind that begins with a record; never zero."""
        return self._derive(kind + b".trace", sequence, 0, TRACE_ID_BYTES)

    def span_id(self, kind: bytes, sequence: int, part: int = 0) -> int:
        """Derive the id of the object's span, or with ``part`` of its n-th child; never zero."""
        return self._derive(kind + b".span", sequence, part, SPAN_ID_BYTES)

    def _derive(self, kind: bytes, sequence: int, part: int, size: int) -> int:
        text = kind + _PART.pack(sequence & (2**64 - 1), part & 0xFFFFFFFF)
        digest = hashlib.blake2b(text, digest_size=size, key=self._key).digest()
        return int.from_bytes(digest, "big") or 1
