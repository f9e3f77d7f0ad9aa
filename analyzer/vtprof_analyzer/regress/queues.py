"""What requests wait longer. A queue multiplies everything: it is judged as a whole, and only beside what else changed."""

import math
from typing import Final

import numpy as np

from vtprof_analyzer.regress.estimate import EVIDENCE, FEWEST, Estimate, Sides
from vtprof_analyzer.regress.noise import block_variance, default_run_noise, joined_freedom

_LEAST_MS: Final = 1.0
"""Added to both means: a queue of microseconds that doubles is none."""


def queue(sides: Sides) -> Estimate | None:
    """Return the change of the mean time in queue, of its logarithm; None where no side tells of one."""
    means, parts, freedoms, counts = [], [], [], []
    for side in (sides.base, sides.new):
        tables = sides.tables[side]
        known = [np.isfinite(q.queue_ms) for q in tables]
        weights = [q.weight[one] for q, one in zip(tables, known, strict=True)]
        waits = [q.queue_ms[one] for q, one in zip(tables, known, strict=True)]
        whole = sum(float(weight.sum()) for weight in weights)
        counts.append(sum(len(one) for one in waits))
        if whole <= 0:
            means.append(math.nan)
            continue
        mean = sum(float(wait @ weight) for wait, weight in zip(waits, weights, strict=True)) / whole
        means.append(mean)
        spread, freedom = block_variance(
            [(w - mean) * v / whole for w, v in zip(waits, weights, strict=True)]
        )
        parts.append(spread / (mean + _LEAST_MS) ** 2)
        freedoms.append(freedom)
    if not any(mean > 0 for mean in means):
        return None
    found = Estimate("queue", "shift", sides.model, requests=(counts[0], counts[1]))
    if min(counts) < FEWEST:
        fewer = "BASE" if counts[0] <= counts[1] else "NEW"
        why = f"{min(counts)} requests of {fewer} tell of it: at least {FEWEST} are needed"
        return Estimate("queue", "shift", sides.model, requests=(counts[0], counts[1]), why_not=why)
    runs = (sides.base_runs, len(sides.tables) - sides.base_runs)
    between = default_run_noise("queue") ** 2
    run_part = between * sum(1 / count for count in runs)
    longest = [
        (float(q.queue_ms[at]), str(q.ids[at]))
        for q in sides.tables[sides.new]
        for at in np.argsort(-np.nan_to_num(q.queue_ms), kind="stable")[:EVIDENCE]
    ]
    return Estimate(
        found.phase, found.kind, found.model,
        difference=math.log((means[1] + _LEAST_MS) / (means[0] + _LEAST_MS)),
        block_variance=sum(parts), run_variance=run_part,
        freedom=joined_freedom([*zip(parts, freedoms, strict=True), (run_part, math.inf)]), between=between,
        requests=found.requests, values=(means[0], means[1]),
        evidence=tuple(name for _, name in sorted(longest, reverse=True)[:EVIDENCE]),
    )  # fmt: skip
