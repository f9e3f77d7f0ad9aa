"""Gemma 3n and Gemma 4: decoders whose layers differ: shared caches, per-layer embeddings, AltUp, keys used as values.

A layer that shares the cache of an earlier one has no key and value projections: published files hold some, but no code
loads them.
"""

from collections import Counter
from dataclasses import dataclass, replace

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import Attention, Experts, LanguageModel, LayerGroup
from vtprof_analyzer.models.text.blocks import layer_count
from vtprof_analyzer.models.text.layers import (
    Heads,
    context_tokens,
    layer_kinds,
    mlp_activations,
    mlp_params,
)


@dataclass(frozen=True)
class _Layer:
    heads: Heads
    window: int | None
    shares_cache: bool
    keys_are_values: bool
    inner: int
    first: bool
    """Gemma 3n's first layer, whose group also holds the projections around all layers: there is one set of them."""


def language_model(fields: Fields, tied: bool) -> LanguageModel:
    """Turn a text section of Gemma 3n or 4 into a language model; raise `DataError` that names the field at fault."""
    hidden = fields.integer("hidden_size")
    layers = _layers(fields)
    per_layer = _per_layer_width(fields)
    altup = fields.integer("altup_num_inputs") if fields.text("model_type") == "gemma3n_text" else 0
    groups = tuple(
        _group(fields, hidden, layer, count, per_layer, altup) for layer, count in Counter(layers).items()
    )
    table = fields.integer("vocab_size_per_layer_input") * len(layers) * per_layer if per_layer else 0
    return LanguageModel(
        hidden_size=hidden,
        vocab_size=fields.integer("vocab_size"),
        groups=groups,
        final_params=hidden + per_layer,  # the last norm, and that of the per-layer embeddings
        tied_embeddings=tied,
        table_params=table,
        context_tokens=context_tokens(fields),
        prefix_bidirectional="visual" if fields.text("use_bidirectional_attention") == "vision" else None,
    )


def _per_layer_width(fields: Fields) -> int:
    """Return the width of the per-layer embeddings; 0 where there are none."""
    return fields.integer("hidden_size_per_layer_input", default=0, minimum=0)


def _layers(fields: Fields) -> list[_Layer]:
    count = layer_count(fields)
    gemma4 = fields.text("model_type") != "gemma3n_text"
    pattern = 6 if gemma4 else 5
    kinds = layer_kinds(fields, "layer_types", count)
    full = [kind == "full_attention" for kind in kinds or ()] or [
        (index + 1) % pattern == 0 for index in range(count)
    ]
    if gemma4:
        full[-1] = True  # whatever the config says
    window = fields.integer("sliding_window")
    shared = fields.integer("num_kv_shared_layers", default=0, minimum=0)
    if shared >= count:
        raise fields.fault(
            "num_kv_shared_layers", f"is {shared} of {count} layers, which leaves none to share"
        )
    inner = _inner_sizes(fields, count)
    if gemma4 and shared and fields.flag("use_double_wide_mlp", False):
        inner = inner[:-shared] + [2 * size for size in inner[-shared:]]
    k_eq_v = gemma4 and fields.flag("attention_k_eq_v", False)
    heads = _heads(fields, full, gemma4, k_eq_v)
    return [
        _Layer(
            heads[index],
            None if full[index] else window,
            index >= count - shared,
            k_eq_v and full[index],
            inner[index],
            index == 0 and not gemma4,
        )
        for index in range(count)
    ]


def _inner_sizes(fields: Fields, count: int) -> list[int]:
    """Return the width of every layer's MLP: one number or a list."""
    if not isinstance(fields.first("intermediate_size"), (list, tuple)):
        return [fields.integer("intermediate_size")] * count
    sizes = fields.integers("intermediate_size", ())
    if len(sizes) != count:
        raise fields.fault("intermediate_size", f"has {len(sizes)} entries for {count} layers")
    return [
        Fields({"intermediate_size": size}, fields.path, fields.file).integer("intermediate_size")
        for size in sizes
    ]


def _heads(fields: Fields, full: list[bool], gemma4: bool, k_eq_v: bool) -> list[Heads]:
    """Return every layer's heads: Gemma 4's layers with full attention have heads of their own size."""
    query, kv, dim = (
        fields.integer(key) for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    plain = Heads(query, kv, dim)
    overrides = fields.section("per_layer_config")
    if not gemma4:
        heads = [plain] * len(full)
    elif overrides is None:
        own = k_eq_v and fields.first("num_global_key_value_heads") is not None
        wide = Heads(
            query,
            fields.integer("num_global_key_value_heads") if own else kv,
            fields.integer("global_head_dim", default=512),
        )
        heads = [wide if is_full else plain for is_full in full]
    else:
        heads = [_overridden(overrides, index, plain) for index in range(len(full))]
    for each in set(heads):
        if query % each.kv:
            raise fields.fault("num_key_value_heads", f"is {each.kv}, no divisor of {query} attention heads")
    return heads


def _overridden(overrides: Fields, index: int, plain: Heads) -> Heads:
    """Return a layer's heads from ``per_layer_config``: layer number to the fields that differ."""
    # transformers pads the numbers with zeros, so that they sort.
    names = (f"{index:0{digits}}" for digits in (1, 2, 3))
    one = next((section for name in names if (section := overrides.section(name)) is not None), None)
    if one is None:
        return plain
    return Heads(
        plain.query,
        one.integer("num_key_value_heads", default=plain.kv),
        one.integer("head_dim", default=plain.dim),
    )


def _group(fields: Fields, hidden: int, layer: _Layer, count: int, per_layer: int, altup: int) -> LayerGroup:
    heads = layer.heads
    stored = 0 if layer.shares_cache else (1 if layer.keys_are_values else 2)
    widths = 2 * heads.query_width + stored * heads.kv_width
    attention = Attention(heads.query, heads.kv, heads.dim, layer.window, shares_cache=layer.shares_cache)
    linear = hidden * widths + mlp_params(hidden, layer.inner)
    norms = 4
    other = heads.dim * (
        1 if layer.shares_cache else 2
    )  # norms of queries and keys; that of values has no weight
    if fields.flag("attention_bias", False):
        other += heads.query_width + stored * heads.kv_width + hidden
    activation = 2 * hidden + widths + mlp_activations(hidden, layer.inner)
    if per_layer:
        # A gate and a projection in each layer, and its share of the one that makes all layers' inputs.
        linear += 3 * hidden * per_layer
        norms += 1
        activation += 3 * (hidden + per_layer)
    if altup:
        rank = fields.integer("laurel_rank")
        # LAUREL's two matrices; AltUp's router (hidden to n), prediction (n to n squared) and correction (n to n).
        linear += 2 * hidden * rank + hidden * altup + altup**3 + altup**2
        norms += 3  # of LAUREL and of the router, and AltUp's scale, of the same width
        activation += 2 * (hidden + rank) + 2 * (hidden + altup)
        # The router runs a second time on the layer's output; n streams are mixed by an n by n matrix per token.
        attention = replace(attention, token_flops=2.0 * hidden * altup + 2.0 * hidden * altup**2)
        if layer.first:
            # Projections into the other n - 1 streams before the layers and out of them behind.
            linear += 2 * (altup - 1) * hidden**2
            activation += 4 * (altup - 1) * hidden
    experts = None
    if fields.flag("enable_moe_block", False):
        inner = fields.integer("moe_intermediate_size")
        number = fields.integer("num_experts")
        active = fields.integer("top_k_experts")
        if active > number:
            raise fields.fault("top_k_experts", f"is {active} of {number} experts")
        experts = Experts(number, active, mlp_params(hidden, inner))
        linear += hidden * number
        # Three more norms, and the router's scales: of its input and of each expert.
        norms += 3
        other += hidden + number
        activation += hidden + number + active * mlp_activations(hidden, inner)
    return LayerGroup(
        count, attention, linear, other + norms * hidden, activation + 2 * norms * hidden, experts=experts
    )
