"""What no fit on a day's records could do better: the Cramer-Rao bound of noise, and the error of the columns' form.

Both are of the sums by class over the evaluated time, relative to the truth, for a fit that knows idle power and a
co-tenant's part, has the windows of the whole warm-up and weighs them as their noise is. The bound is the median |error|
of an unbiased fit; the error of form is what is left without any noise, as kernels are no linear function of the work.
"""

import numpy as np
import numpy.typing as npt
from attribution_generators import NOISE, START_NS, UNITS, Day, running

from vtprof_agent.counters.meter import CLASSES, COUNTERS
from vtprof_agent.counters.nonnegative import solve
from vtprof_agent.counters.rolling_fit import SMALL
from vtprof_agent.counters.work_curve import (
    ALL,
    BYTES,
    CLASS_COLUMNS,
    COLUMNS,
    WorkCurve,
    costs_of,
    unknowns_of,
)
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

Array = npt.NDArray[np.float64]
MEDIAN = 0.6745
"""Of the absolute value of a normal variable with standard deviation 1."""
EVERYTHING_NS, MANY_POINTS = 10**15, 10**7


class Limits:
    """The work and the noise-free counters of a day."""

    def __init__(self, day: Day) -> None:
        """Lay the steps along time."""
        self._day = day
        self._curve = WorkCurve(EVERYTHING_NS, MANY_POINTS)
        for step in day.steps:
            self._curve.add(step.work)

    def of(self, period_s: float, begin_s: float, end_s: float) -> tuple[Array, Array]:
        """Return noise bound and error of form, counter x class, of the time between, fitted on all before it."""
        edges: Array = np.arange(1, int(end_s / period_s) + 1, dtype=np.float64) * period_s
        work = self._curve.between(
            START_NS + edges[:-1] * NS_PER_S, START_NS + edges[1:] * NS_PER_S
        )[:, :COLUMNS]  # fmt: skip
        clean = np.diff(running(self._day.ours, edges), axis=1) * UNITS[:, None]
        shown = clean + self._day.idle(np.diff(edges)) * UNITS[:, None]
        evaluated = edges[:-1] >= begin_s - 1e-6
        after_ns = START_NS + begin_s * NS_PER_S
        truth = np.sum([step.truth for step in self._day.steps if step.work.start_ns >= after_ns], axis=0)
        found = [
            _limit(work, BYTES if key == names.GPU_DRAM_BANDWIDTH_RATIO else ALL, *amounts, evaluated, one)
            for key, one, *amounts in zip(COUNTERS, truth, clean, shown, strict=True)
        ]
        return np.array([bound for bound, _ in found]), np.array([form for _, form in found])


def _limit(
    work: Array, unknowns: Array, clean: Array, shown: Array, evaluated: npt.NDArray[np.bool_], truth: Array
) -> tuple[Array, Array]:
    before = ~evaluated & (clean > 0)
    features = unknowns_of(work) * unknowns
    x = features[before] / np.hypot(shown, SMALL * shown.mean())[before, None]
    costs = solve(x.T @ x, x.T @ (clean / np.hypot(shown, SMALL * shown.mean()))[before])
    classes = [(work * costs_of(costs))[:, columns].sum(axis=1) for columns in CLASS_COLUMNS]
    predicted = np.maximum(sum(classes), 1e-300)
    used = np.flatnonzero(costs > 0)
    x = features[before][:, used] / (NOISE * shown[before, None])
    norms = np.sqrt((x**2).sum(axis=0))
    covariance = np.linalg.pinv((x / norms).T @ (x / norms), hermitian=True) / np.outer(norms, norms)
    bound, form = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    for place, columns in enumerate(CLASS_COLUMNS):
        share = classes[place] / predicted
        slope = (unknowns_of(work, columns) - share[:, None] * features)[:, used]
        slope = (slope * (clean / predicted)[:, None])[evaluated].sum(axis=0)
        bound[place] = MEDIAN * float(slope @ covariance @ slope) ** 0.5 / truth[place]
        form[place] = float((clean * share)[evaluated].sum()) / truth[place] - 1
    return bound, form
