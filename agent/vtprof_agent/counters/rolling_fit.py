"""A rolling non-negative fit of amounts on work: Gram matrices in blocks of time, costs, and how sure they are."""

from dataclasses import dataclass
from math import ceil, inf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vtprof_agent.counters import blocks
from vtprof_agent.counters.blocks import SIZE, Blocks
from vtprof_agent.counters.idle_power import DRIFT, IdlePower
from vtprof_agent.counters.nonnegative import Array, solve
from vtprof_agent.counters.work_curve import ALL, CLASS_COLUMNS, COLUMNS, UNKNOWNS, costs_of, unknowns_of

TIME: Final = UNKNOWNS
"""The unknown behind those of work: what flows without work of ours."""
_PAUSE: Final = UNKNOWNS + 1
"""Time between steps of ours: what flows without them shows there, and nowhere else for sure."""
SMALL: Final = 0.3
"""Errors grow with the amount, down to this share of the mean amount."""
_MUST_GAIN: Final = 3.0
"""By how much the log-likelihood must rise for an amount without work to be believed where idle means none."""
_SURE: Final = 4.0
"""And so many standard errors it must be over none."""
_EXACT: Final = 0.003
"""Relative errors below are no evidence."""
_NOISE: Final = 0.01
"""Relative error that a window is held to have at least: a load that repeats exactly tells less than it seems to."""
_GUESS: Final = 0.004
"""Weight of a guess that may be off by several times its size, beside windows that are off by one or two percent."""
_MOST_IDLE: Final = 600
"""Windows without work that are remembered, however old: idle power of a GPU that is always busy can only be known so."""
_SURELY_NS: Final = 200_000_000
"""No work so long before and after: the window had none, however late it was latched."""
_NEAR_NS: Final = 60_000_000_000
"""Rest so long after work is rest of a process that lives: its context on the GPU takes power too."""
_NANO: Final = 1e9

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit says."""

    costs: Array
    """Amount for each unit of each column of work."""
    idle: float
    """Amount for each ns without work of ours."""
    class_error: tuple[float, float, float]
    """Relative standard error of what each class is given in the mean; 0 without any of its work."""
    amounts: int
    """How many amounts are in it."""
    idle_ratio: float
    """Share of all that goes to no work of ours."""
    idle_error: float = 0.0
    """Relative error of all that work is given, from not knowing idle power better."""


class RollingFit:
    """Amounts of the last ``window_s``; what is not work of ours may flow too, always or only when it is evident."""

    def __init__(
        self, window_s: float, block_s: float, *, always_idle: bool, small: float = SMALL, idle: IdlePower | None = None,
        unknowns: Array = ALL,
    ) -> None:  # fmt: skip
        """``always_idle``: there is an amount without work (idle power); else it has to be significant.

        ``small``: down to which share of the mean amount errors grow with the amount; ``idle``: what is known of it;
        ``unknowns``: 1 for each unknown of work that may cost something.
        """
        self._unknowns = unknowns
        self._block_ns = block_s * _NANO
        self._blocks = Blocks(small, max(2, round(window_s / block_s)))
        self._always_idle = always_idle
        self._likely: list[int] = []
        """Costs above 0 in the last fit: where the next one begins, which saves time."""
        self._last_busy = np.zeros(0, dtype=bool)
        self._known = idle or IdlePower()
        self._worked_ns = -inf

    def add(
        self, time_ns: float, work: Array, duration_ns: Array, amounts: Array, *, again: bool = False
    ) -> None:
        """Take amounts (n), the work in each and how long each lasted; ``time_ns``: when, about.

        Behind the columns of work may stand how long steps ran; without it they ran all the time. ``again``: they have
        been taken before ``clear``.
        """
        if not len(amounts):
            return
        number = int(time_ns // self._block_ns)
        self._blocks.begin(number)
        whole = self._blocks.whole()
        mean = float((whole[blocks.TOTAL] + amounts.sum()) / (whole[blocks.AMOUNTS] + len(amounts)))
        ran_ns = work[:, COLUMNS] if work.shape[1] > COLUMNS else duration_ns
        work = work[:, :COLUMNS]
        features = np.empty((len(amounts), SIZE + 1))
        features[:, :TIME] = self._counted(work)
        features[:, TIME], features[:, SIZE] = duration_ns, amounts
        np.maximum(duration_ns - ran_ns, 0.0, out=features[:, _PAUSE])
        if not self._always_idle:
            self._blocks.add(number, features, work, mean)
            return
        busy = np.asarray(work.any(axis=1), dtype=bool)
        rest = self._surely_idle(busy, duration_ns)
        usable = np.ones(len(busy), dtype=bool)
        if not again:
            usable = self._usable(time_ns, busy, rest, duration_ns, amounts)
        used, rest = usable & ~rest, usable & rest
        self._blocks.add(number, features[used], work[used], mean)
        if rest.any() and not again:
            self._blocks.rest(features[rest], work[rest], mean, _MOST_IDLE)

    def _usable(self, time_ns: float, busy: Mask, rest: Mask, duration_ns: Array, amounts: Array) -> Mask:
        """Take what windows tell of idle power; return which can be used for the fit.

        Who tells of no step may be a server that warms up, or one whose step is longer than is waited for: without a
        step only what can be idle power can.
        """
        before = np.cumsum(busy) == 0 if self._worked_ns == -inf else np.zeros(len(busy), dtype=bool)
        self._worked_ns = time_ns if busy.any() else self._worked_ns
        near = time_ns - self._worked_ns < _NEAR_NS
        self._known.take(amounts, duration_ns, near_work=near)
        most = np.where(before, self._known.most(near_work=False), self._known.most(near_work=True))
        resting = rest & (amounts <= most * duration_ns)
        if near:
            behind = resting & ~before
            self._known.rested(amounts[behind], duration_ns[behind], behind=True)
        self._known.rested(amounts[resting & before], duration_ns[resting & before], behind=False)
        usable: Mask = resting | ~(rest | before)
        return usable

    def clear(self) -> None:
        """Forget all amounts, but those that surely flowed without work."""
        self._blocks.clear()

    def _surely_idle(self, busy: Mask, duration_ns: Array) -> Mask:
        """Return which windows are so far from work that a wrong delay of the counter does not matter."""
        if not self._always_idle:
            return np.zeros(len(busy), dtype=bool)
        reach = ceil(_SURELY_NS / float(duration_ns.mean()))
        before = self._last_busy[-reach:]
        around = np.concatenate((np.ones(reach - len(before)), before, busy, np.ones(reach)))
        self._last_busy = np.concatenate((before, busy))[-reach:]
        near: Mask = np.convolve(around, np.ones(2 * reach + 1), mode="valid") > 0.5
        return ~near

    def amounts(self) -> int:
        """Return how many amounts there are."""
        return int(self._blocks.whole()[blocks.AMOUNTS])

    def fit(self, kinds: Array | None = None) -> Fit | None:
        """Fit; None without any amount.

        ``kinds``: rows of work with the time that it took last. As long as amounts are too few to tell them apart,
        each is held to flow at the mean rate, give or take several times as much.
        """
        work = self._blocks.whole()
        amounts = int(work[blocks.AMOUNTS])
        if not amounts:
            return None
        products = self._blocks.used(float(work[blocks.TOTAL]) / amounts)
        summed = products.sum(axis=0)
        gram, moment, squares = summed[:SIZE, :SIZE], summed[:SIZE, SIZE], float(summed[SIZE, SIZE])
        if kinds is not None:
            for row in self._expected(kinds, work):
                gram, moment, squares = gram + np.outer(row, row), moment + _GUESS * row, squares + _GUESS**2
        costs, other = self._solve(products, gram, moment, squares, amounts)
        if not np.isfinite(costs).all():
            raise ArithmeticError("no finite costs")
        used = np.flatnonzero(np.diagonal(gram)[:TIME] > 0)
        covariance = _covariance(products, gram, moment, squares, costs, used, amounts)
        unit = costs_of(costs)
        given = unit * work[:COLUMNS]
        idle = float(costs[TIME]) * float(work[blocks.TIME])
        whole = float(given.sum()) + idle
        differ = costs_of(other) * work[:COLUMNS] - given
        errors = [_class_error(columns, work, given, differ, covariance) for columns in CLASS_COLUMNS]
        return Fit(
            unit, float(costs[TIME]), (errors[0], errors[1], errors[2]), amounts,
            idle / whole if whole > 0 else 0.0,
            abs(float(differ.sum())) / float(given.sum()) if given.any() else 0.0,
        )  # fmt: skip

    def _counted(self, work: Array) -> Array:
        counted: Array = unknowns_of(work) * self._unknowns
        return counted

    def _expected(self, kinds: Array, work: Array) -> list[Array]:
        """Return a row of unknowns for each kind of work, such that it makes ``_GUESS`` at the mean rate."""
        time = float(work[blocks.TIME])
        rate = float(work[blocks.TOTAL]) / time if time > 0 else 0.0
        taken = [row for row in kinds if row[COLUMNS] * rate > 0]
        return [
            np.append(self._counted(row[:COLUMNS]), (row[COLUMNS], 0.0)) * (_GUESS / (rate * row[COLUMNS]))
            for row in taken
        ]

    def _solve(
        self, products: Array, gram: Array, moment: Array, squares: float, amounts: int
    ) -> tuple[Array, Array]:
        """Return the costs, and others a standard deviation of what flows without work away.

        That is read off from the time between steps: as part of any other time it could as well be the steps' own,
        which often goes with time better than with any count of work.
        """
        paused = np.append(np.arange(TIME), _PAUSE)
        tried = np.zeros(SIZE)
        tried[paused] = solve(gram[np.ix_(paused, paused)], moment[paused], self._likely)
        self._likely = np.flatnonzero(tried[:TIME]).tolist()
        shown = inf
        if gram[_PAUSE, _PAUSE] > 0:
            # Work that idle power left nothing for may have cost something: how sure it is follows from all of it.
            there = np.diagonal(gram) > 0 if self._always_idle else tried > 0
            used = np.append(np.flatnonzero(there[:TIME]), _PAUSE)
            covariance = _covariance(products, gram, moment, squares, tried, used, amounts)
            shown = float(covariance[_PAUSE, _PAUSE]) ** 0.5
        if self._always_idle:
            idle, error = self._known.given(float(tried[_PAUSE]), shown)
            error = max(error, DRIFT * idle)
            return self._with_idle(gram, moment, idle), self._with_idle(gram, moment, max(idle - error, 0.0))
        without = self._with_idle(gram, moment, 0.0)
        least = squares * _EXACT**2
        more, less = (max(_residual(gram, moment, squares, x), least) for x in (without, tried))
        if amounts * np.log(more / less) <= 2 * _MUST_GAIN or tried[_PAUSE] < _SURE * shown:
            return without, without
        # A GPU that others use between our steps may be left alone during them, and the reverse.
        return self._with_idle(gram, moment, float(tried[_PAUSE])), without

    def _with_idle(self, gram: Array, moment: Array, idle: float) -> Array:
        """Fit the work to what is left beside an idle amount for each ns."""
        costs = np.zeros(SIZE)
        costs[:TIME] = solve(gram[:TIME, :TIME], moment[:TIME] - idle * gram[:TIME, TIME], self._likely)
        costs[TIME] = idle
        return costs


def _covariance(
    products: Array,
    gram: Array,
    moment: Array,
    squares: float,
    costs: Array,
    used: NDArray[np.intp],
    amounts: int,
) -> Array:
    """Return the larger of the textbook covariance and that of the blocks' scores."""
    covariance = np.zeros((SIZE, SIZE))
    if not len(used):
        return covariance
    index = np.ix_(used, used)
    norms = np.sqrt(np.maximum(np.diagonal(gram)[used], 1e-300))
    eigenvalues, vectors = np.linalg.eigh(gram[index] / np.outer(norms, norms))
    floor = max(float(eigenvalues[-1]) * 1e-13, 1e-300)
    eigenvalues = np.maximum(eigenvalues, floor)
    inverse = (vectors / eigenvalues) @ vectors.T / np.outer(norms, norms)
    variance = _residual(gram, moment, squares, costs) / max(amounts - len(used), 1)
    variance = squares if amounts <= len(used) else max(variance, _NOISE**2)
    scores = (products[:, :SIZE] @ np.append(costs, -1.0))[:, used]
    middle = scores.T @ scores * (len(scores) / max(len(scores) - 1, 1))
    clustered = inverse @ middle @ inverse
    larger = np.sqrt(np.maximum(np.diagonal(clustered) / np.diagonal(inverse * variance), 1.0))
    covariance[index] = inverse * variance * np.outer(larger, larger)
    return covariance


def _residual(gram: Array, moment: Array, squares: float, x: Array) -> float:
    return max(float(squares - 2 * moment @ x + x @ gram @ x), squares * 1e-12, 1e-300)


def _class_error(columns: slice, work: Array, given: Array, differ: Array, covariance: Array) -> float:
    amount = float(given[columns].sum())
    done = np.append(unknowns_of(work, columns), (0.0,) * (SIZE - UNKNOWNS))
    if not done.any():
        return 0.0
    between = float(differ[columns].sum())
    return (max(float(done @ covariance @ done), 0.0) + between**2) ** 0.5 / amount if amount > 0 else 1.0
