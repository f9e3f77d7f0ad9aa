"""The part of the report object about rules: those that fired, with what to do, and why the others did not."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Saving:
    """Expected gain of a finding: an interval, in the metric's unit, and how it was got."""

    metric: str
    unit: str
    low: float | None
    high: float | None
    basis: str  # measured, bound, published, heuristic
    how: str


@dataclass(frozen=True)
class Advice:
    """One thing to do. ``set`` holds flags and values to paste, for the engine named."""

    action: str
    engine: str | None
    versions: str | None
    set: dict[str, Any]
    risk: str | None


@dataclass(frozen=True)
class Finding:
    """A rule that fired."""

    rule: str
    severity: str  # high, medium, low, info
    phase: str
    title: str
    summary: str  # the counts behind it: "412 of 980 requests"
    evidence: list[dict[str, Any]]
    advice: list[Advice]
    saving: Saving | None
    references: list[dict[str, str]]


@dataclass(frozen=True)
class RuleCounts:
    """How many rules ended in each outcome."""

    fired: int
    passed: int
    not_applicable: int
    insufficient_data: int
    suppressed: int
    error: int


@dataclass(frozen=True)
class RuleOutcome:
    """A rule that did not fire, and why."""

    rule: str
    status: str  # passed, not_applicable, insufficient_data, suppressed, error
    reason: str
