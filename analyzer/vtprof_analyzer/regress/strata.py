"""The change of each phase within strata of requests: where it lies. It decides nothing."""

import math
from typing import Final, Literal

import numpy as np

from vtprof_analyzer.regress.comparison import StratumEffect
from vtprof_analyzer.regress.contrast import cells_of, winsorized
from vtprof_analyzer.regress.cost_model import WINSOR_SD
from vtprof_analyzer.regress.estimate import Sides
from vtprof_analyzer.regress.fitted import Fitted
from vtprof_analyzer.regress.noise import critical
from vtprof_schemas.names import VISUAL_STRATA, VISUAL_STRATUM_MORE

_FEWEST: Final = 50
_SHOWN: Final = ("preprocess", "encode", "prefill", "decode")
_LEVEL: Final = 0.025
"""Of one end of an interval, each by itself."""
_BY: Final[tuple[Literal["visual_tokens", "text_tokens"], ...]] = ("visual_tokens", "text_tokens")


def strata(fitted: Fitted, sides: Sides, run_variance: float) -> list[StratumEffect]:
    """Return the phase's change in each stratum with requests enough on both sides.

    ``run_variance`` is that of the phase's own estimate: a stratum is no surer of its runs than all together.
    """
    if fitted.phase not in _SHOWN:
        return []
    values = winsorized(fitted.residual, base_runs=sides.base_runs, sd=WINSOR_SD)
    found = []
    for by in _BY:
        tokens = [getattr(table, by)[row] for table, row in zip(sides.tables, fitted.rows, strict=True)]
        below = -1.0
        for label, upper in (*VISUAL_STRATA, (VISUAL_STRATUM_MORE, math.inf)):
            inside = [np.flatnonzero((one > below) & (one <= upper)) for one in tokens]
            below = float(upper)
            counts = [sum(len(one) for one in inside[side]) for side in (sides.base, sides.new)]
            if min(counts) < _FEWEST:
                continue
            rows = [row[one] for row, one in zip(fitted.rows, inside, strict=True)]
            weights = [table.weight[row] for table, row in zip(sides.tables, rows, strict=True)]
            keys = [cell[one] for cell, one in zip(fitted.cells.cell, inside, strict=True)]
            cells = cells_of(keys, weights, sides.base_runs)
            if cells.effective < _FEWEST / 2:
                continue
            chosen = [value[one] for value, one in zip(values, inside, strict=True)]
            variance, freedom = cells.variance(chosen)
            change = cells.difference(chosen)
            half = critical(_LEVEL, freedom) * (variance + run_variance) ** 0.5
            if not math.isfinite(half):
                continue
            times = [data.value[row] for data, row in zip(fitted.data, rows, strict=True)]
            means = [float(np.concatenate(times[side]).mean()) for side in (sides.base, sides.new)]
            ends = [math.expm1(min(change + by_half, 50.0)) for by_half in (-half, 0.0, half)]
            found.append(
                StratumEffect(
                    fitted.phase, sides.model, by, label, counts[0], counts[1], means[0], means[1], ends[1], ends[0],
                    ends[2],
                )
            )  # fmt: skip
    return found
