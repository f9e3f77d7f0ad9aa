"""Roofline model of the kernels of one engine step on a GPU: duration, and by class of work what the counters would show.

The truth that attribution is measured against. It is no linear function of the work: kernels are bound by compute or by
memory, tiles are padded, small launches fill few SMs, experts saturate. A kernel that prefill and decode share (the
linear layers, the LM head) is split between them by tokens, which is the rule that the agent declares.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vtprof_agent.counters.meter import CLASSES, COUNTERS

ENCODE, PREFILL, DECODE = range(len(CLASSES))
DRAM, TENSOR, SM, ENERGY = range(len(COUNTERS))
Amounts = npt.NDArray[np.float64]
"""Counter x class: seconds of a ratio of 1, and for energy joules."""

PEAK_FLOPS, PEAK_BYTES_PER_S = 989e12, 4.8e12
"""An H200 by its data sheet."""
SMS = 132
LAUNCH_S = 1.6e-6
JOULES_PER_BYTE, JOULES_PER_FLOP, SM_WATTS = 55e-12, 0.33e-12, 110.0
"""Dynamic energy: at full bandwidth 260 W, at full compute 330 W, and what a busy SM array takes besides."""


@dataclass(frozen=True)
class Model:
    """Sizes of a vision-language model in bf16, and how it is served."""

    parameters: float = 6.5e9
    """Of the language model, embeddings and LM head left out; in a mixture those that all tokens use."""
    head_parameters: float = 545e6
    layers: int = 28
    width: int = 3584
    kv_bytes_per_token: float = 57_344
    expert_parameters: float = 0.0
    """All experts together; 0: dense."""
    experts: int = 128
    experts_per_token: int = 8
    draft_parameters: float = 0.0
    drafts: int = 0
    """Tokens drafted a step by a small model, and verified by the large one."""
    encoder_parameters: float = 630e6
    encoder_layers: int = 32
    encoder_width: int = 1280
    encoder_full_layers: int = 32
    """Encoder layers that attend over the whole image; the others within windows of 64 patches."""


@dataclass(frozen=True)
class StepLoad:
    """What one step computes."""

    images: tuple[int, ...] = ()
    """Patches of each image encoded."""
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    prefill_context: int = 0
    """Keys that the chunks of prompts attend to besides their own."""
    decode_requests: int = 0
    decode_context: int = 0
    sampled: int = 0
    """Sequences that get a token."""


@dataclass
class StepCost:
    """Duration of the encoder and of the rest, and the amounts of each part."""

    encoder_s: float = 0.0
    language_s: float = 0.0
    encoder: Amounts = field(default_factory=lambda: np.zeros((len(COUNTERS), len(CLASSES))))
    language: Amounts = field(default_factory=lambda: np.zeros((len(COUNTERS), len(CLASSES))))


def step_cost(model: Model, load: StepLoad) -> StepCost:
    """Return what a step takes with the GPU to itself."""
    cost = StepCost()
    if load.images:
        for kernel in _encoder(model, load.images):
            cost.encoder_s += _run(cost.encoder, *kernel, (1.0, 0.0, 0.0))
    decode_tokens = load.decode_requests * (1 + model.drafts)
    tokens = load.prefill_tokens + decode_tokens
    if tokens:
        by_tokens = (0.0, load.prefill_tokens / tokens, decode_tokens / tokens)
        cost.language_s += _run(cost.language, *_linear(model, tokens), by_tokens)
        cost.language_s += _run(cost.language, *_head(model, load.sampled), by_tokens)
    if load.prefill_tokens:
        cost.language_s += _run(cost.language, *_prefill_attention(model, load), (0.0, 1.0, 0.0))
    if load.decode_requests:
        cost.language_s += _run(cost.language, *_decode_attention(model, load), (0.0, 0.0, 1.0))
        for _ in range(model.drafts):
            draft = _draft(model, load.decode_requests)
            cost.language_s += _run(cost.language, *draft, (0.0, 0.0, 1.0))
    return cost


Kernel = tuple[float, float, float, int, float]
"""FLOPs, bytes, compute efficiency at best, launches, share of the SMs with work."""


def _run(
    into: Amounts,
    flops: float,
    moved: float,
    efficiency: float,
    launches: int,
    sm_share: float,
    split: tuple[float, ...],
) -> float:
    """Add a group of kernels to the amounts; return its duration in seconds."""
    busy_s = max(flops / (PEAK_FLOPS * efficiency), moved / (PEAK_BYTES_PER_S * 0.87))
    sm_s = busy_s * sm_share
    joules = moved * JOULES_PER_BYTE + flops * JOULES_PER_FLOP + sm_s * SM_WATTS
    amounts = (moved / PEAK_BYTES_PER_S, flops / PEAK_FLOPS, sm_s, joules)
    into += np.outer(amounts, split)
    return busy_s + launches * LAUNCH_S


def _encoder(model: Model, images: tuple[int, ...]) -> list[Kernel]:
    patches, layers, width = sum(images), model.encoder_layers, model.encoder_width
    full = sum(count * count for count in images) * model.encoder_full_layers
    windowed = patches * 64 * (layers - model.encoder_full_layers)
    padded = -(-patches // 128) * 128
    filled = min(1.0, padded / 128 * (width / 128) / SMS)
    linear = (
        2 * model.encoder_parameters * padded,
        2 * model.encoder_parameters + patches * layers * 9 * width * 2,
        0.62,
        6 * layers,
        0.6 + 0.38 * filled,
    )
    # Keys and values come again for each tile of queries, mostly out of the L2 cache.
    attention = (
        4.0 * width * (full + windowed),
        patches * layers * 4 * width * 2 + (full + windowed) / 128 * 4 * width * 0.06,
        0.48,
        layers,
        0.97,
    )
    elementwise = (0.0, patches * layers * 11.0 * width * 2, 0.5, 7 * layers, 0.9)
    return [linear, attention, elementwise]


def _linear(model: Model, tokens: int) -> Kernel:
    tile = 128 if tokens > 64 else 16
    padded = -(-tokens // tile) * tile
    parameters, active = model.parameters, model.parameters
    if model.expert_parameters:
        routed = tokens * model.experts_per_token
        parameters += model.expert_parameters * _experts_used(model.experts, routed)
        active += model.expert_parameters * model.experts_per_token / model.experts
    # Beyond some tokens the weights do not stay in the L2 cache between the tiles of a layer.
    weights = 2 * parameters * (1 + 0.1 * max(0.0, padded / 1024 - 1))
    activations = tokens * model.layers * 14.0 * model.width * 2
    flops = 2 * active * padded
    return flops, weights + activations, 0.72 * padded / (padded + 90), 9 * model.layers, 0.95


def _experts_used(experts: int, routed: int) -> float:
    """Return the expected share of experts with at least one token; some are three times as popular as others."""
    popularity = np.linspace(0.5, 1.5, experts)
    popularity /= popularity.sum()
    return float(np.mean(1 - (1 - popularity) ** routed))


def _head(model: Model, sampled: int) -> Kernel:
    rows = -(-max(sampled, 1) // 16) * 16
    return 2 * model.head_parameters * rows, 2 * model.head_parameters + sampled * 1.2e6, 0.6, 4, 0.92


def _prefill_attention(model: Model, load: StepLoad) -> Kernel:
    flops = 4.0 * model.width * load.prefill_pairs * model.layers
    own = load.prefill_tokens * (model.kv_bytes_per_token + model.layers * 4 * model.width)
    tiles = -(-load.prefill_tokens // 128)
    context = load.prefill_context * model.kv_bytes_per_token * (1 + 0.05 * tiles)
    return flops, own + context, 0.45, model.layers, min(1.0, 0.25 + tiles * 28 / SMS)


def _decode_attention(model: Model, load: StepLoad) -> Kernel:
    read = load.decode_context * model.kv_bytes_per_token
    # The queries of a group of heads fill a part of the tensor core's tile only.
    flops = 4.0 * model.width * load.decode_context * model.layers * 2.2
    filled = min(1.0, 0.2 + load.decode_requests * 4 * 2 / SMS)
    return flops, read + load.decode_requests * model.kv_bytes_per_token, 0.3, 2 * model.layers, 0.93 * filled


def _draft(model: Model, sequences: int) -> Kernel:
    rows = -(-sequences // 16) * 16
    return 2 * model.draft_parameters * rows, 2 * model.draft_parameters, 0.5, 60, 0.85
