"""FLOPs and bytes of the language model in prefill and decode (C3 to C7), vectorised over steps, layer group by layer group.

Sums do not tell the requests of a step apart: for what is not linear in them (windows, caches re-read) they are taken as
alike, which is exact for a single request and for equal ones.
"""

from dataclasses import dataclass

import numpy as np

from vtprof_analyzer.cost.kv import group_state_bytes, group_token_bytes
from vtprof_analyzer.cost.parallel import Parallel, kv_replication
from vtprof_analyzer.cost.parts import PartCost
from vtprof_analyzer.cost.work import Floats, Precision, StepWork
from vtprof_analyzer.models.spec import Attention, Experts, LanguageModel, LayerGroup


def ratio(part: Floats, whole: Floats) -> Floats:
    """Return part / whole, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def distinct_experts(experts: Experts, tokens: Floats) -> Floats:
    """Return the experts of one layer that ``tokens`` tokens are expected to touch: E (1 - (1 - k/E)^n).

    Under even routing; real routers favour some experts and touch fewer.
    """
    missed = (1.0 - experts.active / experts.count) ** tokens
    return experts.count * (1.0 - missed)


def weight_bytes(language: LanguageModel, work: StepWork, precision: Precision, parallel: Parallel) -> Floats:
    """Return the bytes of weights that each step reads [B]: once per iteration, of experts those that are touched.

    Tables are looked up by row and not read; a visual expert's weights are read where there are visual tokens. Experts
    that spread over replicas are touched by the tokens of all of them, taken as alike, and a replica reads its part.
    """
    share = min(1.0, parallel.tensor / parallel.expert)
    tokens = work.prefill_tokens + work.decode_tokens
    visual = np.minimum(work.prefill_visual_tokens, work.prefill_tokens)
    total = np.zeros_like(tokens)
    for group in language.groups:
        dense = (group.linear_params + group.cross_linear_params) * precision.weight_bytes
        dense += group.other_params * precision.activation_bytes
        total = total + group.layers * dense
        if group.visual_linear_params:
            read = group.layers * group.visual_linear_params * precision.weight_bytes
            total = total + np.where(visual > 0, read, 0.0)
        apart = group.visual_experts is not None
        for experts, routed in (
            (group.experts, tokens - visual if apart else tokens),
            (group.visual_experts, visual),
        ):
            if experts is not None:
                one = (
                    experts.params * precision.weight_bytes
                    + experts.other_params * precision.activation_bytes
                )
                total = total + group.layers * one * share * distinct_experts(
                    experts, routed / work.count / share
                )
    rest = language.final_params * precision.activation_bytes + language.head_params * precision.of_head
    if language.head_bias:
        rest += (language.head_vocab_size or language.vocab_size) * precision.activation_bytes
    return np.where(tokens > 0, (total + rest) * work.count, 0.0)


def prefill_cost(
    language: LanguageModel,
    work: StepWork,
    precision: Precision,
    weights: Floats,
    parallel: Parallel,
    full_attention: bool,
) -> PartCost:
    """Return the cost of the prompt tokens of each step; ``weights`` is their share of the weight bytes."""
    prompts = _prompts(language, work)
    tokens, requests, crossed = work.prefill_tokens, prompts.requests, work.prefill_cross_tokens
    sampled = 2.0 * language.head_params * requests
    visual = np.minimum(work.prefill_visual_tokens, tokens)
    visual_linear = 2.0 * language.visual_linear_params * visual
    linear = 2.0 * language.linear_params * (tokens - visual) + visual_linear
    attention, visual_attention, other = np.zeros_like(tokens), np.zeros_like(tokens), np.zeros_like(tokens)
    read, written = np.zeros_like(tokens), np.zeros_like(tokens)
    values = 2.0 * language.hidden_size * tokens + (language.hidden_size + language.vocab_size) * requests
    visual_share = ratio(visual, tokens)
    visual_pairs = np.minimum(ratio(work.prefill_visual_attention_pairs, work.prefill_attention_pairs), 1.0)
    cross_written = np.zeros_like(tokens)
    for group in language.groups:
        kind, layers = group.attention, group.layers
        stored = group_token_bytes(group, precision.kv_bytes, parallel.tensor)
        values = values + tokens * layers * group.activation_values
        if kind.cross:
            projected = 2.0 * layers * group.cross_linear_params * crossed
            linear, visual_linear = linear + projected, visual_linear + projected
            attention = attention + layers * kind.pair_flops * work.prefill_cross_pairs
            # Each prompt reads what it sees once; without knowing what is cached, what is new.
            read += crossed * stored
            cross_written = cross_written + crossed * stored
            continue
        other = other + layers * kind.token_flops * tokens
        flops = layers * kind.pair_flops * prompts.pairs(kind, full_attention)
        attention = attention + flops
        visual_attention = visual_attention + flops * visual_pairs
        kept = prompts.keys
        if kind.window_tokens is not None:
            # What the new tokens see of the past is at most a window each; the new ones are read in any case.
            kept = np.minimum(kept, tokens + requests * kind.window_tokens)
        read = read + kept * _read_bytes(group, precision, parallel)
        state = group_state_bytes(group, precision.kv_bytes) * requests
        read, written = read + state, written + tokens * stored + state
    return PartCost(
        flops=linear + attention + sampled + other,
        flops_attention=attention,
        flops_visual=visual_linear + other * visual_share + visual_attention,
        bytes_weights=weights,
        bytes_kv_read=read,
        bytes_kv_written=written + cross_written,
        bytes_kv_visual=np.zeros_like(tokens),
        bytes_activations=values * precision.activation_bytes,
        bytes_kv_visual_written=written * visual_share + cross_written,
        bytes_communication=_communication(language, tokens, precision, parallel),
    )


def decode_cost(
    language: LanguageModel, work: StepWork, precision: Precision, weights: Floats, parallel: Parallel
) -> PartCost:
    """Return the cost of the decoding requests of each step; ``weights`` is their share of the weight bytes."""
    requests, tokens, context = work.decode_requests, work.decode_tokens, work.decode_context_tokens
    each = ratio(tokens, requests)
    # Each of a request's tokens sees what is cached, those before it and itself, without reading these from the cache.
    own = tokens * (each + 1.0) / 2.0
    pairs = context * each + own
    attention, other = np.zeros_like(context), np.zeros_like(context)
    read, written, crossed = np.zeros_like(context), np.zeros_like(context), np.zeros_like(context)
    values = (3.0 * language.hidden_size + language.vocab_size) * tokens
    for group in language.groups:
        kind, layers = group.attention, group.layers
        values = values + tokens * layers * group.activation_values
        one = _read_bytes(group, precision, parallel)
        if kind.cross:
            attention = attention + layers * kind.pair_flops * work.decode_cross_tokens * each
            crossed = crossed + work.decode_cross_tokens * one
            continue
        other = other + layers * kind.token_flops * tokens
        seen, kept = pairs, context
        if kind.window_tokens is not None and kind.chunked:
            # What lies in the block that the next position falls into; contexts are taken as alike.
            kept = requests * (ratio(context, requests) % kind.window_tokens)
            seen = kept * each + own
        elif kind.window_tokens is not None:
            seen = np.minimum(seen, tokens * kind.window_tokens)
            kept = np.minimum(kept, requests * kind.window_tokens)
        attention = attention + layers * _decode_pair_flops(kind) * seen
        state = group_state_bytes(group, precision.kv_bytes) * requests
        read = read + kept * one + state
        written = written + tokens * group_token_bytes(group, precision.kv_bytes, parallel.tensor) + state
    visual = np.minimum(ratio(work.decode_visual_tokens, context), 1.0)
    return PartCost(
        flops=2.0 * (language.linear_params + language.head_params) * tokens + attention + other,
        flops_attention=attention,
        flops_visual=np.zeros_like(context),
        bytes_weights=weights,
        bytes_kv_read=read + crossed,
        bytes_kv_written=written,
        bytes_kv_visual=read * visual + crossed,
        bytes_activations=values * precision.activation_bytes,
        bytes_kv_visual_written=np.zeros_like(context),
        bytes_communication=_communication(language, tokens, precision, parallel),
    )


@dataclass(frozen=True)
class _Prompts:
    """Prompts of each step, as if alike: ``new`` tokens each behind a cached ``prefix``."""

    requests: Floats
    new: Floats
    prefix: Floats
    keys: Floats
    """Cached and new positions that are read, over all prompts."""
    extra: Floats
    """Pairs beyond the causal ones: image tokens, or a whole prompt, that see one another both ways."""
    causal: Floats

    def pairs(self, kind: Attention, full: bool) -> Floats:
        """Return the pairs of one layer: causal ones inside its window, or all that an unmasked kernel computes."""
        if not kind.softmax:
            return np.zeros_like(self.causal)
        if full:
            return self.requests * self.new * (self.prefix + self.new)
        if kind.window_tokens is None:
            return self.causal + self.extra
        reach = _chunked if kind.chunked else _sliding
        end = reach(self.prefix + self.new, float(kind.window_tokens))
        return self.requests * (end - reach(self.prefix, float(kind.window_tokens))) + self.extra


def _prompts(language: LanguageModel, work: StepWork) -> _Prompts:
    tokens, pairs = work.prefill_tokens, work.prefill_attention_pairs
    requests = np.where(tokens > 0, np.maximum(work.prefill_requests, 1.0), 0.0)
    new = ratio(tokens, requests)
    # pairs = n c + n (n + 1) / 2 of each prompt (C4), solved for the prefix c.
    prefix = np.maximum(ratio(pairs, tokens) - (new + 1.0) / 2.0, 0.0)
    prefix = np.where(tokens > 0, prefix, 0.0)
    # Each of n new tokens sees (pairs / tokens) keys on average, the last one (n - 1) / 2 more: what is cached and new.
    keys = requests * ratio(pairs, tokens) + np.maximum(tokens - requests, 0.0) / 2.0
    extra = work.prefill_extra_pairs
    if language.prefix_bidirectional == "prompt":
        extra = requests * new * np.maximum(new - 1.0, 0.0) / 2.0
    return _Prompts(requests, new, prefix, keys, extra, pairs)


def _sliding(position: Floats, window: float) -> Floats:
    """Return the pairs of the first ``position`` tokens when each sees itself and ``window`` - 1 before it."""
    inside = np.minimum(position, window)
    return inside * (inside + 1.0) / 2.0 + np.maximum(position - window, 0.0) * window


def _chunked(position: Floats, window: float) -> Floats:
    """Likewise when each sees its own block of ``window`` tokens up to itself."""
    whole = np.floor(position / window)
    rest = position - whole * window
    return whole * window * (window + 1.0) / 2.0 + rest * (rest + 1.0) / 2.0


def _decode_pair_flops(kind: Attention) -> float:
    """Return FLOPs of one pair in decode: of latent attention in its absorbed form, which reads the latent itself.

    The query is multiplied into the latent space once, at the cost of the up-projection that it replaces; a pair then
    takes latent + rotary values for the score and the latent for the output.
    """
    if kind.latent_values is None or not kind.softmax:
        return kind.pair_flops
    return 2.0 * kind.query_heads * (kind.latent_values + (kind.latent_rank or kind.latent_values))


def _read_bytes(group: LayerGroup, precision: Precision, parallel: Parallel) -> float:
    """Return the bytes that reading one cached token takes in all layers of a group, over all ranks."""
    kind = group.attention
    copies = kv_replication(kind, parallel.tensor)
    return group.layers * kind.kv_values_read_per_token * precision.kv_bytes * copies


def _communication(
    language: LanguageModel, tokens: Floats, precision: Precision, parallel: Parallel
) -> Floats:
    """Return the bytes that all ranks together send for ``tokens`` tokens (C9).

    Tensor: two all-reduces a layer, 2 (n - 1) times the message over the ring. Pipeline: the hidden state between stages.
    Expert: a token's hidden state to each expert it is routed to on another rank, and back.
    """
    message = tokens * language.hidden_size * precision.activation_bytes
    reduced = 2.0 * language.layers * 2.0 * (parallel.tensor - 1)
    passed = float(parallel.pipeline - 1)
    away = (parallel.expert - 1) / parallel.expert
    routed = sum(group.layers * group.experts.active for group in language.groups if group.experts)
    return message * (reduced + passed + 2.0 * away * routed)
