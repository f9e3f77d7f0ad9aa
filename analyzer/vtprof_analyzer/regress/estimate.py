"""What something of one served model changed by, with its variance, before anything is decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from vtprof_analyzer.regress.contrast import Cells
from vtprof_analyzer.regress.load import Load
from vtprof_analyzer.regress.noise import joined_freedom, run_variance
from vtprof_analyzer.regress.requests import Floats, Requests

FEWEST: Final = 100
"""Requests of a phase and side, below which it is not judged."""
FEWEST_ALIKE: Final = 60
"""Requests with like ones on the other side, likewise."""
_STEADY_S: Final = 120.0
_SHORT_SD: Final = 0.02
"""A run of seconds tells of the host's and the clock's pace in those: that much more, less the longer it was."""
EVIDENCE: Final = 5
"""Requests that are named."""


@dataclass(frozen=True)
class Sides:
    """All runs, BASE's first, of one served model."""

    model: str
    tables: tuple[Requests, ...]
    loads: tuple[Load, ...]
    base_runs: int

    @property
    def base(self) -> slice:
        """Return the places of BASE's runs."""
        return slice(None, self.base_runs)

    @property
    def new(self) -> slice:
        """Return the places of NEW's runs."""
        return slice(self.base_runs, None)


@dataclass(frozen=True)
class Estimate:
    """A difference of NEW and BASE on the scale of ``kind``: of logarithms for shifts and tails, else of shares."""

    phase: str
    kind: Literal["shift", "tail", "cache"]
    model: str
    difference: float = 0.0
    block_variance: float = 0.0
    run_variance: float = 0.0
    freedom: float = 1.0
    between: float = 0.0
    """Variance from run to run, of one run."""
    told_by_replicas: bool = False
    requests: tuple[int, int] = (0, 0)
    overlap: float | None = None
    values: tuple[float | None, float | None] = (None, None)
    """Means of the sides, or shares."""
    tail: tuple[float, float] | None = None
    """tail: change of the 99th percentile's logarithm, and its standard deviation."""
    offset: float = 0.0
    """unexplained: in both values, and no time of its own."""
    what: str | None = None
    evidence: tuple[str, ...] = ()
    why_not: str | None = None

    @property
    def sd(self) -> float:
        """Return the difference's standard deviation."""
        return float(np.sqrt(self.block_variance + self.run_variance))


def estimate(
    phase: str,
    kind: Literal["shift", "tail", "cache"],
    sides: Sides,
    cells: Cells,
    values: Sequence[Floats],
    default: float,
) -> Estimate:
    """Return the difference of the sides' means of ``values``; ``default`` is the noise from run to run that is assumed."""
    variance, freedom = cells.variance(values)
    levels = cells.levels(values)
    between, run_freedom, told = run_variance(levels, default)
    # Of few runs, each counts by what it holds of the side.
    run_part = 0.0
    for side in (sides.base, sides.new):
        parts = np.array([float(np.abs(share).sum()) for share in cells.shares[side]])
        varies = (
            np.array([between + _of_a_short_run(q) for q in sides.tables[side]])
            if kind == "shift"
            else between
        )
        run_part += float((parts**2 * varies).sum()) / float(parts.sum()) ** 2
    counts = tuple(sum(len(cell) for cell in cells.cell[side]) for side in (sides.base, sides.new))
    return Estimate(
        phase, kind, sides.model, cells.difference(values), variance, run_part,
        joined_freedom([(variance, freedom), (run_part, run_freedom)]), between, told, (counts[0], counts[1]), cells.overlap,
    )  # fmt: skip


def _of_a_short_run(q: Requests) -> float:
    """Return the variance that a run has for being short."""
    seconds = float(q.start_ns[-1] - q.start_ns[0]) / 1e9 if len(q) > 1 else 0.0
    return (_SHORT_SD * max(0.0, 1 - seconds / _STEADY_S)) ** 2
