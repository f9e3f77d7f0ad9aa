"""Synthetic GPU days with known truth: a continuous-batching scheduler, roofline kernels, and counters that are latched.

A day is what an engine's records tell of each step (``Work``), what the GPU's counters showed in each window, and what
each class of work really took of them in each step. Nothing of it has the form of a fit.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from attribution_engine import Engine
from attribution_kernels import ENERGY, Amounts, StepCost, StepLoad, step_cost
from attribution_scenarios import BESIDE, CORRELATED, TURNS, Scenario

from vtprof_agent.counters.meter import COUNTERS, CounterWindow, Work
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

GPU = "GPU-00000000-0000-0000-0000-000000000007"
START_NS = 5 * NS_PER_S
IDLE_WATTS = 88.0
QUIET_S = 10.0
"""The agent is there before the first request, as on a node where it is left on."""
NOISE = 0.015
"""In the mean over days; from one to two percent of each window."""
SLOWER = {BESIDE: 1.05, TURNS: 1.55}
"""So much longer takes a kernel of ours during a burst of a co-tenant."""
BURSTS = {BESIDE: (0.12, 0.05, 0.06, 60.0), TURNS: (0.2, 0.1, 0.26, 130.0)}
"""By counter the mean rate of a burst."""
LEAST_S = 1e-9
SHADOWED = 1.7
"""And beside a process that runs whenever we do."""
UNITS = np.array([1e3 if key == names.GPU_ENERGY_MJ else NS_PER_S for key in COUNTERS])
"""Units of ``CounterWindow.amount`` in one of ``Amounts``."""
Trace = tuple[float, float, npt.NDArray[np.float64]]
"""Begin s, end s, amount by counter."""


@dataclass(frozen=True)
class Step:
    """What the records tell of a step, and the truth: counter x class, in the units of ``CounterWindow.amount``."""

    work: Work
    truth: Amounts


@dataclass
class Day:
    """Steps in order of time, and how the counters ran."""

    steps: list[Step] = field(default_factory=list)
    ours: list[Trace] = field(default_factory=list)
    """What our kernels took, and when."""
    others: list[Trace] = field(default_factory=list)
    end_s: float = 0.0
    mood: tuple[float, float] = (0.0, 0.0)
    """Of a correlated co-tenant: its part of our load, and until when."""

    def windows(self, period_s: float, rng: np.random.Generator, offset_ns: int = 0) -> list[CounterWindow]:
        """Return what a sampler tells of the day: 1 to 2 % noise, a window in a hundred missing."""
        count = int(self.end_s / period_s)
        edges = (np.arange(1, count + 1) + rng.normal(0, 0.01, count).clip(-0.05, 0.05)) * period_s
        amounts = np.diff(running(self.ours + self.others, edges + offset_ns / NS_PER_S), axis=1)
        amounts += self.idle(np.diff(edges))
        amounts *= 1 + rng.normal(0, rng.uniform(0.01, 0.02), amounts.shape)
        found = []
        for place in np.flatnonzero(rng.random(count - 1) >= 0.01):
            begin, end = (START_NS + round(edge * NS_PER_S) for edge in edges[place : place + 2])
            for counter, key in enumerate(COUNTERS):
                amount = float(amounts[counter, place] * UNITS[counter])
                found.append(CounterWindow(GPU, key, begin, end, max(0.0, amount), offset_ns == 0))
        return found

    def idle(self, seconds: Amounts) -> Amounts:
        """Return what the counters show of windows in which nothing runs."""
        amounts = np.zeros((len(COUNTERS), len(seconds)))
        amounts[ENERGY] = IDLE_WATTS * seconds
        return amounts

    def correlation(self, period_s: float) -> Amounts:
        """Return by counter how far the load of others goes up and down with ours."""
        edges: Amounts = np.arange(1, int(self.end_s / period_s), dtype=np.float64) * period_s
        ours, theirs = (np.diff(running(traces, edges), axis=1) for traces in (self.ours, self.others))
        return np.array([np.corrcoef(*pair)[0, 1] for pair in zip(ours, theirs, strict=True)])


def running(traces: list[Trace], at_s: Amounts) -> Amounts:
    """Return every counter's running amount at these times."""
    begins = np.array([begin for begin, _, _ in traces])
    ends = np.array([end for _, end, _ in traces])
    rates = np.array([amounts for _, _, amounts in traces]) / (ends - begins)[:, None]
    times = np.concatenate([begins, ends])
    order = np.argsort(times, kind="stable")
    times, changes = times[order], np.concatenate([rates, -rates])[order]
    before = np.cumsum(changes, axis=0) - changes
    totals = np.cumsum(before * np.diff(times, prepend=0.0)[:, None], axis=0)
    return np.array([np.interp(at_s, times, totals[:, counter]) for counter in range(len(COUNTERS))])


def make_day(scenario: Scenario, seed: int, seconds: float) -> Day:
    """Simulate a day of so many seconds."""
    rng = np.random.default_rng((seed, sum(scenario.name.encode())))
    engine = Engine(scenario, rng)
    day = Day(end_s=seconds)
    arrivals = _arrivals(scenario, rng, seconds)
    now, next_arrival = QUIET_S, 0
    bursts = _bursts(BURSTS[scenario.co_tenant], rng, seconds) if scenario.co_tenant in BURSTS else []
    day.others.extend(bursts)
    while now < seconds:
        while next_arrival < len(arrivals) and arrivals[next_arrival] <= now:
            engine.waiting.append(engine.prompt())
            next_arrival += 1
        load = engine.compose()
        if load is None:
            if next_arrival == len(arrivals):
                break
            now = arrivals[next_arrival] + 2e-4
            continue
        now = _execute(day, scenario, load, now, rng, bursts)
        engine.advance(load)
    return day


def _execute(
    day: Day, scenario: Scenario, load: StepLoad, now: float, rng: np.random.Generator, bursts: list[Trace]
) -> float:
    """Run a step: note what it took and what is told of it; return when the next may begin."""
    cost = step_cost(scenario.model, load)
    slower = (SHADOWED if scenario.co_tenant == CORRELATED else 1.0) * rng.normal(1.0, 0.015)
    beside = SLOWER.get(scenario.co_tenant, 1.0)
    begin = now + rng.uniform(2e-4, 6e-4)
    middle = _place(day, cost.encoder, begin, cost.encoder_s * slower, bursts, beside)
    end = _place(day, cost.language, middle, cost.language_s * slower, bursts, beside)
    if scenario.co_tenant == CORRELATED:
        _shadow(day, cost, begin, end, rng)
    record_end = end + rng.uniform(1e-4, 3e-4)
    work = Work(
        start_ns=START_NS + round(now * NS_PER_S),
        end_ns=START_NS + round(record_end * NS_PER_S),
        patches=sum(load.images),
        encode_pairs=sum(count * count for count in load.images),
        prefill_tokens=load.prefill_tokens,
        prefill_pairs=load.prefill_pairs,
        decode_requests=load.decode_requests,
        decode_context_tokens=load.decode_context,
        decode_tokens=load.decode_requests * (1 + scenario.model.drafts),
        encode_ns=round((middle - begin) * NS_PER_S),
    )
    day.steps.append(Step(work, (cost.encoder + cost.language) * UNITS[:, None]))
    return record_end + rng.uniform(5e-5, 3e-4)


def _place(
    day: Day, amounts: Amounts, begin: float, seconds: float, bursts: list[Trace], slower: float
) -> float:
    """Note when kernels ran, so much slower during a co-tenant's burst; return their end."""
    total, left = amounts.sum(axis=1), seconds
    while bursts and bursts[0][1] <= begin:
        bursts.pop(0)
    for burst_begin, burst_end, _ in bursts:
        if left <= LEAST_S or burst_begin >= begin + left:
            break
        if burst_begin > begin + LEAST_S:
            day.ours.append((begin, burst_begin, total * (burst_begin - begin) / seconds))
            left -= burst_begin - begin
            begin = burst_begin
        stop = min(burst_end, begin + left * slower)
        day.ours.append((begin, stop, total * (stop - begin) / slower / seconds))
        left -= (stop - begin) / slower
        begin = stop
    if left > LEAST_S:
        day.ours.append((begin, begin + left, total * left / seconds))
    return begin + max(left, 0.0)


def _shadow(day: Day, cost: StepCost, begin: float, end: float, rng: np.random.Generator) -> None:
    """Let a process that serves the same users run in step with ours, taking a part of what ours takes."""
    if not day.others or end > day.mood[1]:
        day.mood = rng.uniform(0.35, 0.7), end + rng.exponential(0.4)
    lag = rng.uniform(0.0, 0.004)
    amounts = (cost.encoder + cost.language).sum(axis=1) * day.mood[0]
    day.others.append((begin + lag, end + lag, amounts))


def _arrivals(scenario: Scenario, rng: np.random.Generator, seconds: float) -> list[float]:
    """Return arrival times: quiet and busy times take turns, some of them without any request."""
    times: list[float] = []
    now = QUIET_S
    while now < seconds:
        kind = rng.choice(3, p=(0.25, 0.5, 0.25))
        length = rng.exponential((1.2, 6.0, 2.5)[kind])
        rate = (
            scenario.requests_per_s * (0.0, 0.8, scenario.burst)[kind]
            if scenario.burst > 1
            else scenario.requests_per_s
        )
        times.extend(now + np.sort(rng.uniform(0, length, rng.poisson(rate * length))))
        now += length
    return [float(time) for time in times]


def _bursts(mean: tuple[float, ...], rng: np.random.Generator, seconds: float) -> list[Trace]:
    """Return the load of a process that knows nothing of ours: bursts of 0.3 s on average, 0.9 s apart."""
    found, now = [], 0.0
    while now < seconds:
        begin = now + rng.exponential(0.9)
        now = begin + 0.02 + rng.exponential(0.3)
        found.append((begin, now, np.array(mean) * rng.uniform(0.6, 1.3) * (now - begin)))
    return found
