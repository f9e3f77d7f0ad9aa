"""The part of the report object about reuse: three caches, each by what the spans tell and by what the engine says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cache:
    """One cache by one source."""

    cache: str  # processor (preprocessed items), encoder (encoder outputs), prefix (KV of prompt beginnings)
    source: str  # spans (of requests), engine_page (the engine's own counts while the agent read them)
    unit: str  # items or tokens
    lookups: float  # items or tokens looked up; an estimate of all where requests were sampled
    hits: float
    ratio: float | None  # hits / lookups
    saved_tokens: (
        float | None
    )  # prompt tokens that needed no preprocessing, encoding or prefill; None if not told
