"""The cost model of one phase over both sides, and which of its requests are alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vtprof_analyzer.regress.contrast import Cells, bins, cells_of
from vtprof_analyzer.regress.cost_model import PhaseModel
from vtprof_analyzer.regress.estimate import FEWEST, FEWEST_ALIKE, Sides
from vtprof_analyzer.regress.load import Load
from vtprof_analyzer.regress.phases import Given, PhaseData, given_of, phase_data
from vtprof_analyzer.regress.requests import Floats, Integers

_GROUPS: Final = ((20_000, (16, 8, 8)), (1_500, (8, 4, 5)), (400, (5, 3, 3)), (0, (3, 2, 2)))
"""By requests of a side: groups of work, visual tokens and load, so that a cell holds some requests of both sides."""


@dataclass(frozen=True)
class Fitted:
    """A phase's model on all runs: what else is asked of it (strata, decomposition, the tail)."""

    phase: str
    model: PhaseModel
    data: tuple[PhaseData, ...]
    rows: tuple[Integers, ...]
    """The valid requests of each run."""
    predicted: tuple[Floats, ...]
    workload: tuple[Floats, ...]
    """Predictions at one and the same load for all."""
    residual: tuple[Floats, ...]
    cells: Cells
    given: Given
    groups: tuple[tuple[Integers, ...], ...]
    """The same requests by size, by visual tokens, and by load, each into a few groups."""


@dataclass(frozen=True)
class Missing:
    """Why a phase cannot be judged."""

    why_not: str
    requests: tuple[int, int]
    """Of each side, that have the phase and its workload."""


def fit(phase: str, sides: Sides) -> Fitted | Missing:
    """Return the phase's model over both sides, or what is missing for one."""
    given = given_of(phase, sides.tables[sides.base], sides.tables[sides.new])
    data = tuple(phase_data(phase, *pair, given) for pair in zip(sides.tables, sides.loads, strict=True))
    rows = tuple(np.flatnonzero(one.valid) for one in data)
    counts = (sum(len(row) for row in rows[sides.base]), sum(len(row) for row in rows[sides.new]))
    if min(counts) < FEWEST:
        side = "BASE" if counts[0] <= counts[1] else "NEW"
        return Missing(
            f"{min(counts)} requests of {side} have it and their tokens: at least {FEWEST} are needed", counts
        )
    model = PhaseModel.fit(list(zip(data, rows, strict=True)), phase)
    if model is None:
        return Missing(f"{sum(counts)} requests have it", counts)
    predicted = tuple(model.predict(*pair) for pair in zip(data, rows, strict=True))
    level = _mean_load(sides.loads)
    alike = [phase_data(phase, table, _constant(level, len(table)), given) for table in sides.tables]
    workload = tuple(model.predict(*pair) for pair in zip(alike, rows, strict=True))
    residual = tuple(
        np.log(one.value[row]) - expected for one, row, expected in zip(data, rows, predicted, strict=True)
    )
    weights = [table.weight[row] for table, row in zip(sides.tables, rows, strict=True)]
    groups = _groups(sides, rows, predicted, workload)
    keys = [(100 * one + two) * 100 + three for one, two, three in zip(*groups, strict=True)]
    cells = cells_of(keys, weights, sides.base_runs)
    if cells.effective < FEWEST_ALIKE:
        share = f"{100 * cells.overlap:.0f} %" if cells.overlap else "none"
        why = (
            f"{share} of NEW's requests have like ones in BASE: too few to compare at like workload and load"
        )
        return Missing(why, counts)
    return Fitted(phase, model, data, rows, predicted, workload, residual, cells, given, groups)


def _groups(
    sides: Sides, rows: Sequence[Integers], predicted: Sequence[Floats], workload: Sequence[Floats]
) -> tuple[tuple[Integers, ...], ...]:
    """Return how requests are alike: in their own work, in their visual tokens and in the load that they met."""
    count = min(sum(len(row) for row in rows[side]) for side in (sides.base, sides.new))
    sizes = next(sizes for least, sizes in _GROUPS if count >= least)
    visual = [np.nan_to_num(table.visual_tokens[row]) for table, row in zip(sides.tables, rows, strict=True)]
    load = [one - other for one, other in zip(predicted, workload, strict=True)]
    columns = (workload, visual, load)
    return tuple(tuple(bins(column, size)) for column, size in zip(columns, sizes, strict=True))


def _mean_load(loads: Sequence[Load]) -> dict[str, float]:
    found = {}
    for name in Load.__dataclass_fields__:
        column = np.concatenate([getattr(load, name) for load in loads])
        known = column[np.isfinite(column)]
        found[name] = float(known.mean()) if len(known) else 0.0
    return found


def _constant(level: dict[str, float], count: int) -> Load:
    return Load(**{name: np.full(count, value) for name, value in level.items()})
