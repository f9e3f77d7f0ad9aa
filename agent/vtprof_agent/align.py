"""Monotonic time of a ring to Unix time: one offset for each ring, so that a step of the wall clock bends no span.

A finished object is converted as a whole, with one offset; durations are those of the monotonic clock.
"""

from dataclasses import dataclass

MAX_UNIX_NS = 2**63 - 1
SLEW_NS = 5_000_000
"""An anchor that moved by less is the ordinary slewing of the wall clock: the offset stays, repeated exports agree."""


@dataclass(frozen=True)
class Alignment:
    """The offset from CLOCK_MONOTONIC to the Unix epoch, ns."""

    offset_ns: int

    @classmethod
    def from_anchor(cls, monotonic_ns: int, unix_ns: int) -> "Alignment":
        """Take the offset from one pair of readings of the two clocks."""
        return cls(unix_ns - monotonic_ns)

    def refreshed(self, monotonic_ns: int, unix_ns: int) -> "Alignment":
        """Return the alignment after a new anchor: the old one unless the wall clock was set."""
        moved = Alignment.from_anchor(monotonic_ns, unix_ns)
        return moved if abs(moved.offset_ns - self.offset_ns) > SLEW_NS else self

    def unix_ns(self, monotonic_ns: int) -> int:
        """Convert one time; what would leave the range of OTLP's times is cut to it."""
        return min(max(monotonic_ns + self.offset_ns, 0), MAX_UNIX_NS)
