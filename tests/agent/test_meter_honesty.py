"""RollingMeter where values cannot be known: idle power, clocks, co-tenants, numbers that defy computing."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from meter_day import DRAM, ENERGY, MS, START_NS, Day, errors, make_day, run, windows_of

from vtprof_agent.counters.assessment import BACKGROUND, NOISY
from vtprof_agent.counters.gpu_work import GpuWork
from vtprof_agent.counters.idle_power import IdleBound, truncated
from vtprof_agent.counters.meter import CounterWindow, StepCounters
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.counters.rolling_fit import RollingFit
from vtprof_agent.counters.series import Series
from vtprof_agent.counters.work_curve import CLASS_COLUMNS, COLUMNS
from vtprof_schemas import names


@pytest.mark.parametrize(("mean", "error"), [(0.5, 0.2), (-0.5, 0.4), (1.7, 0.3), (0.3, 5.0)])
def test_mean_and_deviation_between_bounds_are_those_of_the_density(mean: float, error: float) -> None:
    """Expected: sums over a fine grid of the normal density between 0 and 1.2."""
    grid = (np.arange(200_000) + 0.5) / 200_000 * 1.2
    density = np.exp(-(((grid - mean) / error) ** 2) / 2)
    density /= density.sum()
    expected = float(density @ grid)
    found, deviation = truncated(mean, error, 1.2)
    assert found == pytest.approx(expected, abs=1e-5)
    assert deviation == pytest.approx(float(density @ (grid - expected) ** 2) ** 0.5, abs=1e-5)


def test_nothing_known_between_bounds_is_the_middle_of_them() -> None:
    """A uniform distribution up to 12: mean 6, standard deviation 12 / sqrt(12)."""
    assert truncated(3.0, inf, 12.0) == pytest.approx((6.0, 12**0.5))


def test_least_power_ever_seen_bounds_idle_power_and_one_late_latch_does_not() -> None:
    """Two reads of 0 mJ amid 40 mJ each 100 ms are latched late; half a second at 9 mJ is a pause: 0.09 mJ a ms."""
    bound = IdleBound()
    amounts = np.full(40, 40.0)
    amounts[[3, 17]], amounts[[4, 18]] = 0.0, 80.0
    bound.take(amounts, np.full(40, 100.0 * MS))
    assert bound.rate * MS > 0.3
    bound.take(np.full(5, 9.0), np.full(5, 100.0 * MS))
    assert bound.rate * MS == pytest.approx(0.09, rel=0.15)
    assert bound.within(0.2 / MS, 0.005 / MS) == (0.2 / MS, 0.005 / MS)


def busy_day(seed: int) -> tuple[Day, float]:
    """Make a day without any pause, and an idle power of 0.4 of what the work takes in the mean."""
    day = make_day(seed, 40, gap_ms=0.0)
    return day, 0.4 * day.truth.sum() / (day.steps[-1].end_ns - START_NS)


def test_idle_power_of_a_gpu_that_never_pauses_is_open_and_intervals_say_so() -> None:
    """Nothing tells it from the work: the label is lowered, and the intervals hold the truth."""
    day, idle = busy_day(4)
    meter = RollingMeter()
    given = run(meter, day, windows_of(day, 4, key=ENERGY, idle=idle))
    state = meter.state()[0]
    assert (state.quality, state.why) == (names.QUALITY_ESTIMATED, "its idle power was not seen")
    late = [place for place, step in enumerate(day.steps) if step.start_ns > START_NS + 15e9]
    low, high = (np.sum([bounds(given[place], end) for place in late], axis=0) for end in ("low", "high"))
    assert (low <= day.truth[late].sum(axis=0)).all()
    assert (high >= day.truth[late].sum(axis=0)).all()


def test_pause_at_the_start_tells_idle_power_for_good() -> None:
    """The same GPU, but for two idle seconds before the first step."""
    day, idle = busy_day(4)
    before = [
        CounterWindow(
            "GPU-0", ENERGY, START_NS - (20 - n) * 100 * MS, START_NS - (19 - n) * 100 * MS, idle * 100 * MS
        )
        for n in range(20)
    ]
    meter = RollingMeter()
    given = run(meter, day, [*before, *windows_of(day, 4, key=ENERGY, idle=idle)])
    assert meter.state()[0].unattributed_ratio == pytest.approx(0.4 / 1.4, abs=0.03)
    assert (errors(day, given, ENERGY) < (0.08, 0.05, 0.03)).all()


def bounds(counters: StepCounters | None, end: str) -> list[float]:
    """Return one end of the intervals of a step's energy."""
    assert counters is not None
    return [getattr(share, end) for share in counters.shares[ENERGY]]


def test_uncertain_windows_of_any_length_stay_in_order_and_whole() -> None:
    """Lengths of 0.6 to 1.1 s: the long are taken as they come, the short added up, and none overtakes another."""
    rng = np.random.default_rng(5)
    series = Series("GPU-0", DRAM, GpuWork(), [], 300.0, 5.0, 10.0)
    now, taken = START_NS, 0.0
    for length in rng.integers(600, 1101, 60):
        series.take(
            CounterWindow("GPU-0", DRAM, now, now + int(length) * MS, float(length), exact_edges=False)
        )
        now, taken = now + int(length) * MS, taken + float(length)
    windows = series.learn(float(now) + 10e9)
    assert windows is not None
    settled = series.settle(windows)
    assert (settled.starts[1:] >= settled.ends[:-1]).all()
    assert (settled.ends - settled.starts >= 600 * MS).all()
    assert taken - 1100 <= sum(series.totals) <= taken


def test_counter_that_cannot_tell_its_clock_takes_it_from_one_that_can() -> None:
    """Both are read at once, 60 ms late; energy's noise hides that, bandwidth shows it."""
    day = make_day(13, 60)
    mean = day.truth.sum() / (day.steps[-1].end_ns - START_NS)
    late = windows_of(day, 13, late_ms=60)
    noisy = windows_of(day, 14, late_ms=60, key=ENERGY, noise=0.4, idle=mean)
    alone, both = RollingMeter(), RollingMeter()
    run(alone, day, noisy)
    run(both, day, [*late, *noisy])
    lag = {state.key: state.lag_ns for state in both.state()}
    assert lag[DRAM] == pytest.approx(60 * MS, abs=5 * MS)
    assert lag[ENERGY] == lag[DRAM] != alone.state()[0].lag_ns


def test_co_tenant_that_memory_bandwidth_shows_lowers_the_labels_of_all_counters() -> None:
    """Energy itself shows nothing of it."""

    def seconds(amounts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.where(np.arange(len(amounts)) % 50 < 20, 0.3 * amounts.mean(), 0.0)

    day = make_day(15, 40)
    quality = []
    for beside in (None, seconds):
        meter = RollingMeter()
        run(meter, day, [*windows_of(day, 15, beside=beside), *windows_of(day, 16, key=ENERGY, idle=0.05)])
        quality.append({state.key: state.quality for state in meter.state()}[ENERGY])
    assert quality == [names.QUALITY_ATTRIBUTED, names.QUALITY_ESTIMATED]


def test_fit_that_cannot_be_computed_is_counted_and_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The amounts go to nobody as long as there is no fit, and none is lost."""

    def fail(*_: object) -> None:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    monkeypatch.setattr(RollingFit, "fit", fail)
    day = make_day(17, 6)
    windows = windows_of(day, 17)
    meter = RollingMeter()
    run(meter, day, windows)
    assert meter.state()[0].failures > 0
    assert sum(meter.totals().values()) == pytest.approx(sum(one.amount for one in windows), rel=1e-9)


def test_what_begins_beside_a_settled_fit_is_estimated_at_once_and_within_the_interval() -> None:
    """From 40 s on others add half the mean: the fit, of 10 s before, does not know, but the windows tell."""
    day = make_day(19, 42)
    first = len(windows_of(day, 19)) - 20

    def begins(amounts: np.ndarray, _: np.random.Generator) -> np.ndarray:
        return np.where(np.arange(len(amounts)) >= first, 0.5 * amounts.mean(), 0.0)

    given = run(RollingMeter(), day, windows_of(day, 19, beside=begins))
    beside_ns = START_NS + (first * 100 + 100) * MS
    found = [
        (counters, used)
        for step, used, counters in zip(day.steps, day.truth, given, strict=True)
        if step.start_ns >= beside_ns and step.end_ns < day.steps[-1].end_ns - 200 * MS and counters
    ]
    assert len(found) > 20
    assert {counters.quality[DRAM] for counters, _ in found} == {names.QUALITY_ESTIMATED}
    held = [
        share.low <= true <= share.high
        for counters, used in found
        for share, true in zip(counters.shares[DRAM], used, strict=True)
        if true
    ]
    assert np.mean(held) > 0.9


@pytest.mark.parametrize(("background", "noise", "why"), [(0.1, 0.0, BACKGROUND), (0.0, 0.06, NOISY)])
def test_memory_traffic_that_is_not_all_ours_lowers_the_label(
    background: float, noise: float, why: str
) -> None:
    """A tenth of the mean flows all the time, pauses included; or it varies by 6 % from window to window."""

    def beside(amounts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return background * amounts.mean() + noise * amounts * rng.standard_normal(len(amounts))

    day = make_day(20, 60, gap_ms=30.0)
    for others, label, said in (
        (None, names.QUALITY_ATTRIBUTED, None),
        (beside, names.QUALITY_ESTIMATED, why),
    ):
        meter = RollingMeter()
        run(meter, day, windows_of(day, 20, beside=others))
        (state,) = meter.state()
        assert (state.quality, state.why) == (label, said)


def test_an_amount_that_no_gpu_can_show_is_refused() -> None:
    """10^160 ns of bandwidth in 100 ms: what it would spoil goes on as before."""
    day = make_day(18, 20)
    windows = windows_of(day, 18)
    windows[100] = replace(windows[100], amount=1e160)
    meter = RollingMeter()
    given = run(meter, day, windows)
    (state,) = meter.state()
    assert (state.refused, state.failures) == (1, 0)
    assert (errors(day, given) < 0.05).all()


def test_what_flows_between_steps_need_not_flow_during_them() -> None:
    """7 a ms of steps and 5 a ms between them: of the 7 others have 5 or none, so 2 are known to 5 / 2 at best."""
    rng = np.random.default_rng(6)
    pause = rng.uniform(0.0, 30.0, 200)
    work = np.zeros((200, COLUMNS + 1))
    work[:, CLASS_COLUMNS[2].start], work[:, COLUMNS] = 100.0 - pause, (100.0 - pause) * MS
    fit = RollingFit(300, 5, always_idle=False)
    amounts = (7.0 * (100.0 - pause) + 5.0 * pause) * (1 + rng.normal(0, 0.01, 200))
    fit.add(START_NS, work, np.full(200, 100.0 * MS), amounts)
    found = fit.fit()
    assert found is not None
    assert found.costs[CLASS_COLUMNS[2].start] == pytest.approx(2.0, rel=0.1)
    assert found.class_error[2] == pytest.approx(2.5, rel=0.15)
