"""How much flows without work of ours: what pauses show of it, within what the least windows leave possible."""

from math import erf, exp, inf, pi, sqrt
from typing import Final

import numpy as np

from vtprof_agent.counters.nonnegative import Array

_FEW_NS: Final = 400_000_000
"""Less time shows no bound: a counter that is latched late would make it too low."""
_AT_ONCE_NS: Final = 500_000_000
_LATE: Final = 1.1
"""So much too low may a bound be by noise and by late latches."""
_CONTRADICTS: Final = 3.0
"""Pauses that show so many standard errors more than the bound say that it is wrong."""


class IdleBound:
    """The least that ever flowed, for as long as the GPU is watched: no more than that can flow without work."""

    def __init__(self) -> None:
        """Begin without a bound."""
        self.rate = inf
        """Amount for each ns."""

    def take(self, amounts: Array, durations_ns: Array) -> None:
        """Take what flowed in windows, which are looked at some at a time."""
        groups = ((np.cumsum(durations_ns) - durations_ns / 2) // _AT_ONCE_NS).astype(np.intp)
        durations = np.bincount(groups, durations_ns)
        enough = durations >= _FEW_NS
        if enough.any():
            self.rate = min(
                self.rate, _LATE * float((np.bincount(groups, amounts)[enough] / durations[enough]).min())
            )

    def within(self, rate: float, error: float) -> tuple[float, float]:
        """Return the idle rate and its standard error, given what pauses show: all up to the bound may be until then."""
        if rate - _CONTRADICTS * error > self.rate:
            self.rate = inf
        if self.rate == inf:
            return rate, error
        return truncated(rate, error, self.rate)


def truncated(mean: float, error: float, most: float) -> tuple[float, float]:
    """Return mean and standard deviation of a normal distribution cut off below 0 and above ``most``."""
    if most <= 0:
        return 0.0, 0.0
    if error <= 1e-9 * most:
        return min(max(mean, 0.0), most), error
    if error > 30 * most:
        return most / 2, most / sqrt(12)
    low, high = -mean / error, (most - mean) / error
    inside = (erf(high / sqrt(2)) - erf(low / sqrt(2))) / 2
    if inside < 1e-12:
        return min(max(mean, 0.0), most), error
    at_low, at_high = (exp(-(z**2) / 2) / sqrt(2 * pi) for z in (low, high))
    shift = (at_low - at_high) / inside
    variance = 1 + (low * at_low - high * at_high) / inside - shift**2
    return min(max(mean + error * shift, 0.0), most), error * sqrt(max(variance, 1e-12))
