"""RollingMeter on GPUs at rest, on loads that repeat in step with the windows, and on steps that draft tokens."""

import numpy as np
import pytest
from meter_day import DRAM, ENERGY, MS, START_NS, Day, errors, make_day, run, windows_of

from vtprof_agent.counters.meter import CounterWindow, StepCounters, Work
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.counters.rolling_fit import RollingFit
from vtprof_agent.counters.work_curve import COLUMNS
from vtprof_schemas import names

GPUS = ("GPU-0",)
REST_S = 10
WATT = 1000 / 1e9
"""mJ a ns."""


def repeating_day(cycles: int) -> Day:
    """Make each three seconds the same: an image, its prompt, two seconds of decoding, a pause; nothing varies."""
    steps, truth = [], []
    for cycle in range(cycles):
        now = START_NS + cycle * 3000 * MS
        steps.append(Work(now, now + 30 * MS, 4000, 4000**2, 1000, 500_000, encode_ns=10 * MS))
        truth.append((2.0 * MS, 6.0 * MS, 0.0))
        for place in range(197):
            begin = now + (30 + 10 * place) * MS
            work = Work(begin, begin + 10 * MS, decode_requests=8, decode_context_tokens=8 * (1000 + place))
            steps.append(work)
            truth.append((0.0, 0.0, 7.0 * MS))
    return Day(steps, np.array(truth))


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("period_ms", [100, 1000])
def test_classes_that_always_run_together_are_estimates_with_wide_intervals(
    period_ms: int, noise: float
) -> None:
    """One window of each cycle holds the encoder and the prefill: their sum is known, how it is split is not.

    A counter without any noise tells no more: that windows repeat exactly does not tell the classes apart.
    """
    day = repeating_day(25)
    meter = RollingMeter()
    given = run(meter, day, windows_of(day, 1, noise=noise, period_ms=period_ms))
    late = [place for place, step in enumerate(day.steps) if step.start_ns > START_NS + 30e9 and step.patches]
    found = [one for one in (given[place] for place in late) if one]  # none where a class would get nothing
    assert {one.quality[DRAM] for one in found} <= {names.QUALITY_ESTIMATED}
    for one in found:
        for share, true in zip(one.shares[DRAM][:2], (2.0 * MS, 6.0 * MS), strict=True):
            assert share.low <= true <= share.high
            assert share.high - share.low > 0.5 * true
    decodes = errors(day, given, skip_s=30.0)[2]
    assert decodes < 0.05, "decode runs alone most of the time: it is known all the same"


def test_an_idle_gpu_that_drifts_is_not_called_shared() -> None:
    """Power drifts by 6 W and steps by 4 W, the driver moves a few bytes; now and then a tiny prompt runs."""
    rng = np.random.default_rng(5)
    meter = RollingMeter()
    meter.expect("GPU-0", [DRAM, ENERGY], 0.1)
    suspected = set()
    for place in range(1200):
        begin, end = START_NS + place * 100 * MS, START_NS + (place + 1) * 100 * MS
        watts = 88 + 6 * np.sin(place / 150) + (4 if place // 100 % 2 else 0) + rng.normal(0, 0.3)
        ratio = abs(rng.normal(3e-4, 3e-4)) + (0.002 if place // 20 % 5 == 0 else 0.0)
        meter.add_window(CounterWindow("GPU-0", DRAM, begin, end, ratio * 100 * MS))
        meter.add_window(CounterWindow("GPU-0", ENERGY, begin, end, watts * 100))
        if place % 97 == 0:
            meter.add(GPUS, Work(begin + 20 * MS, begin + 24 * MS, prefill_tokens=30, prefill_pairs=450))
        meter.advance(end)
        suspected |= {(state.key, place) for state in meter.state() if state.co_tenant}
    assert not suspected


def rested(idle: float) -> list[CounterWindow]:
    """Return windows of a GPU at rest before the day."""
    return [
        CounterWindow(
            "GPU-0", ENERGY, START_NS - left * 100 * MS, START_NS - (left - 1) * 100 * MS, idle * 100 * MS
        )
        for left in range(REST_S * 10, 0, -1)
    ]


@pytest.mark.parametrize("late_ms", [0.0, 40.0])
def test_idle_power_seen_before_the_load_holds_for_a_gpu_that_never_rests_again(late_ms: float) -> None:
    """Without a pause nothing else tells it from the work; windows that turn out to be late leave it known."""
    day = make_day(4, 40, gap_ms=0.0)
    idle = 0.4 * day.truth.sum() / (day.steps[-1].end_ns - START_NS)
    meter = RollingMeter()
    later = [
        window
        for window in windows_of(day, 4, key=ENERGY, idle=idle, late_ms=late_ms)
        if window.start_ns >= START_NS
    ]
    given = run(meter, day, rested(idle) + later)
    assert (errors(day, given, ENERGY, skip_s=20.0) < 0.05).all()


def test_windows_near_work_are_not_taken_for_rest() -> None:
    """Of ten windows of 100 ms the fifth has work: the two before and behind it may be latched late, the ends unknown."""
    fit = RollingFit(300, 5, always_idle=True)
    busy = np.zeros(10, dtype=bool)
    busy[4] = True
    found = fit._surely_idle(busy, np.full(10, 100.0 * MS))
    assert not found[[2, 3, 4, 5, 6]].any()
    assert not found[[0, 1, 8, 9]].any(), "what came before and what comes is not known"
    assert found.tolist() == [False] * 7 + [True] + [False] * 2
    behind = fit._surely_idle(np.zeros(6, dtype=bool), np.full(6, 100.0 * MS))
    assert behind.tolist() == [True] * 4 + [False] * 2


def test_what_is_left_of_a_counter_s_rest_survives_that_its_delay_turns_out() -> None:
    fit = RollingFit(300, 5, always_idle=True)
    times, work = np.full(20, 100.0 * MS), np.zeros((20, COLUMNS))
    work[0] = 1.0
    fit.add(START_NS, work, times, np.full(20, 8.0))
    before = fit.amounts()
    fit.clear()
    kept = fit.amounts()
    assert 0 < kept < before
    fit.add(START_NS, work, times, np.full(20, 8.0), again=True)
    assert fit.amounts() <= before, "none of them counts twice"


def drafting_day(seed: int) -> Day:
    """Make steps of which those that decode draft three tokens each with a small model, prefill at times alone."""
    rng = np.random.default_rng(seed)
    steps, truth, now = [], [], float(START_NS)
    while now < START_NS + 60e9:
        requests = int(rng.integers(1, 30)) if rng.random() < 0.9 else 0
        tokens = int(rng.integers(16, 400)) if not requests or rng.random() < 0.2 else 0
        context, decoded = requests * int(rng.integers(200, 3000)), requests * 4
        part = tokens / (tokens + decoded)
        drafts = 3e6 if requests else 0.0
        prefill, decode = 12e6 * part + tokens * 4e3, 12e6 * (1 - part) + context * 60.0 + drafts
        length = (prefill + decode) * 1.3
        steps.append(
            Work(int(now), int(now + length), 0, 0, tokens, tokens**2 // 2, requests, context, decode_tokens=decoded)
        )  # fmt: skip
        truth.append((0.0, prefill, decode))
        now += length + rng.exponential(2.0 * MS)
    return Day(steps, np.array(truth))


def test_reads_of_the_model_that_drafts_go_to_decode_alone() -> None:
    """A step reads 12 of weights, shared by tokens computed, and 3 of the draft's: shared too, prefill had 20 % more."""
    day = drafting_day(2)
    given = run(RollingMeter(), day, windows_of(day, 2))
    assert (errors(day, given)[1:] < 0.03).all()


def test_decode_beside_a_long_prefill_keeps_its_value_though_it_takes_less_than_a_watt() -> None:
    """Six requests beside 2,000 tokens take 48 mJ of 40 J in 100 ms: little, but known."""
    steps, truth, now = [], [], START_NS
    rng = np.random.default_rng(3)
    for place in range(600):
        long = place % 4 == 0
        requests, tokens = int(rng.integers(3, 12)), int(rng.integers(1500, 2500)) if long else 0
        length = (100 if long else 12) * MS
        context = requests * int(rng.integers(500, 2000))
        steps.append(Work(now, now + length, 0, 0, tokens, tokens**2 // 2, requests, context))
        truth.append((0.0, tokens * 20.0, requests * 8.0))
        now += length + 3 * MS
    day = Day(steps, np.array(truth))
    windows = rested(88 * WATT) + windows_of(day, 3, key=ENERGY, idle=88 * WATT, noise=0.0005)
    given = run(RollingMeter(), day, windows)
    late: list[StepCounters | None] = [
        one for one, step in zip(given, steps, strict=True) if step.start_ns > START_NS + 10e9
    ]
    assert all(one is not None and ENERGY in one.shares for one in late)
