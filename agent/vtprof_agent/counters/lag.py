"""Finds how much later than the work a counter's windows are, by which delay lets a fit explain them best."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from vtprof_agent.counters.nonnegative import Array, solve
from vtprof_agent.counters.work_curve import COLUMNS, unknowns_of

MOST_LAG_NS: Final = 200_000_000
"""Delays of more are not looked for."""
_COARSE_NS: Final = 20_000_000
_FINE_NS: Final = (10_000_000, 5_000_000, 2_500_000)
_MUST_GAIN: Final = 10.0
"""By how much the log-likelihood must rise before another delay is believed."""
FEWEST: Final = 45
"""Fewer windows can be explained by too many delays."""


class Lag(NamedTuple):
    """A delay, and what speaks for it."""

    lag_ns: float
    error: float
    """Relative error of a window with it."""
    gain: float
    """How much higher the log-likelihood is than without any delay."""


def find_lag(
    done: Callable[[Array, Array], Array], starts: Array, ends: Array, amounts: Array, now_ns: float,
    *, wide: bool, told_ns: float | None = None,
) -> Lag:  # fmt: skip
    """Return the delay that explains the windows best.

    ``done`` tells the work in windows; ``now_ns``: what is assumed now, and stays when too few windows show anything (then
    with an error of 1) or when no other delay is evidently better; ``wide``: look at all delays, not only near it;
    ``told_ns``: what a counter with the same clock has found from better evidence: it holds here too unless another is
    evidently better.
    """
    if len(amounts) < FEWEST or not amounts.any():
        return Lag(now_ns, 1.0, 0.0)
    weights = 1.0 / np.sqrt(np.maximum(amounts**2 + (0.3 * amounts.mean()) ** 2, 1e-300))

    likely: list[int] = []

    def misfit(lag_ns: float) -> float:
        work = done(starts - lag_ns, ends - lag_ns)
        features = np.column_stack((unknowns_of(work[:, :COLUMNS]), ends - starts)) * weights[:, None]
        target = amounts * weights
        costs = solve(features.T @ features, features.T @ target, likely)
        likely[:] = np.flatnonzero(costs).tolist()
        residual = target - features @ costs
        return float(residual @ residual)

    tried = {lag_ns: misfit(lag_ns) for lag_ns in {now_ns, 0.0, now_ns if told_ns is None else told_ns}}
    if wide:
        grid = np.arange(-MOST_LAG_NS, MOST_LAG_NS + 1, _COARSE_NS).tolist()
        tried.update((lag_ns, misfit(lag_ns)) for lag_ns in grid)
    for step_ns in _FINE_NS:
        best_ns = min(tried, key=tried.__getitem__)
        for lag_ns in (best_ns - step_ns, best_ns + step_ns):
            if abs(lag_ns) <= MOST_LAG_NS and lag_ns not in tried:
                tried[lag_ns] = misfit(lag_ns)
    best_ns = min(tried, key=tried.__getitem__)

    def gain(lag_ns: float, over_ns: float) -> float:
        ratio = max(tried[over_ns], 1e-300) / max(tried[lag_ns], 1e-300)
        return float(len(amounts) * np.log(ratio) / 2)

    held_ns = now_ns if told_ns is None else told_ns
    found_ns = best_ns if gain(best_ns, held_ns) > _MUST_GAIN else held_ns
    return Lag(found_ns, (tried[found_ns] / len(amounts)) ** 0.5, gain(found_ns, 0.0))
