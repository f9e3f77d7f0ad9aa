"""What a phase's time should be, given a request's workload and load: fitted to requests, no physics told.

    log time = spline(log of a sum of costs) + splines of workload and load + noise

The sum of costs (constant, tokens, tokens squared, what others do beside it; factors not negative, relative errors
least) gets the shape right where requests are few, the splines where the engine is no polynomial: chunks, tiles, caches.
Fitted with a level for each run, so that a slower run is not taken for workload, and robustly (Huber's weights).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from vtprof_analyzer.regress.phases import PhaseData
from vtprof_analyzer.regress.requests import Floats, Integers

FEWEST: Final = 100
"""Requests of a phase, below which no model is fitted."""
_MOST_FITTED: Final = 30_000
"""A model of fifty numbers gains nothing from more."""
_CHUNK: Final = 100_000
_ROUNDS: Final = 5
_HUBER: Final = 1.5
_MAD: Final = 1.4826
_KNOTS: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
_LOAD_KNOTS: Final = (0.25, 0.5, 0.75)
WINSOR_SD: Final = 3.5
"""Residuals beyond that many standard deviations (by their median) count as that far."""


@dataclass(frozen=True)
class _Spline:
    """Hinges of log(1 + x / unit) at knots."""

    name: str
    of_load: bool
    unit: float
    knots: Floats

    def columns(self, values: Floats) -> list[Floats]:
        logged = np.log1p(values / self.unit)
        return [logged, *(np.maximum(logged - knot, 0) for knot in self.knots)]


@dataclass(frozen=True)
class PhaseModel:
    """The model of one phase of one served model."""

    phase: str
    cost_names: tuple[str, ...]
    factors: Floats
    """Of the costs [ms]."""
    cost_spline: _Spline
    splines: tuple[_Spline, ...]
    coefficients: Floats
    intercept: float
    spread: tuple[Floats, Floats]
    """Standard deviation of the residual, over the prediction's logarithm."""

    @classmethod
    def fit(cls, tables: Sequence[tuple[PhaseData, Integers]], phase: str) -> Self | None:
        """Fit to the valid requests of several runs (a run's number is the table's place); None where they are too few.

        ``tables`` holds each run's columns, and which of its requests to use.
        """
        used = [(data, _thinned(np.asarray(rows), len(tables))) for data, rows in tables if len(rows)]
        count = sum(len(rows) for _, rows in used)
        if count < FEWEST:
            return None
        run = np.repeat(np.arange(len(used)), [len(rows) for _, rows in used])
        value = np.concatenate([data.value[rows] for data, rows in used])
        first = used[0][0]

        def joined(columns: str, name: str) -> Floats:
            return np.concatenate([getattr(data, columns)[name][rows] for data, rows in used])

        costs = np.column_stack([joined("costs", name) for name in first.costs])
        factors = _nonnegative(costs, value)
        summed = costs @ factors
        cost_spline = _spline("cost", summed, of_load=False, knots=_KNOTS)
        splines = [
            _spline(name, joined(kind, name), of_load=kind == "load", knots=knots)
            for kind, knots in (("workload", _KNOTS), ("load", _LOAD_KNOTS))
            for name in getattr(first, kind)
        ]
        columns = cost_spline.columns(summed)
        for spline in splines:
            columns += spline.columns(joined("load" if spline.of_load else "workload", spline.name))
        design = np.column_stack(columns)
        target = np.log(value)
        coefficients, level = _robust(design, target, run)
        predicted = design @ coefficients
        residual = target - predicted - level[run]
        sizes = np.bincount(run, minlength=len(used))
        return cls(
            phase, tuple(first.costs), factors, cost_spline, tuple(splines), coefficients,
            float(level @ sizes / sizes.sum()), _spread(predicted, residual),
        )  # fmt: skip

    def predict(self, data: PhaseData, rows: Integers) -> Floats:
        """Return the logarithm of the time that is expected of some requests."""
        found = np.empty(len(rows))
        for begin in range(0, len(rows), _CHUNK):
            part = rows[begin : begin + _CHUNK]
            costs = np.column_stack([data.costs[name][part] for name in self.cost_names])
            summed = np.maximum(costs @ self.factors, 1e-9)
            columns = self.cost_spline.columns(summed)
            for spline in self.splines:
                values = (data.load if spline.of_load else data.workload)[spline.name][part]
                columns += spline.columns(values)
            found[begin : begin + len(part)] = np.column_stack(columns) @ self.coefficients
        return found + self.intercept

    def scale(self, predicted: Floats) -> Floats:
        """Return the residual's standard deviation at predicted times."""
        return np.interp(predicted, *self.spread)


def _thinned(rows: Integers, tables: int) -> Integers:
    """Return as many of the rows as a fit needs, evenly over the run."""
    most = _MOST_FITTED // tables
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _spline(name: str, values: Floats, *, of_load: bool, knots: Sequence[float]) -> _Spline:
    above = values[values > 0]
    unit = max(float(np.median(above)) / 4, 1e-9) if len(above) else 1.0
    places = np.unique(np.round(np.quantile(np.log1p(values / unit), knots), 9))
    return _Spline(name, of_load, unit, places)


def _nonnegative(costs: Floats, value: Floats) -> Floats:
    """Return factors from 0 on for which relative errors of the sum of costs are least, robustly (coordinate descent)."""
    scale = np.maximum(np.abs(costs).mean(axis=0), 1e-300)
    relative = costs / scale / value[:, None]
    weight = np.ones(len(value))
    factors = np.zeros(costs.shape[1])
    for _ in range(_ROUNDS):
        weighted = relative * weight[:, None]
        gram, aim = weighted.T @ relative, weighted.sum(axis=0)
        for _ in range(200):
            before = factors.copy()
            for k in range(len(factors)):
                if gram[k, k] > 0:
                    factors[k] = max(0.0, factors[k] + (aim[k] - gram[k] @ factors) / gram[k, k])
            if np.abs(factors - before).max() <= 1e-9 * max(factors.max(), 1e-300):
                break
        weight = _huber(relative @ factors - 1)
    # Where only rows without any of the costs are left, a constant keeps the logarithm finite.
    found: Floats = factors / scale
    return found if found.any() else np.eye(len(found))[0] * float(np.median(value))


def _robust(design: Floats, target: Floats, run: Integers) -> tuple[Floats, Floats]:
    """Return coefficients, and each run's level, by least squares with Huber's weights; a little ridge keeps twins apart."""
    count = int(run.max()) + 1
    weight = np.ones(len(target))
    coefficients: Floats = np.zeros(design.shape[1])
    level: Floats = np.zeros(count)
    for _ in range(_ROUNDS):
        total = np.maximum(np.bincount(run, weight, count), 1e-12)
        centre = np.stack([np.bincount(run, weight * column, count) / total for column in design.T], axis=1)
        middle = np.bincount(run, weight * target, count) / total
        inner = design - centre[run]
        weighted = inner * weight[:, None]
        gram = weighted.T @ inner
        ridge = 1e-4 * np.diag(gram) + 1e-9 * max(float(np.trace(gram)), 1e-300)
        coefficients = np.asarray(
            np.linalg.solve(gram + np.diag(ridge), weighted.T @ (target - middle[run])), np.float64
        )
        level = middle - centre @ coefficients
        weight = _huber(target - design @ coefficients - level[run])
    return coefficients, level


def _huber(residual: Floats) -> Floats:
    """Return weights: 1 for residuals within 1.5 standard deviations, less beyond."""
    size = np.abs(residual)
    limit = _HUBER * max(_MAD * float(np.median(size)), 1e-12)
    return np.minimum(1.0, limit / np.maximum(size, limit))


def _spread(predicted: Floats, residual: Floats) -> tuple[Floats, Floats]:
    """Return standard deviations of residuals (by their median size) over the prediction, in groups of like size."""
    groups = min(8, max(1, len(residual) // 200))
    order = np.argsort(predicted, kind="stable")
    parts = np.array_split(order, groups)
    sizes = np.array([max(_MAD * float(np.median(np.abs(residual[part]))), 1e-6) for part in parts])
    return np.array([float(predicted[part].mean()) for part in parts]), sizes
