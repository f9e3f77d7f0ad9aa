"""A step is told once it ended: while requests are open, windows wait for one that may be under way."""

import numpy as np
import pytest
from meter_day import DRAM, MS, START_NS, window

from vtprof_agent.counters.meter import CounterWindow, Work
from vtprof_agent.counters.rolling import RollingMeter

GPUS = ("GPU-0",)
RATIO_DECODE, RATIO_PREFILL = 0.6, 0.3
_HOLD_NS = 5_000 * MS


def _day(prefill_ms: int, seconds: int, seed: int) -> list[tuple[Work, float]]:
    """Make some 60 steps of decoding by turns with a long prefill, and what each takes."""
    rng, now, steps = np.random.default_rng(seed), START_NS, []
    while now < START_NS + seconds * 1000 * MS:
        for place in range(60):
            length = int(20 * MS * rng.uniform(0.9, 1.1))
            context = 16_000 + 16 * len(steps) % 32_000
            work = Work(now, now + length, decode_requests=16, decode_context_tokens=context)
            if place == 0:
                length = int(prefill_ms * MS * rng.uniform(0.7, 1.3))
                work = Work(
                    now, now + length, prefill_tokens=length // MS * 10, prefill_pairs=(length // MS) ** 2
                )
            amount = length * (RATIO_DECODE * (0.7 + 0.6 * context / 64_000) if place else RATIO_PREFILL)
            steps.append((work, amount))
            now += length + int(rng.exponential(0.2) * MS)
    return steps


def _windows(steps: list[tuple[Work, float]]) -> list[CounterWindow]:
    times = np.array([(work.start_ns, work.end_ns) for work, _ in steps], float).ravel()
    sums = np.concatenate(([0.0], np.repeat(np.cumsum([amount for _, amount in steps]), 2)[:-1]))
    edges = np.arange(START_NS, steps[-1][0].end_ns, 100 * MS)
    amounts = np.diff(np.interp(edges, times, sums))
    return [
        window(100 * n, 100 * n + 100, float(amount), key=DRAM)  #
        for n, amount in enumerate(amounts)
    ]


def _given(steps: list[tuple[Work, float]], gpu_lines: int, awaited: bool) -> list[float]:
    """Return what each step is given of amount over the truth, by prefill and decode, behind the first 20 s."""
    meter = RollingMeter()
    meter.expect("GPU-0", [DRAM], 0.1)
    coming, untold = list(reversed(_windows(steps))), list(reversed(steps))
    held: list[tuple[Work, float, int]] = []
    given, truth = np.zeros(2), np.zeros(2)
    for now in range(START_NS, steps[-1][0].end_ns + 10_000 * MS, 500 * MS):
        while coming and coming[-1].end_ns <= now - 2 * MS:
            meter.add_window(coming.pop())
        while untold and untold[-1][0].end_ns <= now:
            work, amount = untold.pop()
            meter.add(GPUS, work)
            held.append((work, amount, now))
        for line in range(gpu_lines):
            meter.await_step(GPUS, line, awaited and bool(untold))
        meter.advance(now)
        while held and (meter.complete(GPUS, held[0][0].end_ns) or held[0][2] < now - _HOLD_NS):
            work, amount, _ = held.pop(0)
            counters = meter.of(GPUS, work)
            if START_NS + 20_000 * MS <= work.start_ns < steps[-1][0].start_ns - 10_000 * MS:
                place = int(work.decode_requests > 0)
                truth[place] += amount
                given[place] += sum(s.amount for s in counters.shares[DRAM]) if counters else 0.0
    return list(given / truth)


@pytest.mark.parametrize("prefill_ms", [1000, 3000])  # the very first step is such a prefill, too
def test_steps_of_seconds_are_given_what_they_took_while_requests_are_open(prefill_ms: int) -> None:
    """With nothing said, their windows are taken for rest, before they are told: half of it is nobody's."""
    steps = _day(prefill_ms, 90, seed=1)
    assert _given(steps, 1, awaited=True) == pytest.approx([1.0, 1.0], abs=0.01)
    assert min(_given(steps, 1, awaited=False)) < 0.8


def test_windows_do_not_wait_for_ever_for_a_step_that_does_not_come() -> None:
    """A request that hangs: what follows on is settled 9 s later."""
    meter = RollingMeter()
    meter.expect("GPU-0", [DRAM], 0.1)
    meter.add(GPUS, Work(START_NS, START_NS + 50 * MS, decode_requests=1, decode_context_tokens=100))
    meter.await_step(GPUS, 0, True)
    for place in range(140):
        meter.add_window(window(100 * place, 100 * place + 100, 1000.0, key=DRAM))
        meter.advance(START_NS + (100 * place + 100) * MS)
        settled_ms = sum(meter.totals().values()) / 10.0
        assert settled_ms <= max(100 * place + 100 - 9000, 0)
    assert settled_ms >= 3000
