"""What a series of readings of a counter shows: how often it is renewed, by how much it steps, how late it is."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

Reading = tuple[int, float]
"""When, monotonic ns, and what was read; NaN where nothing new was told."""
Window = tuple[int, int, float]
"""Begin and end, monotonic ns, and the mean in between."""


class Work(NamedTuple):
    """Work that ran without a pause."""

    begin_ns: int
    end_ns: int
    amount: float


def changes(series: Sequence[Reading]) -> list[Reading]:
    """Return when a value became another (the middle of the two looks, ns) and by how much."""
    told = [(at_ns, value) for at_ns, value in series if not math.isnan(value)]
    return [((a_ns + b_ns) // 2, b - a) for (a_ns, a), (b_ns, b) in pairwise(told) if a != b]


def gaps_ms(series: Sequence[Reading]) -> list[float]:
    """Return the times between changes, ms."""
    when_ns = [at_ns for at_ns, _ in changes(series)]
    return [(b - a) / 1e6 for a, b in pairwise(when_ns)]


def amount_in(work: Sequence[Work], begin_ns: float, end_ns: float) -> float:
    """Return how much of the work, one piece after the other, ran between two times; each piece ran evenly."""
    first = bisect_right(work, begin_ns, key=lambda one: one.end_ns)
    last = bisect_left(work, end_ns, key=lambda one: one.begin_ns)
    return sum(
        one.amount * (min(one.end_ns, end_ns) - max(one.begin_ns, begin_ns)) / (one.end_ns - one.begin_ns)
        for one in work[first:last]
    )


def find_lag(
    windows: Sequence[Window], work: Sequence[Work], most_ms: float = 300.0, step_ms: float = 2.5
) -> tuple[float, float] | None:
    """Return by how many ms windows are later than the work they show, and the share of their variance so explained.

    Tries all delays from -50 ms on with a straight line from work to value; None when values or work are constant.
    """
    best: tuple[float, float] | None = None
    values = [value for _, _, value in windows]
    for step in range(round((most_ms + 50) / step_ms) + 1):
        lag_ms = step * step_ms - 50
        ran = [
            amount_in(work, begin - lag_ms * 1e6, end - lag_ms * 1e6) / (end - begin)
            for begin, end, _ in windows
        ]
        explained = _explained(ran, values)
        if explained is not None and (best is None or explained > best[1]):
            best = (lag_ms, explained)
    return best


def _explained(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Return the square of the correlation where it is positive; None where either does not vary."""
    if len(xs) < 3 or min(xs) == max(xs) or min(ys) == max(ys):
        return None
    mean_x, mean_y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    both = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    spread = math.fsum((x - mean_x) ** 2 for x in xs) * math.fsum((y - mean_y) ** 2 for y in ys)
    return max(both, 0.0) ** 2 / spread if spread > 0 else None
