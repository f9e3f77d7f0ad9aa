"""Steps of decoding that are alike are given their counters together: what each would be given, added up."""

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from meter_day import DRAM, ENERGY, MS, START_NS, decode, make_day, run, window, windows_of

from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.counters.work_curve import only_decodes

GPUS = ("GPU-0",)


@pytest.mark.parametrize("seed", range(3))
def test_steps_of_decoding_are_given_together_what_each_is_given(seed: int) -> None:
    """As ``of`` says for each, added up, whichever windows they lie in."""
    day = make_day(seed, 12)
    meter = RollingMeter()
    # A fifth of what the day would have: no end of an interval comes near the whole time, where it would be cut.
    run(meter, day, [replace(w, amount=w.amount / 5) for w in windows_of(day, seed, noise=0.05, idle=0.05)])
    runs = [list(some) for only, some in groupby(day.steps[50:-30], only_decodes) if only]
    assert max(map(len, runs)) > 5
    for works in runs:
        each, together = [meter.of(GPUS, work) for work in works], meter.of_run(GPUS, works)
        assert together is not None
        assert together.steps == len(works)
        expected = np.sum([one.shares[DRAM] for one in each if one], axis=0)[2]
        amount, *ends = together.shares[DRAM][2]
        assert amount == pytest.approx(expected[0], rel=1e-9)
        assert np.subtract(ends, amount) == pytest.approx(expected[1:] - amount, rel=0.25)


def test_pauses_between_steps_are_no_time_in_which_they_took_nothing() -> None:
    """Steps of 1 ms, 240 ms apart, of some 30 mJ each: little for the time from first to last, much for their own."""
    meter = RollingMeter()
    meter.expect("GPU-0", [ENERGY], 0.1)
    steps = [decode(240 * place, 240 * place + 1, 1 + place % 7) for place in range(120)]
    for step in steps:
        meter.add(GPUS, step)
    for place in range(288):
        busy = [n for n in range(120) if place * 100 <= 240 * n < (place + 1) * 100]
        meter.add_window(
            window(100 * place, 100 * place + 100, sum(10.0 * (1 + n % 7) for n in busy), key=ENERGY)
        )
        meter.advance(START_NS + (100 * place + 100) * MS)
    works = steps[100:104]
    together, each = meter.of_run(GPUS, works), [meter.of(GPUS, work) for work in works]
    assert together is not None
    expected = sum(one.shares[ENERGY][2].amount for one in each if one)
    assert together.shares[ENERGY][2].amount == pytest.approx(expected, rel=1e-9)
    assert expected > 10.0


def test_steps_of_decoding_in_a_gap_are_given_together_what_each_is_given() -> None:
    """Of a second without windows the fit tells, of single steps and of runs alike."""
    day = make_day(7, 20, classes="d")
    hole = (START_NS + 15_000 * MS, START_NS + 16_000 * MS)
    meter = RollingMeter()
    run(meter, day, [one for one in windows_of(day, 7) if not hole[0] <= one.start_ns < hole[1]])
    works = [one for one in day.steps if hole[0] - 300 * MS < one.start_ns < hole[1] + 300 * MS]
    together = meter.of_run(GPUS, works)
    each = [one.shares[DRAM][2].amount for work in works if (one := meter.of(GPUS, work))]
    assert together is not None
    assert together.shares[DRAM][2].amount == pytest.approx(sum(each), rel=0.02)
