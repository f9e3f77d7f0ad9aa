"""The highest rate of short pieces of work: other load makes a burst slower and never faster, so the best one counts."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

Clock = Callable[[], float]
_LEAST_S = 1e-9
"""What a clock too coarse for a burst may report."""


@dataclass(frozen=True)
class Burst:
    """A short piece of work and how much of it there is, FLOP or bytes."""

    amount: float
    work: Callable[[], object]
    """Returns when the work is done, not when it is queued."""
    size: int
    """Rows of the matrices, or bytes of an array."""


@dataclass(frozen=True)
class Best:
    """The best rate of several bursts, per second, and the sizes that were tried."""

    rate: float
    sizes: tuple[int, ...]


def best_rate(bursts: Iterable[Burst], seconds: float, clock: Clock) -> Best:
    """Return the highest rate of bursts that share so many seconds; ``bursts`` come from small to large.

    The first run of each warms up (memory, kernels, clocks) and is not counted. A burst that takes longer than all the
    seconds is the last: larger ones are not made. Raises ValueError when there is no burst.
    """
    ready: list[Burst] = []
    spent_s: list[float] = []
    best = 0.0

    def run(place: int) -> None:
        nonlocal best
        begin = clock()
        ready[place].work()
        took_s = max(clock() - begin, _LEAST_S)
        spent_s[place] += took_s
        best = max(best, ready[place].amount / took_s)

    for burst in bursts:
        burst.work()
        ready.append(burst)
        spent_s.append(0.0)
        run(len(ready) - 1)
        if spent_s[-1] > seconds:
            break
    if not ready:
        raise ValueError("no burst to measure")
    while sum(spent_s) < seconds:
        run(min(range(len(ready)), key=spent_s.__getitem__))
    return Best(best, tuple(burst.size for burst in ready))
