"""The part of the report object about what visual tokens do beyond the four shares: TPOT, context window, preemptions."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TpotWithoutVisual:
    """TPOT if no request had visual tokens, over the requests for which that can be told."""

    requests: int
    p50: float | None  # [ms]
    p95: float | None  # [ms]
    kv_p50: float | None  # if only decode read no visual KV [ms]
    kv_p95: float | None
    recorded_p50: float | None  # TPOT of the same requests, as it was [ms]
    recorded_p95: float | None
    how: str


@dataclass(frozen=True)
class ContextWindow:
    """Part of the context window that visual tokens take."""

    requests: int  # whose window and visual tokens are known: all here is over these
    tokens: int | None  # the window; None where processes differ in it
    visual_p50: float | None  # visual tokens / window
    visual_p95: float | None
    filled_p95: float | None  # prompt and output / window
    share: float | None  # mean of visual tokens / window
    threshold: float
    dominant: bool | None


@dataclass(frozen=True)
class VisualPreemptions:
    """Preemptions, and how many of them visual KV answers for: each by the visual part of the KV held meanwhile."""

    count: int  # all that steps recorded
    attributed_to_images: float | None  # over the steps that tell what KV they held
    share: float | None  # of the preemptions of those steps
    threshold: float
    dominant: bool | None
