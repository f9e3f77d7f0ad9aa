"""How the printed minimum detectable effect relates to what is detected: pairs whose effect is a multiple of it.

Each pair is compared once without any change: that prints its minimum detectable effect. Then NEW is simulated again,
slower by multiples of it. An effect is one of the phase's wall time: how much of it a change of the engine's constants
makes is measured on the same requests without noise. Result: the multiple that is found in 80 % of pairs.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

import numpy as np
from regress_days.engine import slower
from regress_days.noise import NONE
from regress_days.services import LARGE, Side, service, simulate

from vtprof_analyzer.regress.compare import compare
from vtprof_analyzer.regress.comparison import Comparison

PHASES: Final = ("encode", "prefill")
MULTIPLES: Final = (0.5, 0.75, 1.0, 1.25, 1.5)
REQUESTS_A_RUN: Final = {1: 3_000, 4: 1_500}
"""By runs a side."""
POWER = 0.8
TOLERANCE = 0.25
"""80 % are found between 1 - this and 1 + this times what was printed."""
PROBE_RATIO = 0.1
SEED_OFFSET = 50_000_000


@dataclass(frozen=True)
class Pair:
    """What was printed of one pair, and at which multiples the effect was found."""

    runs: int
    mde: dict[str, float]
    found: dict[str, tuple[bool, ...]]


@dataclass(frozen=True)
class Power:
    """What was printed and what was found of one phase."""

    phase: str
    runs: int
    pairs: int
    mde: float
    """Median of what was printed."""
    shares: tuple[float, ...]
    """Found, by multiple."""
    multiple: float
    """Of the printed effect: found in 80 % of pairs; NaN where no curve can be fitted."""

    def holds(self) -> bool:
        """Tell whether the printed effect is near the truth."""
        return abs(self.multiple - 1) <= TOLERANCE


def try_pair(runs: int, seed: int) -> Pair:
    """Compare a pair without a change, then with changes of multiples of the printed minimum detectable effect."""
    seed += SEED_OFFSET
    side = Side(service(np.random.default_rng([seed, 0])), runs * REQUESTS_A_RUN[runs], runs)
    base = simulate(side, seed, 0)
    unchanged = compare(base, simulate(side, seed, 1))
    found: dict[str, tuple[bool, ...]] = {}
    for phase in PHASES:
        if phase in unchanged.mde:
            printed = unchanged.mde[phase] / _wall_share(side, phase, seed)
            found[phase] = tuple(
                _finds(compare(base, simulate(_slowed(side, phase, printed * multiple), seed, 1)), phase)
                for multiple in MULTIPLES
            )
    return Pair(runs, {phase: unchanged.mde[phase] for phase in found}, found)


def _slowed(side: Side, phase: str, ratio: float) -> Side:
    (served,) = side.models.values()
    return replace(side, models={LARGE: replace(served, engine=slower(served.engine, phase, ratio))})


def _wall_share(side: Side, phase: str, seed: int) -> float:
    """Return how much of a change of the constants is seen in the wall time of the same requests."""
    quiet = replace(side, noise=NONE, runs=1, requests=2_000)
    base, new = (simulate(each, seed, 0)[0].requests for each in (quiet, _slowed(quiet, phase, PROBE_RATIO)))
    rows = base.encoder_hit < 1 if phase == "encode" else base.prefill_ms > 0
    times = (getattr(each, f"{phase}_ms")[rows] for each in (base, new))
    before, after = times
    return float(np.mean(np.log(after / before)) / np.log1p(PROBE_RATIO))


def _finds(comparison: Comparison, phase: str) -> bool:
    return any(cause.phase == phase and cause.kind == "shift" for cause in comparison.causes)


def measure(pool: Executor, pairs: int, first_seed: int, progress: Callable[[], None]) -> list[Power]:
    """Try so many pairs for each number of runs."""
    made: list[Power] = []
    for runs in REQUESTS_A_RUN:
        tried: list[Pair] = []
        for pair in pool.map(try_pair, [runs] * pairs, range(first_seed * 1_000, first_seed * 1_000 + pairs)):
            tried.append(pair)
            progress()
        made += [_power(phase, runs, tried) for phase in PHASES]
    return made


def _power(phase: str, runs: int, tried: Sequence[Pair]) -> Power:
    told = [pair for pair in tried if phase in pair.found]
    if not told:
        return Power(phase, runs, 0, float("nan"), (), float("nan"))
    found = np.array([pair.found[phase] for pair in told], dtype=np.float64)
    return Power(
        phase,
        runs,
        len(told),
        median(pair.mde[phase] for pair in told),
        tuple(found.mean(axis=0).tolist()),
        multiple_found(np.array(MULTIPLES), found.mean(axis=0), len(told)),
    )


def multiple_found(multiples: Any, shares: Any, pairs: int) -> float:
    """Fit a logistic curve over the logarithm of the multiple; return where it crosses the power."""
    terms = np.stack([np.ones(len(multiples)), np.log(multiples)], axis=1)
    # Half a pair of each outcome keeps the slope finite where the shares jump from 0 to 1.
    found, count = shares * pairs + 0.5, pairs + 1
    weights = np.zeros(2)
    for _ in range(50):
        fitted = 1 / (1 + np.exp(-np.clip(terms @ weights, -30, 30)))
        slope = terms.T @ (found - count * fitted)
        curvature = (terms * (count * fitted * (1 - fitted))[:, None]).T @ terms
        weights = weights + np.clip(np.linalg.solve(curvature + 1e-9 * np.eye(2), slope), -2, 2)
    if weights[1] <= 0:
        return float("nan")
    return float(np.exp((np.log(POWER / (1 - POWER)) - weights[0]) / weights[1]))
