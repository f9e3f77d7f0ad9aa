"""The part of the report object about KV held over time, and about what the caches still have room for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KvOverTime:
    """KV held over time by tokens of one modality, by when requests wrote and freed it; all processes together."""

    modality: str  # text (prompt), image, video, audio, output
    byte_seconds: float | None  # bytes x time; None where the bytes of a token are not known [B s]
    token_seconds: float  # tokens x time
    peak_bytes: int | None  # the most of this modality at one moment, summed over processes
    share: (
        float | None
    )  # of the byte-seconds of all modalities; of the token-seconds where bytes are not known


@dataclass(frozen=True)
class KvHeadroom:
    """What the KV cache of one process had left while it ran steps, and what of this workload would fit into it."""

    instance: str
    capacity_bytes: float
    free_p05_bytes: float  # free for all but a twentieth of the time
    request_p50_bytes: float | None  # KV of its requests at their ends, whole blocks
    request_p95_bytes: float | None
    requests_fit_p50: int | None  # further requests like the median one in free_p05_bytes
    requests_fit_p95: int | None  # further requests like the one at p95
    fragmentation: (
        float | None
    )  # part of the blocks in use that holds no token; below 0 where requests share blocks


@dataclass(frozen=True)
class KvFullest:
    """The process whose KV cache was fullest at its peak, of several."""

    instance: str
    peak_held_bytes: int
    capacity_bytes: float
    peak_usage_ratio: float
