"""Non-negative least squares: the best of all active sets, whatever the units."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_agent.counters.nonnegative import solve


def best_of_all_sets(matrix: np.ndarray, target: np.ndarray) -> float:
    """Return the least sum of squares over all supports whose least squares solution is not negative (numpy's lstsq)."""
    columns = matrix.shape[1]
    matrix = matrix / np.linalg.norm(matrix, axis=0)  # else lstsq takes small units for a lack of rank
    best = float(target @ target)
    for size in range(1, columns + 1):
        for chosen in combinations(range(columns), size):
            x, *_ = np.linalg.lstsq(matrix[:, chosen], target, rcond=None)
            if (x >= 0).all():
                residual = target - matrix[:, chosen] @ x
                best = min(best, float(residual @ residual))
    return best


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 25), columns=st.integers(1, 6), units=st.booleans()
)
def test_least_squares_are_as_small_as_those_of_the_best_active_set(
    seed: int, rows: int, columns: int, units: bool
) -> None:
    """Signs, ranks and units are drawn; the optimum is unique in value even where the unknowns are not."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, columns)) * (10.0 ** rng.integers(-8, 9, columns) if units else 1.0)
    target = rng.normal(size=rows)
    x = solve(matrix.T @ matrix, matrix.T @ target)
    assert (x >= 0).all()
    residual = target - matrix @ x
    assert float(residual @ residual) == pytest.approx(best_of_all_sets(matrix, target), rel=1e-6, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 12))
def test_gradient_is_zero_where_positive_and_points_outwards_where_zero(seed: int, columns: int) -> None:
    """The Karush-Kuhn-Tucker conditions, which make it an optimum of a convex problem."""
    rng = np.random.default_rng(seed)
    matrix, target = np.abs(rng.normal(size=(60, columns))), rng.normal(size=60) + 1.0
    x = solve(matrix.T @ matrix, matrix.T @ target)
    gradient = matrix.T @ (target - matrix @ x)
    assert np.abs(gradient[x > 0]).max(initial=0.0) < 1e-7
    assert gradient[x == 0].max(initial=-1.0) < 1e-7


def test_start_set_changes_nothing() -> None:
    """A start set is a hint, wrong ones included."""
    rng = np.random.default_rng(1)
    matrix, target = np.abs(rng.normal(size=(40, 5))), rng.normal(size=40)
    gram, moment = matrix.T @ matrix, matrix.T @ target
    for size in range(6):
        for start in combinations(range(5), size):
            assert solve(gram, moment, start) == pytest.approx(solve(gram, moment), abs=1e-9)


def test_column_without_data_gets_nothing_and_twins_share_one_cost() -> None:
    """3 a unit: the second column is never there; the third is twice the first, so x0 + 2 x2 = 3."""
    first = np.array([1.0, 2.0, 4.0])
    matrix = np.column_stack((first, np.zeros(3), 2 * first))
    x = solve(matrix.T @ matrix, matrix.T @ (3 * first))
    assert x[1] == 0.0
    assert x[0] + 2 * x[2] == pytest.approx(3.0)
