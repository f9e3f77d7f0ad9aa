"""Windows in which others use the GPU too, told by all counters together; what our work costs follows from the rest."""

import numpy as np
import pytest
from meter_day import DRAM, ENERGY, MS, START_NS, errors, make_day, run, windows_of

from vtprof_agent.counters.beside import find_away
from vtprof_agent.counters.co_tenant import CoTenant
from vtprof_agent.counters.idle_power import IdlePower
from vtprof_agent.counters.kept_windows import KeptWindows
from vtprof_agent.counters.meter import CounterWindow
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.counters.rolling_fit import SMALL
from vtprof_agent.counters.work_curve import ALL, CLASS_COLUMNS, COLUMNS
from vtprof_schemas.units import NS_PER_S

COSTS = (np.array([3.0, 1.0]), np.array([0.5, 2.0]))
NOISE = 0.015
DECODE_CONTEXT = CLASS_COLUMNS[2].start


def two_counters(
    rng: np.random.Generator, adds: np.ndarray, count: int = 400
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray, float]]]:
    """Return two kinds of work, and two counters of it with noise to which ``adds`` (2 x count) of the mean is added."""
    work = rng.uniform(0.2, 1.8, (count, 2))
    seen = []
    for costs, added in zip(COSTS, adds, strict=True):
        ours = work @ costs
        seen.append((work, (ours + added * ours.mean()) * (1 + rng.normal(0, NOISE, count)), 0.1))
    return work, seen


@pytest.mark.parametrize("seed", range(5))
def test_costs_and_windows_are_those_without_others(seed: int) -> None:
    """Others add a tenth and more in two windows of five: 0.4 x 0.25 = 10 % in the mean, for a plain fit ours."""
    rng = np.random.default_rng(seed)
    there = rng.random(400) < 0.4
    adds = np.where(there, 0.1 + rng.exponential(0.15, (2, 400)), 0.0)
    work, seen = two_counters(rng, adds)
    plain = np.linalg.lstsq(work, seen[0][1], rcond=None)[0]
    assert (work @ plain).sum() > 1.07 * (work @ COSTS[0]).sum()
    found = find_away(seen)
    assert found is not None
    away, traces = found
    assert ((away < 0.5) == there).mean() > 0.98
    for trace, costs in zip(traces, COSTS, strict=True):
        assert (work @ trace.costs).sum() == pytest.approx((work @ costs).sum(), rel=0.005)
        assert trace.costs == pytest.approx(costs, rel=0.03)
        assert trace.noise == pytest.approx(NOISE, rel=0.25)


def test_one_counter_alone_does_not_tell_of_others() -> None:
    """It takes a third more in each tenth window, as forms of work do, but three other counters show nothing there."""
    rng = np.random.default_rng(7)
    there = rng.random(400) < 0.3
    adds = np.where(there, 0.1 + rng.exponential(0.15, (4, 400)), 0.0)
    odd = (np.arange(400) % 10 == 3) & ~there
    _, (first, second) = two_counters(rng, adds[:2])
    _, (third, fourth) = two_counters(rng, adds[2:])
    fourth[1][odd] *= 1.35
    found = find_away([first, second, third, fourth])
    assert found is not None
    away, _ = found
    assert (away[odd] > 0.5).mean() > 0.9
    assert (away[there] < 0.5).mean() > 0.95


def test_too_few_windows_tell_nothing() -> None:
    """Four for two kinds of work, of which others are there in some."""
    _, seen = two_counters(np.random.default_rng(3), np.zeros((2, 400)))
    assert find_away(seen) is not None
    assert find_away([(work[:4], amounts[:4], 0.1) for work, amounts, _ in seen]) is None


def test_windows_without_work_are_not_taken_for_the_ones_without_others() -> None:
    """20 s at exactly 250 W while a server warms up, then 20 s of steps at 90 W and more, with noise of 1.5 %."""
    rng = np.random.default_rng(1)
    ends = START_NS + np.arange(1, 401) * 100.0 * MS
    context = np.append(np.zeros(200), rng.uniform(5.0, 15.0, 200))
    work = np.zeros((400, COLUMNS + 1))
    work[:, DECODE_CONTEXT], work[:, COLUMNS] = context, np.where(context > 0, 100.0 * MS, 0.0)
    amounts = np.where(context > 0, (9_000.0 + 2_000.0 * context) * (1 + rng.normal(0, NOISE, 400)), 25_000.0)
    kept = KeptWindows()
    kept.add((ends - 100.0 * MS, ends, amounts, work))
    fit = CoTenant(kept, ALL, SMALL, always_idle=True).fit_without([], IdlePower())
    assert fit is not None
    assert fit.amounts == pytest.approx(200, abs=10)
    assert fit.costs[DECODE_CONTEXT] > 1_000.0


def bursts(count: int) -> np.ndarray:
    """Return in which windows a co-tenant is there: 2 to 6 of some ten, at odd times."""
    rng = np.random.default_rng(11)
    there = np.zeros(count, dtype=bool)
    at = 0
    while at < count:
        at += int(rng.integers(4, 10))
        length = int(rng.integers(2, 7))
        there[at : at + length] = True
        at += length
    return there


@pytest.mark.parametrize("seed", [21, 22])
def test_counters_read_together_are_given_their_own_beside_bursts(seed: int) -> None:
    """A burst adds 30 % of the mean to bandwidth and 20 % to energy for some windows of 100 ms.

    The GPU rested before. Bandwidth's sum over the day is 12 % too high by it: the classes are given none of that.
    What energy leaves over is too little to tell of others by itself, and yet 9 % of what decode would be given.
    """
    day = make_day(seed, 100)

    def beside(share: float):  # type: ignore[no-untyped-def]
        return lambda amounts, _: np.where(bursts(len(amounts)), share * amounts.mean(), 0.0)

    idle = 0.3 * day.truth.sum() / (day.steps[-1].end_ns - START_NS)
    quiet = [
        CounterWindow("GPU-0", ENERGY, START_NS - ms * MS, START_NS - (ms - 100) * MS, idle * 100 * MS)
        for ms in range(10_000, 0, -100)
    ]
    windows = [
        *quiet,
        *windows_of(day, seed, beside=beside(0.3)),
        *windows_of(day, seed + 50, beside=beside(0.2), key=ENERGY, idle=idle),
    ]
    mine = [one.amount for one in windows if one.key == DRAM]
    assert sum(mine) > 1.1 * day.truth.sum()
    given = run(RollingMeter(), day, windows)
    for key in (DRAM, ENERGY):
        assert (errors(day, given, key, skip_s=40.0) < (0.05, 0.03, 0.01)).all(), key


@pytest.mark.parametrize(("period_s", "kept_s"), [(1.0, 300), (0.1, 120)])
def test_windows_of_a_second_are_kept_for_longer_than_those_of_a_tenth(
    period_s: float, kept_s: float
) -> None:
    """1,200 of a tenth of a second, and 300 of a second: batches of 2 s, of which the oldest ends within that."""
    kept = KeptWindows()
    for batch in range(300):
        ends = START_NS + (batch * 2 + np.arange(period_s, 2.01, period_s)) * NS_PER_S
        kept.add((ends - period_s * NS_PER_S, ends, np.ones(len(ends)), np.ones((len(ends), 3))))
    starts, ends, _, work = kept.all()
    assert len(work) == len(ends)
    assert (ends[-1] - starts[0]) / NS_PER_S == pytest.approx(kept_s, abs=14)
    kept.clear()
    kept.add((np.zeros(1), np.ones(1), np.ones(1), np.ones((1, 3))))
    assert len(kept.all()[0]) == 1


def test_beside_others_idle_power_is_the_least_that_flowed_without_work() -> None:
    """90 W at rest behind work, 150 W with others there: the mean of 120 W is theirs in part."""
    known = IdlePower()
    alternating = np.where(np.arange(200) // 20 % 2, 15_000.0, 9_000.0)  # mJ in 100 ms
    known.rested(alternating, np.full(200, 1e8), behind=True)
    rate, _ = known.beside_others().given(0.0, float("inf"))
    assert rate * 1e6 == pytest.approx(90.0, rel=0.02)
    mean = known.seen().rest_mw
    assert mean is not None
    assert mean == pytest.approx(120_000.0)
