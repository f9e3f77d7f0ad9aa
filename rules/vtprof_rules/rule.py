"""A rule as data: frozen records for what a rule file says, after every expression in it was checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Scalar = float | int | str | bool
Severity = Literal["info", "low", "medium", "high"]
Basis = Literal["measured", "bound", "published", "heuristic"]
SEVERITIES: tuple[Severity, ...] = ("info", "low", "medium", "high")
"""From the least to the most severe."""


@dataclass(frozen=True)
class Expression:
    """A scalar SQL expression that passed the allow-list."""

    text: str
    """As written in the rule file."""
    sql: str
    """DuckDB's own rendering of the tree that was checked: this is what runs."""
    columns: frozenset[str]
    params: frozenset[str]


@dataclass(frozen=True)
class Param:
    """A threshold, with the source of its default."""

    default: Scalar
    unit: str | None
    source: str


@dataclass(frozen=True)
class Unless:
    """A known false alarm: the finding is suppressed when it holds, and says why."""

    expr: Expression
    because: str


@dataclass(frozen=True)
class Evidence:
    """Which rows of which table show the finding."""

    table: str
    where: Expression
    order_by: Expression
    columns: tuple[str, ...]
    limit: int


@dataclass(frozen=True)
class SavingFormula:
    """How the expected gain is computed, and the fact whose value it is a share of."""

    metric: str
    unit: str
    low: Expression
    high: Expression
    relative_to: str | None
    """``None`` where nothing is: a ratio is its own share, and bytes of the host are no share of anything here."""
    basis: Basis
    how: str
    phases: tuple[str, ...]
    """Phases whose time it is taken from; findings of the same phase overlap."""
    less_work: bool
    """Whether work is taken away (fewer tokens, fewer bytes), rather than done faster."""

    @property
    def statistic(self) -> str:
        """Return which times it is computed from: ``mean`` or ``p50``."""
        return "mean" if (self.relative_to or "").endswith("_mean") else "p50"


@dataclass(frozen=True)
class Recommendation:
    """One thing to do; ``set`` holds flags and values for the engine and the versions named."""

    action: str
    engine: str | None
    versions: str | None
    set: Mapping[str, Scalar]
    risk: str | None
    when: Expression | None = None
    """Shown unless this is false: a flag that is set already, or that would undo what is, helps nobody."""


@dataclass(frozen=True)
class Reference:
    """Where the mechanism is described."""

    title: str
    url: str


@dataclass(frozen=True)
class Rule:
    """One rule file."""

    id: str
    title: str
    phase: str
    severity: Severity
    """The default, for findings whose saving is not known."""
    min_severity: Severity | None
    description: str
    facts: str
    """The facts view on whose rows it is judged: a name of ``vocabulary.FACT_VIEWS``."""
    engines: Mapping[str, str]
    """Engine name to version range; empty when the rule is for every engine."""
    requires: tuple[str, ...]
    """Names of facts that must be known."""
    min_requests: int
    params: Mapping[str, Param]
    when: Expression
    unless: tuple[Unless, ...]
    evidence: Evidence
    saving: SavingFormula | None
    recommend: tuple[Recommendation, ...]
    references: tuple[Reference, ...]
    invalidates: tuple[str, ...]
    """Patterns (as in a shell) of facts that no other rule may rely on once this one fired."""
    supersedes: tuple[str, ...]
    group: str | None
    """Findings of one group act on the same milliseconds, bytes or requests: the best is shown, the others under it."""
    accuracy: bool
    """Whether its advice may change what the model answers."""
    shows: tuple[str, ...]
    """Facts that a finding tells beside those of ``when``, where they are known."""
    tags: tuple[str, ...]
    path: Path

    def defaults(self) -> dict[str, Scalar]:
        """Return the values of its parameters."""
        return {name: param.default for name, param in self.params.items()}
