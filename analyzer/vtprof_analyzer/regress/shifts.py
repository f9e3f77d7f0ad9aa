"""What all requests of a phase take more at like work and load."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vtprof_analyzer.regress.contrast import Cells, cells_of, winsorized
from vtprof_analyzer.regress.cost_model import WINSOR_SD
from vtprof_analyzer.regress.estimate import EVIDENCE, FEWEST_ALIKE, Estimate, Sides, estimate
from vtprof_analyzer.regress.fitted import Fitted
from vtprof_analyzer.regress.noise import default_run_noise
from vtprof_analyzer.regress.requests import Floats, Integers


def shift(fitted: Fitted, sides: Sides, *, moved: bool) -> Estimate:
    """Return the change of the phase at like work: mean winsorised log residual, NEW less BASE.

    ``moved``: the sides' workload or load differ, so that a change of some requests alone is in doubt.
    """
    values = winsorized(fitted.residual, base_runs=sides.base_runs, sd=WINSOR_SD)
    default = default_run_noise(fitted.phase)
    found = estimate(fitted.phase, "shift", sides, fitted.cells, values, default)
    if moved:
        cells, groups = fitted.cells, fitted.groups
        if fitted.phase == "encode" and _images_unknown(sides):
            cells, groups, values = _of_one_image(fitted, sides, values)
            if cells.effective >= FEWEST_ALIKE:
                found = estimate(fitted.phase, "shift", sides, cells, values, default)
        doubt = max(cells.doubt(values, group) for group in groups)
        found = replace(found, block_variance=found.block_variance + doubt)
    means = tuple(
        float(
            np.concatenate(
                [one.value[row] for one, row in zip(fitted.data[side], fitted.rows[side], strict=True)]
            ).mean()
        )
        for side in (sides.base, sides.new)
    )
    typical = _typical(fitted, sides, found.difference)
    return replace(
        found,
        values=(means[0] - fitted.given.offset_ms, means[1] - fitted.given.offset_ms),
        offset=fitted.given.offset_ms,
        evidence=typical,
    )


def _images_unknown(sides: Sides) -> bool:
    """Say whether the number of images was not recorded, of most requests with media of a side."""
    for side in (sides.base, sides.new):
        counts = np.concatenate([q.images[q.visual_tokens > 0] for q in sides.tables[side]])
        if len(counts) and np.isnan(counts).mean() > 0.5:
            return True
    return False


def _of_one_image(
    fitted: Fitted, sides: Sides, values: Sequence[Floats]
) -> tuple[Cells, tuple[tuple[Integers, ...], ...], list[Floats]]:
    """Return what is compared of the half with fewer visual tokens: mostly single images on both sides.

    As many tokens of several small images cost an encoder less than those of a big one. Where images became bigger and
    nobody counted them, the other half would tell a slower engine.
    """
    tokens = [table.visual_tokens[row] for table, row in zip(sides.tables, fitted.rows, strict=True)]
    middle = float(np.median(np.concatenate(tokens)))
    kept = [np.flatnonzero(one <= middle) for one in tokens]
    weights = [
        table.weight[row][one] for table, row, one in zip(sides.tables, fitted.rows, kept, strict=True)
    ]
    keys = [cell[one] for cell, one in zip(fitted.cells.cell, kept, strict=True)]
    groups = tuple(tuple(part[one] for part, one in zip(group, kept, strict=True)) for group in fitted.groups)
    return (
        cells_of(keys, weights, sides.base_runs),
        groups,
        [value[one] for value, one in zip(values, kept, strict=True)],
    )


def _typical(fitted: Fitted, sides: Sides, change: float) -> tuple[str, ...]:
    """Return ids of NEW's requests that show the change: those that took longest of those that are typical."""
    found: list[tuple[float, str]] = []
    for table, row, residual, data, share in zip(
        sides.tables[sides.new], fitted.rows[sides.new], fitted.residual[sides.new], fitted.data[sides.new],
        fitted.cells.shares[sides.new], strict=True,
    ):  # fmt: skip
        near = np.flatnonzero((np.abs(residual - change) < 0.5 * max(abs(change), 0.02)) & (share > 0))
        largest = near[np.argsort(-data.value[row[near]], kind="stable")[:EVIDENCE]]
        found += [(float(data.value[row[at]]), str(table.ids[row[at]])) for at in largest]
    return tuple(name for _, name in sorted(found, reverse=True)[:EVIDENCE])
