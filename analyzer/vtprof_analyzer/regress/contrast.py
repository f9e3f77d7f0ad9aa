"""The difference of two sides at like work: means within cells of like requests, weighed by what both sides have there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vtprof_analyzer.regress.noise import block_variance
from vtprof_analyzer.regress.requests import Floats, Integers

_LEAST_GROUP: Final = 0.02
"""Part of a difference's weight, below which a group says nothing of how it differs."""
_CENTRINGS: Final = 10
"""Of runs and cells in turn, until what is one's is no longer in the other's."""
_FEWEST_ALIKE: Final = 3
"""Requests of a side in a cell, below which it compares nothing."""


@dataclass(frozen=True)
class Cells:
    """Which cell each request of each run is in, and how much it counts in a difference of sides.

    Runs of BASE come first. ``shares`` of BASE's requests add up to -1, of NEW's to 1, and to 0 in each cell.
    """

    cell: tuple[Integers, ...]
    shares: tuple[Floats, ...]
    base_runs: int
    overlap: float
    """Of NEW's requests, the share that has like ones in BASE."""
    effective: float
    """Requests of one side that would tell as much, were both sides as large and alike."""

    def difference(self, values: Sequence[Floats]) -> float:
        """Return NEW's mean less BASE's."""
        return float(sum(share @ value for share, value in zip(self.shares, values, strict=True)))

    def variance(self, values: Sequence[Floats]) -> tuple[float, float]:
        """Return the difference's variance by blocks of time, and its degrees of freedom."""
        count = 1 + max((int(cell.max(initial=0)) for cell in self.cell), default=0)
        parts = []
        for runs in (slice(None, self.base_runs), slice(self.base_runs, None)):
            cell, value, share = (np.concatenate(all_of[runs]) for all_of in (self.cell, values, self.shares))
            weights = np.maximum(np.bincount(cell, np.abs(share), count), 1e-300)
            middle = np.bincount(cell, np.abs(share) * value, count) / weights
            parts += [
                share * (value - middle[cell])
                for cell, value, share in zip(self.cell[runs], values[runs], self.shares[runs], strict=True)
            ]
        return block_variance(parts)

    def doubt(self, values: Sequence[Floats], groups: Sequence[Integers]) -> float:
        """Return the variance that a difference has because it differs between groups of requests (DerSimonian, Laird).

        A slower engine is slower for all, more or less. Where the workload moved, a difference that some groups have and
        others lack may as well come from something about the requests that nobody recorded.
        """
        names = np.unique(np.concatenate(list(groups)))
        found, variances, parts = [], [], []
        for name in names:
            chosen = [group == name for group in groups]
            shares = tuple(share * one for share, one in zip(self.shares, chosen, strict=True))
            part = float(sum(share[share > 0].sum() for share in shares[self.base_runs :]))
            if part < _LEAST_GROUP:
                continue
            of_group = Cells(self.cell, tuple(share / part for share in shares), self.base_runs, 1.0, 0.0)
            variance, _ = of_group.variance(values)
            if np.isfinite(variance) and variance > 0:
                found.append(of_group.difference(values))
                variances.append(variance)
                parts.append(part)
        if len(found) < 2:
            return 0.0
        # A group that never differs at all is not a million times surer than the others.
        weight = 1 / np.maximum(variances, 1e-6 * max(variances))
        change = np.array(found)
        mean = float(weight @ change / weight.sum())
        excess = float(weight @ (change - mean) ** 2) - (len(found) - 1)
        below = float(weight.sum() - weight @ weight / weight.sum())
        share = np.array(parts) / sum(parts)
        return max(0.0, excess) / below * float(share @ share) if below > 0 else 0.0

    def levels(self, values: Sequence[Floats]) -> list[list[tuple[float, float]]]:
        """Return for each side its runs' means at like work, each with its variance."""
        cell, value, weight = (
            np.concatenate(list(one)) for one in (self.cell, values, [np.abs(one) for one in self.shares])
        )
        run = np.repeat(np.arange(len(self.cell)), [len(one) for one in self.cell])
        runs, count = len(self.cell), 1 + int(cell.max(initial=0))
        in_cell = np.maximum(np.bincount(cell, weight, count), 1e-300)
        in_run = np.maximum(np.bincount(run, weight, runs), 1e-300)
        level = np.zeros(runs)
        for _ in range(_CENTRINGS):
            middle = np.bincount(cell, weight * (value - level[run]), count) / in_cell
            level = np.bincount(run, weight * (value - middle[cell]), runs) / in_run
        found: list[list[tuple[float, float]]] = [[], []]
        edges = np.cumsum([len(one) for one in self.cell])[:-1]
        inner = np.split(weight * (value - middle[cell] - level[run]) / in_run[run], edges)
        for place, part in enumerate(inner):
            if np.any(self.shares[place]):
                found[place >= self.base_runs].append((float(level[place]), block_variance([part])[0]))
        return found


def cells_of(keys: Sequence[Integers], weights: Sequence[Floats], base_runs: int) -> Cells:
    """Return the cells of requests that have a key each; ``keys`` and ``weights`` hold an array a run."""
    names, cell = np.unique(np.concatenate(list(keys)), return_inverse=True)
    sizes = [len(key) for key in keys]
    weight = np.concatenate(list(weights))
    split = sum(sizes[:base_runs])
    count = len(names)
    base, new = (
        np.bincount(cell[:split], weight[:split], count),
        np.bincount(cell[split:], weight[split:], count),
    )
    counts = [np.bincount(part, minlength=count) for part in (cell[:split], cell[split:])]
    many = np.minimum(*counts) >= _FEWEST_ALIKE
    with np.errstate(divide="ignore", invalid="ignore"):
        both = np.where(many, base * new / (base + new), 0.0)
        both_share = both / both.sum() if both.any() else both
        of_base, of_new = np.where(many, -both_share / base, 0.0), np.where(many, both_share / new, 0.0)
    alike = (2 * counts[0] * counts[1] / (counts[0] + counts[1]))[many].sum()
    shares = weight * np.concatenate([of_base[cell[:split]], of_new[cell[split:]]])
    edges = np.cumsum(sizes)[:-1]
    whole = float(new.sum())
    return Cells(
        tuple(np.split(cell, edges)), tuple(np.split(shares, edges)), base_runs,
        overlap=float(new[many].sum()) / whole if whole > 0 else 0.0, effective=float(alike),
    )  # fmt: skip


def bins(values: Sequence[Floats], count: int) -> list[Integers]:
    """Return which of ``count`` groups of like size each value is in, the same for all runs."""
    joined = np.concatenate(list(values))
    if not len(joined):
        return [np.zeros(0, np.int64) for _ in values]
    if len(joined) > 200_000:
        joined = joined[:: len(joined) // 100_000]
    edges = np.unique(np.quantile(joined, np.linspace(0, 1, count + 1)[1:-1]))
    return [np.searchsorted(edges, value, side="right").astype(np.int64) for value in values]


def winsorized(values: Sequence[Floats], *, base_runs: int, sd: float) -> list[Floats]:
    """Return the values of both sides, each side's beyond ``sd`` of its standard deviations from its median cut there."""
    found: list[Floats] = []
    for runs in (slice(None, base_runs), slice(base_runs, None)):
        side = list(values[runs])
        joined = np.concatenate(side) if side else np.zeros(0)
        middle = float(np.median(joined)) if len(joined) else 0.0
        spread = 1.4826 * float(np.median(np.abs(joined - middle))) if len(joined) else 0.0
        found += [np.clip(value, middle - sd * spread, middle + sd * spread) for value in side]
    return found
