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
    phases: tuple[str, ...] = ()
    """Phases whose time it is taken from."""
    high_share: float | None = None
    """``high`` as a share of the metric."""
    low_phase_share: float | None = None
    """``low`` as a share of the time of these phases: how much faster they get by themselves."""
    high_phase_share: float | None = None
    interval: tuple[float, float] | None = None
    """90 % interval of ``low`` to ``high``, had other requests of the same kind come."""
    relative_to: str | None = None
    """The fact that the shares are of."""
    less_work: bool = False
    """Whether work is taken away, so that the roofline floor of the phases falls too."""


@dataclass(frozen=True)
class Outcome:
    """One rule's outcome. The fields after ``missing`` are filled for ``fired`` only."""

    rule: str
    status: Status
    title: str
    phase: str
    reason: str
    """One sentence why the rule did not fire; empty for ``fired``."""
    missing: tuple[str, ...] = ()
    """Facts for want of which it was not judged."""
    view: str = "deployment_facts"
    """The facts view that it was judged on."""
    severity: Severity | None = None
    summary: str = ""
    subjects: tuple[str, ...] = ()
    """The models, serving processes or phases on which it fired, the worst first; empty where there is only one."""
    concerned: int = 0
    """Rows of evidence, of ``out_of``."""
    out_of: int = 0
    evidence: list[dict[str, Any]] = field(default_factory=list)
    advice: tuple[Recommendation, ...] = ()
    """Those for the engine and version of this run; all of them when the engine is not known."""
    saving: Saving | None = None
    references: tuple[Reference, ...] = ()
    group: str | None = None
    accuracy: bool = False
    ocr_like_share: float | None = None
    """Share of the requests with images that look like reading, where ``accuracy`` is at stake and it is large enough to
    matter: the largest of the rows on which the rule fired."""


_HIGH, _MEDIUM, _LOW = 0.20, 0.08, 0.02


def severity_of_share(share: float | None, default: Severity, minimum: Severity | None) -> Severity:
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
