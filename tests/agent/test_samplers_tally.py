"""Means, totals and windows of samples against sums worked out by hand; of two sources one counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_agent.counters.meter import CounterWindow
from vtprof_agent.samplers.sampler import Sample
from vtprof_agent.samplers.tally import Expected, Tally
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
