"""What a verdict is worth in view of the run's faults: rows of the stage ``trust`` lower it, or refuse it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from vtprof_analyzer import verdict as v
from vtprof_analyzer.verdict import Verdict
from vtprof_schemas import names

OK, WEAK, REFUSED = "ok", "weak", "refused"
_LEVELS: Final = (v.LOW, v.MEDIUM, v.HIGH)
_MUCH_LEFT: Final = 0.75
"""Of the trust: below it a doubt leaves no more than a tendency."""
_MAX_REASONS: Final = 2
_AREAS: Final[dict[str, tuple[str, ...]]] = {
    names.PREPROCESS: ("phases", "clock"),
    names.QUEUE: ("phases", "kv", "clock"),
    names.TRANSFER: ("phases", "clock"),
    # Judged by steps, which have one clock, against a cost model that is fed with tokens.
    names.ENCODE: ("tokens", "steps", "counters"),
    names.PREFILL: ("tokens", "steps", "counters"),
    names.DECODE: ("tokens", "steps", "counters", "kv"),
}
"""What a verdict stands on, by phase."""
_REFUSING: Final = frozenset({"tokens", "phases", "steps"})
"""Areas without which there is no verdict; where another is refused the verdict is no more than a tendency."""


@dataclass(frozen=True)
class Trust:
    """One area and one reason to trust it less: a row of the stage ``trust``."""

    area: str
    state: str
    reason: str
    factor: float
    """What is left of the trust, 0..1."""
    counter: str | None = None
    """The GPU counter that is known for part of the time, where that is the reason."""


def concerning(phase: str, rows: Sequence[Trust]) -> list[Trust]:
    """Return the rows that a verdict on the phase stands on."""
    return [row for row in rows if row.area in _AREAS.get(phase, ())]


def lowered(verdict: Verdict, rows: Sequence[Trust]) -> Verdict:
    """Return the verdict as sure as the areas in ``rows`` allow, with the worst reasons in words.

    A weak area takes one level of confidence, or all where under three quarters of it are left; a refused one takes
    the verdict. What is insufficient anyway stays as it is.
    """
    doubts = sorted(
        (row for row in rows if row.state != OK), key=lambda row: (row.factor, row.area, row.reason)
    )
    if not doubts or verdict.bound == v.INSUFFICIENT_DATA:
        return verdict
    reasons = "; ".join(row.reason for row in doubts[:_MAX_REASONS])
    if any(row.state == REFUSED and row.area in _REFUSING for row in doubts):
        return replace(
            verdict, bound=v.INSUFFICIENT_DATA, confidence=v.LOW, explanation=f"not judged: {reasons}"
        )
    level = _LEVELS.index(verdict.confidence)
    much_left = all(row.state == WEAK and row.factor >= _MUCH_LEFT for row in doubts)
    confidence = _LEVELS[max(0, level - 1)] if much_left else v.LOW
    return replace(verdict, confidence=confidence, explanation=f"{verdict.explanation}; less sure: {reasons}")
