"""FLOPs and bytes of steps (C3 to C7): vectorised over steps, one loop over the model's layer groups.

Weights are read once per iteration of the language model and split between prefill and decode by tokens; the tower's
weights once per step that encodes. The output head runs on one position per prefill request in the step and on
every decode request: a chunk that does not end its prompt is counted with one position too many.
"""

import numpy as np

from vtprof_analyzer.cost.kv import kv_replication
from vtprof_analyzer.cost.parts import PartCost, StepCosts
from vtprof_analyzer.cost.work import Floats, Precision, StepWork
from vtprof_analyzer.models.spec import LanguageModel, LayerGroup, ModelSpec, VisionTower


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Return part / whole, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def step_costs(
    spec: ModelSpec,
    work: StepWork,
    precision: Precision,
    *,
    full_attention: bool = False,
    tensor_parallel: int = 1,
) -> StepCosts:
    """Return the cost of every step, by part; over all tensor-parallel ranks together.

    ``full_attention`` counts prefill attention without the causal mask, for comparison with counters of kernels that
    compute the masked half as well. ``tensor_parallel`` ranks hold copies of KV heads when there are more ranks than
    heads; collectives are not counted.
    """
    language = spec.language
    tokens = work.prefill_tokens + work.decode_requests
    weights = language.read_params * precision.weight_bytes * np.where(tokens > 0, work.count, 0.0)
    by_tokens = _ratio(weights, tokens)
    kv_bytes = [_kv_bytes(group, precision, tensor_parallel) for group in language.groups]
    return StepCosts(
        encode=_encode(spec.vision, work, precision),
        prefill=_prefill(
            language, work, precision, kv_bytes, by_tokens * work.prefill_tokens, full_attention
        ),
        decode=_decode(language, work, precision, kv_bytes, by_tokens * work.decode_requests),
    )


def _kv_bytes(group: LayerGroup, precision: Precision, tensor_parallel: int) -> float:
    """Return the cache bytes of one token in all layers of a group, copies included."""
    copies = kv_replication(group.attention, tensor_parallel)
    return group.layers * group.attention.kv_values_per_token * precision.kv_bytes * copies


def _encode(tower: VisionTower, work: StepWork, precision: Precision) -> PartCost:
    patches, pairs = work.encode_patches, work.encode_attention_pairs
    tokens = patches / tower.patches_per_token
    linear = 2.0 * (patches * tower.patch_params + tokens * tower.adapter_linear_params)
    attention = np.zeros_like(patches)
    values = patches * (tower.patch_values + tower.hidden_size) + tokens * tower.adapter_activation_values
    for group in tower.groups:
        # Of windowed layers only an upper bound is known: full windows, but never more than the image's own pairs.
        # Windows at the right and lower edge are smaller.
        seen = pairs if group.window_patches is None else np.minimum(pairs, patches * group.window_patches)
        linear += 2.0 * group.layers * group.linear_params * patches
        attention += 4.0 * group.layers * group.attention_width * seen
        values = values + patches * group.layers * group.activation_values
    flops, zero = linear + attention, np.zeros_like(patches)
    return PartCost(
        flops=flops,
        flops_attention=attention,
        flops_visual=flops,
        bytes_weights=np.where(patches > 0, tower.params * precision.weight_bytes, 0.0),
        bytes_kv_read=zero,
        bytes_kv_written=zero,
        bytes_kv_visual=zero,
        bytes_activations=values * precision.activation_bytes,
    )


def _prefill(
    language: LanguageModel,
    work: StepWork,
    precision: Precision,
    kv_bytes: list[float],
    weights: Floats,
    full_attention: bool,
) -> PartCost:
    tokens, pairs = work.prefill_tokens, work.prefill_attention_pairs
    requests = np.where(tokens > 0, np.maximum(work.prefill_requests, 1.0), 0.0)
    # Sums do not tell the requests of a step apart: for what is not linear in them they are taken as alike.
    later = tokens * np.maximum(_ratio(tokens, requests) - 1.0, 0.0) / 2.0
    # Each of n new tokens sees (pairs / tokens) keys on average, the last one (n - 1) / 2 more: what is cached and new.
    keys = requests * _ratio(pairs, tokens) + np.maximum(tokens - requests, 0.0) / 2.0
    sampled = 2.0 * language.head_params * requests
    linear = 2.0 * language.linear_params * tokens
    attention, visual_attention = np.zeros_like(tokens), np.zeros_like(tokens)
    read, written = np.zeros_like(tokens), np.zeros_like(tokens)
    values = 2.0 * language.hidden_size * tokens + (language.hidden_size + language.vocab_size) * requests
    visual_pairs = np.minimum(_ratio(work.prefill_visual_attention_pairs, pairs), 1.0)
    for group, token_bytes in zip(language.groups, kv_bytes, strict=True):
        seen = pairs + later if full_attention else pairs
        kept = keys
        if group.attention.window_tokens is not None:
            seen = np.minimum(seen, tokens * group.attention.window_tokens)
            # What the new tokens see of the past is at most a window each; the new ones are read in any case.
            kept = np.minimum(keys, tokens + requests * group.attention.window_tokens)
        flops = 4.0 * group.layers * group.attention.query_width * seen
        attention += flops
        visual_attention += flops * visual_pairs
        read += kept * token_bytes
        written += tokens * token_bytes
        values = values + tokens * group.layers * group.activation_values
    visual_tokens = np.minimum(_ratio(work.prefill_visual_tokens, tokens), 1.0)
    return PartCost(
        flops=linear + attention + sampled,
        flops_attention=attention,
        flops_visual=linear * visual_tokens + visual_attention,
        bytes_weights=weights,
        bytes_kv_read=read,
        bytes_kv_written=written,
        bytes_kv_visual=np.zeros_like(tokens),
        bytes_activations=values * precision.activation_bytes,
    )


def _decode(
    language: LanguageModel, work: StepWork, precision: Precision, kv_bytes: list[float], weights: Floats
) -> PartCost:
    requests, context = work.decode_requests, work.decode_context_tokens
    # The token being computed sees itself as well, without reading itself from the cache.
    pairs = context + requests
    attention, read, written = np.zeros_like(context), np.zeros_like(context), np.zeros_like(context)
    values = (3.0 * language.hidden_size + language.vocab_size) * requests
    for group, token_bytes in zip(language.groups, kv_bytes, strict=True):
        seen, kept = pairs, context
        if group.attention.window_tokens is not None:
            seen = np.minimum(seen, requests * group.attention.window_tokens)
            kept = np.minimum(kept, requests * group.attention.window_tokens)
        attention += 4.0 * group.layers * group.attention.query_width * seen
        read += kept * token_bytes
        written += requests * token_bytes
        values = values + requests * group.layers * group.activation_values
    visual = np.minimum(_ratio(work.decode_visual_tokens, context), 1.0)
    return PartCost(
        flops=2.0 * (language.linear_params + language.head_params) * requests + attention,
        flops_attention=attention,
        flops_visual=np.zeros_like(context),
        bytes_weights=weights,
        bytes_kv_read=read,
        bytes_kv_written=written,
        bytes_kv_visual=read * visual,
        bytes_activations=values * precision.activation_bytes,
    )
