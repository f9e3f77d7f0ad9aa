"""What a rolling fit is made from: sums over blocks of time, a row for each, of amounts and of the work in them."""

from bisect import bisect_right
from typing import Final

import numpy as np

from vtprof_agent.counters.nonnegative import Array
from vtprof_agent.counters.work_curve import COLUMNS, UNKNOWNS

SIZE: Final = UNKNOWNS + 2
"""Unknowns of a fit: of work, of time, and of time between steps of ours."""
TIME: Final = COLUMNS
TOTAL: Final = COLUMNS + 1
AMOUNTS: Final = COLUMNS + 2
"""Columns of sums: time, amount and number of amounts, behind the columns of work."""
_REST: Final = 0
"""Row of what surely flowed without work, which no time makes forget."""
_FEW: Final = 8


class Blocks:
    """Weighted products of unknowns and amounts, and plain sums, by block of time and of what flowed without work."""

    def __init__(self, small: float, most: int) -> None:
        """``small``: down to which share of the mean amount errors grow with the amount; ``most``: blocks to keep."""
        self._small, self._most = small, most
        self._numbers = [-1]
        self._products = np.zeros((_FEW, SIZE + 1, SIZE + 1))
        self._sums = np.zeros((_FEW, COLUMNS + 3))
        self._summed: Array | None = None
        self._means = np.zeros(_FEW)
        """Mean amount for which the products are weighted."""

    def whole(self) -> Array:
        """Return the sums over all; not to be changed."""
        if self._summed is None:
            self._summed = self._sums[: len(self._numbers)].sum(axis=0)
        return self._summed

    def used(self, mean: float) -> Array:
        """Return the products of blocks with amounts, weighted for that mean amount from now on; not to be changed."""
        count = len(self._numbers)
        before = self._means[:count] ** 2
        factors = np.ones(count)
        np.divide(
            (1 + self._small**2) * before, before + (self._small * mean) ** 2,
            out=factors, where=self._means[:count] != mean,
        )  # fmt: skip
        self._products[:count] *= factors[:, None, None]
        self._means[:count] = mean
        used = self._sums[:count, AMOUNTS] > 0
        return self._products[:count] if used.all() else self._products[:count][used]

    def add(self, number: int, features: Array, work: Array, mean: float) -> None:
        """Add amounts to a block: ``features`` holds their unknowns and, last, the amounts."""
        self.begin(number)
        self._add(len(self._numbers) - 1, features, work, mean)

    def rest(self, features: Array, work: Array, mean: float, most: int) -> None:
        """Add amounts that surely flowed without work; older ones count half when there are more than so many."""
        self._add(_REST, features, work, mean)
        if self._sums[_REST, AMOUNTS] > most:
            self._products[_REST] *= 0.5
            self._sums[_REST] /= 2
            self._sums[_REST, AMOUNTS] //= 1

    def begin(self, number: int) -> None:
        """Begin a block if it is a later one, and forget those that are too old by then."""
        if len(self._numbers) > 1 and number <= self._numbers[-1]:
            return
        self._summed = None
        old, count = bisect_right(self._numbers, number - self._most, 1), len(self._numbers)
        for array in (self._products, self._sums, self._means) if old > 1 else ():
            array[1 : 1 + count - old] = array[old:count]
        self._numbers[1:] = [*self._numbers[old:], number]
        last = len(self._numbers) - 1
        if last >= len(self._means):
            self._products, self._sums, self._means = (
                np.concatenate((array, np.zeros_like(array)))
                for array in (self._products, self._sums, self._means)
            )
        self._products[last] = self._sums[last] = self._means[last] = 0.0

    def clear(self) -> None:
        """Forget all, but what surely flowed without work."""
        del self._numbers[1:]
        self._summed = None

    def _add(self, row: int, features: Array, work: Array, mean: float) -> None:
        """Add amounts with weights as their errors are at that mean amount, near which most that is in it was taken."""
        before, small = float(self._means[row]), self._small**2
        products, sums, amounts = self._products[row], self._sums[row], features[:, -1]
        if mean != before:
            products *= (1 + small) * before**2 / (before**2 + small * mean**2)
            self._means[row] = mean
        if mean > 0:
            products += (features / (amounts**2 + small * mean**2)[:, None]).T @ features
        self._summed = None
        sums[:COLUMNS] += work.sum(axis=0)
        sums[COLUMNS:] += features[:, UNKNOWNS].sum(), amounts.sum(), len(amounts)
