"""What a deployment is: its traffic, its processors, its engine, and what its GPUs tell. The defaults are a healthy one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from synthetic.models import H200, QWEN_7B, Device, Model

ENCODE_GRID = (32, 48)
"""Patches of an ordinary image, in rows and columns: 448 x 672 pixels, 384 tokens."""


@dataclass(frozen=True)
class Traffic:
    """Who asks for what, and when. Lengths vary by a third to either side."""

    requests: int = 60
    minutes: float = 16.0
    group: int = 1
    """Requests that come together, within ``group_ms``; groups are evenly spaced."""
    group_ms: float = 50.0
    crowd: int = 0
    """Requests of one crowd in the middle of the time; the others come as always."""
    image_every: int = 2
    """Every so many requests come with images; 0: none."""
    image_at: int = 0
    """Which of them."""
    images: int = 1
    grids: tuple[tuple[int, int], ...] = (ENCODE_GRID,)
    """Patches of images, in rows and columns, taken in turn."""
    distinct_images: int = 0
    """So many images come again and again; 0: each comes once."""
    received_ratio: float = 1.3
    """Pixels that are received of an image per pixel that the encoder uses."""
    video_every: int = 0
    frames: int = 16
    video_grid: tuple[int, int] = (20, 36)
    audio_seconds: float = 0.0
    """With more than 0 all requests are audio clips of this length."""
    text_tokens: int = 400
    output_tokens: int = 110
    image_text_tokens: int | None = None
    """Text beside images; None: as others have it."""
    rejected_every: int = 0
    """Every so many requests are refused: their prompts are longer than the context window."""


@dataclass(frozen=True)
class Frontend:
    """The CPU side before the engine."""

    text_ms: float = 6.0
    """Of every request: parsing and tokenising."""
    ms_per_mpix: float = 16.0
    wait_ms: float = 4.0
    """Of every request, in which its own CPU thread is idle."""
    slow_every: int = 0
    """Every so many requests are processed at the given rate, the others wait as long five times over; 0: all alike."""
    fetch_ms: float = 3.0
    """Download of a request's media."""
    transfer_ms: float = 0.0
    """From the processor to the engine."""
    hit_share: float = 0.0
    """Of the repeated images, those found in the processor cache."""
    cores: float = 0.35
    """CPU cores that the API process keeps busy."""


@dataclass(frozen=True)
class Engine:
    """One engine: how far its work is from what well-run kernels take, and what it waits for."""

    encode_ratio: float = 1.25
    prefill_ratio: float = 2.2
    """Time of the GPU's work over that of the kernels of `synthetic.kernels`."""
    decode_ratio: float = 1.15
    encode_host_ratio: float = 0.05
    """Part of the encoder's wall time in which the GPU is idle."""
    host_ms: float = 0.2
    """Of each step, in which the GPU is idle."""
    gap_ms: float = 0.0
    """Between two spans of decode work, in which the process is in no step."""
    window_steps: int = 64
    """Most iterations of a window."""
    hold_ms: float = 0.0
    """Of each request before it may be scheduled, whether or not there is room."""
    hold_every: int = 1
    """Every so many requests are held."""
    late_ms: float = 0.0
    """From the end of prefill to the first token, told by nothing."""
    chunk_tokens: int = 8192
    """Tokens of a step."""
    most_sequences: int = 128
    kv_capacity_tokens: int = 1_200_000
    encoder_hits: bool = True
    """Whether repeated images are found in the encoder's cache."""
    prefix_share: float = 0.1
    """Of the text, what is found in the prefix cache."""
    preempt_every: int = 0
    """Every so many requests lose their KV after a third of their answer."""
    drafts: int = 0
    """Tokens that a speculating engine verifies beside each."""
    accepted: float = 1.0
    """Tokens that an iteration yields."""
    cold_ms: float = 0.0
    """Added to each step with prefill in the first minute, in which the GPU waits."""
    tp: int = 1
    tp_efficiency: float = 0.8


@dataclass(frozen=True)
class Gpu:
    """What the counters of each GPU say while requests are served."""

    busy: float = 0.93
    clock_mhz: int = 1900
    idle_clock_mhz: int = 1980
    throttled: float = 0.0
    power_w: float = 430.0
    used_bytes: int = 120 << 30
    total_bytes: int = 140 << 30


@dataclass(frozen=True)
class Deployment:
    """A deployment of one model: everything that a trace of it shows."""

    traffic: Traffic = Traffic()
    frontend: Frontend = Frontend()
    engine: Engine = Engine()
    gpu: Gpu = Gpu()
    model: Model = QWEN_7B
    model_config: Mapping[str, Any] | None = None
    """Where it is not that of ``model``."""
    device: Device = H200
    replicas: tuple[int, ...] = (1,)
    """Requests of each replica, of as many as these add up to."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of ``vtprof.engine.config``, beside or instead of the ordinary ones; None takes one out."""
    resource: Mapping[str, Any] = field(default_factory=dict)
    lost_records: int = 0
    """Records that the agent missed, of ten thousand."""
    sampling_ratio: float = 1.0
    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
