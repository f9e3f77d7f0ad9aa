"""The work of steps as columns of numbers, and as curves over time that windows of any edges can be read from."""

from math import exp
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vtprof_agent.counters.meter import Work

Array = NDArray[np.float64]

ENCODE_COLUMNS: Final = 3
"""Patches, attention pairs and weight reads of the encoder."""
COLUMNS: Final = 13
"""Then tokens, attention pairs, weight reads and experts (2) of prefill; context, requests, and the same of decode."""
CLASS_COLUMNS: Final = (slice(0, 3), slice(3, 8), slice(8, 13))
"""Columns of each of ``meter.CLASSES``."""
UNKNOWNS: Final = 10
"""Costs to fit: weight reads and experts cost the same for prefill and decode."""
UNKNOWN_OF_COLUMN: Final = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 6, 7])
_MERGE: Final = np.zeros((COLUMNS, UNKNOWNS))
_MERGE[np.arange(COLUMNS), UNKNOWN_OF_COLUMN] = 1.0
_EXPERTS_TOKENS: Final = (4.0, 20.0)
"""Of a mixture of experts a step of n tokens reads about 1 - exp(-n k / E) of the weights, k of E experts a token.
Two curves, for few and for many experts, and a constant make up most others between them."""

Row = tuple[float, ...]


def row_of(work: Work) -> Row:
    """Return a step's columns. A weight read is split between prefill and decode by tokens."""
    prefill, decode = max(work.prefill_tokens, 0), max(work.decode_requests, 0)
    tokens = prefill + decode
    prefill_part = prefill / tokens if tokens else 0.0
    decode_part = decode / tokens if tokens else 0.0
    few, many = (1.0 - exp(-tokens / scale) for scale in _EXPERTS_TOKENS)
    return (
        float(max(work.patches, 0)), float(max(work.encode_pairs, 0)),
        1.0 if work.patches > 0 or work.encode_pairs > 0 else 0.0,
        float(prefill), float(max(work.prefill_pairs, 0)), prefill_part,
        prefill_part * few, prefill_part * many,
        float(max(work.decode_context_tokens, 0)), float(decode), decode_part,
        decode_part * few, decode_part * many,
    )  # fmt: skip


def unknowns_of(rows: Array) -> Array:
    """Add up the columns that share a cost."""
    return rows @ _MERGE


def read_curve(times: Array, values: Array, at: Array) -> Array:
    """Interpolate cumulative values (n x columns) linearly; flat before the first and behind the last time."""
    right = np.clip(np.searchsorted(times, at, side="right"), 1, len(times) - 1)
    left = right - 1
    span = times[right] - times[left]
    part = np.clip(np.divide(at - times[left], span, out=np.ones_like(at), where=span > 0), 0.0, 1.0)
    low = values[left]
    result: Array = low + (values[right] - low) * part[:, None]
    return result


class WorkCurve:
    """Work done up to each moment by one set of GPUs over the last ``keep_ns``."""

    def __init__(self, keep_ns: int, most_points: int) -> None:
        """Keep so much time, and so many points of the curve at most."""
        self._keep_ns, self._most = keep_ns, most_points
        self._times = np.zeros(0)
        self._values = np.zeros((0, COLUMNS + 1))
        self._new_times: list[int] = []
        self._new_rows: list[Row] = []
        self._placed: dict[tuple[int, int], tuple[int, int, int]] = {}
        self.end_ns = 0
        """End of the last step; no work is known beyond it."""

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
        row = row_of(work)
        if not self.end_ns or start > self.end_ns:
            self._point(start, (*_NOTHING, 0.0))
        if middle > start:
            self._point(middle, (*row[:ENCODE_COLUMNS], *_NOTHING[ENCODE_COLUMNS:], float(middle - start)))
            row = (*_NOTHING[:ENCODE_COLUMNS], *row[ENCODE_COLUMNS:])
        self._point(end, (*row, float(end - middle)))
        self.end_ns = end
        if len(self._new_rows) > self._most:
            self._flush()
        return True

    @property
    def begin_ns(self) -> float:
        """Return from when on the work is known."""
        return float(self._times[0]) if len(self._times) else 0.0

    def where(self, work: Work) -> tuple[int, int, int]:
        """Return where a step lies on the curve: begin, end of the encoder's part, end."""
        return self._placed.get((work.start_ns, work.end_ns)) or _parts(work)

    def between(self, starts: Array, ends: Array) -> Array:
        """Return the work done in each of the windows and, last, how long steps ran in it, ns."""
        self._flush()
        if len(self._times) < 2:
            return np.zeros((len(starts), COLUMNS + 1))
        read = read_curve(self._times, self._values, np.concatenate((starts, ends)))
        return read[len(starts) :] - read[: len(starts)]

    def kinds(self) -> Array:
        """Return the work done lately and, last, the time it took, ns: encoders, steps with prefill, other steps."""
        self._flush()
        parts, times = np.diff(self._values, axis=0), np.diff(self._times)
        encodes = parts[:, CLASS_COLUMNS[0]].any(axis=1)
        prefills = parts[:, CLASS_COLUMNS[1]].any(axis=1) & ~encodes
        others = parts[:, CLASS_COLUMNS[2]].any(axis=1) & ~encodes & ~prefills
        return np.array(
            [(*parts[kind, :COLUMNS].sum(axis=0), times[kind].sum()) for kind in (encodes, prefills, others)],
            dtype=float,
        )

    def _point(self, time_ns: int, row: Row) -> None:
        self._new_times.append(time_ns)
        self._new_rows.append(row)

    def _flush(self) -> None:
        if not self._new_times:
            return
        values = np.cumsum(np.array(self._new_rows), axis=0)
        if len(self._values):
            values += self._values[-1]
        times = np.concatenate((self._times, np.array(self._new_times, dtype=float)))
        values = np.concatenate((self._values, values))
        first = max(int(np.searchsorted(times, self.end_ns - self._keep_ns)) - 1, len(times) - self._most, 0)
        self._times, self._values = times[first:].copy(), values[first:] - values[first]
        self._new_times, self._new_rows = [], []
        if self._placed:
            old = self.end_ns - self._keep_ns
            self._placed = {key: place for key, place in self._placed.items() if place[2] > old}


def _parts(work: Work) -> tuple[int, int, int]:
    start, end = work.start_ns, max(work.end_ns, work.start_ns + 1)
    encodes = work.patches > 0 or work.encode_pairs > 0
    alone = not (work.prefill_tokens > 0 or work.decode_requests > 0)
    if not encodes or work.encode_ns <= 0:
        return start, start, end
    return start, end if alone else min(start + work.encode_ns, end - 1), end


_NOTHING: Final[Row] = (0.0,) * COLUMNS
