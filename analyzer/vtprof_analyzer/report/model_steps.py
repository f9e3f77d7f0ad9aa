"""What the report says of engine steps beyond the table of phases: verdicts by time and by process, and mixed steps.

Shares are 0..1; ``None`` is "not known". Bounds are the verdicts of architecture.md, section 7.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BoundShare:
    """Time of one phase that went into steps with one verdict."""

    phase: str  # encode, prefill, decode or mixed
    bound: str
    share: float  # of the phase's time in steps; a phase's rows add up to one
    steps: int  # iterations


@dataclass(frozen=True)
class MixedSteps:
    """Steps that held prefill and decode at once, judged as one; an encoder's part is not in it."""

    steps: int  # iterations
    time_share: float | None  # of the time of all steps that were judged
    intensity: float | None  # FLOP/B
    flops_per_s: float | None  # achieved
    bound: str
    confidence: str  # "high", "medium", "low"
    explanation: str
    floor_ratio: float | None  # floor time / measured time
    dram_bw_ratio: float | None
    tensor_ratio: float | None


@dataclass(frozen=True)
class SplitPhase:
    """How much of the steps' device time one phase was given, by the analyzer's rule and by the agent's attribution."""

    phase: str  # encode, prefill or decode
    rule_share: float  # of the time given to the three
    agent_share: float | None  # likewise; None where requests do not tell all of the steps' time


@dataclass(frozen=True)
class StepSplit:
    """How the time of steps with several phases was apportioned."""

    how: str  # the rule, in words
    steps: int  # iterations that it was applied to
    time_share: float | None  # their part of the time of all steps
    agent: (
        str | None
    )  # "attributed" (its fit on work) or "estimated" (by tokens, wholly or in part); None: no comparison
    phases: list[SplitPhase]


@dataclass(frozen=True)
class InstanceVerdict:
    """What bounds a phase in one process; listed where processes differ."""

    phase: str  # encode, prefill, decode or mixed
    instance: str  # service.instance.id, else the resource's number
    host: str | None
    model: str | None  # as its requests name it
    device: str | None
    bound: str
    share: float  # of the phase's time in this process that has this verdict
    time_share: float  # of the phase's time in all processes
    floor_ratio: float | None
    steps: int  # iterations


@dataclass(frozen=True)
class StepVerdicts:
    """Verdicts of steps, added up by time."""

    steps: int  # iterations that were judged
    not_judged: int  # iterations without work, time, or a roof and counters
    bounds: list[BoundShare]  # by phase, the longest first
    mixed: MixedSteps | None  # None where no step held prefill and decode
    split: StepSplit | None  # None where no step held several phases
    instances: list[InstanceVerdict]  # empty where all processes of a phase have the same verdict
