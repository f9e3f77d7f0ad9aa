"""How much flows without work of ours: what pauses show of it, within what is known from elsewhere.

That is the least that ever flowed, what an earlier agent saw of the GPU, and, of a GPU of which nothing was ever seen,
what GPUs with such a power limit take.
"""

from copy import deepcopy
from dataclasses import dataclass
from math import erf, exp, hypot, inf, pi, sqrt
from typing import Final

import numpy as np

from vtprof_agent.counters.nonnegative import Array

DRIFT: Final = 0.05
"""Idle power moves with temperature and clocks: it is known no better than this from other times."""
_FEW_NS: Final = 400_000_000
"""Less time shows no bound: a counter that is latched late would make it too low."""
_AT_ONCE_NS: Final = 500_000_000
_LATE: Final = 1.1
"""So much too low may a bound be by noise and by late latches."""
_MUCH: Final = 1.5
"""Idle power varies less than this over the least that was seen."""
_CONTRADICTS: Final = 3.0
"""Standard errors by which pauses must differ from what is known to say that it is wrong."""
_OF_LIMIT: Final = (0.05, 0.4)
"""Idle power of data-centre GPUs over their power limit. Of 300 W an A40 takes 30 W alone, 110 W once a process has a
context (NVIDIA/open-gpu-kernel-modules issue 874), a V100 53 W with a model loaded; of 140 W an A4000 38 W
(huggingface/text-generation-inference issue 946). A context adds 26 to 66 W on H100, A100 and L40S, whatever is loaded
(arXiv 2605.23918)."""
_BEYOND: Final = (0.5, 1.5)
"""A stored value may lie so far beyond that range."""
_ENOUGH_NS: Final = 2_000_000_000
"""So much rest tells more than an earlier agent did."""
_MOST_NS: Final = 60_000_000_000
"""Rest of more than that counts half: the latest tells most."""
_MW: Final = 1e9
"""mW in a mJ a ns."""


@dataclass(frozen=True, slots=True)
class IdleSeen:
    """What was seen of a GPU's idle power while it was at work, or had just been."""

    least_mw: float | None = None
    """The least that flowed over half a second."""
    rest_mw: float | None = None
    """The mean while it surely rested."""


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
        # A counter that stands still tells nothing: no GPU takes 0 W.
        enough = (durations >= _FEW_NS) & (np.bincount(groups, amounts <= 0) == 0)
        if enough.any():
            self.rate = min(
                self.rate, _LATE * float((np.bincount(groups, amounts)[enough] / durations[enough]).min())
            )

    def doubt(self, rate: float, error: float) -> None:
        """Forget the bound when pauses show more."""
        if rate - _CONTRADICTS * error > self.rate:
            self.rate = inf

    def within(self, rate: float, error: float, least: float = 0.0, most: float = inf) -> tuple[float, float]:
        """Return the idle rate and its standard error, given what pauses show: all up to the bound may be until then.

        ``least`` and ``most`` are what is possible anyway.
        """
        self.doubt(rate, error)
        most = min(most, self.rate)
        if most == inf:
            return rate, error
        return truncated(rate, error, most, min(least, most / 2))


class IdlePower:
    """What is known of one GPU's idle power beside what the windows of a fit show; rates are amounts for each ns."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._bound = IdleBound()
        self._told: float | None = None
        self._range = (0.0, inf)
        self._near_work = IdleBound()
        self._before, self._behind = IdleBound(), IdleBound()
        self._rest = self._rest_ns = 0.0

    def tell(self, seen: IdleSeen) -> None:
        """Take what an earlier agent saw."""
        if seen.least_mw is not None:
            self._near_work.rate = min(self._near_work.rate, _LATE * seen.least_mw / _MW)
        if seen.rest_mw is not None:
            self._told = seen.rest_mw / _MW

    def limit(self, power_limit_mw: float) -> None:
        """Take the power limit that the GPU was made for."""
        low, high = _OF_LIMIT
        self._range = low * power_limit_mw / _MW, high * power_limit_mw / _MW

    def most(self, *, near_work: bool) -> float:
        """Return the rate over which a GPU without work is not idle, shortly after work or before any."""
        return min(_MUCH * (self._near_work if near_work else self._bound).rate, self._range[1])

    def take(self, amounts: Array, durations_ns: Array, *, near_work: bool) -> None:
        """Take what flowed in windows; ``near_work``: there was work in them, or had been shortly before."""
        self._bound.take(amounts, durations_ns)
        if near_work:
            self._near_work.take(amounts, durations_ns)

    def rested(self, amounts: Array, durations_ns: Array, *, behind: bool) -> None:
        """Take what flowed without work; ``behind``: it had been there shortly before, so a process has a context."""
        (self._behind if behind else self._before).take(amounts, durations_ns)
        if not behind:
            return
        self._rest, self._rest_ns = (
            self._rest + float(amounts.sum()),
            self._rest_ns + float(durations_ns.sum()),
        )
        if self._rest_ns > _MOST_NS:
            self._rest, self._rest_ns = self._rest / 2, self._rest_ns / 2

    def beside_others(self) -> "IdlePower":
        """Return what is known when others use the GPU too: the least that flowed without work, as they only add to it."""
        known = deepcopy(self)
        least = min(self._behind.rate, self._before.rate)
        if least < inf:
            known._told = least / _LATE
        return known

    def seen(self) -> IdleSeen:
        """Return what the next agent is to be told: what was seen, by an earlier agent too as far as it holds."""
        rest = self._rest / self._rest_ns if self._rest_ns >= _ENOUGH_NS else self._told
        least = self._near_work.rate / _LATE
        return IdleSeen(least * _MW if least < inf else None, rest * _MW if rest is not None else None)

    def given(self, rate: float, error: float) -> tuple[float, float]:
        """Return the idle rate and its standard error, given what pauses show: ``error`` is infinite without any.

        What they contradict is known no more.
        """
        low, high = self._range
        self._disbelieve(low, high)
        if rate - _CONTRADICTS * error > high or rate + _CONTRADICTS * error < low:
            low, high = 0.0, inf
        if self._told is not None:
            drift = DRIFT * self._told
            if abs(rate - self._told) > _CONTRADICTS * hypot(error, drift):
                self._told = None
            else:
                share = drift**2 / (drift**2 + error**2)
                rate, error = self._told + (rate - self._told) * share, drift * sqrt(1 - share)
                low, high = 0.0, inf
        self._near_work.doubt(rate, error)
        return self._bound.within(rate, error, low, min(high, self._near_work.rate))

    def _disbelieve(self, low: float, high: float) -> None:
        """Forget what an earlier agent cannot have seen of a GPU with this power limit."""
        if self._told is not None and not low * _BEYOND[0] <= self._told <= high * _BEYOND[1]:
            self._told = None
        if self._near_work.rate < low * _BEYOND[0]:
            self._near_work.rate = inf


def truncated(mean: float, error: float, most: float, least: float = 0.0) -> tuple[float, float]:
    """Return mean and standard deviation of a normal distribution cut off below ``least`` and above ``most``."""
    width = most - least
    if width <= 0:
        return max(most, 0.0), 0.0
    if error <= 1e-9 * most:
        return min(max(mean, least), most), error
    if error > 30 * width:
        return (least + most) / 2, width / sqrt(12)
    low, high = (least - mean) / error, (most - mean) / error
    inside = (erf(high / sqrt(2)) - erf(low / sqrt(2))) / 2
    if inside < 1e-12:
        return min(max(mean, least), most), error
    at_low, at_high = (exp(-(z**2) / 2) / sqrt(2 * pi) for z in (low, high))
    shift = (at_low - at_high) / inside
    variance = 1 + (low * at_low - high * at_high) / inside - shift**2
    return min(max(mean + error * shift, least), most), error * sqrt(max(variance, 1e-12))
