"""What fits: weights and KV cache in the memory of a deployment, the largest batch, and an image's share of the context.

The cascade that visual tokens start: more tokens a request, more KV bytes, fewer requests at a time (F27, F28).
"""

import math
from dataclasses import dataclass

from vtprof_analyzer.cost.kv import request_cache
from vtprof_analyzer.cost.parallel import Parallel
from vtprof_analyzer.cost.steps import ONE_DEVICE
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.models.spec import LanguageModel, ModelSpec

DEFAULT_MEMORY_RATIO = 0.9
"""Of device memory that weights and cache may take, as engines set it; activations and the runtime have the rest."""
DEFAULT_BLOCK_TOKENS = 16


def weights_bytes(spec: ModelSpec, precision: Precision, parallel: Parallel = ONE_DEVICE) -> float:
    """Return the bytes that a replica's weights take on all its devices together [B], quantised parts as such."""
    replicas = parallel.tensor if parallel.encoder == "data" else 1
    vision = spec.params.vision * precision.of_vision * replicas
    audio = spec.params.audio * precision.of_audio
    # Experts that spread over replicas too are held in part by each: n ranks of a replica hold n of the parts.
    share = min(1.0, parallel.tensor / parallel.expert)
    return vision + audio + _language_bytes(spec.language, precision, share)


def _language_bytes(language: LanguageModel, precision: Precision, expert_share: float) -> float:
    layers = 0.0
    for group in language.groups:
        plain, packed = float(group.other_params), float(group.params - group.other_params)
        for experts in (group.experts, group.visual_experts):
            if experts is not None:
                away = (1.0 - expert_share) * experts.count
                plain += experts.count * experts.other_params - away * experts.other_params
                packed -= experts.count * experts.other_params + away * experts.params
        layers += group.layers * (packed * precision.weight_bytes + plain * precision.activation_bytes)
    head = 0 if language.tied_embeddings else language.head_params
    tables = (language.embedding_params + head) * precision.of_head
    layered = sum(group.layers * group.params for group in language.groups)
    rest = language.params - layered - language.embedding_params - head
    return layers + tables + rest * precision.activation_bytes


@dataclass(frozen=True)
class Capacity:
    """Requests of one kind that a deployment holds at a time."""

    memory_bytes: float
    """Of all devices of a replica, before any limit."""
    weights_bytes: float
    kv_budget_bytes: float
    """What is left for the cache; negative when not even the weights fit."""
    kv_bytes_per_request: float
    kv_visual_bytes_per_request: float
    requests: int
    """0 when nothing fits."""


def capacity(
    spec: ModelSpec,
    precision: Precision,
    memory_bytes: float,
    tokens: int,
    visual_tokens: int = 0,
    *,
    parallel: Parallel = ONE_DEVICE,
    memory_ratio: float = DEFAULT_MEMORY_RATIO,
    block_tokens: int = DEFAULT_BLOCK_TOKENS,
    reserved_bytes: float = 0.0,
) -> Capacity:
    """Return how many requests of ``tokens`` cached positions fit (F28); ``memory_bytes`` is one device's.

    Layers and heads are taken as spread evenly; ``reserved_bytes`` (all devices) stands for activations and buffers
    beyond what ``memory_ratio`` leaves free.
    """
    devices = parallel.replica_devices
    held = weights_bytes(spec, precision, parallel)
    cache = request_cache(
        spec.language, precision.kv_bytes, tokens, visual_tokens, block_tokens, parallel.tensor
    )
    budget = memory_bytes * devices * memory_ratio - held - reserved_bytes
    fit = math.floor(budget / cache.bytes) if cache.bytes > 0 and budget > 0 else 0
    return Capacity(
        memory_bytes * devices, held, budget, cache.bytes, cache.visual_bytes, fit * parallel.data
    )


def context_share(item_tokens: int, items: int, context_tokens: int) -> float:
    """Return the share of a context window that ``items`` items of ``item_tokens`` tokens take (F9)."""
    return items * item_tokens / context_tokens


def items_that_fit(
    item_tokens: int, context_tokens: int, text_tokens: int = 0, output_tokens: int = 0
) -> int:
    """Return how many items of ``item_tokens`` tokens fit beside text and reserved output (F10); 0 when none does."""
    if item_tokens < 1:
        raise ValueError("an item takes at least one token")
    return max(0, (context_tokens - text_tokens - output_tokens) // item_tokens)
