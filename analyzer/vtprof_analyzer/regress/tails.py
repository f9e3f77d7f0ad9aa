"""What a few requests of a phase take more, far beyond what their work and load explain."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from vtprof_analyzer.regress.estimate import EVIDENCE, Estimate, Sides, estimate
from vtprof_analyzer.regress.fitted import Fitted
from vtprof_analyzer.regress.requests import Floats

TAIL_SHARE: Final = 0.015
"""Of BASE's requests beyond the limit of its tail."""
_LARGEST_EXCESS: Final = float(np.log(4))


def tail(fitted: Fitted, sides: Sides, change: float, *, moved: bool) -> Estimate:
    """Return how much more time NEW's requests take beyond the limit of BASE's tail, ``change`` of the shift taken out.

    Mean excess of the log residual over the limit that 1.5 % of BASE's requests pass, at most a factor of four: a
    hiccup of seconds counts no more than that.
    """
    raw = [residual - change * (place >= sides.base_runs) for place, residual in enumerate(fitted.residual)]
    scales = [fitted.model.scale(expected) for expected in fitted.predicted]
    standard = [one / scale for one, scale in zip(raw, scales, strict=True)]
    weights = [np.abs(share) for share in fitted.cells.shares]
    limit = _quantile(
        np.concatenate(standard[sides.base]), np.concatenate(weights[sides.base]), 1 - TAIL_SHARE
    )
    excess = [
        np.clip(one - limit * scale, 0, _LARGEST_EXCESS) for one, scale in zip(raw, scales, strict=True)
    ]
    found = estimate(fitted.phase, "tail", sides, fitted.cells, excess, 0.0)
    percentile, sd = _percentile_change(raw, weights, sides)
    if moved:
        doubt = max(fitted.cells.doubt(excess, group) for group in fitted.groups)
        # The percentile is in doubt as much as the excess.
        sd *= (1 + doubt / max(found.block_variance, 1e-300)) ** 0.5
        found = replace(found, block_variance=found.block_variance + doubt)
    shares = [
        float(np.concatenate(weights[side]) @ (np.concatenate(excess[side]) > 0))
        for side in (sides.base, sides.new)
    ]
    worst = [
        (float(value[at]), str(table.ids[row[at]]))
        for value, table, row in zip(
            standard[sides.new], sides.tables[sides.new], fitted.rows[sides.new], strict=True
        )
        for at in np.argsort(-value, kind="stable")[:EVIDENCE]
    ]
    evidence = tuple(name for _, name in sorted(worst, reverse=True)[:EVIDENCE])
    return replace(found, values=(shares[0], shares[1]), evidence=evidence, tail=(percentile, sd))


def _percentile_change(
    values: Sequence[Floats], weights: Sequence[Floats], sides: Sides
) -> tuple[float, float]:
    """Return the change of the 99th percentile, and its standard deviation by resampled blocks of time."""
    rng = np.random.default_rng(0)
    found, drawn = [], []
    for side in (sides.base, sides.new):
        value, weight = np.concatenate(list(values[side])), np.concatenate(list(weights[side]))
        found.append(_quantile(value, weight, 0.99))
        kept = value >= _quantile(value, weight, 0.95)
        block = np.concatenate(
            [
                np.linspace(0, 39.999, len(one)).astype(np.int64) + 40 * at
                for at, one in enumerate(values[side])
            ]
        )
        blocks = int(block.max()) + 1
        order = np.argsort(value[kept], kind="stable")
        top, top_weight, top_block = value[kept][order], weight[kept][order], block[kept][order]
        whole = np.bincount(block, weight, blocks)
        replicas = []
        for _ in range(200):
            times = np.bincount(rng.integers(0, blocks, blocks), minlength=blocks).astype(np.float64)
            above = np.cumsum((top_weight * times[top_block])[::-1])[::-1]
            at = int(np.searchsorted(-above, -0.01 * float(whole @ times), side="left"))
            replicas.append(top[min(at, len(top) - 1)])
        drawn.append(float(np.var(replicas)))
    return float(found[1] - found[0]), float(np.sqrt(sum(drawn)))


def _quantile(values: Floats, weights: Floats, level: float) -> float:
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    return float(values[order][min(int(np.searchsorted(below, level * below[-1])), len(values) - 1)])
