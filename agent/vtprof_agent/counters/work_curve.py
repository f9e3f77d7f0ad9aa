"""The work of steps as columns of numbers, and as curves over time that windows of any edges can be read from."""

from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from math import exp
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vtprof_agent.counters.meter import Work

Array = NDArray[np.float64]

ENCODE_COLUMNS: Final = 3
"""Patches, attention pairs and weight reads of the encoder."""
COLUMNS: Final = 14
"""Then tokens, attention pairs, weight reads and experts (2) of prefill; context, tokens, and the same of decode, and
reads of what drafts its tokens."""
CLASS_COLUMNS: Final = (slice(0, 3), slice(3, 8), slice(8, 14))
"""Columns of each of ``meter.CLASSES``."""
TO_CLASS: Final = np.repeat(np.eye(3), [columns.stop - columns.start for columns in CLASS_COLUMNS], axis=0)
"""Adds up the columns of each class."""
UNKNOWNS: Final = 11
"""Costs to fit: weight reads and experts cost the same for prefill and decode."""
UNKNOWN_OF_COLUMN: Final = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 6, 7, 10])
_MERGE: Final = np.zeros((COLUMNS, UNKNOWNS))
_MERGE[np.arange(COLUMNS), UNKNOWN_OF_COLUMN] = 1.0
_EXPERTS_TOKENS: Final = (4.0, 20.0)
"""Of a mixture of experts a step of n tokens reads about 1 - exp(-n k / E) of the weights, k of E experts a token.
Two curves, for few and for many experts, and a constant make up most others between them."""

Row = tuple[float, ...]


_BEFORE_DECODE: Final[Row] = (0.0,) * CLASS_COLUMNS[2].start
_ROOM: Final = 1024
"""Points more that a curve has room for when it moves, at least; memory is taken in such pieces."""
_REMEMBERED: Final = 64
"""Answers of ``between`` that are remembered, and how many windows they have at most."""


@lru_cache(maxsize=4096)
def experts(tokens: int) -> tuple[float, float]:
    """Return which part of the weights of few and of many experts a step of so many tokens reads."""
    few, many = _EXPERTS_TOKENS
    return 1.0 - exp(-tokens / few), 1.0 - exp(-tokens / many)


def only_decodes(work: Work) -> bool:
    """Tell whether a step holds no work but decoding, a token for each request, as most do."""
    return work.decode_tokens <= work.decode_requests and _nothing_else(work)


def decoded(work: Work) -> int:
    """Return the tokens that decoding computed in a step: one a request where nothing else is told."""
    return max(work.decode_tokens, work.decode_requests, 0)


def row_of(work: Work) -> Row:
    """Return a step's columns. A weight read is split between prefill and decode by tokens; a draft's is decode's."""
    prefill, decode = max(work.prefill_tokens, 0), decoded(work)
    drafts = 1.0 if decode > work.decode_requests > 0 else 0.0
    if decode and _nothing_else(work):
        few, many = experts(decode)
        return (
            *_BEFORE_DECODE,
            float(max(work.decode_context_tokens, 0)),
            float(decode),
            1.0,
            few,
            many,
            drafts,
        )
    tokens = prefill + decode
    prefill_part = prefill / tokens if tokens else 0.0
    decode_part = decode / tokens if tokens else 0.0
    few, many = experts(tokens)
    return (
        float(max(work.patches, 0)), float(max(work.encode_pairs, 0)),
        1.0 if work.patches > 0 or work.encode_pairs > 0 else 0.0,
        float(prefill), float(max(work.prefill_pairs, 0)), prefill_part,
        prefill_part * few, prefill_part * many,
        float(max(work.decode_context_tokens, 0)), float(decode), decode_part,
        decode_part * few, decode_part * many, drafts,
    )  # fmt: skip


def rows_of_decoding(works: Sequence[Work]) -> tuple[Array, Array]:
    """Return the columns of decoding of steps without other work as a product: a row for each, times what is common.

    Steps by as many requests differ in their context alone: two columns tell all that there is.
    """
    counts = {(work.decode_requests, work.decode_tokens) for work in works}
    columns = CLASS_COLUMNS[2].stop - CLASS_COLUMNS[2].start
    if len(counts) > 1:
        return np.array([row_of(work)[CLASS_COLUMNS[2]] for work in works]), np.eye(columns)
    rows, common = np.ones((len(works), 2)), np.zeros((2, columns))
    rows[:, 0] = [work.decode_context_tokens for work in works]
    np.maximum(rows[:, 0], 0.0, out=rows[:, 0])
    common[0, 0], common[1, 1:] = 1.0, row_of(works[0])[CLASS_COLUMNS[2]][1:]
    return rows, common


def _nothing_else(work: Work) -> bool:
    return (
        work.prefill_tokens <= 0 and work.patches <= 0 and work.encode_pairs <= 0 and work.prefill_pairs <= 0
    )


def unknowns_of(rows: Array) -> Array:
    """Add up the columns that share a cost."""
    return rows @ _MERGE


def read_curve(times: Array, values: Array, at: Array) -> Array:
    """Interpolate cumulative values (n x columns, or more axes) linearly; flat before the first and behind the last time."""
    right = np.minimum(np.maximum(np.searchsorted(times, at, side="right"), 1), len(times) - 1)
    left = right - 1
    span = times[right] - times[left]
    part = np.divide(at - times[left], span, out=np.ones_like(at), where=span > 0)
    part = np.minimum(np.maximum(part, 0.0), 1.0)  # np.clip takes several times as long for a few
    low = values[left]
    result: Array = low + (values[right] - low) * part.reshape(-1, *(1,) * (values.ndim - 1))
    return result


def read_between(times: Array, values: Array, starts: Array, ends: Array) -> Array:
    """Return by how much cumulative values rise in each of the stretches; most follow each other without a gap."""
    if np.array_equal(starts[1:], ends[:-1]):
        read = read_curve(times, values, np.concatenate((starts, ends[-1:])))
        return read[1:] - read[:-1]
    read = read_curve(times, values, np.concatenate((starts, ends)))
    return read[len(starts) :] - read[: len(starts)]


class WorkCurve:
    """Work done up to each moment by one scheduler over the last ``keep_ns``."""

    def __init__(self, keep_ns: int, most_points: int) -> None:
        """Keep so much time, and so many points of the curve at most."""
        self._keep_ns, self._most = keep_ns, most_points
        self._all_times, self._all_values = np.empty(0), np.empty((0, COLUMNS + 1))
        self._first = self._size = 0
        self._new_times: list[int] = []
        self._new_decodes: list[tuple[float, int, float, int]] = []
        """Of each new point what decoding alone, as most is, differs in: context, tokens, drafts, and its time, ns."""
        self._new_rows: list[tuple[int, Row]] = []
        """Which of them end other work, and all of its columns."""
        self._kinds: deque[tuple[float, Array]] = deque()
        self._kinds_now: Array | None = np.zeros((3, COLUMNS + 1))
        self._remembered: dict[tuple[bytes, bytes], Array] = {}
        self._placed: dict[tuple[int, int], tuple[int, int, int]] = {}
        self.end_ns = 0
        """End of the last step; no work is known beyond it."""
        self.points = 0
        """Points that it ever had: it is as it was while there are no more."""
        self.whole = True
        """Whether nothing was left behind: all work of the scheduler is known."""
        self.awaited = False
        """Whether the scheduler has requests, of which one may be in a step that did not end yet."""

    def add(self, work: Work) -> bool:
        """Put a step behind the one before; False when it lies so far back that its windows are gone."""
        start, middle, end = _parts(work)
        if start < self.end_ns:  # steps that overlap run one after the other on the device
            if self.end_ns - end > self._keep_ns:
                return False
            start = min(max(start, self.end_ns), max(end, self.end_ns + 1) - 1)
            end = max(end, start + 1)
            middle = min(max(middle, start), end)
            self._placed[(work.start_ns, work.end_ns)] = (start, middle, end)
        if not self.end_ns or start > self.end_ns:
            self._point(start)
        decode = decoded(work)
        if decode and _nothing_else(work):
            drafts = 1.0 if decode > work.decode_requests > 0 else 0.0
            self._point(end, (max(work.decode_context_tokens, 0), decode, drafts, end - start))
        else:
            row = row_of(work)
            if middle > start:
                encode = row[:ENCODE_COLUMNS]
                self._point(middle, row=(*encode, *_NOTHING[ENCODE_COLUMNS:], float(middle - start)))
                row = (*_NOTHING[:ENCODE_COLUMNS], *row[ENCODE_COLUMNS:])
            self._point(end, row=(*row, float(end - middle)))
        self.end_ns = end
        if len(self._new_times) >= _ROOM:
            self._flush()
        return True

    @property
    def begin_ns(self) -> float:
        """Return from when on the work is known."""
        self._flush()
        return float(self._all_times[self._first]) if self._size > self._first else 0.0

    def where(self, work: Work) -> tuple[int, int, int]:
        """Return where a step lies on the curve: begin, end of the encoder's part, end."""
        placed = self._placed.get((work.start_ns, work.end_ns)) if self._placed else None
        return placed or _parts(work)

    def spans(self, works: Sequence[Work]) -> tuple[Array, Array]:
        """Return where steps begin and end on the curve."""
        if self._placed:
            starts, _, ends = np.array([self.where(work) for work in works], dtype=float).T
            return starts, ends
        starts = np.array([work.start_ns for work in works], dtype=float)
        return starts, np.maximum([work.end_ns for work in works], starts + 1.0)

    def between(self, starts: Array, ends: Array) -> Array:
        """Return the work done in each of the windows and, last, how long steps ran in it, ns; not to be changed."""
        self._flush()
        if self._size - self._first < 2:
            return np.zeros((len(starts), COLUMNS + 1))
        if len(starts) > _REMEMBERED:
            return self._read(starts, ends)
        asked = (starts.tobytes(), ends.tobytes())
        known = self._remembered.get(asked)
        if known is None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            known = self._remembered[asked] = self._read(starts, ends)
        return known

    def times(self, start_ns: float, end_ns: float) -> Array:
        """Return at which times in between a step begins, ends, or goes on without its encoder."""
        self._flush()
        times = self._all_times[self._first : self._size]
        return times[np.searchsorted(times, start_ns) : np.searchsorted(times, end_ns)]

    def ran_ns(self, at: Array) -> Array:
        """Return how long steps had run up to each of the times, ns."""
        self._flush()
        kept = slice(self._first, self._size)
        ran: Array = np.interp(at, self._all_times[kept], self._all_values[kept, COLUMNS])
        return ran

    def kinds(self) -> Array:
        """Return the work done lately and, last, the time it took, ns: encoders, prefill, others; not to be changed."""
        self._flush()
        if self._kinds_now is None:
            self._kinds_now = np.sum([kinds for _, kinds in self._kinds], axis=0)
        return self._kinds_now

    def _read(self, starts: Array, ends: Array) -> Array:
        kept = slice(self._first, self._size)
        return read_between(self._all_times[kept], self._all_values[kept], starts, ends)

    def _point(
        self, time_ns: int, decodes: tuple[float, int, float, int] = (0, 0, 0.0, 0), row: Row | None = None
    ) -> None:
        if row is not None:
            self._new_rows.append((len(self._new_times), row))
        self._new_times.append(time_ns)
        self._new_decodes.append(decodes)
        self.points += 1

    def _flush(self) -> None:
        count = len(self._new_times)
        if not count:
            return
        rows, times = _rows_of_decodes(self._new_decodes), np.array(self._new_times, dtype=float)
        kinds = np.zeros((3, COLUMNS + 1))
        kinds[2] = rows.sum(axis=0)
        if self._new_rows:
            others = np.array([row for _, row in self._new_rows])
            rows[[place for place, _ in self._new_rows]] = others
            kinds += _kinds_of(others)
        self._new_times, self._new_decodes, self._new_rows = [], [], []
        self._remembered.clear()
        self._kinds_now = None
        if self._size + count > len(self._all_times):
            self._move(count)
        begin, self._size = self._size, self._size + count
        self._all_times[begin : self._size] = times
        values = self._all_values[begin : self._size]
        np.cumsum(rows, axis=0, out=values)
        if begin:
            values += self._all_values[begin - 1]
        self._kinds.append((float(times[-1]), kinds))
        kept = self._all_times[: self._size]
        old = self.end_ns - self._keep_ns
        self._first = max(int(np.searchsorted(kept, old)) - 1, self._size - self._most, self._first)
        self.whole = self.whole and self._first == 0
        while self._kinds and self._kinds[0][0] <= kept[self._first]:
            self._kinds.popleft()
        if self._placed:
            self._placed = {key: place for key, place in self._placed.items() if place[2] > old}

    def _move(self, more: int) -> None:
        """Leave what is too old behind, with room for more and for some time to come, so that it is done seldom."""
        kept = self._size - self._first
        room = -(-(kept + more + max(_ROOM, kept // 4)) // _ROOM) * _ROOM
        times, values = np.empty(room), np.empty((room, COLUMNS + 1))
        if kept:
            times[:kept] = self._all_times[self._first : self._size]
            before = self._all_values[self._first]
            np.subtract(self._all_values[self._first : self._size], before, out=values[:kept])
        self._all_times, self._all_values, self._first, self._size = times, values, 0, kept


def _rows_of_decodes(told: Sequence[tuple[float, int, float, int]]) -> Array:
    """Return the columns, as of ``row_of``, and the time of steps of decoding alone; all are 0 without tokens."""
    context, tokens, drafts, time_ns = (
        np.fromiter(chain.from_iterable(told), float, 4 * len(told)).reshape(-1, 4).T
    )
    few, many = _EXPERTS_TOKENS
    rows = np.zeros((len(told), COLUMNS + 1))
    steps = tokens > 0, 1.0 - np.exp(-tokens / few), 1.0 - np.exp(-tokens / many)
    for place, column in enumerate((context, tokens, *steps, drafts, time_ns), CLASS_COLUMNS[2].start):
        rows[:, place] = column
    return rows


def _kinds_of(rows: Array) -> Array:
    encodes = rows[:, CLASS_COLUMNS[0]].any(axis=1)
    prefills = rows[:, CLASS_COLUMNS[1]].any(axis=1) & ~encodes
    others = rows[:, CLASS_COLUMNS[2]].any(axis=1) & ~encodes & ~prefills
    kinds = np.column_stack((encodes, prefills, others)).astype(float)
    summed: Array = kinds.T @ rows
    return summed


def _parts(work: Work) -> tuple[int, int, int]:
    start, end = work.start_ns, max(work.end_ns, work.start_ns + 1)
    if work.encode_ns <= 0:
        return start, start, end
    encodes = work.patches > 0 or work.encode_pairs > 0
    alone = not (work.prefill_tokens > 0 or work.decode_requests > 0)
    if not encodes:
        return start, start, end
    return start, end if alone else min(start + work.encode_ns, end - 1), end


_NOTHING: Final[Row] = (0.0,) * COLUMNS
