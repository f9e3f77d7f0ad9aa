"""What is served on a synthetic day, by which engines, and what is recorded of it."""

from dataclasses import dataclass, replace

from synthetic.models import A100, H200, QWEN_3B, QWEN_7B, QWEN_SMALL, Device, Model

BASE_NS = 1_795_000_000_000_000_000
"""Begin of the day, Unix time, by the true clock."""


@dataclass(frozen=True)
class Traffic:
    """Who asks for what. Lengths are medians of lognormal distributions."""

    requests_per_s: float = 14.0
    """Mean over the day, of all engines together."""
    daily_swing: float = 0.5
    """The rate goes from 1 - this to 1 + this of the mean and back, once over the day; 0: even."""
    image_share: float = 0.4
    """Of the requests, those with images."""
    video_share: float = 0.02
    most_images: int = 4
    followup_share: float = 0.15
    """Requests that continue an earlier one, whose prompt and answer they begin with."""
    popular_share: float = 0.3
    """Images taken from a few hundred popular ones: what the caches can hit."""
    text_tokens: float = 260.0
    output_tokens: float = 140.0
    text_spread: float = 0.9
    output_spread: float = 0.7
    most_prompt_tokens: int = 24_000
    abort_share: float = 0.01
    reject_share: float = 0.002


@dataclass(frozen=True)
class EngineSetup:
    """One engine: its model, device, limits and caches."""

    name: str
    host: str
    model: Model = QWEN_7B
    device: Device = H200
    share: float = 1.0
    """Weight with which requests come to this engine."""
    chunk_tokens: int = 2048
    """Tokens that a step may compute."""
    most_sequences: int = 128
    kv_capacity_tokens: int = 400_000
    kv_reserve_ratio: float = 0.05
    """Of the KV cache, what must stay free beyond a prompt's tokens for the request to be taken in."""
    encoder_budget_tokens: int = 8192
    """Visual tokens that a step may encode; an item larger than this goes alone."""
    encoder_cache_tokens: int = 32_768
    processor_cache_items: int = 256
    processor_workers: int = 4
    prefix_cache: bool = True
    eager: bool = False
    """Whether decoding runs without captured graphs, as prefill and encode always do."""
    host_s: float = 250e-6
    """Of each step, after the device's work: sampling, answers, the next schedule."""
    gap_s: float = 0.0
    """Between two steps, in which nothing that is recorded happens."""
    clock_offset_ns: int = 0
    """By how much the host's clock is ahead of the true one."""


@dataclass(frozen=True)
class Recording:
    """What the traces hold of the day, and what they lost."""

    lost_span_share: float = 0.0
    duplicate_share: float = 0.0
    """Spans that were exported twice."""
    keep_ratio: float = 1.0
    """Tail sampling: ordinary requests that are kept; slow and failed ones are all kept."""
    gateway: str = ""
    """Host of a gateway before the engines, whose spans are the requests' parents; empty: none."""
    counters: bool = True
    """Whether spans carry GPU counters."""
    gpu_samples: bool = True
    """Whether metrics of them are written, ten a second."""
    attainable_peaks: bool = True
    """Whether the device was calibrated: else its data sheet has to do."""


@dataclass(frozen=True)
class Scenario:
    """A synthetic day."""

    name: str
    seconds: float = 120.0
    """Length of the day; arrivals end then."""
    traffic: Traffic = Traffic()
    engines: tuple[EngineSetup, ...] = (EngineSetup("alpha", "node-a"),)
    recording: Recording = Recording()
    noise: float = 0.02
    """Standard deviation of the logarithm of a step's time."""


_SECOND = EngineSetup(
    "beta",
    "node-b",
    QWEN_3B,
    A100,
    share=0.6,
    chunk_tokens=1024,
    most_sequences=64,
    kv_capacity_tokens=200_000,
)
ORDINARY = Scenario("ordinary")
TEXT_ONLY = Scenario("text only", traffic=Traffic(requests_per_s=20.0, image_share=0.0, video_share=0.0))
VISUAL = Scenario(
    "images and video",
    traffic=Traffic(requests_per_s=8.0, image_share=0.75, video_share=0.15, popular_share=0.1),
)
CACHES = Scenario("caches", traffic=Traffic(followup_share=0.5, popular_share=0.9))
CROWDED = Scenario(
    "preemptions",
    traffic=Traffic(
        requests_per_s=6.0, daily_swing=0.8, text_tokens=150.0, output_tokens=450.0, most_prompt_tokens=8_000
    ),
    engines=(EngineSetup("alpha", "node-a", kv_capacity_tokens=26_000, kv_reserve_ratio=0.02),),
)
TWO_ENGINES = Scenario(
    "two engines",
    traffic=Traffic(requests_per_s=16.0),
    engines=(EngineSetup("alpha", "node-a"), _SECOND),
)
SKEWED = Scenario(
    "two hosts, clocks apart",
    traffic=Traffic(requests_per_s=16.0),
    engines=(
        EngineSetup("alpha", "node-a", clock_offset_ns=3_000_000),
        replace(_SECOND, clock_offset_ns=-180_000_000),
    ),
    recording=Recording(gateway="gateway"),
)
SMALL_WORK = Scenario(
    "small work",
    traffic=Traffic(requests_per_s=6.0, image_share=0.2, most_images=1, text_tokens=60.0, video_share=0.0),
    engines=(EngineSetup("alpha", "node-a", QWEN_SMALL, eager=True, kv_capacity_tokens=2_000_000),),
)
LOSSY = Scenario("lost spans", recording=Recording(lost_span_share=0.03, duplicate_share=0.01))
SAMPLED = Scenario("sampled", seconds=240.0, recording=Recording(keep_ratio=0.2))
GAPS = Scenario("gaps between steps", engines=(EngineSetup("alpha", "node-a", gap_s=600e-6),))
SCENARIOS = (
    ORDINARY,
    TEXT_ONLY,
    VISUAL,
    CACHES,
    CROWDED,
    TWO_ENGINES,
    SKEWED,
    SMALL_WORK,
    LOSSY,
    SAMPLED,
    GAPS,
)
