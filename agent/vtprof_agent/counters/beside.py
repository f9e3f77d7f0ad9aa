"""What runs on a GPU beside our work: in which windows it was away, by all counters that are read together.

A process that comes and goes adds to the counters in some windows, and takes from none. What a fit leaves over is then
noise, and in these windows something positive besides, in every counter at once. Expectation and maximisation (Dempster,
Laird and Rubin, 1977) find how often that is, how much it shows, and what our work costs where it is away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi
from typing import Final

import numpy as np

from vtprof_agent.counters.nonnegative import Array, solve

_BEGIN: Final = (0.7, 0.5, 0.4, 0.4)
"""Shares of the windows to begin with, one after the other: those that show least for their work."""
_ROUNDS: Final = 15
_SETTLED: Final = 1e-3
"""Mean change of a window's probability below which another round is not worth it."""
_LEAST_SHARE, _MOST_SHARE = 0.02, 0.9
"""Of the windows in which others may be there: who never leaves is not told from our own work."""
_LEAST_NOISE: Final = 0.005
_LEAST_SHOWN: Final = 2.0
"""Others add so many standard deviations at least, in the mean; less is noise."""
_MOST_EVIDENCE: Final = 8.0
"""A counter may say so much against the others: kernels are no linear function of the work, which one may show most."""
_FEWEST: Final = 2.0
"""Windows for each unknown."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a counter shows without others, and what these add."""

    costs: Array
    floor: float
    """Errors grow with the amount, down to this one."""
    noise: float
    """Their standard deviation, relative."""
    shown: float
    """Mean of what others add while they are there, in standard deviations."""
    odds: float
    """Log of how much more often others are there than away."""

    def evidence(self, features: Array, amounts: Array) -> Array:
        """Return the log of how much likelier windows are with others than without: normal plus exponential, over normal."""
        predicted = features @ self.costs
        off = (amounts - predicted) / (np.hypot(predicted, self.floor) * self.noise)
        rate = 1.0 / self.shown
        beside = log(rate) + 0.5 * rate**2 - off * rate + _log_below(off - rate)
        told: Array = np.minimum(beside + 0.5 * off**2 + 0.5 * log(2 * pi), _MOST_EVIDENCE)
        return told


def _log_below(x: Array) -> Array:
    """Return the log of the standard normal distribution function, to 2e-4 of it (Page, Applied Statistics 26, 1977)."""
    below: Array = -np.logaddexp(0.0, -(1.5976 * x + 0.070566 * x**3))
    return below


class _Counter:
    """Windows of one counter."""

    def __init__(self, features: Array, amounts: Array, small: float) -> None:
        self.features, self.amounts = features, amounts
        self._floor = small * max(float(amounts.mean()), 1e-300)
        self._scale = np.hypot(amounts, self._floor)
        self._costs, self._off = np.zeros(features.shape[1]), np.zeros(len(amounts))

    def fit(self, away: Array) -> Array:
        """Fit the costs to windows as far as others are away; return how far all lie over, relative to their errors."""
        weighted = self.features * (away / self._scale**2)[:, None]
        start = np.flatnonzero(self._costs)
        self._costs = solve(weighted.T @ self.features, weighted.T @ self.amounts, start.tolist())
        predicted = self.features @ self._costs
        self._scale = np.hypot(predicted, self._floor)
        self._off = (self.amounts - predicted) / self._scale
        return self._off

    def spread(self, away: Array) -> float:
        """Return the standard deviation of those that lie nearest, for a start."""
        return max(float(np.median(np.abs(self._off[away > 0]))) * 1.4826, _LEAST_NOISE)

    def trace(self, away: Array, odds: float, noise: float | None = None) -> Trace:
        there = 1.0 - away
        if noise is None:
            noise = max(float((away * self._off**2).sum() / away.sum()) ** 0.5, _LEAST_NOISE)
        shown = float((there * self._off).sum() / max(float(there.sum()), 1e-300)) / noise
        return Trace(self._costs, self._floor, noise, max(shown, _LEAST_SHOWN), odds)


def find_away(counters: Sequence[tuple[Array, Array, float]]) -> tuple[Array, list[Trace]] | None:
    """Return how likely others were away in each window, and what each counter shows; None where too little is left.

    ``counters``: of each the unknowns of our work by window (n, u), what flowed (n), and down to which share of its mean
    errors grow with the amount.
    """
    seen = [_Counter(*one) for one in counters]
    away = np.ones(len(counters[0][1]))
    for share in _BEGIN:
        offs = [one.fit(away) for one in seen]
        over = np.sum([off / max(float(np.median(np.abs(off))), 1e-9) for off in offs], axis=0)
        away = (over <= np.quantile(over, share)).astype(float)
    for one in seen:
        one.fit(away)
    share = 1 - _BEGIN[-1]
    fewest = _FEWEST * max(int(one.features.any(axis=0).sum()) for one in seen)
    noises: list[float | None] = [one.spread(away) for one in seen]
    for _ in range(_ROUNDS):
        traces = [
            one.trace(away, log(share / (1 - share)), noise) for one, noise in zip(seen, noises, strict=True)
        ]
        odds = traces[0].odds + sum(
            trace.evidence(one.features, one.amounts) for one, trace in zip(seen, traces, strict=True)
        )
        before, away = away, 1.0 / (1.0 + np.exp(odds))
        if away.sum() < fewest:
            return None
        for one in seen:
            one.fit(away)
        noises = [None] * len(seen)
        share = float(np.clip(1.0 - away.mean(), _LEAST_SHARE, _MOST_SHARE))
        if float(np.abs(away - before).mean()) < _SETTLED:
            break
    return away, traces
