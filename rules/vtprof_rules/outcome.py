"""What became of a rule on one run: a status, and for a fired rule the finding with everything a report shows."""

from dataclasses import dataclass, field
from typing import Any, Literal

from vtprof_rules.rule import SEVERITIES, Basis, Recommendation, Reference, Severity

Status = Literal["fired", "passed", "not_applicable", "insufficient_data", "suppressed", "error"]


@dataclass(frozen=True)
class Saving:
    """The expected gain, ``low`` to ``high`` in the unit; ``None`` where a fact for it was not recorded."""

    metric: str
    unit: str
    low: float | None
    high: float | None
    low_share: float | None
    """``low`` as a share of the metric; the severity follows from it."""
    basis: Basis
    how: str


@dataclass(frozen=True)
class Outcome:
    """One rule's outcome. The fields after ``reason`` are filled for ``fired`` only."""

    rule: str
    status: Status
    title: str
    phase: str
    reason: str
    """One sentence why the rule did not fire; empty for ``fired``."""
    severity: Severity | None = None
    summary: str = ""
    evidence: list[dict[str, Any]] = field(default_factory=list)
    advice: tuple[Recommendation, ...] = ()
    """Those for the engine and version of this run; all of them when the engine is not known."""
    saving: Saving | None = None
    references: tuple[Reference, ...] = ()


_HIGH, _MEDIUM, _LOW = 0.20, 0.08, 0.02


def severity_of(share: float | None, default: Severity, minimum: Severity | None) -> Severity:
    """Return the severity for a saving whose lower end is this share of its metric, not below ``minimum``."""
    computed: Severity
    if share is None:
        computed = default
    elif share >= _HIGH:
        computed = "high"
    elif share >= _MEDIUM:
        computed = "medium"
    elif share >= _LOW:
        computed = "low"
    else:
        computed = "info"
    return max(computed, minimum or computed, key=SEVERITIES.index)
