"""Why the mean TTFT changed: the prompts' tokens, what others did beside, caches, each phase at like work, the queue.

For each phase the model says what BASE's and NEW's requests cost at either side's speed; the change is shared out evenly
between the two orders in which workload and speed can change (Kitagawa 1955; Shapley's value of two players).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vtprof_analyzer.regress.comparison import Decomposition, Part
from vtprof_analyzer.regress.estimate import Sides
from vtprof_analyzer.regress.fitted import Fitted
from vtprof_analyzer.regress.phases import SERVICE, phase_data
from vtprof_analyzer.regress.requests import Flags, Requests


@dataclass(frozen=True)
class Changed:
    """One phase of one model, and the logarithm of its change at like work."""

    fitted: Fitted
    sides: Sides
    change: float


def decompose(
    base: Sequence[Requests], new: Sequence[Requests], changed: Sequence[Changed]
) -> Decomposition | None:
    """Return the parts of the change of the mean TTFT, which add up to it; None where a side has no TTFT."""
    sides = (base, new)
    weights = [_sum(side, "weight") for side in sides]
    if not all(weights):
        return None
    means = [_sum(side, "ttft_ms") / weight for side, weight in zip(sides, weights, strict=True)]
    parts: dict[str, float] = defaultdict(float)
    for one in changed:
        if one.fitted.phase in SERVICE:
            for name, change in _parts(one, weights).items():
                parts[name] += change
    for name in ("queue", "unexplained"):
        if not all(any(np.isfinite(getattr(q, name + "_ms")).any() for q in side) for side in sides):
            continue
        change = _sum(new, name + "_ms") / weights[1] - _sum(base, name + "_ms") / weights[0]
        if change or name == "queue":
            parts[name] += change
    parts["residual"] = means[1] - means[0] - sum(parts.values())
    order = ["mix", "load", "cache", *SERVICE, "queue", "unexplained", "residual"]
    told = tuple(Part(name, parts[name]) for name in order if name in parts)
    return Decomposition(means[0], means[1], told)


def _parts(one: Changed, weights: Sequence[float]) -> dict[str, float]:
    """Return what a phase contributes [ms of the mean TTFT]."""
    cost, alike, saved = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    fitted, sides = one.fitted, one.sides
    level = _level(fitted, sides)
    for place, q in enumerate(sides.tables):
        side = int(place >= sides.base_runs)
        row = fitted.rows[place]
        weight = np.where(_counted(q)[row], q.weight[row], 0) * level / weights[side]
        cost[side] += float(np.exp(fitted.predicted[place]) @ weight)
        alike[side] += float(np.exp(fitted.workload[place]) @ weight)
        if fitted.phase == "encode":
            # What those would have cost that the cache answered.
            others = _counted(q) & (q.visual_tokens > 0) & np.isfinite(q.encode_ms)
            others[row] = False
            at = np.flatnonzero(others)
            if len(at):
                data = phase_data(fitted.phase, q, sides.loads[place], fitted.given)
                would = np.exp(fitted.model.predict(data, at)) * level
                share = q.weight[at] / weights[side]
                cost[side] += float(would @ share)
                alike[side] += float(would @ share)
                saved[side] += float((would - q.encode_ms[at]) @ share)
    speed = math.exp(one.change)
    mean_speed = (1 + speed) / 2
    mix = mean_speed * (alike[1] - alike[0]) * (cost[0] / alike[0] if alike[0] > 0 else 0.0)
    found = {
        "mix": mix,
        "load": mean_speed * (cost[1] - cost[0]) - mix,
        fitted.phase: (cost[0] - saved[0] + cost[1] - saved[1]) / 2 * (speed - 1),
    }
    if any(saved):
        found["cache"] = -mean_speed * (saved[1] - saved[0])
    return found


def _level(fitted: Fitted, sides: Sides) -> float:
    """Return the factor that makes predictions add up to what BASE took."""
    places = range(sides.base_runs)
    value = sum(float(fitted.data[place].value[fitted.rows[place]].sum()) for place in places)
    expected = sum(float(np.exp(fitted.predicted[place]).sum()) for place in places)
    return value / expected if expected > 0 else 1.0


def _counted(q: Requests) -> Flags:
    return np.isfinite(q.ttft_ms)


def _sum(side: Sequence[Requests], name: str) -> float:
    """Return a column's weighted sum over requests with a TTFT; of ``weight`` itself, their weight."""
    whole = 0.0
    for q in side:
        counted = _counted(q)
        column = np.ones(len(q)) if name == "weight" else np.nan_to_num(getattr(q, name))
        whole += float(column[counted] @ q.weight[counted])
    return whole
