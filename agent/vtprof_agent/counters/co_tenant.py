"""Others on a GPU, as one of its counters tells of them together with those that have the same windows."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vtprof_agent.counters.beside import Trace, find_away
from vtprof_agent.counters.idle_power import IdlePower
from vtprof_agent.counters.kept_windows import KeptWindows, Windows
from vtprof_agent.counters.nonnegative import Array
from vtprof_agent.counters.rolling_fit import Fit, RollingFit
from vtprof_agent.counters.work_curve import COLUMNS, unknowns_of
from vtprof_schemas.units import NS_PER_S

_FOREVER_S: Final = 1e6
_AWAY: Final = 0.5


class CoTenant:
    """What one counter tells of others on its GPU."""

    def __init__(self, kept: KeptWindows, unknowns: Array, small: float, *, always_idle: bool) -> None:
        """``kept``: its windows; ``unknowns``, ``small``, ``always_idle``: as of its ``RollingFit``."""
        self._kept, self._unknowns, self._small, self._always_idle = kept, unknowns, small, always_idle
        self._trace: Trace | None = None
        self._away: tuple[float, Array] | None = None
        """Until when its windows were looked at, and how likely others were away in each of them."""

    def fit_without(self, others: "Sequence[CoTenant]", idle: IdlePower | None) -> Fit | None:
        """Fit the work where others seem away; None where that cannot be told.

        ``others``: what all counters of the GPU tell; ``idle``: what is known of idle power, which is left as it is.
        """
        starts, ends, amounts, work = windows = self._kept.all()
        away = self._when_away(windows, others)
        if away is None:
            return None
        known = idle.beside_others() if idle is not None else None
        rolling = RollingFit(
            _FOREVER_S, 1.0, always_idle=self._always_idle, idle=known, unknowns=self._unknowns
        )
        places = np.flatnonzero(away > _AWAY)
        # A block for each second: how these differ tells how sure the fit is.
        for one in np.split(places, np.flatnonzero(np.diff(ends[places] // NS_PER_S)) + 1):
            rolling.add(float(ends[one][-1]), work[one], (ends - starts)[one], amounts[one])
        return rolling.fit()

    def forget(self) -> None:
        """There are no others."""
        self._trace = None

    def there(self, ends: Array, others: "Sequence[CoTenant]") -> NDArray[np.bool_] | None:
        """Tell in which of the newest windows others are there; None where they were not seen before."""
        if self._trace is None:
            return None
        there: NDArray[np.bool_] = (
            self._trace.odds + sum((one._evidence(ends) for one in others), np.zeros(len(ends))) > 0
        )
        return there

    def _when_away(self, windows: Windows, others: "Sequence[CoTenant]") -> Array | None:
        """Return how likely others were away from windows with work: counters with the same windows tell it together."""
        ends = windows[1]
        now_ns = float(ends[-1])
        if self._away is not None and self._away[0] == now_ns and len(self._away[1]) == len(ends):
            return self._away[1]
        at_work: NDArray[np.bool_] = np.asarray(windows[3][:, :COLUMNS].any(axis=1))
        if not at_work.any():
            return None
        mine, seen = [self], [self._seen(windows, at_work)]
        for one in others:
            if one is not self and one._kept and one._kept.newest[1][-1] == now_ns:
                theirs = one._kept.all()
                if np.array_equal(theirs[1], ends):
                    mine.append(one)
                    seen.append(one._seen(theirs, at_work))
        found = find_away(seen)
        away = np.zeros(len(ends))  # windows without work tell nothing of its costs
        if found is not None:
            away[at_work] = found[0]
        for place, one in enumerate(mine):
            one._away = (now_ns, away) if found is not None else None
            one._trace = found[1][place] if found is not None else None
        return away if found is not None else None

    def _seen(self, windows: Windows, used: NDArray[np.bool_]) -> tuple[Array, Array, float]:
        return self._features(windows)[used], windows[2][used], self._small

    def _features(self, windows: Windows) -> Array:
        starts, ends, _, work = windows
        features: Array = unknowns_of(work[:, :COLUMNS]) * self._unknowns
        return np.column_stack((features, ends - starts)) if self._always_idle else features

    def _evidence(self, ends: Array) -> Array:
        """Return what the newest windows tell, as ``Trace.evidence``; nothing where they do not end there."""
        if self._trace is None or not self._kept or not np.array_equal(self._kept.newest[1], ends):
            return np.zeros(len(ends))
        return self._trace.evidence(self._features(self._kept.newest), self._kept.newest[2])
