"""Puts the savings of several findings together, phase by phase, without counting a millisecond twice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vtprof_rules.fact_rows import FactRows, Facts, number, phases_ms
from vtprof_rules.outcome import Outcome

PHASES = ("preprocess", "queue", "encode", "transfer", "prefill", "decode")
_METRICS = ("ttft_ms", "tpot_ms")


@dataclass(frozen=True)
class PhaseSaving:
    """What the findings of one phase save together, in mean ms of a request; of decode, ms of a token."""

    phase: str
    time_ms: float
    """What the phase takes now."""
    low_ms: float
    high_ms: float
    limit_ms: float | None
    """Its time above the roofline floor: the most that the same work done faster can save; ``None`` if not known."""
    rules: tuple[str, ...]
    """The findings that count, of each group the best; heuristic savings never do."""


def best_of_groups(fired: Sequence[Outcome]) -> dict[str, str]:
    """Return for each finding that another of its group stands for the rule of that one: the first, as they are ordered."""
    best: dict[str, str] = {}
    under = {}
    for outcome in fired:
        if outcome.group is None:
            continue
        first = best.setdefault(outcome.group, outcome.rule)
        if first != outcome.rule:
            under[outcome.rule] = first
    return under


def combine(fired: Sequence[Outcome], facts: FactRows) -> list[PhaseSaving]:
    """Return what the findings save together in each phase: time x (1 - product of (1 - share that each saves)).

    A finding of one model or process counts by its part of the requests. What does the same work faster cannot save
    more than the time above the roofline floor; what takes work away can.
    """
    under = best_of_groups(fired)
    whole = _row(facts, "deployment_facts", None)
    rows = []
    for phase in PHASES:
        time_ms = phases_ms(whole, [phase], "mean")
        parts = [
            _Part(outcome.rule, outcome.saving.less_work, *share)
            for outcome in fired
            if outcome.rule not in under and outcome.saving and (share := _shares(outcome, phase, facts))
        ]
        if not time_ms or not parts:
            continue
        floor = number(whole, f"{phase}_floor_ratio")
        limit = 1.0 if floor is None else max(0.0, 1 - floor)
        faster, less = (_left([part for part in parts if part.less_work is less]) for less in (False, True))
        low, high = (
            time_ms * (1 - max(1 - limit, fast) * fewer) for fast, fewer in zip(faster, less, strict=True)
        )
        limit_ms = None if floor is None else time_ms * limit
        rows.append(PhaseSaving(phase, time_ms, low, high, limit_ms, tuple(part.rule for part in parts)))
    return rows


@dataclass(frozen=True)
class _Part:
    rule: str
    less_work: bool
    low: float
    high: float


def _left(parts: Sequence[_Part]) -> tuple[float, float]:
    """Return what is left of a phase, as a share, after the low and after the high ends of these findings."""
    return math.prod(1 - part.low for part in parts), math.prod(1 - part.high for part in parts)


def _shares(outcome: Outcome, phase: str, facts: FactRows) -> tuple[float, float] | None:
    """Return the part of the phase's time that a finding saves, low and high, over all requests."""
    saving = outcome.saving
    if (
        saving is None
        or saving.basis == "heuristic"
        or saving.metric not in _METRICS
        or phase not in saving.phases
    ):
        return None
    if saving.high_phase_share is None or (phase == "decode") != (saving.metric == "tpot_ms"):
        return None
    part = _part(outcome, facts)
    low, high = (
        min(1.0, max(0.0, share or 0.0)) for share in (saving.low_phase_share, saving.high_phase_share)
    )
    return part * low, part * high


def _part(outcome: Outcome, facts: FactRows) -> float:
    """Return the part of all requests that the subjects of a finding answered."""
    if not outcome.subjects or outcome.view == "phase_facts":
        return 1.0
    whole = number(_row(facts, "deployment_facts", None), "n_requests")
    own = sum(number(_row(facts, outcome.view, name), "n_requests") or 0.0 for name in outcome.subjects)
    return min(1.0, own / whole) if whole else 1.0


def _row(facts: FactRows, view: str, subject: str | None) -> Facts:
    rows = facts.get(view, ())
    return next((row.values for row in rows if subject is None or row.subject == subject), {})
