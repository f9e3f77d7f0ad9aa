"""How far attributed counters are from the truth on synthetic GPU days that the fit was not made for.

``python tests/bench/bench_attribution.py [--quick] [--json]``: for each scenario and window the median over seeds of
|attributed - true| / true, by class and counter, over 60 s after a warm-up; how often the 90 % intervals hold the truth
(of the sum over the 60 s, and of single steps); the condition number, and the share of steps by quality label. Exit
code 1 when a target is missed. Beside a co-tenant that is correlated with our load nothing can be told apart: there the
label must be ``estimated``. The warm-up is as long as the agent's rolling window, behind ten seconds without work. Beside
the errors stand two limits (``attribution_limits``): what noise leaves any unbiased fit, and what the columns' form does.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from attribution_generators import GPU, START_NS, Day, Step, make_day
from attribution_limits import Limits
from attribution_scenarios import CORRELATED, SCENARIOS, TURNS, Scenario

from vtprof_agent.counters.meter import CLASSES, COUNTERS, CounterWindow, Share, StepCounters
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

WARM_UP_S, EVALUATED_S = 310, 60
PERIODS_S = (0.1, 1.0)
TARGETS = {0.1: (0.05, 0.03, 0.01), 1.0: (0.10, 0.05, 0.01)}
"""By window the error of encode, prefill and decode."""
COVERAGE = 0.9
LOWERED_SHARE = 0.9
"""So many of the steps beside a correlated co-tenant must be labelled as estimated."""
HOLD_NS = 5 * NS_PER_S
LATE_NS = 60_000_000
"""From a step's end until its records are read."""


@dataclass
class Tally:
    """What a meter gave to the steps of one day, beside the truth."""

    attributed: np.ndarray = field(default_factory=lambda: np.zeros((len(COUNTERS), len(CLASSES))))
    true: np.ndarray = field(default_factory=lambda: np.zeros((len(COUNTERS), len(CLASSES))))
    low: np.ndarray = field(default_factory=lambda: np.zeros((len(COUNTERS), len(CLASSES))))
    high: np.ndarray = field(default_factory=lambda: np.zeros((len(COUNTERS), len(CLASSES))))
    held: np.ndarray = field(default_factory=lambda: np.zeros((len(COUNTERS), len(CLASSES))))
    """Steps whose interval held the truth, of those with work of the class."""
    steps: np.ndarray = field(default_factory=lambda: np.zeros((len(COUNTERS), len(CLASSES))))
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, step: Step, given: StepCounters | None) -> None:
        """Take what a step was given; a step without counters counts as one that was given nothing."""
        self.true += step.truth
        if given is None:
            self.labels["absent"] += 1
            return
        for counter, key in enumerate(COUNTERS):
            shares = given.shares.get(key, (Share(0.0, 0.0, 0.0),) * len(CLASSES))
            self.labels[given.quality.get(key, "absent")] += 1
            for place, share in enumerate(shares):
                at = counter, place
                self.attributed[at] += share.amount
                self.low[at] += share.low
                self.high[at] += share.high
                if step.truth[at] > 0:
                    self.steps[at] += 1
                    self.held[at] += share.low <= step.truth[at] <= share.high


def run_day(scenario: Scenario, day: Day, period_s: float, seed: int) -> dict[str, Any]:
    """Feed a day to a meter as an agent would, and compare what it gives with the truth."""
    meter, tally = RollingMeter(), Tally()
    meter.expect(GPU, COUNTERS, period_s)
    windows = day.windows(period_s, np.random.default_rng((seed, int(period_s * 10))), scenario.offset_ns)
    evaluated_ns = START_NS + WARM_UP_S * NS_PER_S
    pending: list[Step] = []
    begin_s, steps = 0.0, 0
    for now_ns, step, window in _by_time(day, windows):
        if window is not None:
            meter.add_window(window)
            continue
        assert step is not None
        if step.work.start_ns >= evaluated_ns:
            begin_s = begin_s or time.process_time()
            steps += 1
        meter.add((GPU,), step.work)
        meter.advance(now_ns)
        pending.append(step)
        while pending and (
            meter.complete((GPU,), pending[0].work.end_ns) or pending[0].work.end_ns + HOLD_NS < now_ns
        ):
            settled = pending.pop(0)
            if settled.work.start_ns >= evaluated_ns:
                tally.add(settled, meter.of((GPU,), settled.work))
    spent_s = time.process_time() - begin_s
    correlation = min(day.correlation(period_s)) if day.others else None
    return _result(tally, meter, spent_s / steps) | {"correlation": correlation}


def _by_time(
    day: Day, windows: list[CounterWindow]
) -> Iterator[tuple[int, Step | None, CounterWindow | None]]:
    """Yield steps and windows in the order in which an agent learns of them."""
    events: list[tuple[int, Step | None, CounterWindow | None]] = [
        (step.work.end_ns + LATE_NS, step, None) for step in day.steps
    ]
    events += [(window.end_ns, None, window) for window in windows]
    return iter(sorted(events, key=lambda event: event[0]))


def _result(tally: Tally, meter: RollingMeter, seconds_a_step: float) -> dict[str, Any]:
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.abs(tally.attributed - tally.true) / tally.true
        signed = (tally.attributed - tally.true) / tally.true
        covered = tally.held / tally.steps
    whole = (tally.low <= tally.true) & (tally.true <= tally.high)
    labels = sum(tally.labels.values())
    return {
        "error": errors.tolist(),
        "signed": signed.tolist(),
        "covered_total": whole.astype(float).tolist(),
        "covered_step": covered.tolist(),
        "width": ((tally.high - tally.low) / 2 / tally.true).tolist(),
        "condition": max((state.condition_number or 0.0 for state in meter.state()), default=0.0),
        "labels": {label: count / labels for label, count in tally.labels.items()},
        "us_per_step": seconds_a_step * 1e6,
    }


def run_seed(job: tuple[Scenario, int]) -> list[dict[str, Any]]:
    """Simulate one day; return what each window length makes of it."""
    scenario, seed = job
    day = make_day(scenario, seed, WARM_UP_S + EVALUATED_S + 2.0)
    day.steps = [
        step for step in day.steps if step.work.end_ns < START_NS + (WARM_UP_S + EVALUATED_S) * NS_PER_S
    ]
    limits = Limits(day)
    found = []
    for period_s in PERIODS_S:
        bound, form = limits.of(period_s, WARM_UP_S, WARM_UP_S + EVALUATED_S)
        result = run_day(scenario, day, period_s, seed)
        found.append(result | {"bound": bound.tolist(), "form": form.tolist()})
    return found


def measure(seeds: range, workers: int, only: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return by scenario and window the medians over the seeds."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    chosen = [scenario for scenario in SCENARIOS if only in scenario.name]
    jobs = [(scenario, seed) for scenario in chosen for seed in seeds]
    with ProcessPoolExecutor(workers) as pool:
        results = list(pool.map(run_seed, jobs))
    for scenario in chosen:
        mine = [result for (one, _), result in zip(jobs, results, strict=True) if one is scenario]
        found[scenario.name] = {
            f"{period_s:g}": _summary([result[place] for result in mine])
            for place, period_s in enumerate(PERIODS_S)
        }
    return found


def _summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        key: np.median([result[key] for result in results], axis=0).tolist()
        for key in ("error", "signed", "width", "bound")
    }
    summary["form"] = np.median(np.abs([result["form"] for result in results]), axis=0).tolist()
    for key in ("covered_total", "covered_step"):
        summary[key] = np.mean([result[key] for result in results], axis=0).tolist()
    summary["condition"] = statistics.median([result["condition"] for result in results])
    summary["us_per_step"] = statistics.median([result["us_per_step"] for result in results])
    correlations = [result["correlation"] for result in results if result["correlation"] is not None]
    summary["correlation"] = statistics.median(correlations) if correlations else None
    labels: Counter[str] = Counter()
    for result in results:
        labels.update(result["labels"])
    summary["labels"] = {label: share / len(results) for label, share in labels.items()}
    return summary


def verdict(scenario: Scenario, period_s: float, summary: dict[str, Any]) -> list[str]:
    """Return what misses its target."""
    if scenario.co_tenant in (CORRELATED, TURNS):
        lowered = summary["labels"].get(names.QUALITY_ESTIMATED, 0.0)
        return [] if lowered >= LOWERED_SHARE else [f"only {lowered:.0%} labelled as estimated"]
    missed = []
    for counter, key in enumerate(COUNTERS):
        for place, (phase, target) in enumerate(zip(CLASSES, TARGETS[period_s], strict=True)):
            error, covered = summary["error"][counter][place], summary["covered_total"][counter][place]
            if not error <= target:
                bound, form = summary["bound"][counter][place], summary["form"][counter][place]
                limits = f"bound {bound:.1%}, form {form:.1%}"
                missed.append(f"{_short(key)} {phase} {error:.1%} > {target:.0%} ({limits})")
            if not covered >= COVERAGE:
                missed.append(f"{_short(key)} {phase} interval holds {covered:.0%} < {COVERAGE:.0%}")
    return missed


def _short(key: str) -> str:
    return key.removeprefix("vtprof.gpu.").removesuffix("_ratio").removesuffix("_mj")


def _percent(values: list[float]) -> str:
    return " ".join(f"{value * 100:6.1f}" for value in values)


def show(results: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print a table, and what misses its target."""
    print(f"errors of {', '.join(CLASSES)} in %; targets {TARGETS[0.1]} at 100 ms, {TARGETS[1.0]} at 1 s")
    print(
        f"{'scenario':<28}{'window':>7} {'counter':<15}{'error':^21}{'bias':^22}"
        f"{'bound':^22}{'form':^22}{'width':^22}{'holds, sum':^22}{'holds, steps':^22}"
    )
    for scenario in SCENARIOS:
        for period, summary in results.get(scenario.name, {}).items():
            for counter, key in enumerate(COUNTERS):
                columns = [
                    _percent(summary[name][counter])
                    for name in ("error", "signed", "bound", "form", "width", "covered_total", "covered_step")
                ]
                print(f"{scenario.name:<28}{period:>6}s {_short(key):<15}" + "  ".join(columns))
            missed = verdict(scenario, float(period), summary)
            others = summary["correlation"]
            beside = "" if others is None else f"; others correlate with our load by {others:.2f} at least"
            labels = ", ".join(f"{label} {share:.0%}" for label, share in sorted(summary["labels"].items()))
            print(
                f"    condition {summary['condition']:.3g}; {labels}; {summary['us_per_step']:.0f} us a step{beside}"
            )
            if missed:
                print("    MISSED: " + "; ".join(missed))


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and say by the exit code whether all targets are met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    first = options.first_seed
    seeds = range(first, first + (1 if options.quick else options.seeds))
    results = measure(seeds, options.workers, options.only)
    if options.json:
        print(json.dumps(results))
    else:
        show(results)
    met = [
        not verdict(scenario, float(period), summary)
        for scenario in SCENARIOS
        for period, summary in results.get(scenario.name, {}).items()
    ]
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
