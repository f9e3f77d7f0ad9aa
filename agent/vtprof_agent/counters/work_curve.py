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
from vtprof_agent.counters.running_sums import ROOM, RunningSums

Array = NDArray[np.float64]

ENCODE_COLUMNS: Final = 3
"""Patches, attention pairs and weight reads of the encoder."""
SHAPE_COLUMNS: Final = 7
"""What ``shape`` tells of the kernels that all tokens of a step share."""
COLUMNS: Final = ENCODE_COLUMNS + 2 + SHAPE_COLUMNS + 3 + SHAPE_COLUMNS
"""Then of prefill tokens, attention pairs and its part of the shape; of decode context, tokens, its part of the shape, and
reads of what drafts its tokens."""
CLASS_COLUMNS: Final = (slice(0, 3), slice(3, 12), slice(12, COLUMNS))
"""Columns of each of ``meter.CLASSES``."""
WEIGHT_READS: Final = (2, 5, 14)
"""Columns that count weight reads by class, one for each step and its encoder."""
TO_CLASS: Final = np.repeat(np.eye(3), [columns.stop - columns.start for columns in CLASS_COLUMNS], axis=0)
"""Adds up the columns of each class."""
UNKNOWNS: Final = 16
"""Costs to fit: of the encoder (3), a prefill pair, the shape (9), a decode token, cached or computed, a draft's read."""
_EXPERTS_TOKENS: Final = 4.0
"""Of a mixture of experts a step of n tokens reads about 1 - exp(-n k / E) of the weights, k of E experts a token. This
curve of a few experts, tokens up to the knees and a constant make up most others between them."""
_KNEES: Final = (32, 128)
"""Up to some tokens a step's kernels are bound by memory or fill few SMs, beyond by compute: costs bend there, either way.
Where depends on GPU and model; a bend between these is a mixture of both."""
_TILES: Final = (16, 128)
"""Matrices are padded to rows of the smallest tile of a tensor core, and of the tiles that long ones are cut into."""
_LARGER_TILES: Final = 64
"""From more tokens on kernels of larger tiles are chosen."""


def _merged() -> "Array":
    """Return how far each unknown counts for a unit of each column: prefill and decode pay alike for what they share.

    Tokens up to a knee are all of them less those beyond it; the columns hold the latter, which are exactly 0 as long as
    there are none: as a difference of sums they would be rounding errors, which a fit could take for work.
    """
    merged = np.zeros((COLUMNS, UNKNOWNS))
    for column, unknown in (
        (0, 0),
        (1, 1),
        (2, 2),
        (4, 3),
        (12, 13),
        (13, 14),
        (21, 15),
    ):  # of one class alone
        merged[column, unknown] = 1.0
    for tokens, first in (
        (3, 5),
        (13, 14),
    ):  # of prefill, and of decode: tokens, and where its part of the shape begins
        for place, unknown in enumerate((4, 5, 8, 9, 10, 11, 12)):
            merged[first + place, unknown] = 1.0
        for place, unknown in ((2, 6), (3, 7)):  # up to a knee
            merged[tokens, unknown], merged[first + place, unknown] = 1.0, -1.0
    return merged


_MERGE: Final = _merged()
ALL: Final = np.ones(UNKNOWNS)
"""The unknowns that a counter may depend on,"""
BYTES: Final = np.where(np.isin(np.arange(UNKNOWNS), (8, 10, 11, 12)), 0.0, 1.0)
"""and those that bytes do: no tile is padded in memory, and what computing binds from the first knee on is not moved."""

Row = tuple[float, ...]


_BEFORE_DECODE: Final[Row] = (0.0,) * CLASS_COLUMNS[2].start
_DECODE_COLUMNS: Final = COLUMNS - CLASS_COLUMNS[2].start
_REMEMBERED: Final = 64
"""Answers of ``between`` that are remembered, and how many windows they have at most."""


@lru_cache(maxsize=4096)
def shape(tokens: int) -> Row:
    """Return what the kernels of a step depend on that all of its tokens share, as linear layers.

    A read of the weights, the part of a few experts that is read, tokens beyond each knee, tokens padded to small tiles, a
    change to larger tiles, tokens padded to these.
    """
    small, large = _TILES
    return (
        1.0 if tokens > 0 else 0.0,
        1.0 - exp(-tokens / _EXPERTS_TOKENS),
        *(float(max(tokens - knee, 0)) for knee in _KNEES),
        float(-(-tokens // small) * small),
        1.0 if tokens > _LARGER_TILES else 0.0,
        float(-(-tokens // large) * large),
    )


def only_decodes(work: Work) -> bool:
    """Tell whether a step holds no work but decoding, a token for each request, as most do."""
    return work.decode_tokens <= work.decode_requests and _nothing_else(work)


def decoded(work: Work) -> int:
    """Return the tokens that decoding computed in a step: one a request where nothing else is told."""
    return max(work.decode_tokens, work.decode_requests, 0)


def row_of(work: Work) -> Row:
    """Return a step's columns. What all tokens share is split between prefill and decode by tokens; drafts are decode's."""
    prefill, decode = max(work.prefill_tokens, 0), decoded(work)
    drafts = 1.0 if decode > work.decode_requests > 0 else 0.0
    context = float(max(work.decode_context_tokens, 0))
    tokens = prefill + decode
    shared = shape(tokens)
    if decode and _nothing_else(work):
        return (*_BEFORE_DECODE, context, float(decode), *shared, drafts)
    prefill_part = prefill / tokens if tokens else 0.0
    decode_part = decode / tokens if tokens else 0.0
    return (
        float(max(work.patches, 0)), float(max(work.encode_pairs, 0)),
        1.0 if work.patches > 0 or work.encode_pairs > 0 else 0.0,
        float(prefill), float(max(work.prefill_pairs, 0)), *(prefill_part * one for one in shared),
        context, float(decode), *(decode_part * one for one in shared), drafts,
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


def unknowns_of(rows: Array, columns: slice = slice(0, COLUMNS)) -> Array:
    """Return how far each unknown counts for rows of work, or for the part of them in some columns."""
    return rows[..., columns] @ _MERGE[columns]


def costs_of(unknowns: Array) -> Array:
    """Return what a unit of each column costs; beyond a knee it may cost less than nothing, as it counts as a token too."""
    costs: Array = _MERGE @ unknowns[:UNKNOWNS]
    return costs


class WorkCurve:
    """Work done up to each moment by one scheduler over the last ``keep_ns``."""

    def __init__(self, keep_ns: int, most_points: int) -> None:
        """Keep so much time, and so many points of the curve at most."""
        self._keep_ns, self._most = keep_ns, most_points
        self._decoding = RunningSums(_DECODE_COLUMNS + 1)
        """Of every step the columns of decoding and how long it ran, ns."""
        self._others = RunningSums(len(_BEFORE_DECODE))
        """The other columns, where the few steps that have them begin and end: for all they would take as much again."""
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
        if len(self._new_times) >= ROOM:
            self._flush()
        return True

    @property
    def begin_ns(self) -> float:
        """Return from when on the work is known."""
        self._flush()
        return float(self._decoding.times[0]) if len(self._decoding) else 0.0

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
        times = self._decoding.times
        return times[np.searchsorted(times, start_ns) : np.searchsorted(times, end_ns)]

    def ran_ns(self, at: Array) -> Array:
        """Return how long steps had run up to each of the times, ns."""
        self._flush()
        ran: Array = np.interp(at, self._decoding.times, self._decoding.values[:, -1])
        return ran

    def kinds(self) -> Array:
        """Return the work done lately and, last, the time it took, ns: encoders, prefill, others; not to be changed."""
        self._flush()
        if self._kinds_now is None:
            self._kinds_now = np.sum([kinds for _, kinds in self._kinds], axis=0)
        return self._kinds_now

    def _read(self, starts: Array, ends: Array) -> Array:
        return np.hstack((self._others.between(starts, ends), self._decoding.between(starts, ends)))

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
        kinds[2, len(_BEFORE_DECODE) :] = rows.sum(axis=0)
        if self._new_rows:
            others = np.array([row for _, row in self._new_rows])
            places = np.array([place for place, _ in self._new_rows])
            rows[places] = others[:, len(_BEFORE_DECODE) :]
            kinds += _kinds_of(others)
            before = np.append(self._decoding.times[-1:] if len(self._decoding) else times[:1], times[:-1])
            edges, steps = (
                np.column_stack((before[places], times[places])),
                np.zeros((len(others), 2, len(_BEFORE_DECODE))),
            )
            steps[:, 1] = others[:, : len(_BEFORE_DECODE)]
            self._others.append(edges.ravel(), steps.reshape(-1, len(_BEFORE_DECODE)))
        self._new_times, self._new_decodes, self._new_rows = [], [], []
        self._remembered.clear()
        self._kinds_now = None
        self._decoding.append(times, rows)
        self._kinds.append((float(times[-1]), kinds))
        kept, old = self._decoding.times, self.end_ns - self._keep_ns
        count = max(int(np.searchsorted(kept, old)) - 1, len(kept) - self._most, 0)
        self.whole = self.whole and count == 0
        self._decoding.leave(count)
        self._others.leave(int(np.searchsorted(self._others.times, kept[count])))
        while self._kinds and self._kinds[0][0] <= kept[count]:
            self._kinds.popleft()
        if self._placed:
            self._placed = {key: place for key, place in self._placed.items() if place[2] > old}


def _rows_of_decodes(told: Sequence[tuple[float, int, float, int]]) -> Array:
    """Return the columns of decoding, as of ``row_of``, and the time of steps of it alone; all are 0 without tokens."""
    context, tokens, drafts, time_ns = (
        np.fromiter(chain.from_iterable(told), float, 4 * len(told)).reshape(-1, 4).T
    )
    rows = np.empty((len(told), _DECODE_COLUMNS + 1))
    small, large = _TILES
    columns = (
        context, tokens, tokens > 0, 1.0 - np.exp(-tokens / _EXPERTS_TOKENS),
        *(np.maximum(tokens - knee, 0.0) for knee in _KNEES),
        np.ceil(tokens / small) * small, tokens > _LARGER_TILES, np.ceil(tokens / large) * large, drafts, time_ns,
    )  # fmt: skip
    for place, column in enumerate(columns):
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
