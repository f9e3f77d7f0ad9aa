"""From estimates to outcomes: how sure is sure enough, how large is large enough, and what would have been found.

All estimates of a comparison share ``alpha``, the probability that any of them calls a regression where nothing changed
(Bonferroni; most of it goes to shifts of phases, as changes of an engine are mostly that).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from vtprof_analyzer.regress.comparison import Effect, Outcome
from vtprof_analyzer.regress.estimate import Estimate
from vtprof_analyzer.regress.noise import critical, exceedance

NEEDED_EFFECT: Final = 0.05
"""The effect for which `requests_needed` and `runs_needed` are told."""
POWER: Final = 0.8
WIDEST_MDE: Final = 0.5
"""A comparison that would miss half as much again is none."""
_SHARES: Final = {"shift": 4.0, "tail": 0.5, "cache": 1.0}
_SHARES_OF: Final = {"kv": 0.25, "queue": 0.5, "transfer": 1.0, "unexplained": 1.0}
"""Of phases whose changes are rarer, or plain to see."""
_MOVED: Final = 0.25
_FLOORS: Final = {"queue": 0.10, "unexplained": 0.10}
"""Phases whose small changes mean nothing by themselves, and theirs."""
_TAIL_FLOOR: Final = 0.005
"""More of all requests beyond the limit, at least."""
_PERCENTILE_FLOOR: Final = 0.10
"""And their 99th percentile, at least."""
_TAIL_INTERVAL: Final = NormalDist().inv_cdf(0.975)
"""Standard deviations to each side of the percentile's change: 95 %, by itself. What decides is the time beyond it."""
_CACHE_FLOOR: Final = 0.05
_POWER_Z: Final = NormalDist().inv_cdf(POWER)


@dataclass(frozen=True)
class Bar:
    """What an estimate has to pass."""

    level: float
    """Its share of alpha."""
    min_effect: float

    def critical(self, estimate: Estimate) -> float:
        """Return how many standard deviations are needed."""
        return critical(self.level, estimate.freedom)

    def floor(self, estimate: Estimate) -> float:
        """Return the smallest difference that matters, on the estimate's scale."""
        if estimate.kind == "cache":
            return _CACHE_FLOOR
        return math.log1p(max(self.min_effect, _FLOORS.get(estimate.phase, 0.0)))

    def least_found(self, estimate: Estimate) -> float:
        """Return the difference that would be found in 80 % of such comparisons."""
        return max(self.floor(estimate), self.critical(estimate) * estimate.sd) + _POWER_Z * estimate.sd


def bars(estimates: Sequence[Estimate], alpha: float, min_effect: float, *, moved: bool) -> list[Bar]:
    """Return the bar of each estimate; those that could not be made take no share.

    Where workload or load moved there is another explanation, and the model has to bridge it: a quarter of alpha is used.
    """
    shares = [0.0 if one.why_not else _share(one) for one in estimates]
    whole = sum(shares) or 1.0
    if moved:
        alpha *= _MOVED
    return [Bar(alpha * (share or 1.0) / whole, min_effect) for share in shares]


def _share(estimate: Estimate) -> float:
    if estimate.kind == "shift":
        return _SHARES_OF.get(estimate.phase, _SHARES["shift"])
    return _SHARES[estimate.kind]


def decide(estimate: Estimate, bar: Bar) -> Effect:
    """Return the effect and its outcome."""
    if estimate.why_not:
        return _effect(estimate, "insufficient_data", why_not=estimate.why_not)
    needed = bar.critical(estimate) * estimate.sd
    found = estimate.difference
    low, high = _ratio(estimate, found - needed), _ratio(estimate, found + needed)
    ratio = _ratio(estimate, found)
    p_value = exceedance(abs(found) / max(estimate.sd, 1e-300), estimate.freedom)
    mde = _ratio(estimate, bar.least_found(estimate)) if estimate.kind != "tail" else None
    if estimate.tail is not None:
        change, sd = estimate.tail
        half = _TAIL_INTERVAL * sd
        ratio, low, high = (math.expm1(change + by) for by in (0.0, -half, half))
    if (
        estimate.kind == "shift"
        and not estimate.offset
        and estimate.phase != "queue"
        and mde is not None
        and mde > WIDEST_MDE
        and abs(found) <= needed
    ):
        return _effect(
            estimate, "insufficient_data", ratio=ratio, low=low, high=high, p_value=p_value, mde=mde,
            why_not=f"only a change of {100 * mde:.0f} % or more would show: more requests or runs are needed",
        )  # fmt: skip
    outcome: Outcome = "no_change"
    if _moved(estimate, bar):
        outcome = "regression" if found > 0 else "improvement"
    return _effect(estimate, outcome, ratio=ratio, low=low, high=high, p_value=p_value, mde=mde)


def _moved(estimate: Estimate, bar: Bar) -> bool:
    """Say whether a difference is both sure and large enough."""
    sure = abs(estimate.difference) > bar.critical(estimate) * estimate.sd
    if estimate.tail is None:
        return sure and abs(estimate.difference) > bar.floor(estimate)
    # More requests just beyond the limit are no tail: they are more, and the 99th percentile has moved with them.
    way = math.copysign(1.0, estimate.difference)
    more = way * ((estimate.values[1] or 0.0) - (estimate.values[0] or 0.0))
    change, sd = way * estimate.tail[0], estimate.tail[1]
    return sure and more > _TAIL_FLOOR and change > max(math.log1p(_PERCENTILE_FLOOR), _TAIL_INTERVAL * sd)


def _ratio(estimate: Estimate, difference: float) -> float:
    """Return a difference as a relative change, more being worse."""
    if estimate.kind == "cache":
        # Of the share of misses.
        misses = 1 - (estimate.values[0] or 0.0)
        return difference / max(misses, 0.01)
    ratio = math.expm1(min(difference, 50.0))
    if estimate.offset:
        own = estimate.values[0] or 0.0
        return ratio * (own + estimate.offset) / max(own, estimate.offset / 10)
    return ratio


def _effect(
    estimate: Estimate,
    outcome: Outcome,
    *,
    ratio: float | None = None,
    low: float | None = None,
    high: float | None = None,
    p_value: float | None = None,
    mde: float | None = None,
    why_not: str | None = None,
) -> Effect:
    return Effect(
        phase=estimate.phase, kind="tail" if estimate.kind == "tail" else "shift", model=estimate.model, outcome=outcome,
        effect_ratio=ratio, ci_low=low, ci_high=high, p_value=p_value, mde=mde,
        requests_base=estimate.requests[0], requests_new=estimate.requests[1], overlap=estimate.overlap,
        why_not=why_not, what=estimate.what, base_value=estimate.values[0], new_value=estimate.values[1],
        evidence=estimate.evidence if outcome in ("regression", "improvement") else (),
    )  # fmt: skip


def needed(estimates: Sequence[tuple[Estimate, Bar]], runs: tuple[int, int]) -> tuple[int | None, int | None]:
    """Return requests a side, and else runs a side, for which every one of the shifts would show an effect of 5 %."""
    requests, more_runs = 0, 0
    for estimate, bar in estimates:
        aim = math.log1p(NEEDED_EFFECT)
        # The floor is met where the standard deviation is small enough; both conditions of `least_found`.
        sd = min(
            aim / (bar.critical(estimate) + _POWER_Z), (aim - min(bar.floor(estimate), 0.9 * aim)) / _POWER_Z
        )
        count = max(estimate.requests)
        left = sd**2 - estimate.run_variance
        if left > 0:
            requests = max(requests, math.ceil(count * estimate.block_variance / left))
        else:
            more_runs = max(more_runs, math.ceil(max(runs) * estimate.sd**2 / sd**2))
    if more_runs:
        return None, more_runs
    return (requests or None), None
