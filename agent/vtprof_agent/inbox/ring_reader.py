"""Follows the records of one ring: each complete record once, in order, and every other number accounted for.

    returned + lost + torn + voided = numbers passed

lost: overwritten before they were read. torn: a number was taken and its record never completed. voided: the writer
could not pack the values and said so. A copy is taken first and judged afterwards, so that the writer cannot change
what was judged good.
"""

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vtprof_agent.inbox.decoder import Record, decode
from vtprof_agent.inbox.discovery import read_boot_id
from vtprof_agent.inbox.ring_header import ClockAnchor, RingFile, RingIdentity, RingInfo, RingState
from vtprof_schemas import records
from vtprof_schemas.errors import BackendError
from vtprof_schemas.units import NS_PER_S

DEFAULT_GRACE_NS = 2_000_000_000
"""How long a record may stay half-written before it counts as torn; a thread can lose the CPU in the middle of one."""

_SMALLEST_CHUNK = 64
_LARGEST_CHUNK = 1024
"""Larger ones are no faster: all but a hundredth of the time goes to the records themselves."""
_HIGHEST_SEQUENCE = 1 << 62
"""No writer gets there; keeps forged numbers out of the arithmetic."""
_FASTEST_PER_S = 10_000_000
"""More records a second than any writer can bring about; a number beyond that since the ring began is a forgery."""
_NEWEST_TRIES = 64
"""Half-written records passed over in one chunk when the newest is looked for; each costs its thread one."""
_LAPS_PER_READ = 4
"""Jumps within one read; a reader that is overtaken more often returns, so that its caller keeps control."""
_SLOT = np.dtype(
    {
        "names": ["crc", "kind", "sequence", "body"],
        "formats": ["<u4", "<u2", "<u8", f"V{records.RECORD_BYTES - records.CRC.size}"],
        "offsets": [0, 4, 8, 4],
        "itemsize": records.RECORD_BYTES,
    }
)


@dataclass(frozen=True)
class Batch:
    """The records of one read, in order, and what became of the numbers between."""

    raw: bytes
    """``count`` records of 128 bytes."""
    first_sequence: int
    """First number that this read passed; with ``last_sequence`` below it, none was."""
    last_sequence: int
    lost: int
    torn: int
    voided: int
    gaps: tuple[tuple[int, int], ...] = ()
    """First and last number of each run of ``lost``, ``torn`` and ``voided`` ones, in order."""

    @property
    def count(self) -> int:
        """Return the number of records in ``raw``."""
        return len(self.raw) // records.RECORD_BYTES

    @property
    def passed(self) -> int:
        """Return how many numbers the read went past, whatever became of them."""
        return self.last_sequence - self.first_sequence + 1


class RingReader:
    """Reads one ring from a cursor on. Not for several threads at once."""

    def __init__(
        self, file: RingFile, grace_ns: int = DEFAULT_GRACE_NS, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Start at record 1 of an open ring file, which the reader closes."""
        self._ring = file
        self._grace_ns, self._clock = grace_ns, clock
        self.cursor = 1
        """Number of the next record wanted."""
        self.undecoded = 0
        """Records of unknown kinds or with absurd values."""
        self._hole = 0
        self._hole_since_ns = 0
        self._final: int | None = None
        self._same_boot = file.identity.boot_id == read_boot_id()

    @classmethod
    def open(
        cls, path: Path, grace_ns: int = DEFAULT_GRACE_NS, clock: Callable[[], int] = time.monotonic_ns
    ) -> "RingReader":
        """Open a ring. Raises BackendError, naming file and field, when it is not one."""
        return cls(RingFile(path), grace_ns, clock)

    @property
    def path(self) -> Path:
        """Return the ring's file."""
        return self._ring.path

    @property
    def identity(self) -> RingIdentity:
        """Return which process wrote the ring."""
        return self._ring.identity

    @property
    def capacity(self) -> int:
        """Return the number of records that the ring holds."""
        return self._ring.capacity

    def info(self) -> RingInfo | None:
        """Return the newest resource attributes, or None before the first."""
        return self._ring.info()

    def anchor(self) -> ClockAnchor | None:
        """Return the newest clock anchor, or None before the first."""
        return self._ring.anchor()

    def state(self) -> RingState:
        """Return the writer's own counters."""
        return self._ring.state()

    def recorded_any(self) -> bool:
        """Tell whether the ring holds a record. Raises BackendError when the file was truncated."""
        return self._newest() > 0

    def detail(self) -> int:
        """Return the detail level that the probe was last told. Raises BackendError when the file was truncated."""
        return self._ring.detail()

    def set_control(self, detail: int, detach: bool = False) -> bool:
        """Tell the probe its detail level (0..3) and whether to detach; False when the file may not be written."""
        return self._ring.set_control(detail, detach)

    def close(self) -> None:
        """Close the file."""
        self._ring.close()

    def seek(self, sequence: int) -> None:
        """Go on at a number, as stored by an earlier reader; one that was never written becomes the next to come."""
        if sequence < 1:
            raise ValueError(f"record numbers start at 1, not {sequence}")
        self.cursor = min(sequence, self._newest() + 1)

    def read(self, max_records: int, writer_gone: bool = False) -> Batch:
        """Return the next records, at most ``max_records``; waits for none.

        ``writer_gone`` says that the process was dead before this call: what is incomplete then stays so.
        Raises BackendError when the file was truncated, or holds a number that its writer cannot have come to.
        """
        first = self.cursor
        parts: list[bytes] = []
        gaps: list[tuple[int, int]] = []
        lost = torn = voided = laps = 0
        chunk = _SMALLEST_CHUNK
        # Asked before the records are copied: nothing is written after the flag is seen.
        gone = writer_gone or self.state().closed
        while (room := max_records - (self.cursor - first - lost)) > 0:
            want = min(chunk, room, self.capacity)
            slots = self._copy(self.cursor, want)
            good = _valid_prefix(slots, self.cursor)
            if good:
                kinds = slots["kind"][:good]
                void = np.flatnonzero(kinds == records.VOID_CODE)
                parts.append(
                    (slots[:good][kinds != records.VOID_CODE] if len(void) else slots[:good]).tobytes()
                )
                for number in (void + self.cursor).tolist():
                    _add_gap(gaps, number, number)
                self.cursor += good
                voided += len(void)
            if good == want:
                chunk = min(2 * chunk, _LARGEST_CHUNK)
                continue
            slot = slots[good : good + 1]
            found = self._later_in_slot(slot)
            if found and found > self._reachable():
                if parts or self.cursor > first:
                    break  # what came before it is good
                raise BackendError(
                    f"{self.path}: ring holds record number {found}, which its writer cannot have come to;"
                    " not followed any further"
                )
            before = self.cursor
            if found:
                self._jump(found)
                lost += self.cursor - before
                laps += 1
            elif self._give_up(slot, gone):
                self.cursor += 1
                torn += 1
            else:
                break
            _add_gap(gaps, before, self.cursor - 1)
            if laps >= _LAPS_PER_READ:
                break
        return Batch(b"".join(parts), first, self.cursor - 1, lost, torn, voided, tuple(gaps))

    def decoded(self, batch: Batch) -> Iterator[Record]:
        """Decode the records of a batch; those that cannot be are counted in ``undecoded``."""
        raw = batch.raw
        for start in range(0, len(raw), records.RECORD_BYTES):
            record = decode(raw, start)
            if record is None:
                self.undecoded += 1
            else:
                yield record

    def _copy(self, sequence: int, count: int) -> np.ndarray:
        """Copy the slots of ``count`` numbers."""
        # Memory that is kept between reads would be a ring's largest part, for each of hundreds of rings.
        copy = np.empty(count, dtype=_SLOT)
        view = copy.view(np.uint8).data
        slot = (sequence - 1) & (self.capacity - 1)
        until_end = min(count, self.capacity - slot) * records.RECORD_BYTES
        self._ring.read_into(view[:until_end], records.HEADER_BYTES + slot * records.RECORD_BYTES)
        if until_end < len(view):
            self._ring.read_into(view[until_end:], records.HEADER_BYTES)
        return copy

    def _later_in_slot(self, slot: np.ndarray) -> int:
        """Return the number of the complete later record that stands in the cursor's slot, 0 when none does."""
        found = int(slot["sequence"][0])
        if found <= self.cursor or (found - self.cursor) & (self.capacity - 1):
            return 0
        return found if _valid_prefix(slot, found) else 0

    def _reachable(self) -> int:
        """Return the highest number that the writer can have come to since it made the ring."""
        age_ns = self._clock() - self.identity.created_ns
        # The clocks of another boot or time namespace say nothing of the age.
        if not self._same_boot or age_ns < 0:
            return _HIGHEST_SEQUENCE
        return min(_HIGHEST_SEQUENCE, self.capacity + age_ns * _FASTEST_PER_S // NS_PER_S)

    def _jump(self, found: int) -> None:
        """Go past the records that were overwritten, of which ``found`` is witness."""
        # Not to the oldest record left: the writer would be there again before it is read.
        target = max(self._newest(), found) - self.capacity + self.capacity // 8 + 1
        self.cursor = max(target, self.cursor + 1)

    def _give_up(self, slot: np.ndarray, gone: bool) -> bool:
        """Tell whether the record at the cursor will not be complete any more; ``gone``: nobody writes."""
        begun = int(slot["sequence"][0]) == self.cursor
        if gone:
            if self._final is None:
                self._final = self._newest()
            return begun or self._final > self.cursor
        if not begun and not self._followed():
            self._hole = 0
            return False
        now_ns = self._clock()
        if self._hole != self.cursor:
            self._hole, self._hole_since_ns = self.cursor, now_ns
        if now_ns - self._hole_since_ns < self._grace_ns:
            return False
        if _valid_prefix(self._copy(self.cursor, 1), self.cursor):
            return False
        # The next one, if it is a hole too, has been one for as long.
        self._hole += 1
        return True

    def _followed(self) -> bool:
        """Tell whether one of the next records is complete: threads take their numbers one after the other."""
        count = min(_SMALLEST_CHUNK, self.capacity - 1)
        slots = self._copy(self.cursor + 1, count)
        first = self.cursor + 1
        at_home = slots["sequence"] == np.arange(first, first + count, dtype=np.uint64)
        if not at_home.any():
            return False
        places = np.flatnonzero(at_home).tolist()
        return any(_valid_prefix(slots[place : place + 1], first + place) for place in places)

    def _newest(self) -> int:
        """Return the highest number of a complete record, 0 when there is none; reads the whole ring in chunks."""
        newest, highest = 0, self._reachable()
        for start in range(0, self.capacity, _LARGEST_CHUNK):
            slots = self._copy(start + 1, min(_LARGEST_CHUNK, self.capacity - start))
            numbers = slots["sequence"]
            homes = np.arange(start, start + len(slots), dtype=np.uint64)
            at_home = (numbers - np.uint64(1)) & np.uint64(self.capacity - 1) == homes
            places = np.flatnonzero(at_home & (numbers > newest) & (numbers <= highest))
            for place in places[np.argsort(numbers[places])[::-1]][:_NEWEST_TRIES]:
                number = int(numbers[place])
                if _valid_prefix(slots[place : place + 1], number):
                    newest = number
                    break
        return newest


def _add_gap(gaps: list[tuple[int, int]], first: int, last: int) -> None:
    """Note a run of numbers that were not delivered, as one with the run that it continues."""
    if gaps and gaps[-1][1] + 1 == first:
        first, _ = gaps.pop()
    gaps.append((first, last))


def _valid_prefix(slots: np.ndarray, sequence: int) -> int:
    """Return how many slots from the first on hold complete records, numbered upward from ``sequence``."""
    count = len(slots)
    if sequence > _HIGHEST_SEQUENCE:
        return 0
    wrong = slots["sequence"] != np.arange(sequence, sequence + count, dtype=np.uint64)
    good = int(wrong.argmax()) if wrong.any() else count
    if not good:
        return 0
    sums = np.fromiter(map(zlib.crc32, slots["body"][:good].tolist()), dtype=np.uint32, count=good)
    wrong = sums != slots["crc"][:good]
    return int(wrong.argmax()) if wrong.any() else good
