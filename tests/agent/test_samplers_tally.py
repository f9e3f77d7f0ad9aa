"""Means, totals and windows of samples against sums worked out by hand; of two sources one counts."""

from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_agent.counters.meter import CounterWindow
from vtprof_agent.samplers.reader import Reader
from vtprof_agent.samplers.sampler import Device, Sample
from vtprof_agent.samplers.tally import MOST_MW, Expected, Refusal, Tally
from vtprof_agent.sampling import Sampling
from vtprof_schemas import names

DRAM, ENERGY = names.GPU_DRAM_BANDWIDTH_RATIO, names.GPU_ENERGY_MJ
MS, S = 1_000_000, 1_000_000_000
PERIOD = 100 * MS


def _ratio(value: float, start_ns: int, end_ns: int, source: str = "gpm", hw_id: str = "GPU-1") -> Sample:
    return Sample(DRAM, value, hw_id=hw_id, start_ns=start_ns, end_ns=end_ns, source=source)


def _energy(value: float, end_ns: int, source: str = "nvml") -> Sample:
    return Sample(ENERGY, value, True, hw_id="GPU-1", end_ns=end_ns, source=source)


def _taken(tally: Tally) -> dict[str, Sample]:
    return {sample.key: sample for sample in tally.take()}


def test_ratios_are_weighed_by_the_length_of_their_windows_and_summed_up() -> None:
    tally = Tally()
    tally.add([_ratio(0.5, 0, 100 * MS)], 100 * MS, PERIOD)
    tally.add([_ratio(0.2, 100 * MS, 400 * MS)], 400 * MS, PERIOD)
    taken = _taken(tally)
    assert taken[DRAM].value == pytest.approx((0.5 * 100 + 0.2 * 300) / 400)
    assert (taken[DRAM].source, taken[DRAM].interval_ns) == ("gpm", PERIOD)
    integral = taken[names.GPU_INTEGRALS[DRAM]]
    assert (integral.value, integral.cumulative) == (110 * MS, True)
    assert _taken(tally) == {}, "nothing came since"
    tally.add([_ratio(1.0, 400 * MS, 500 * MS)], 500 * MS, PERIOD)
    taken = _taken(tally)
    assert (taken[DRAM].value, taken[names.GPU_INTEGRALS[DRAM]].value) == (1.0, 210 * MS)


def test_a_window_is_the_ratio_times_its_length_and_is_announced_once() -> None:
    tally = Tally()
    expected, windows = tally.add([_ratio(0.5, 0, 100 * MS)], 100 * MS, PERIOD)
    assert expected == [Expected("GPU-1", DRAM, 0.1)]
    assert windows == [CounterWindow("GPU-1", DRAM, 0, 100 * MS, 50 * MS, exact_edges=True)]
    expected, _ = tally.add([_ratio(0.5, 100 * MS, 200 * MS)], 200 * MS, PERIOD)
    assert expected == []


def test_energy_is_counted_from_the_first_reading_and_a_counter_that_falls_began_anew() -> None:
    tally = Tally()
    for at_s, value in ((0, 5000.0), (1, 5400.0), (2, 100.0), (3, 400.0)):
        tally.add([_energy(value, at_s * S)], at_s * S, S)
    assert _taken(tally)[ENERGY].value == 400 + 300


RUNS = 5e11
"""mJ: 700 W for 8 days."""
HALF_S = S // 2


def _told(readings: list[float], tally: Tally, every_ns: int = HALF_S) -> list[CounterWindow]:
    return [
        window
        for tick, value in enumerate(readings)
        for window in tally.add([_energy(value, tick * every_ns)], tick * every_ns, every_ns)[1]
    ]


@pytest.mark.parametrize("wrong", [0.0, RUNS / 2, 2 * RUNS, 2.0**64 - 1, float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 3, 4])
def test_one_wrong_reading_of_a_running_total_costs_nothing_or_at_the_start_the_time_until_the_second(
    wrong: float, at: int
) -> None:
    tally = Tally()
    readings = [RUNS + 250_000 * tick for tick in range(10)]  # 500 W
    windows = _told([*readings[:at], wrong, *readings[at + 1 :]], tally)
    (taken,) = tally.take()
    assert taken.value == 250_000 * (9 if at else 8)
    assert {w.amount / (w.end_ns - w.start_ns) for w in windows} == {500_000 / S}
    assert all(one.end_ns == two.start_ns for one, two in pairwise(windows))
    assert windows[0].start_ns == (0 if at else HALF_S) and windows[-1].end_ns >= 4 * S
    refusals = tally.refusals()
    assert [one.hw_id for one in refusals] == ["GPU-1"] and not tally.refusals()


def test_a_counter_that_began_anew_costs_what_it_counted_between_two_readings() -> None:
    tally = Tally()
    old, new = [RUNS + 250_000 * tick for tick in range(5)], [250_000.0 * tick for tick in range(5)]
    windows = _told(old + new, tally)
    assert tally.take()[0].value == 250_000 * (4 + 4)
    assert [(w.start_ns, w.amount) for w in windows] == [(k * HALF_S, 500_000) for k in (0, 2, 5, 7)]
    assert tally.refusals() == [Refusal("GPU-1", ENERGY, RUNS + 1_000_000, 0.0, HALF_S)]


@pytest.mark.parametrize("limit_mw", [None, 400_000])
def test_a_gpu_is_believed_twice_the_power_that_it_was_made_for_or_what_no_gpu_draws(
    limit_mw: int | None,
) -> None:
    tally = Tally()
    if limit_mw is not None:
        tally.limits_mw["GPU-1"] = limit_mw
    most_mw = MOST_MW if limit_mw is None else 800_000
    _told([0.0, 2 * most_mw - 1, 2 * most_mw - 1], tally, S)  # a second may come late
    assert tally.take()[0].value == 2 * most_mw - 1
    assert not tally.refusals()
    tally = Tally()
    tally.limits_mw |= {} if limit_mw is None else {"GPU-1": limit_mw}
    _told([0.0, 2 * most_mw + 1], tally, S)
    assert len(tally.refusals()) == 1
    assert tally.take()[0].value == 0


def test_times_advance_by_no_more_than_twice_the_time_that_passes() -> None:
    tally = Tally()
    for tick, value in enumerate((0, 2 * S, 2**63, 4 * S)):
        tally.add(
            [Sample(names.GPU_THROTTLE_POWER_NS, value, True, hw_id="GPU-1", end_ns=tick * S)], tick * S, S
        )
    assert tally.take()[0].value == 4 * S
    assert [refusal.value for refusal in tally.refusals()] == [2**63]


def test_a_total_of_which_no_bound_is_known_is_still_a_number() -> None:
    tally = Tally()
    for tick, value in enumerate((1e300, float("inf"), 2e300)):
        tally.add([Sample("vtprof.gpu.other", value, True, hw_id="GPU-1", end_ns=tick * S)], tick * S, S)
    assert tally.take()[0].value == 1e300
    assert len(tally.refusals()) == 1


def test_what_is_not_believed_is_a_fault_each_time_and_said_once_by_the_limits_of_the_devices(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sampling = Sampling()
    device = Device("GPU-1", "a board of 400 W", power_limit_mw=400_000)
    sampling._readers = cast(list[Reader], [SimpleNamespace(devices=[device])])
    sampling._tell_limits()
    for at_s, value in ((0, 0.0), (1, 2e6), (2, 8e5), (3, 5e6), (4, 1.6e6)):  # 400 W, but for 2e6 and 5e6
        sampling._take([_energy(value, at_s * S)], 1.0)
    assert sampling.faults == 2
    (said,) = caplog.messages
    assert said == (
        "GPU-1: vtprof.gpu.energy_mj went from 0 to 2000000 within 1.0 s, which cannot be: the reading is left out, or"
        " the counter began anew; each is counted, the first is said"
    )


@pytest.mark.parametrize("frozen", [(4.4, 5.0), (4.4, 5.4), (4.9, 9.9), (4.0, 5.0), (4.9, 60.0)])
def test_a_counter_that_stops_for_a_while_and_catches_up_makes_one_long_window(
    frozen: tuple[float, float],
) -> None:
    tally = Tally()
    from_s, to_s = frozen
    seconds = range(70)
    shown = [500_000 * (from_s if from_s < at < to_s else at) for at in seconds]
    windows = _told(shown, tally, S)
    assert tally.take()[0].value == 500_000 * seconds[-1]
    assert all(w.amount == pytest.approx(500_000 * (w.end_ns - w.start_ns) / S) for w in windows)
    assert [w.start_ns for w in windows] == [0, *(w.end_ns for w in windows[:-1])]
    assert windows[-1].end_ns == seconds[-1] * S


def test_a_counter_that_stands_still_for_more_than_a_minute_makes_no_window_of_that_time() -> None:
    tally = Tally()
    shown = [500_000.0 * (4 if 4 < at < 65 else at) for at in range(70)]
    windows = _told(shown, tally, S)
    assert [w.start_ns // S for w in windows] == [0, 1, 2, 3, 65, 66, 67, 68]
    assert tally.take()[0].value == 500_000 * 69, "all of it is in the total"


def test_power_that_falls_and_rises_again_keeps_its_windows() -> None:
    tally = Tally()
    shown, total = [0.0], 0.0
    for power in (500, 500, 200, 200, 520, 490, 300, 505):
        total += power * 1000.0
        shown.append(total)
    windows = _told(shown, tally, S)
    assert [w.amount for w in windows] == [5e5, 5e5, 2e5, 2e5, 5.2e5, 4.9e5, 3e5, 5.05e5]


@given(
    st.lists(st.tuples(st.floats(0, 4e6), st.integers(S // 10, 20 * S)), min_size=1, max_size=40),
    st.data(),
)
def test_no_window_overlaps_another_or_holds_what_was_not_counted(
    parts: list[tuple[float, int]], data: st.DataObject
) -> None:
    tally = Tally()
    at_ns, counter, windows = 0, 0.0, []
    for power_mw, length_ns in parts:
        at_ns, counter = at_ns + length_ns, counter + power_mw * length_ns / S
        wrong = data.draw(st.none() | st.floats())
        value = counter if wrong is None else wrong
        windows += tally.add([_energy(value, at_ns)], at_ns, S)[1]
    assert all(w.amount >= 0 and w.end_ns > w.start_ns for w in windows)
    assert all(one.end_ns <= two.start_ns for one, two in pairwise(windows))
    total = sum(sample.value for sample in tally.take())
    assert sum(w.amount for w in windows) <= total * (1 + 1e-9) + 1
    assert all(w.amount <= 2 * MOST_MW * (w.end_ns - w.start_ns + S) / S for w in windows)
    assert total <= 2 * MOST_MW * (at_ns / S + 2 * len(parts))


def test_energy_windows_are_a_second_long_at_least_and_leave_nothing_out() -> None:
    tally = Tally()
    windows = []
    for tick in range(25):
        at_ns = tick * PERIOD
        windows += tally.add([_energy(1000.0 + 40 * tick, at_ns)], at_ns, PERIOD)[1]
    assert [(w.start_ns, w.end_ns, w.amount, w.exact_edges) for w in windows] == [
        (0, S, 400.0, False),
        (S, 2 * S, 400.0, False),
    ]


def test_no_energy_window_reaches_over_a_counter_that_began_anew_or_stood_still() -> None:
    tally = Tally()
    readings = ((0, 9000.0), (1, 9100.0), (2, 50.0), (3, 50.0), (4, 90.0))
    windows = [w for at, value in readings for w in tally.add([_energy(value, at * S)], at * S, S)[1]]
    assert [(w.start_ns, w.end_ns, w.amount) for w in windows] == [(0, S, 100.0), (2 * S, 4 * S, 40.0)]


def test_the_better_source_counts_and_no_time_is_counted_twice() -> None:
    tally = Tally()
    tally.add([_ratio(0.9, 0, S, "dcgm")], S, S)
    _, taken_over = tally.add([_ratio(0.5, S // 2, S * 3 // 2)], S * 3 // 2, PERIOD)
    assert taken_over == [], "it overlaps what DCGM told"
    _, windows = tally.add([_ratio(0.5, S * 3 // 2, 2 * S)], 2 * S, PERIOD)
    assert len(windows) == 1
    expected, ignored = tally.add([_ratio(0.9, 2 * S, 3 * S, "dcgm")], 3 * S, S)
    assert (expected, ignored) == ([], [])
    assert _taken(tally)[DRAM].source == "gpm"


def test_a_source_that_falls_silent_gives_way_to_a_lesser_one() -> None:
    tally = Tally()
    tally.add([_ratio(0.5, 0, 100 * MS)], 100 * MS, PERIOD)
    assert tally.add([_ratio(0.9, 8 * S, 9 * S, "dcgm")], 9 * S, S)[1] == []
    expected, windows = tally.add([_ratio(0.9, 11 * S, 12 * S, "dcgm")], 12 * S, S)
    assert (len(windows), expected) == (1, [Expected("GPU-1", DRAM, 1.0)])


def test_what_was_told_lately_is_told_and_what_fell_silent_is_not() -> None:
    tally = Tally()
    tally.add([_ratio(0.5, 0, HALF_S)], HALF_S, HALF_S)
    place = ("GPU-1", names.GPU_DRAM_BANDWIDTH_RATIO)
    assert tally.told(HALF_S + 10 * 2 * HALF_S) == {place}
    assert tally.told(HALF_S + 10 * 2 * HALF_S + 1) == set()


def test_a_change_of_source_makes_no_difference_of_two_counters() -> None:
    tally = Tally()
    for at_s, value in ((0, 100.0), (1, 200.0)):
        tally.add([_energy(value, at_s * S, "dcgm")], at_s * S, S)
    windows = [w for at in (2, 3) for w in tally.add([_energy(7e9 + at, at * S)], at * S, S)[1]]
    assert [w.amount for w in windows] == [1.0]
    assert _taken(tally)[ENERGY].value == 101


def test_instants_are_the_last_ones() -> None:
    tally = Tally()
    for value in (5, 7):
        tally.add([Sample(names.GPU_POWER_MW, value, hw_id="GPU-1", source="nvml")], S, S)
    assert _taken(tally)[names.GPU_POWER_MW].value == 7


def test_devices_that_come_and_go_do_not_pile_up() -> None:
    tally = Tally()
    for hour in range(0, 100, 2):
        at_ns = hour * 3600 * S
        tally.add([_ratio(0.5, at_ns, at_ns + S, hw_id=f"MIG-{hour}")], at_ns + S, PERIOD)
        tally.take()
    assert len(tally._series) == 1


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10 * S), st.integers(0, S)), min_size=1, max_size=30),
    st.integers(1, 5),
)
def test_the_integral_is_the_sum_of_all_windows_whenever_it_is_taken(
    parts: list[tuple[float, int, int]], every: int
) -> None:
    tally = Tally()
    at_ns, total, told = 0, 0.0, 0
    for number, (value, length_ns, gap_ns) in enumerate(parts):
        start_ns, at_ns = at_ns + gap_ns, at_ns + gap_ns + length_ns
        _, (window,) = tally.add([_ratio(value, start_ns, at_ns)], at_ns, PERIOD)
        assert window.amount == pytest.approx(value * length_ns)
        total += value * length_ns
        if number % every == 0:
            taken = _taken(tally)
            assert 0 <= taken[DRAM].value <= 1.0 + 1e-9
            assert taken[names.GPU_INTEGRALS[DRAM]].value >= told
            told = int(taken[names.GPU_INTEGRALS[DRAM]].value)
    tally.add([_ratio(0.0, at_ns, at_ns + 1)], at_ns + 1, PERIOD)
    assert _taken(tally)[names.GPU_INTEGRALS[DRAM]].value == pytest.approx(total, abs=1.0, rel=1e-9)
