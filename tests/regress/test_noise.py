"""Quantiles, variance of blocks and noise from run to run, against tables, known processes and sums by hand."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from vtprof_analyzer.regress.noise import (
    PRIOR_RUNS,
    block_variance,
    critical,
    exceedance,
    joined_freedom,
    run_variance,
)

T_TABLE = {
    (0.05, 8): 1.860,
    (0.025, 10): 2.228,
    (0.005, 10): 3.169,
    (0.01, 7): 2.998,
    (0.001, 8): 4.501,
    (0.001, 30): 3.385,
    (0.0005, 60): 3.460,
    (0.0005, 120): 3.373,
}
"""Upper quantiles of Student's t by probability and degrees of freedom, as printed in any table."""


@pytest.mark.parametrize(("level", "freedom"), T_TABLE)
def test_critical_is_students_quantile(level: float, freedom: int) -> None:
    assert critical(level, freedom) == pytest.approx(T_TABLE[level, freedom], rel=0.01)


def test_of_few_degrees_of_freedom_it_errs_to_the_safe_side() -> None:
    assert 5.893 < critical(0.001, 5) < 5.893 * 1.02


def test_without_a_limit_to_the_freedom_it_is_the_normal_quantile() -> None:
    for freedom in (math.inf, 1e7, 1e5):
        assert critical(0.01, freedom) == pytest.approx(2.3263, rel=1e-3)


@pytest.mark.parametrize("freedom", [3.0, 8.0, 60.0, 1e4, 1e6, math.inf])
def test_exceedance_is_the_inverse_of_critical(freedom: float) -> None:
    for level in (0.2, 0.01, 1e-3, 1e-6):
        assert exceedance(critical(level, freedom), freedom) == pytest.approx(level, rel=1e-6)


def test_exceedance_of_both_ends_adds_up_to_one() -> None:
    for freedom in (5.0, math.inf):
        assert exceedance(0.0, freedom) == pytest.approx(0.5)
        assert exceedance(2.0, freedom) + exceedance(-2.0, freedom) == pytest.approx(1.0)
    assert exceedance(1.96, math.inf) == pytest.approx(NormalDist().cdf(-1.96))


@pytest.mark.parametrize("t", [0.0, 1e3, 1e100, 1e300])
def test_exceedance_of_any_number_is_a_probability(t: float) -> None:
    for freedom in (1.0, 5.0, 1e5, math.inf):
        assert 0.0 <= exceedance(t, freedom) <= 0.5


def ar1(correlation: float, count: int, seed: int) -> np.ndarray:
    """Return a series of variance 1 / (1 - correlation^2)."""
    step = np.random.default_rng(seed).normal(size=count)
    found = np.empty(count)
    found[0] = step[0] / math.sqrt(1 - correlation**2)
    for place in range(1, count):
        found[place] = correlation * found[place - 1] + step[place]
    return found


def test_blocks_of_independent_noise_have_the_variance_of_a_sum() -> None:
    count = 3_000
    ratios = [
        block_variance([np.random.default_rng(seed).normal(0, 2, count)])[0] / (4 * count)
        for seed in range(40)
    ]
    # The correlation with the next block counts where it is positive alone: a little more on the mean.
    assert 0.95 < np.mean(ratios) < 1.4
    assert min(ratios) >= 0.5


def test_blocks_keep_the_correlation_of_neighbours() -> None:
    count, correlation = 6_000, 0.9
    long_run = 1 / (1 - correlation) ** 2
    ratios = [block_variance([ar1(correlation, count, seed)])[0] / (long_run * count) for seed in range(20)]
    assert 0.8 < np.mean(ratios) < 1.4
    # Nineteen times what independent requests would have.
    assert np.mean(ratios) * long_run > 10 / (1 - correlation**2)


def test_noise_that_outlasts_a_block_is_found_in_the_next() -> None:
    # Waves of two blocks: a block is like one of its neighbours, on the mean.
    count, correlation = 6_000, 0.98
    long_run = count / (1 - correlation) ** 2
    ratios = [block_variance([ar1(correlation, count, seed)])[0] / long_run for seed in range(20)]
    assert 0.7 < np.mean(ratios) < 1.5


def test_blocks_that_cancel_out_keep_half_of_what_requests_scatter_by() -> None:
    part = np.tile([1.0, -1.0], 2_000)
    assert block_variance([part])[0] == pytest.approx(2_000)


def test_variances_and_degrees_of_freedom_of_runs_add_up() -> None:
    one, other = (np.random.default_rng(seed).normal(size=1_000) for seed in (1, 2))
    first, second = block_variance([one]), block_variance([other])
    both = block_variance([one, other])
    assert both[0] == pytest.approx(first[0] + second[0], rel=0.3)
    # 1000 requests are 20 blocks of 50.
    assert first[1] == 19
    assert both[1] == 38
    assert block_variance([np.ones(10_000)])[1] == 59
    assert block_variance([np.ones(100)])[1] == 7


@pytest.mark.parametrize("count", [0, 1, 2, 15])
def test_a_run_of_a_few_requests_beside_a_long_one_spoils_nothing(count: int) -> None:
    long = np.random.default_rng(1).normal(size=1_000)
    few = np.random.default_rng(2).normal(size=count)
    alone, _ = block_variance([long])
    variance, freedom = block_variance([long, few])
    assert alone <= variance < alone + 10 * (count + 1)
    assert 19 <= freedom <= 19 + count


def test_too_few_requests_alone_say_nothing() -> None:
    for count in (0, 1):
        variance, freedom = block_variance([np.ones(count)])
        assert variance == math.inf or freedom <= 1


def test_without_replicas_the_default_is_taken_as_known() -> None:
    assert run_variance([[(0.1, 0.01)], [(0.3, 0.01)]], 0.02) == (pytest.approx(0.0004), math.inf, False)
    assert run_variance([[], []], 0.02)[2] is False


def test_runs_of_a_side_tell_noise_beyond_their_own_and_the_default_counts_for_a_few() -> None:
    # BASE: 0.00 and 0.04, variance 0.0008; NEW: 0.10, 0.10, 0.16, variance 0.0012; own noise 0.0002 and 0.0001.
    levels = [[(0.00, 0.0002), (0.04, 0.0002)], [(0.10, 0.0001), (0.10, 0.0001), (0.16, 0.0001)]]
    squares = (0.0008 - 0.0002) * 1 + (0.0012 - 0.0001) * 2
    variance, freedom, told = run_variance(levels, 0.01)
    assert variance == pytest.approx((PRIOR_RUNS * 0.01**2 + squares) / (PRIOR_RUNS + 3))
    assert freedom == PRIOR_RUNS + 3
    assert told


def test_runs_that_differ_by_less_than_their_own_noise_tell_of_none() -> None:
    variance, _, told = run_variance([[(0.1, 3e-4), (0.1, 3e-4)], [(0.2, 3e-4)]], 0.01)
    assert variance == pytest.approx(PRIOR_RUNS * 0.01**2 / (PRIOR_RUNS + 1))
    assert told


def test_a_run_of_a_few_requests_tells_nothing_of_noise_from_run_to_run() -> None:
    # Its own noise of 0.03 is three times the default: what it lies apart by is that.
    runs = [(0.1, 1e-4), (0.11, 1e-4)]
    assert run_variance([[*runs, (0.2, 9e-4)], []], 0.01) == run_variance([runs, []], 0.01)
    assert run_variance([[(0.1, 1e-4), (0.2, 9e-4)], []], 0.01)[2] is False


def test_degrees_of_freedom_of_a_sum_are_welchs() -> None:
    assert joined_freedom([(2.0, 10.0), (3.0, 20.0)]) == pytest.approx(25 / (0.4 + 0.45))
    assert joined_freedom([(2.0, 10.0), (0.0, 5.0)]) == pytest.approx(10.0)
    assert joined_freedom([(2.0, 10.0), (2.0, math.inf)]) == pytest.approx(40.0)
    assert joined_freedom([(0.0, 10.0), (0.0, 10.0)]) == math.inf


def test_no_variance_makes_degrees_of_freedom_that_are_no_number() -> None:
    for one in (0.0, 1e-200, 1.0, math.inf):
        for other in (0.0, 1e-200, math.inf):
            assert joined_freedom([(one, 10.0), (other, math.inf)]) > 0
