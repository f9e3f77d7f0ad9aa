"""The probe's clocks: monotonic nanoseconds for durations, and a tight pair of monotonic and wall time as anchor."""

import time
from typing import Callable, NamedTuple

monotonic_ns = time.monotonic_ns

_TRIES = 5


class Spent:
    """Time that the hooks took themselves. Threads add without a lock, which would cost more than an addition lost."""

    __slots__ = ("ns",)

    def __init__(self) -> None:
        """Begin at nothing."""
        self.ns = 0


class Anchor(NamedTuple):
    """One instant on both clocks."""

    monotonic_ns: int
    wall_ns: int


def read_anchor(
    monotonic: Callable[[], int] = time.monotonic_ns, wall: Callable[[], int] = time.time_ns
) -> Anchor:
    """Read both clocks as one instant: of a few bracketed readings, the one with the narrowest bracket."""
    narrowest = -1
    anchor = Anchor(0, 0)
    for _ in range(_TRIES):
        before = monotonic()
        wall_ns = wall()
        width = monotonic() - before
        if narrowest < 0 or width < narrowest:
            narrowest = width
            anchor = Anchor(before + width // 2, wall_ns)
    return anchor
