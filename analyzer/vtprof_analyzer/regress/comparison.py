"""The result of a comparison: what every format of its report is made of, and what decides the exit code.

Changes are relative: 0.08 is 8 % more time, bytes or misses in NEW than in BASE; more is always worse. A number that is
not known is None.
"""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["regression", "improvement", "no_change", "insufficient_data"]
Kind = Literal["shift", "tail"]
"""shift: the whole distribution, given the workload; tail: more requests far beyond what their workload explains."""
Outcome = Literal["regression", "improvement", "no_change", "insufficient_data"]


@dataclass(frozen=True)
class Effect:
    """What was found of one phase of one model."""

    phase: str
    """preprocess, queue, encode, prefill, decode, transfer, kv, cache or unexplained."""
    kind: Kind
    model: str
    outcome: Outcome
    effect_ratio: float | None
    """shift: typical change of the phase's time at like work and load (kv: of bytes per token; cache: of the share of
    media or prompt tokens that missed); tail: change of the 99th percentile of what the workload does not explain."""
    ci_low: float | None
    """Ends of the interval at the family's level, 1 - alpha for all effects together; of a tail 95 %, by itself."""
    ci_high: float | None
    p_value: float | None
    mde: float | None
    """Smallest effect that would be found in 80 % of such comparisons; None where it cannot be told."""
    requests_base: int
    requests_new: int
    """Requests that have the phase and its workload."""
    overlap: float | None
    """Share of NEW's requests that have like requests in BASE."""
    why_not: str | None = None
    """insufficient_data: what is missing, in words."""
    what: str | None = None
    """cache: "encoder cache" or "prefix cache"."""
    base_value: float | None = None
    new_value: float | None = None
    """tail: share of requests beyond BASE's limit; cache: hit rate; kv: bytes per token; else mean [ms]."""
    evidence: tuple[str, ...] = ()
    """Ids of NEW's requests that show it best; only for what was found."""


@dataclass(frozen=True)
class StratumEffect:
    """An effect within one stratum of requests; never decides a verdict."""

    phase: str
    model: str
    by: Literal["visual_tokens", "text_tokens"]
    stratum: str
    requests_base: int
    requests_new: int
    base_ms: float
    new_ms: float
    effect_ratio: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class Metric:
    """A raw figure of both sides, workload and all: what a dashboard would show."""

    metric: str
    """ttft_ms, tpot_ms, queue_ms, ..., kv_bytes, kv_bytes_per_token, visual_tokens, arrivals_per_s, ..."""
    statistic: Literal["mean", "p50", "p95", "p99", "rate"]
    base: float | None
    new: float | None
    change_ratio: float | None


@dataclass(frozen=True)
class Shift:
    """One respect in which the workload differs, beyond its thresholds."""

    what: str
    """In words: "visual tokens per request", "share of requests with images", "share of model X"."""
    base: float
    new: float
    unit: str
    """"tokens", "share", "requests/s", "ms of work at BASE's speed"."""
    kind: Literal["mix", "load"]


@dataclass(frozen=True)
class Part:
    """A part of the change of the mean TTFT."""

    part: str
    """mix (the prompts' tokens), load (what other requests did), a phase at like work, queue, or residual."""
    change_ms: float


@dataclass(frozen=True)
class Decomposition:
    """Mean TTFT of BASE plus the parts is that of NEW, exactly."""

    base_ms: float
    new_ms: float
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class SideSummary:
    """What one side was."""

    runs: tuple[str, ...]
    requests: int
    skipped: dict[str, int]
    models: tuple[str, ...]
    engines: tuple[str, ...]
    devices: tuple[str, ...]
    settings: tuple[str, ...]
    begin_unix_nano: int | None
    end_unix_nano: int | None


@dataclass(frozen=True)
class Comparison:
    """The whole answer."""

    verdict: Verdict
    workload_shift: bool
    load_increase: bool
    masked: bool
    """A phase is slower although the mean TTFT fell."""
    causes: tuple[Effect, ...]
    """Regressions, largest effect first."""
    improvements: tuple[Effect, ...]
    effects: tuple[Effect, ...]
    """Everything that was judged or could not be, causes and improvements included."""
    shifts: tuple[Shift, ...]
    strata: tuple[StratumEffect, ...]
    metrics: tuple[Metric, ...]
    decomposition: Decomposition | None
    alpha: float
    min_effect: float
    mde: dict[str, float]
    """By phase, shifts only; the largest of its models."""
    requests_needed: int | None
    """A side, for an effect of 5 % in encode, prefill and decode; None where more requests of as many runs do not
    reach it."""
    runs_needed: int | None
    """A side, for the same; told where requests alone do not reach it."""
    run_noise_ratio: float
    """Run-to-run standard deviation that was assumed, relative; of the largest phase."""
    run_noise_source: Literal["default", "replicas"]
    base: SideSummary
    new: SideSummary
    warnings: tuple[str, ...]
    """Why the sides may not be comparable, and what in the input was odd, a line each."""
