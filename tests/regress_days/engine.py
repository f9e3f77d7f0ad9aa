"""What an engine costs: constants of a served model, and how one of its phases is made slower."""

from dataclasses import dataclass, replace
from typing import Final

PATCHES_PER_TOKEN = 4
"""The encoder sees so many patches per visual token."""


@dataclass(frozen=True)
class Tail:
    """A fault that hits few requests: in a share of those that have the phase it takes ``low`` to ``high`` times as long."""

    phase: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Engine:
    """Constants of one served model; times in ms. Its defaults stand for a 7B model."""

    workers: int = 8
    """Processes that preprocess."""
    preprocess_ms: float = 1.5
    preprocess_ms_per_text_token: float = 0.002
    preprocess_ms_per_image: float = 2.5
    preprocess_ms_per_visual_token: float = 0.014
    contention_ratio: float = 0.02
    """A busy worker slows another down by so much."""

    encode_ms: float = 2.5
    """Launch of an encoder batch."""
    encode_ms_per_patch: float = 0.0040
    encode_ms_per_patch_squared: float = 5e-7
    encode_weights_ms: float = 4.0
    """No batch is faster than reading the weights."""
    encode_budget_tokens: int = 8192
    """Visual tokens of one batch; a larger request has a batch of its own."""
    encode_hit_ms: float = 0.12
    encode_hit_ms_per_token: float = 0.0002
    """Finding and copying an embedding that the cache holds."""
    encoder_cache_images: int = 400
    encoder_cache_fault_ratio: float = 0.0
    """Share of look-ups that miss what is there."""

    step_host_ms: float = 1.2
    """Scheduling and launching, on the host."""
    step_host_ms_per_sequence: float = 0.02
    prefill_weights_ms: float = 6.5
    prefill_ms_per_token: float = 0.030
    prefill_ms_per_token_context: float = 4e-6
    """Per token and token of its context."""
    budget_tokens: int = 4096
    """Tokens of a step, decode included."""
    prefix_cache_prompts: int = 9
    """System prompts that stay in the prefix cache."""

    decode_weights_ms: float = 6.5
    decode_ms_per_sequence: float = 0.05
    decode_ms_per_context_token: float = 4e-5

    max_sequences: int = 128
    kv_bytes_per_token: float = 57_344.0
    kv_capacity_tokens: int = 400_000
    overhead_ms: float = 2.0
    """HTTP, detokenising and the like, of TTFT."""
    tails: tuple[Tail, ...] = ()


COSTS: Final = {
    "preprocess": (
        "preprocess_ms",
        "preprocess_ms_per_text_token",
        "preprocess_ms_per_image",
        "preprocess_ms_per_visual_token",
    ),
    "encode": ("encode_ms", "encode_ms_per_patch", "encode_ms_per_patch_squared", "encode_weights_ms"),
    "prefill": ("prefill_weights_ms", "prefill_ms_per_token", "prefill_ms_per_token_context"),
    "decode": ("decode_weights_ms", "decode_ms_per_sequence", "decode_ms_per_context_token"),
}
"""Constants by phase. Decode's share of a step's host time is that of the step, whatever runs in it."""


def slower(engine: Engine, phase: str, ratio: float) -> Engine:
    """Multiply the constants of a phase by 1 + ``ratio``; a decode step's host time belongs to decode."""
    changed = replace(engine, **{name: getattr(engine, name) * (1 + ratio) for name in COSTS[phase]})
    if phase == "decode":
        factor = 1 + ratio
        return replace(
            changed,
            step_host_ms=engine.step_host_ms * factor,
            step_host_ms_per_sequence=engine.step_host_ms_per_sequence * factor,
        )
    return changed


def with_kv(engine: Engine, ratio: float) -> Engine:
    """Multiply KV bytes per token by 1 + ``ratio``: less fits, and decode reads more."""
    factor = 1 + ratio
    return replace(
        engine,
        kv_bytes_per_token=engine.kv_bytes_per_token * factor,
        kv_capacity_tokens=int(engine.kv_capacity_tokens / factor),
        decode_ms_per_context_token=engine.decode_ms_per_context_token * factor,
    )
