"""Idle power of a GPU that never rests while it is watched: from an earlier agent, else from its power limit."""

from math import inf

import numpy as np
import pytest
from meter_day import ENERGY, MS, START_NS, Day, errors, make_day, run, windows_of

from vtprof_agent.counters.co_tenant import CoTenant
from vtprof_agent.counters.idle_power import IdlePower, IdleSeen, truncated
from vtprof_agent.counters.kept_windows import KeptWindows
from vtprof_agent.counters.meter import CounterWindow, StepCounters, Work
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.counters.rolling_fit import SMALL, RollingFit
from vtprof_agent.counters.work_curve import ALL, CLASS_COLUMNS, COLUMNS
from vtprof_schemas import names

GPU = "GPU-0"
WATT = 1000 / 1e9
"""mJ a ns."""
MW = 1e9
"""mW in a mJ a ns."""


@pytest.mark.parametrize(("mean", "error"), [(0.5, 0.2), (-0.5, 0.4), (1.7, 0.3), (0.3, 5.0)])
def test_mean_and_deviation_between_two_bounds_are_those_of_the_density(mean: float, error: float) -> None:
    """Expected: sums over a fine grid of the normal density between 0.4 and 1.2."""
    grid = 0.4 + (np.arange(200_000) + 0.5) / 200_000 * 0.8
    density = np.exp(-(((grid - mean) / error) ** 2) / 2)
    density /= density.sum()
    expected = float(density @ grid)
    found, deviation = truncated(mean, error, 1.2, 0.4)
    assert found == pytest.approx(expected, abs=1e-5)
    assert deviation == pytest.approx(float(density @ (grid - expected) ** 2) ** 0.5, abs=1e-5)


def test_of_a_gpu_of_which_nothing_is_known_the_power_limit_tells_the_range() -> None:
    """5 to 40 % of 700 W is 35 to 280 W: uniform, its mean is 157.5 W, its deviation 245 / sqrt(12) = 70.7 W."""
    known = IdlePower()
    known.limit(700_000)
    assert known.given(0.0, inf) == pytest.approx((157.5 * WATT, 245 * WATT / 12**0.5))


def test_pauses_that_show_another_power_win_over_the_range_of_the_limit() -> None:
    """An A4000 at 20 % above the range, and a GPU that sleeps at 1 % of its limit."""
    known = IdlePower()
    known.limit(140_000)
    for watts in (67.0, 1.4):
        assert known.given(watts * WATT, 0.3 * WATT) == (watts * WATT, 0.3 * WATT)
    assert known.given(50 * WATT, 0.3 * WATT) == pytest.approx((50 * WATT, 0.3 * WATT)), "and it is back"


def test_what_an_earlier_agent_saw_is_weighed_by_how_sure_each_is() -> None:
    """Told 100 +- 5 W, shown 110 +- 10 W: weights 4 to 1, so 102 +- sqrt(20) W. Shown nothing: 100 +- 5 W."""
    known = IdlePower()
    known.tell(IdleSeen(rest_mw=100_000))
    assert known.given(0.0, inf) == pytest.approx((100 * WATT, 5 * WATT))
    assert known.given(110 * WATT, 10 * WATT) == pytest.approx((102 * WATT, 20**0.5 * WATT))


def test_the_least_that_an_earlier_agent_saw_bounds_it() -> None:
    """Up to 10 % over 100 W, as a latch may have been late: uniform from 0 to 110 W, with a limit of 700 W from 35 W."""
    known = IdlePower()
    known.tell(IdleSeen(least_mw=100_000))
    assert known.given(0.0, inf) == pytest.approx((55 * WATT, 110 * WATT / 12**0.5))
    known.limit(700_000)
    assert known.given(0.0, inf) == pytest.approx((72.5 * WATT, 75 * WATT / 12**0.5))
    assert known.given(130 * WATT, 2 * WATT) == pytest.approx((130 * WATT, 2 * WATT)), "contradicted"
    assert known.given(0.0, inf) == pytest.approx((157.5 * WATT, 245 * WATT / 12**0.5))


def test_what_an_earlier_agent_saw_is_forgotten_when_pauses_contradict_it() -> None:
    """Told 100 +- 5 W, shown 130 +- 2 W: 30 W is more than 3 sqrt(29) = 16 W."""
    known = IdlePower()
    known.tell(IdleSeen(95_000, 100_000))
    assert known.given(130 * WATT, 2 * WATT) == (130 * WATT, 2 * WATT)
    assert known.seen() == IdleSeen(None, None)


def test_the_least_of_a_gpu_without_a_process_does_not_bound_what_it_takes_with_one() -> None:
    """An A40 takes 30 W alone and 110 W with a context: before the engine starts 30 W are seen, 110 W were told."""
    known = IdlePower()
    known.tell(IdleSeen(105_000, 110_000))
    known.take(np.full(20, 3.0), np.full(20, 100.0 * MS), near_work=False)
    rate, error = known.given(0.0, inf)
    assert rate == pytest.approx(110 * WATT, rel=0.05)
    assert error == pytest.approx(5.5 * WATT, rel=0.3)
    assert known.seen() == IdleSeen(pytest.approx(105_000), pytest.approx(110_000))  # type: ignore[arg-type]


def busy_day(seed: int) -> tuple[Day, float]:
    """Make a day without any pause, and an idle power of 0.4 of what the work takes in the mean."""
    day = make_day(seed, 40, gap_ms=0.0)
    return day, 0.4 * day.truth.sum() / (day.steps[-1].end_ns - START_NS)


def totals(day: Day, given: list[StepCounters | None]) -> np.ndarray:
    """Return amount, low and high by class, and the truth, over the steps behind the first seconds."""
    late = [place for place, step in enumerate(day.steps) if step.start_ns > START_NS + 15e9]
    found = [one for one in (given[place] for place in late) if one is not None]
    assert len(found) == len(late)
    parts = np.array([[tuple(share) for share in one.shares[ENERGY]] for one in found]).sum(axis=0)
    return np.vstack([parts.T, day.truth[late].sum(axis=0)])


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_of_a_gpu_that_never_pauses_no_more_than_its_limit_allows_goes_to_nobody(seed: int) -> None:
    """Idle power is 14 % of the limit and 0.29 of all: 40 % of the limit is 0.82 of all; intervals hold the truth."""
    day, idle = busy_day(seed)
    meter = RollingMeter()
    limit = idle / 0.14
    meter.limit_power(GPU, limit * MW)
    given = run(meter, day, windows_of(day, seed, key=ENERGY, idle=idle))
    assert meter.state()[0].quality == names.QUALITY_ESTIMATED
    _, low, high, true = totals(day, given)
    assert (low <= true).all() and (true <= high).all()
    fit = next(iter(meter._series.values())).fit
    assert fit is not None and 0.05 * limit <= fit.idle <= 0.4 * limit


@pytest.mark.parametrize("off", [0.96, 1.0, 1.04])
def test_a_restart_on_a_gpu_that_never_pauses_does_not_lose_its_idle_power(off: float) -> None:
    """It may have moved by 4 % since: then the values are off by that much of the idle power at most, 0.4 of them."""
    day, idle = busy_day(4)
    meter = RollingMeter()
    meter.tell_idle(GPU, IdleSeen(off * idle * MW, off * idle * MW))
    given = run(meter, day, windows_of(day, 4, key=ENERGY, idle=idle))
    state = meter.state()[0]
    assert (state.quality, state.why) == (names.QUALITY_ATTRIBUTED, None)
    assert (errors(day, given, ENERGY) < 0.05).all()
    _, low, high, true = totals(day, given)
    assert (low <= true).all() and (true <= high).all()


def rest_of(begin_ns: int, seconds: float, rate: float) -> list[CounterWindow]:
    """Return windows of a GPU at rest."""
    return [
        CounterWindow(GPU, ENERGY, begin_ns + n * 100 * MS, begin_ns + (n + 1) * 100 * MS, rate * 100 * MS)
        for n in range(round(seconds * 10))
    ]


def test_rest_behind_work_is_what_the_next_agent_is_told_and_rest_before_any_is_not() -> None:
    """30 W before the engine has a context, 110 W once it has, and 30 W again minutes after its last step."""
    meter = RollingMeter()
    work = Work(START_NS, START_NS + 50 * MS, prefill_tokens=100, prefill_pairs=5000)
    windows = [
        *rest_of(START_NS - 20_000 * MS, 20, 30 * WATT),
        *rest_of(START_NS, 50, 110 * WATT),
        *rest_of(START_NS + 130_000 * MS, 200, 30 * WATT),
    ]
    told = []
    for window in windows:
        meter.add_window(window)
        if window.start_ns == START_NS:
            told.append(meter.idle_seen()[GPU])
            meter.add((GPU,), work)
        meter.advance(window.end_ns)
    told.append(meter.idle_seen()[GPU])
    assert told[0] == IdleSeen(None, None)
    assert told[1].rest_mw == pytest.approx(110_000)
    assert told[1].least_mw == pytest.approx(110_000)


def test_what_one_meter_saw_serves_the_next() -> None:
    """The first sees a pause of four seconds amid the load; the second never sees one, with another load."""
    day, idle = busy_day(4)
    later = [step for step in day.steps if step.start_ns > START_NS + 20_000 * MS]
    shift = 4_000 * MS
    moved = [step._replace(start_ns=step.start_ns + shift, end_ns=step.end_ns + shift) for step in later]
    paused = Day([step for step in day.steps if step not in later] + moved, day.truth)
    first, second = RollingMeter(), RollingMeter()
    run(first, paused, windows_of(paused, 4, key=ENERGY, idle=idle))
    seen = first.idle_seen()[GPU]
    assert seen.rest_mw == pytest.approx(idle * MW, rel=0.01)
    assert seen.least_mw == pytest.approx(idle * MW, rel=0.03)
    second.tell_idle(GPU, seen)
    other, _ = busy_day(5)
    given = run(second, other, windows_of(other, 5, key=ENERGY, idle=idle))
    assert (errors(other, given, ENERGY) < 0.05).all()
    assert second.idle_seen()[GPU] == seen, "a busy GPU passes it on as it was"


def test_rest_that_is_seen_again_replaces_what_was_told() -> None:
    """The driver was changed: told twice what flows now, as ten seconds at rest amid the load show."""
    day, idle = busy_day(4)
    meter = RollingMeter()
    meter.tell_idle(GPU, IdleSeen(2 * idle * MW, 2 * idle * MW))
    begin_ns = day.steps[-1].end_ns
    run(meter, day, windows_of(day, 4, key=ENERGY, idle=idle) + rest_of(begin_ns, 10, idle))
    for later in range(40):
        meter.advance(begin_ns + later * 250 * MS)
    seen = meter.idle_seen()[GPU]
    assert seen.rest_mw == pytest.approx(idle * MW, rel=0.02)
    assert seen.least_mw == pytest.approx(idle * MW, rel=0.02)


def test_a_fit_beside_a_co_tenant_uses_what_is_known_and_leaves_it_as_it_is() -> None:
    """Told 88 W; windows of 300 W without any pause show nothing of it."""
    known = IdlePower()
    known.tell(IdleSeen(87_000, 88_000))
    before = known.seen()
    starts = np.array([START_NS + place * 100.0 * MS for place in range(300)], dtype=np.float64)
    ends = np.array(starts + 100.0 * MS, dtype=np.float64)
    work = np.zeros((300, COLUMNS + 1))
    work[:, CLASS_COLUMNS[2].start], work[:, COLUMNS] = np.linspace(8, 12, 300), 100.0 * MS
    kept = KeptWindows()
    kept.add((starts, ends, np.full(300, 30_000.0), work))
    fit = CoTenant(kept, ALL, SMALL, always_idle=True).fit_without([], known)
    assert fit is not None
    assert fit.idle == pytest.approx(88 * WATT, rel=0.02)
    assert known.seen() == before


@pytest.mark.parametrize("limited", [True, False])
def test_power_of_a_server_that_warms_up_is_not_idle_power(limited: bool) -> None:
    """Ten seconds at 2.5 times idle power before the first step of a server that never pauses from then on.

    A limit of 5 times idle power allows 2 of it. Without one the GPU was at 0.5 before, and 0.75 is allowed.
    """
    day, idle = busy_day(6)
    meter = RollingMeter()
    if limited:
        meter.limit_power(GPU, 5 * idle * MW)
    first_ns = day.steps[0].start_ns
    bare = [] if limited else rest_of(first_ns - 20_000 * MS, 10, 0.5 * idle)
    warm = rest_of(first_ns - 10_000 * MS, 10, 2.5 * idle)
    given = run(meter, day, [*bare, *warm, *windows_of(day, 6, key=ENERGY, idle=idle)])
    got, low, high, true = totals(day, given)
    assert (np.abs(got - true) < 0.35 * true).all()
    assert (low <= true).all() and (true <= high).all()


def test_pauses_that_always_come_with_an_encode_tell_little_of_idle_power() -> None:
    """Pauses of 19 to 21 ms, as it happens with 690 W of what the windows hold: the encode behind each may have cost it.

    Windows of 380 J are known to 1 %, so a difference of 1 ms tells idle power to 3.8 J / 1 ms / sqrt(20) = 850 W.
    """
    known = IdlePower()
    known.limit(700_000)
    fit = RollingFit(300, 5, always_idle=True, idle=known)
    work, pause_ns = np.zeros((40, COLUMNS + 1)), np.zeros(40)
    pause_ns[1::2] = np.resize([19.0, 20.0, 21.0], 20) * MS
    work[1::2, 0] = 1000.0
    work[:, COLUMNS] = 1000.0 * MS - pause_ns
    work[:, CLASS_COLUMNS[2].start] = work[:, COLUMNS] / MS
    fit.add(START_NS, work, np.full(40, 1000.0 * MS), 380 * WATT * work[:, COLUMNS] + 690 * WATT * pause_ns)
    found = fit.fit()
    assert found is not None
    assert 0.05 * 700 * WATT <= found.idle <= 0.4 * 700 * WATT


def test_a_counter_that_stands_still_bounds_nothing() -> None:
    """A GPU never takes 0 W: 1.2 s without a joule are a counter that was not renewed."""
    known = IdlePower()
    known.take(np.append(np.zeros(12), np.full(20, 9000.0)), np.full(32, 100.0 * MS), near_work=True)
    rate, _ = known.given(200 * WATT, inf)
    assert rate == pytest.approx(49.5 * WATT), "uniform below 1.1 x 90 W"


@pytest.mark.parametrize("told_watts", [0.05, 9000.0])
def test_what_no_such_gpu_takes_is_not_believed_of_an_earlier_agent(told_watts: float) -> None:
    """Of 700 W 35 to 280 are possible, give or take half."""
    known = IdlePower()
    known.tell(IdleSeen(told_watts * 1000, told_watts * 1000))
    known.limit(700_000)
    assert known.given(0.0, inf) == pytest.approx((157.5 * WATT, 245 * WATT / 12**0.5))


def test_a_step_longer_than_is_waited_for_is_no_rest_to_remember() -> None:
    """Behind a step of 50 ms come ten seconds at 650 of 700 W of which nothing is told yet, and then 90 W."""
    meter = RollingMeter()
    meter.limit_power(GPU, 700_000)
    meter.expect(GPU, [ENERGY], 0.1)
    for number, window in enumerate(
        [*rest_of(START_NS, 10, 650 * WATT), *rest_of(START_NS + 10_000 * MS, 10, 90 * WATT)]
    ):
        if not number:
            meter.add((GPU,), Work(START_NS, START_NS + 50 * MS, prefill_tokens=100, prefill_pairs=5000))
        meter.add_window(window)
        meter.advance(window.end_ns)
    assert meter.idle_seen()[GPU].rest_mw == pytest.approx(90_000)
