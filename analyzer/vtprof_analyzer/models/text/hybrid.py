"""Decoders that mix softmax attention with layers of constant state: the kind of every layer, and what it is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import LanguageModel
from vtprof_analyzer.models.text import latent, recurrent
from vtprof_analyzer.models.text.blocks import (
    Block,
    decoder,
    grouped,
    heads_block,
    known,
    layer,
    layer_count,
    mlp_block,
)
from vtprof_analyzer.models.text.layers import HIDDEN, layer_kinds
from vtprof_analyzer.models.text.mixture import SHARED, Mixture, mixture_block, sparse_layers

FULL, LINEAR, CONVOLUTION = "full_attention", "linear_attention", "conv"
_SHARED_GATED = Mixture(shared=1, shared_inner="shared_expert_intermediate_size", shared_gate=True)


@dataclass(frozen=True)
class Plan:
    """Layers of a decoder: the kind of mixer and of what follows it, and how to make either."""

    mixers: list[str]
    sparse: list[bool]
    make: Mapping[str, Callable[[Fields, int], Block]]
    """Kind of a mixer to its block."""
    mixture: Mixture
    inner: int = 0
    """Width of the dense MLP; 0: ``intermediate_size``."""


def language_model(fields: Fields, tied: bool) -> LanguageModel:
    """Turn a text section into a language model; raise `DataError` that names the field at fault."""
    kind = str(fields.text("model_type"))
    if kind == "kimi_linear":
        fields = _renamed(fields)
    hidden = fields.integer(*HIDDEN)
    plan = PLANS[kind](fields, layer_count(fields))
    known(fields, "layer_types", plan.mixers, plan.make)

    def passed(is_sparse: bool) -> Block:
        if is_sparse:
            return mixture_block(fields, hidden, plan.mixture)
        return mlp_block(hidden, plan.inner or fields.integer("intermediate_size"))

    groups = grouped(
        zip(plan.mixers, plan.sparse, strict=True),
        lambda kind: layer(hidden, plan.make[kind[0]](fields, hidden), passed(kind[1])),
    )
    return decoder(fields, tied, groups)


def _gated_attention(fields: Fields, hidden: int) -> Block:
    """Return attention whose output is gated, as in Qwen3-Next."""
    return heads_block(
        fields, hidden, bias="attention_bias", output_bias="attention_bias", qk_norm=True, output_gate=True
    )


def _qwen(fields: Fields, layers: int) -> Plan:
    """Qwen3-Next and Qwen3.5: three gated delta nets to one gated attention, by default."""
    mixers = layer_kinds(fields, "layer_types", layers)
    if mixers is None:
        every = fields.integer("full_attention_interval", default=4)
        mixers = [LINEAR if (index + 1) % every else FULL for index in range(layers)]
    kind = fields.text("model_type")
    sparse = {
        "qwen3_next": lambda: sparse_layers(fields, layers, "step"),
        "qwen3_5_moe_text": lambda: [True] * layers,
        "qwen3_5_text": lambda: [False] * layers,
    }[str(kind)]()
    return Plan(mixers, sparse, {LINEAR: recurrent.gated_delta, FULL: _gated_attention}, _SHARED_GATED)


def _lfm2(fields: Fields, layers: int) -> Plan:
    """LFM2: short convolutions and attention with norms of queries and keys."""
    mixers = layer_kinds(fields, "layer_types", layers)
    if mixers is None:
        full = set(fields.integers("full_attn_idxs", tuple(range(layers))))
        mixers = [FULL if index in full else CONVOLUTION for index in range(layers)]
    make = {
        CONVOLUTION: recurrent.short_convolution,
        FULL: lambda fields, hidden: heads_block(fields, hidden, qk_norm=True),
    }
    if fields.text("model_type") == "lfm2_moe":
        dense = fields.integer("num_dense_layers", default=0, minimum=0)
        return Plan(mixers, [index >= dense for index in range(layers)], make, Mixture())
    return Plan(mixers, [False] * layers, make, Mixture(), inner=_lfm2_inner(fields))


def _lfm2_inner(fields: Fields) -> int:
    """Return the MLP's width: two thirds of the one that the config names, scaled and rounded up, unless it says not so."""
    inner = fields.integer("block_ff_dim", "intermediate_size")
    if not fields.flag("block_auto_adjust_ff_dim", True):
        return inner
    inner = 2 * inner // 3
    if fields.first("block_ffn_dim_multiplier") is not None:
        unit = fields.integer("block_multiple_of", default=256)
        inner = -(-int(fields.number("block_ffn_dim_multiplier") * inner) // unit) * unit
    if inner < 1:
        raise fields.fault("block_ffn_dim_multiplier", "leaves no MLP")
    return inner


def _minimax(fields: Fields, layers: int) -> Plan:
    """MiniMax-01: lightning attention, and softmax attention in every eighth layer of the published one."""
    mixers = layer_kinds(fields, "layer_types", layers)
    if mixers is None and fields.first("attn_type_list") is not None:
        softmax = fields.integers("attn_type_list", ())
        if len(softmax) != layers:
            raise fields.fault("attn_type_list", f"is no list of {layers} layers")
        mixers = [FULL if item else LINEAR for item in softmax]
    if mixers is None:
        mixers = [LINEAR if index % 2 else FULL for index in range(layers)]
    make: dict[str, Callable[[Fields, int], Block]] = {LINEAR: recurrent.lightning, FULL: heads_block}
    return Plan(
        mixers, [True] * layers, make, Mixture(experts="num_local_experts", inner="intermediate_size")
    )


def _kimi(fields: Fields, layers: int) -> Plan:
    """Kimi Linear: Kimi Delta Attention, and latent attention without positions in every fourth layer."""
    mixers = layer_kinds(fields, "layer_types", layers)
    nested = fields.section("linear_attn_config")
    if mixers is None and nested is not None and nested.first("full_attn_layers") is not None:
        # Layers are counted from one there.
        full = set(nested.integers("full_attn_layers", ()))
        mixers = [FULL if index + 1 in full else LINEAR for index in range(layers)]
    if mixers is None:
        mixers = [LINEAR if index % 4 or not index else FULL for index in range(layers)]
    make = {LINEAR: recurrent.kimi_delta, FULL: latent.attention_block}
    sparse = sparse_layers(fields, layers, "types")
    return Plan(mixers, sparse, make, Mixture(experts="num_local_experts", shared=SHARED.shared))


_KIMI_NAMES = {
    "num_experts": "num_local_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
}
_KIMI_NESTED = {
    "num_heads": "linear_num_heads",
    "head_dim": "linear_head_dim",
    "short_conv_kernel_size": "linear_conv_kernel_dim",
}


def _renamed(fields: Fields) -> Fields:
    """Return Kimi Linear's fields under the names of transformers; the published file has others, some of them nested."""
    nested = fields.section("linear_attn_config")
    values = dict(fields.values)
    for source, names in ((fields.values, _KIMI_NAMES), (nested.values if nested else {}, _KIMI_NESTED)):
        values.update({name: source[other] for other, name in names.items() if source.get(other) is not None})
    return Fields(values, fields.path, fields.file, fields.assumed)


PLANS: dict[str, Callable[[Fields, int], Plan]] = {
    "qwen3_next": _qwen,
    "qwen3_5_text": _qwen,
    "qwen3_5_moe_text": _qwen,
    "lfm2": _lfm2,
    "lfm2_moe": _lfm2,
    "minimax": _minimax,
    "minimax_text_01": _minimax,
    "kimi_linear": _kimi,
}
"""Model type to the plan of its layers."""
