"""A fit beside a co-tenant that comes and goes: on the seconds in which it seems to be away."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vtprof_agent.counters.idle_power import IdlePower
from vtprof_agent.counters.nonnegative import Array
from vtprof_agent.counters.rolling_fit import Fit, RollingFit
from vtprof_agent.counters.work_curve import ALL, COLUMNS

_KEEP: Final = 0.5
"""Share of the seconds to begin with: a co-tenant that is there for longer is not told from our own work."""
_ROUNDS: Final = 6
_FAR: Final = 3.0
_BIN_NS: Final = 1e9
_FOREVER_S: Final = 1e6


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A fit, and how far windows without the co-tenant lie around it."""

    fit: Fit
    spread: float
    """Standard deviation of amount over prediction."""


def trimmed_fit(
    starts: Array, ends: Array, amounts: Array, work: Array,
    *, always_idle: bool, idle: IdlePower | None = None, unknowns: Array = ALL,
) -> Trimmed | None:  # fmt: skip
    """Fit by least trimmed squares over whole seconds, beginning with those that have least for their work.

    ``idle``: what is known of idle power, which is left as it is; ``unknowns``: as of ``RollingFit``.
    """
    _, second = np.unique(ends // _BIN_NS, return_inverse=True)
    whole = np.bincount(second, amounts)
    if not whole.any():
        return None
    whole = np.maximum(whole, whole.mean() * 1e-3)
    use: NDArray[np.bool_] = np.ones(len(whole), dtype=bool)
    spread, fit = 1.0, None
    for turn in range(_ROUNDS):
        chosen = use[second]
        rolling = RollingFit(_FOREVER_S, 1.0, always_idle=always_idle, idle=deepcopy(idle), unknowns=unknowns)
        for one in _groups(second, chosen, apart=turn == _ROUNDS - 1):
            rolling.add(float(ends[one][-1]), work[one], (ends - starts)[one], amounts[one])
        fit = rolling.fit()
        if fit is None:
            return None
        predicted = work[:, :COLUMNS] @ fit.costs + fit.idle * (ends - starts)
        residual = np.bincount(second, amounts - predicted) / whole
        spread = float((amounts - predicted)[chosen].std() / max(float(amounts[chosen].mean()), 1e-300))
        if turn < _ROUNDS - 2:
            distance = residual if turn < 2 else np.abs(residual)
            use = distance <= np.quantile(distance, _KEEP)
        else:
            near = float(np.median(np.abs(residual[use]))) * 1.4826
            use = np.abs(residual) <= _FAR * max(near, 0.002)
    return Trimmed(fit, spread) if fit is not None else None


def _groups(second: NDArray[np.intp], chosen: NDArray[np.bool_], *, apart: bool) -> list[NDArray[np.intp]]:
    """Return the places of the windows to add at once: of each second ``apart``, where it is asked how sure a fit is.

    That follows from how the seconds differ; the costs do not need it, and a turn for each second takes far longer.
    """
    places = np.flatnonzero(chosen)
    if not apart:
        return [places]
    return np.split(places, np.flatnonzero(np.diff(second[places])) + 1)
