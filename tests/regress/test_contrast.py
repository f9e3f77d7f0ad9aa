"""Differences at like work: shares of requests, means by hand, what cancels out and what is in doubt."""

from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from vtprof_analyzer.regress.contrast import Cells, bins, cells_of, winsorized


def whole(values: Sequence[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def ones(*counts: int) -> list[np.ndarray]:
    return [np.ones(count) for count in counts]


def random_cells(seed: int, *, runs: int = 4, base_runs: int = 2, weighted: bool = True) -> Cells:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 60, runs)
    keys = [rng.choice([3, 9, 12, 700], size, p=rng.dirichlet(np.ones(4))) for size in sizes]
    weights = [rng.uniform(0.5, 5, size) if weighted else np.ones(size) for size in sizes]
    return cells_of(keys, weights, base_runs)


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_shares_are_minus_one_one_and_none_in_each_cell(seed: int) -> None:
    cells = random_cells(seed)
    if cells.effective == 0:
        assert all(not share.any() for share in cells.shares)
        return
    base, new = np.concatenate(cells.shares[:2]), np.concatenate(cells.shares[2:])
    assert base.sum() == pytest.approx(-1)
    assert new.sum() == pytest.approx(1)
    assert (base <= 0).all()
    assert (new >= 0).all()
    by_cell = np.bincount(np.concatenate(cells.cell), np.concatenate(cells.shares))
    assert by_cell == pytest.approx(np.zeros(len(by_cell)), abs=1e-12)


def test_the_difference_weighs_cells_by_what_both_sides_have_there() -> None:
    # Cell 1: 3 of BASE, 6 of NEW, weight 3 * 6 / 9 = 2. Cell 2: 4 and 4, weight 2. Cell 3 has NEW alone.
    keys = [whole([1, 1, 1, 2, 2, 2, 2]), whole([1] * 6 + [2] * 4 + [3] * 5)]
    cells = cells_of(keys, ones(7, 15), 1)
    base = np.array([1.0, 2.0, 3.0, 10.0, 10.0, 10.0, 14.0])
    new = np.array([2.0, 4.0] * 3 + [11.0] * 4 + [1e6] * 5)
    # Means: 2 and 3, 11 and 11.
    assert cells.difference([base, new]) == pytest.approx((2 * (3 - 2) + 2 * (11 - 11)) / 4)
    assert cells.overlap == pytest.approx(10 / 15)
    assert cells.effective == pytest.approx(2 * (2 + 2))


def test_a_request_counts_as_its_weight() -> None:
    keys = [whole([1, 1, 1]), whole([1, 1, 1])]
    weighted = cells_of(keys, [np.array([1.0, 1.0, 2.0]), np.ones(3)], 1)
    # BASE's mean is (1 + 2 + 2 * 3) / 4.
    assert weighted.difference([np.array([1.0, 2.0, 3.0]), np.full(3, 5.0)]) == pytest.approx(5 - 9 / 4)


def test_a_cell_of_two_requests_compares_nothing() -> None:
    keys = [whole([1, 1, 2, 2, 2]), whole([1, 1, 1, 2, 2, 2])]
    cells = cells_of(keys, ones(5, 6), 1)
    assert cells.overlap == pytest.approx(0.5)
    assert cells.difference([np.array([9.0, 9, 1, 1, 1]), np.array([0.0, 0, 0, 2, 2, 2])]) == pytest.approx(1)


def test_sides_without_like_requests_have_no_difference_and_no_overlap() -> None:
    cells = cells_of([whole([1] * 5), whole([2] * 5)], ones(5, 5), 1)
    assert cells.overlap == 0
    assert cells.effective == 0
    assert cells.difference([np.ones(5), np.zeros(5)]) == 0


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_another_mix_alone_is_no_difference(seed: int) -> None:
    cells = random_cells(seed)
    level = np.array([5.0, -1.0, 100.0, 3.0])
    assert cells.difference([level[cell] for cell in cells.cell]) == pytest.approx(0, abs=1e-9)


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_a_shift_of_new_is_the_difference_whatever_the_mix(seed: int) -> None:
    cells = random_cells(seed)
    if cells.effective > 0:
        level = np.array([5.0, -1.0, 100.0, 3.0])
        values = [level[cell] + (0.25 if at >= 2 else 0.0) for at, cell in enumerate(cells.cell)]
        assert cells.difference(values) == pytest.approx(0.25)


def test_runs_of_a_side_are_one_side() -> None:
    rng = np.random.default_rng(1)
    keys, values = rng.integers(0, 3, 300), rng.normal(size=300)
    one = cells_of([keys[:200], keys[200:]], ones(200, 100), 1)
    three = cells_of([keys[:50], keys[50:200], keys[200:]], ones(50, 150, 100), 2)
    assert one.difference([values[:200], values[200:]]) == pytest.approx(
        three.difference([values[:50], values[50:200], values[200:]])
    )


def test_the_variance_is_that_of_a_difference_of_means() -> None:
    count, found, told = 800, [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        keys = [rng.integers(0, 4, count) for _ in range(2)]
        cells = cells_of(keys, ones(count, count), 1)
        values = [rng.normal(0, 1, count) + 3 * key for key in keys]
        found.append(cells.difference(values))
        told.append(cells.variance(values)[0])
    # Of independent noise: 1 / 800 for each side. What cells differ by is no noise.
    assert 2 / count * 0.9 < np.mean(told) < 2 / count * 1.5
    assert np.var(found) < np.mean(told) * 1.4


def test_the_variance_knows_a_change_of_new_from_noise() -> None:
    rng = np.random.default_rng(1)
    keys = [rng.integers(0, 4, 800) for _ in range(2)]
    cells = cells_of(keys, ones(800, 800), 1)
    values = [rng.normal(0, 1, 800) for _ in range(2)]
    moved = [values[0], values[1] + 50]
    assert cells.variance(moved)[0] == pytest.approx(cells.variance(values)[0])


def grouped(change: Sequence[float]) -> tuple[Cells, list[np.ndarray], list[np.ndarray]]:
    """Return cells, values and groups of which NEW's differ by these changes."""
    rng = np.random.default_rng(4)
    groups = [rng.integers(0, 4, 2_000) for _ in range(2)]
    cells = cells_of(groups, ones(2_000, 2_000), 1)
    values = [rng.normal(0, 0.1, 2_000) for _ in range(2)]
    values[1] = values[1] + np.array(change)[groups[1]]
    return cells, values, groups


def test_a_change_of_all_groups_alike_is_hardly_in_doubt() -> None:
    cells, values, groups = grouped([0.1, 0.1, 0.1, 0.1])
    assert cells.doubt(values, groups) < 2 * cells.variance(values)[0]


def test_a_change_of_some_groups_is_in_doubt_the_more_so_the_more_it_is() -> None:
    doubts = []
    for size in (0.1, 0.2, 0.4):
        cells, values, groups = grouped([0.0, 0.0, size, size])
        doubts.append(cells.doubt(values, groups))
    # Half of the groups changed: the variance between groups is (size / 2)^2 * 4 / 3, of the mean of four a fourth of that.
    assert doubts == pytest.approx([size**2 / 12 for size in (0.1, 0.2, 0.4)], rel=0.25)


def test_one_group_leaves_no_doubt() -> None:
    cells, values, groups = grouped([0.0, 0.0, 0.3, 0.3])
    assert cells.doubt(values, [np.zeros_like(group) for group in groups]) == 0.0


def test_levels_are_means_of_runs_at_like_work() -> None:
    rng = np.random.default_rng(6)
    chances = ([0.6, 0.4], [0.4, 0.6], [0.5, 0.5])
    keys = [rng.choice([0, 1], 900, p=chance) for chance in chances]
    cells = cells_of(keys, ones(900, 900, 900), 2)
    level = [0.0, 0.1, 0.3]
    values = [one + 10.0 * key + rng.normal(0, 0.01, 900) for one, key in zip(level, keys, strict=True)]
    base, new = cells.levels(values)
    assert len(base) == 2
    assert len(new) == 1
    # The cells' ten are no difference of runs; 0.1 is.
    assert base[1][0] - base[0][0] == pytest.approx(0.1, abs=0.01)
    assert base[0][1] < 1e-2


def test_a_run_without_requests_has_no_level() -> None:
    cells = cells_of([whole([1] * 20), whole([]), whole([1] * 20)], ones(20, 0, 20), 2)
    base, _ = cells.levels([np.zeros(20), np.zeros(0), np.zeros(20)])
    assert len(base) == 1


def test_bins_are_of_like_size_and_the_same_for_all_runs() -> None:
    values = [np.arange(0.0, 500.0), np.arange(500.0, 1000.0)]
    found = bins(values, 4)
    assert np.bincount(np.concatenate(found)).tolist() == pytest.approx([250] * 4, abs=1)
    assert set(found[0].tolist()) == {0, 1}
    assert set(found[1].tolist()) == {2, 3}


def test_bins_of_one_value_are_one_bin() -> None:
    found = bins([np.full(50, 7.0), np.full(50, 7.0)], 8)
    assert len(np.unique(np.concatenate(found))) == 1
    assert [len(one) for one in bins([np.zeros(0), np.zeros(0)], 8)] == [0, 0]


def test_winsorized_cuts_each_side_by_its_own_median_and_spread() -> None:
    rng = np.random.default_rng(2)
    base, new = rng.normal(0, 1, 4_000), rng.normal(100, 3, 4_000)
    base[0], new[0], new[1] = 1e6, -1e6, 108.0
    cut = winsorized([base, new], base_runs=1, sd=3.5)
    assert cut[0][0] == pytest.approx(3.5, rel=0.1)
    assert cut[1][0] == pytest.approx(100 - 3 * 3.5, rel=0.02)
    assert cut[1][1] == 108.0
    inside = np.abs(base) < 3
    assert np.array_equal(cut[0][inside], base[inside])


def test_winsorized_takes_the_runs_of_a_side_together() -> None:
    one, other = np.random.default_rng(3).normal(0, 1, (2, 1_000))
    one[0] = 50.0
    apart = winsorized([one, other, other], base_runs=2, sd=3.0)
    joined = winsorized([np.concatenate([one, other]), other], base_runs=1, sd=3.0)
    assert np.array_equal(np.concatenate(apart[:2]), joined[0])
