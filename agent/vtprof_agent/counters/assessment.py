"""How far a fit's values can be off, by class of work, from what it leaves unexplained; and signs of a co-tenant."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from vtprof_agent.counters.meter import CLASSES
from vtprof_agent.counters.nonnegative import Array, solve
from vtprof_agent.counters.rolling_fit import SMALL, Fit
from vtprof_agent.counters.work_curve import COLUMNS, TO_CLASS, WEIGHT_READS

Three = tuple[float, float, float]

FEWEST: Final = 20
MOST_ERROR: Final = 0.1
"""Relative standard error of a class beyond which the fit does not tell it from the others."""
_LEAST_SPREAD: Final = 0.01
_SLOW: Final = 0.04
_SLOW_COUNTABLE: Final = 0.025
_LEAST_SLOW: Final = 0.01
_OVER_NOISE: Final = 2.2
"""What the fit leaves over that stays for a second is not noise when it is more than ``_SLOW`` of the amount (of bytes,
which follow the work without rounding up to tiles, more than ``_SLOW_COUNTABLE``: windows have 1 to 2 % noise), or more
than ``_LEAST_SLOW`` of it and so many times what noise from window to window would leave in the mean of a second."""
NOISY: Final = "it varies more than the work does"
BACKGROUND: Final = "it shows something between steps too, which others may do"
_MOST_BACKGROUND: Final = 0.02
"""Of a counter that shows nothing of an idle GPU: more than this share without work of ours is that of others."""
_NOISY_COUNTABLE: Final = 0.035
"""Bytes that vary so much more than the work, relative, from window to window: something may follow our load."""
_MOST_CONDITION: Final = 1e6
_FORM: Final = 0.002
"""Kernels are no linear function of the work: so much of the whole amount may go to a wrong class."""
_BIN_NS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Assessment:
    """What is to be thought of a fit."""

    spread: Three
    """Relative standard deviation of what a class does in one window around what the fit says."""
    typical: Three
    """What a step does in the mean, by class: padding and launches leave smaller ones no better known than it."""
    sound: tuple[bool, bool, bool]
    """Whether the fit tells the class from the others."""
    co_tenant: bool
    slow_residual: float
    """Standard deviation of the residuals' means over a second, over the mean amount."""
    noise: float
    """What noise from window to window alone would make it."""
    mean: float
    """Mean amount of a window."""
    condition_number: float | None
    """Of what the classes that worked are predicted in the windows: 1 where they never do together; None without work."""
    doubt: str | None = None
    """Why no class is sound, whatever the errors are."""


def assess(
    fit: Fit, starts: Array, ends: Array, amounts: Array, work: Array,
    *, countable: bool = False, always_idle: bool = False, least_rate: float = 0.0,
) -> Assessment:  # fmt: skip
    """Judge a fit by the windows of the last time.

    ``countable``: the counter follows the work closely, as bytes do; ``always_idle``: an idle GPU shows something too, as
    energy; ``least_rate``: what comes and goes by less, a ns, is no co-tenant but how an idle GPU drifts.
    """
    classes = (work[:, :COLUMNS] * fit.costs) @ TO_CLASS
    residual = amounts - classes.sum(axis=1) - fit.idle * (ends - starts)
    spread = _spread(classes, residual, float(amounts.mean()))
    slow, noise = _slow_residual(ends, residual, amounts)
    enough = fit.amounts >= FEWEST
    mean = float(amounts.mean())
    doubt = None
    if countable and mean > 0:
        noise_ratio = float((residual / np.hypot(amounts - residual, SMALL * mean)).std())
        doubt = NOISY if noise_ratio > _NOISY_COUNTABLE else None
    if not always_idle and fit.idle_ratio > _MOST_BACKGROUND and fit.idle > least_rate:
        doubt = BACKGROUND
    sound = tuple(enough and not doubt and error < MOST_ERROR for error in fit.class_error)
    stays = slow > (_SLOW_COUNTABLE if countable else _SLOW) or slow > max(_LEAST_SLOW, _OVER_NOISE * noise)
    stays = stays and slow * mean > least_rate * float((ends - starts).mean())
    steps = np.maximum(work[:, WEIGHT_READS].sum(axis=0), 1e-300)
    typical = np.where(steps > 0.5, classes.sum(axis=0) / steps, 0.0).tolist()
    return Assessment(
        spread, (typical[0], typical[1], typical[2]), (sound[0], sound[1], sound[2]), enough and stays, slow, noise,
        mean, _condition_number(classes, mean), doubt,
    )  # fmt: skip


def _condition_number(classes: Array, mean: float) -> float | None:
    columns = (
        classes[:, classes.any(axis=0)] / np.maximum(classes.sum(axis=1), SMALL * mean + 1e-300)[:, None]
    )
    if not columns.shape[1]:
        return None
    columns /= np.sqrt((columns**2).sum(axis=0))
    values = np.linalg.eigvalsh(columns.T @ columns)
    return float(np.sqrt(values[-1] / max(float(values[0]), values[-1] / _MOST_CONDITION**2)))


def _spread(classes: Array, residual: Array, mean: float) -> Three:
    """Share out the squared residuals over the squares of what each class is predicted."""
    if mean <= 0:
        return (1.0, 1.0, 1.0)
    squares = (classes / mean) ** 2
    found = solve(squares.T @ squares, squares.T @ (residual / mean) ** 2)
    whole = float((residual**2).sum()) / max(float((classes.sum(axis=1) ** 2).sum()), 1e-300)
    sums = classes.sum(axis=0)
    form = np.divide(_FORM * sums.sum(), sums, out=np.ones_like(sums), where=sums > _FORM * sums.sum())
    least = max(min(whole, 1.0) ** 0.5, _LEAST_SPREAD)
    spread = [max(float(found[i]) ** 0.5, least, float(form[i])) for i in range(len(CLASSES))]
    return (spread[0], spread[1], spread[2])


def _slow_residual(ends: Array, residual: Array, amounts: Array) -> tuple[float, float]:
    seconds = ends // _BIN_NS
    bins = np.concatenate(([0], np.cumsum(seconds[1:] > seconds[:-1])))
    counts = np.bincount(bins)
    full = counts >= counts.max()
    mean = float(amounts.mean()) * float(counts.max())
    if mean <= 0 or full.sum() < 2:
        return 0.0, 0.0
    slow = float(np.bincount(bins, residual)[full].std())
    one = float((np.diff(residual) ** 2).mean()) / 2
    return slow / mean, (one * float(counts.max())) ** 0.5 / mean
