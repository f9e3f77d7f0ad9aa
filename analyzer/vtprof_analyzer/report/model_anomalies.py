"""The report's slowest requests, each with the phase that was longer than normal and what explains it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SlowRequest:
    """One request that took much longer than the median of its visual stratum."""

    rank: int  # 1 is the one with the most excess
    request_id: str | None
    trace_id: str
    span_id: str
    visual_stratum: str | None
    ttft_ms: float | None
    e2e_ms: float | None
    excess_ms: float  # over normal, all phases together
    phase: str  # the phase with the largest part of it
    phase_ms: float
    normal_ms: float  # the phase's median in its stratum; decode: the median TPOT x its tokens
    cause: str  # e.g. capacity, image_prefill, image_encode, own_size, preemption, throttled_power, waiting, unexplained
    evidence: str  # one sentence with the numbers


@dataclass(frozen=True)
class Anomalies:
    """The slowest requests, explained; at most ``limit`` of them."""

    judged: int  # requests with a first token and a stratum
    slow: int  # of which were slow: at least `times_normal` times the median TTFT of their stratum, or TPOT of all
    times_normal: float
    limit: int
    requests: list[SlowRequest]
