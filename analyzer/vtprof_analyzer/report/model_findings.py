"""The part of the report object about rules: those that fired, with what to do, and why the others did not."""

from dataclasses import dataclass, field
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
    low_share: float | None = None  # of the metric: of TTFT, TPOT, KV bytes; NULL where it has no whole
    high_share: float | None = None
    low_phase_share: float | None = None  # of the time of the phases it is taken from
    high_phase_share: float | None = None
    interval_low: float | None = None  # 90 % interval of low to high, had other requests like these come
    interval_high: float | None = None
    relative_to: str | None = None  # the fact that the shares are of, as ttft_ms_p50


@dataclass(frozen=True)
class Advice:
    """One thing to do. ``set`` holds flags and values to paste, for the engine named."""

    action: str
    engine: str | None
    versions: str | None
    set: dict[str, Any]
    risk: str | None


@dataclass(frozen=True)
class Threshold:
    """A parameter of a rule, and where its default is from."""

    name: str
    value: str
    unit: str | None
    source: str


@dataclass(frozen=True)
class RuleText:
    """What a rule says of itself: its page."""

    description: str
    condition: str  # the expression that held, with $thresholds
    thresholds: list[Threshold]
    unless: list[str]  # when it does not apply, in words
    how: str | None  # how the saving is computed: low and high, as expressions


@dataclass(frozen=True)
class Technique:
    """A method from the literature that answers the finding's symptom."""

    id: str
    method: str
    citation: str
    mechanism: str
    training_free: str  # yes, no, unknown
    caveats: str


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
    subjects: list[str] = field(
        default_factory=list
    )  # models, processes or phases, worst first; empty: the run
    concerned: int | None = None  # rows of evidence that show it, of out_of
    out_of: int | None = None
    accuracy: bool = False  # the advice may change what the model answers
    ocr_like_share: float | None = None  # only where accuracy is at stake, and from 0.3 on
    same_saving_as: str | None = (
        None  # rule that takes the same milliseconds or bytes; not counted besides it
    )
    about: RuleText | None = None
    further_reading: list[Technique] = field(default_factory=list)  # best fit first


@dataclass(frozen=True)
class CombinedSaving:
    """What the findings save together in one phase; heuristics and all but the best of a group left out."""

    phase: str
    time_ms: float  # mean of a request now; of decode, of a token
    low_ms: float
    high_ms: float
    limit_ms: float | None  # time above the roofline floor; None where that is not known
    rules: list[str]


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
    missing: list[str] = field(default_factory=list)  # facts for want of which it was not judged
