"""The report's closer look at TTFT: by percentile and visual tokens, what the queue waited for, what preprocessing did.

Shares are 0..1 of the whole that each class names; times are milliseconds; ``None`` is "not known".
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BudgetPart:
    """One phase of a TTFT percentile; ``unexplained`` is the last one."""

    phase: str
    share: float | None  # of TTFT; the parts of a percentile add up to one
    ms: float | None  # share x the percentile: the parts add up to it


@dataclass(frozen=True)
class StratumBudget:
    """What one percentile of TTFT consists of, over requests of one visual stratum."""

    visual_stratum: str  # 0, 256, 1k, 4k, 16k, more, or all
    percentile: str  # p50, p95 or p99
    requests: int  # around the percentile: what the shares are taken from
    stratum_requests: int  # with a first token, in the stratum
    ttft_ms: float  # the percentile itself, linear interpolation
    phases: list[BudgetPart]


@dataclass(frozen=True)
class QueueCause:
    """What ran, or what was missing, while requests waited before their first token."""

    cause: str  # own_chunks, text_prefill, image_prefill, image_encode, decode_batch, capacity or unexplained
    share: float | None  # of all queue time; the causes add up to one
    mean_ms: float | None  # per request with a first token
    p95_ms: float | None  # likewise


@dataclass(frozen=True)
class QueueBlame:
    """The queue, split by cause."""

    requests: int  # with a first token
    queued: int  # of which waited at all
    queue_ms_mean: float | None
    causes: list[QueueCause]  # largest first, without those that had no part


@dataclass(frozen=True)
class PreprocessPart:
    """One part of the preprocessing of requests that recorded it."""

    part: str  # fetch, decode, processor (CPU work beyond decoding) or waiting (for a CPU worker, or asleep)
    share: float | None  # of the preprocessing of these requests
    p50_ms: float | None
    p95_ms: float | None
    requests: int  # that recorded what this part is told from


@dataclass(frozen=True)
class TtftDetail:
    """All of it."""

    strata: list[StratumBudget]  # by stratum, then percentile; `all` is first
    queue: QueueBlame | None  # None where no request queued, or no process recorded its steps
    preprocess: list[PreprocessPart]  # empty where nothing recorded its parts


@dataclass(frozen=True)
class ModelRow:
    """The requests of one model; times are weighted where requests were sampled."""

    model: str
    requests: int
    ttft_ms_p50: float | None
    ttft_ms_p95: float | None
    tpot_ms_p50: float | None
    tpot_ms_p95: float | None
    energy_requests: int  # whose energy is known in full
    energy_j: float | None  # of these
    energy_low_j: float | None  # ends of its interval
    energy_high_j: float | None
