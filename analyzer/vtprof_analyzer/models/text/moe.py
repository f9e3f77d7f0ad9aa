"""Decoders with mixtures of experts and softmax attention: one builder, and a table of what sets each model type apart."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import LanguageModel, LayerGroup
from vtprof_analyzer.models.text.blocks import (
    Block,
    Flag,
    decoder,
    grouped,
    heads_block,
    known,
    layer,
    layer_count,
    mlp_block,
    says,
)
from vtprof_analyzer.models.text.layers import HIDDEN, layer_kinds
from vtprof_analyzer.models.text.mixture import (
    SHARED,
    Mixture,
    SparseRule,
    mixture_block,
    routed,
    sparse_layers,
    with_router,
)

ViewRule = Literal["full", "every", "flagged", "alternating", "tail", "even", "chunks"]
FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


@dataclass(frozen=True)
class Traits:
    """What sets a decoder apart from one with RMS norms, no biases and a mixture in every layer."""

    mixture: Mixture
    sparse: SparseRule = "all"
    view: ViewRule = "full"
    bias: Flag = "attention_bias"
    output_bias: Flag = "attention_bias"
    mlp_bias: Flag = False
    head_bias: Flag = False
    dense_inner: str = "intermediate_size"
    norm_values: int = 1
    """Parameters of a norm for each value."""
    qk_norm: Flag = False
    norm_over_width: bool = False
    sinks: bool = False
    by_modality: bool = False
    """Sizes of the mixture come in pairs: experts for text and others for visual tokens."""


_LOCAL = Mixture(experts="num_local_experts", inner="intermediate_size")
_QWEN3 = Traits(Mixture(), sparse="step", qk_norm=True)
_GLM = Traits(SHARED, sparse="first", output_bias=False)
_GRANITE = replace(_LOCAL, shared=1, shared_inner="shared_intermediate_size")
_ERNIE = Mixture(
    experts="moe_num_experts",
    active="moe_k",
    shared="moe_num_shared_experts",
    shared_bias="use_bias",
    router_bias=True,
)
_ERNIE_MOE = Traits(_ERNIE, sparse="span", bias="use_bias", output_bias="use_bias", mlp_bias="use_bias")
_ERNIE_VL = replace(_ERNIE_MOE, by_modality=True)
_DEEPSEEK = Traits(replace(SHARED, shared_bias="mlp_bias"), sparse="first", mlp_bias="mlp_bias")
TRAITS: dict[str, Traits] = {
    "mixtral": Traits(_LOCAL, view="every", bias=False, output_bias=False),
    "qwen2_moe": Traits(
        Mixture(shared=1, shared_inner="shared_expert_intermediate_size", shared_gate=True),
        sparse="step",
        view="even",
        bias="qkv_bias",
        output_bias=False,
    ),
    "qwen3_moe": replace(_QWEN3, view="flagged"),
    "qwen3_vl_moe_text": _QWEN3,
    "qwen3_omni_moe_text": _QWEN3,
    "llama4_text": Traits(
        replace(_LOCAL, shared=1), sparse="interleaved", view="chunks", dense_inner="intermediate_size_mlp"
    ),
    "glm4_moe": replace(_GLM, qk_norm="use_qk_norm"),
    "glm4v_moe_text": _GLM,
    "ernie4_5_moe": replace(_ERNIE_MOE, head_bias="use_bias"),
    "ernie4_5_vl_moe_text": _ERNIE_VL,
    "ernie4_5_moe_vl": _ERNIE_VL,
    "aria_text": Traits(
        Mixture(
            experts="moe_num_experts",
            active="moe_topk",
            inner="intermediate_size",
            shared="moe_num_shared_experts",
            shared_bias="mlp_bias",
        )
    ),
    "dbrx": Traits(
        Mixture(experts="moe_num_experts", active="moe_top_k", inner="ffn_hidden_size"),
        bias=False,
        output_bias=False,
    ),
    "deepseek": _DEEPSEEK,
    "deepseek_ocr2_text": replace(_DEEPSEEK, sparse="types"),
    "gpt_oss": Traits(replace(_LOCAL, router_bias=True, expert_bias=True), view="alternating", sinks=True),
    "phimoe": Traits(_LOCAL, view="every", head_bias="lm_head_bias", norm_values=2),
    "granitemoe": Traits(_LOCAL),
    "granitemoeshared": Traits(_GRANITE),
    "dots1": Traits(SHARED, sparse="first", view="tail", qk_norm=True),
    "olmoe": Traits(replace(_LOCAL, experts="num_experts"), qk_norm=True, norm_over_width=True),
    "flex_olmo": Traits(replace(_LOCAL, experts="num_experts"), qk_norm=True, norm_over_width=True),
    "minimax_m2": Traits(_LOCAL, bias=False, output_bias=False, qk_norm=True, norm_over_width=True),
    "hunyuan_v1_moe": Traits(
        Mixture(active="moe_topk", inner="intermediate_size", shared=1), qk_norm=True
    ),
}  # fmt: skip
"""Model type to traits."""


def language_model(fields: Fields, tied: bool) -> LanguageModel:
    """Turn a text section into a language model; raise `DataError` that names the field at fault."""
    kind = str(fields.text("model_type"))
    traits = TRAITS[kind]
    if kind == "dbrx":
        fields = _flattened(fields)
    hidden = fields.integer(*HIDDEN)
    layers = layer_count(fields)
    views = _views(fields, layers, traits.view)
    sparse = sparse_layers(fields, layers, traits.sparse)
    attention = heads_block(
        fields,
        hidden,
        bias=traits.bias,
        output_bias=traits.output_bias,
        qk_norm=traits.qk_norm,
        norm_over_width=traits.norm_over_width,
        sinks=traits.sinks,
    )

    def make(kind: tuple[str, bool]) -> LayerGroup:
        view, is_sparse = kind
        passed = _mixture(fields, hidden, traits) if is_sparse else _dense(fields, hidden, traits)
        return layer(hidden, _seen(fields, attention, view), passed, norm_values=traits.norm_values)

    groups = grouped(zip(views, sparse, strict=True), make)
    return decoder(fields, tied, groups, traits.norm_values, says(fields, traits.head_bias))


def _flattened(fields: Fields) -> Fields:
    """Return DBRX's fields with those of its nested ``attn_config`` and ``ffn_config`` beside the others."""
    attention, mixture = fields.section("attn_config"), fields.section("ffn_config")
    heads = attention.integer("kv_n_heads", default=1) if attention else 1
    values = {**fields.values, **(mixture.values if mixture else {}), "num_key_value_heads": heads}
    # The mixture's copy of the hidden size is not the model's.
    values["hidden_size"] = fields.integer("d_model", *HIDDEN)
    return Fields(values, fields.path, fields.file, fields.assumed)


def _dense(fields: Fields, hidden: int, traits: Traits) -> Block:
    return mlp_block(hidden, fields.integer(traits.dense_inner), bias=says(fields, traits.mlp_bias))


def _mixture(fields: Fields, hidden: int, traits: Traits) -> Block:
    """Return a mixture, two with a router each where experts are apart by modality (ERNIE 4.5 VL)."""
    of = traits.mixture
    if not traits.by_modality:
        return mixture_block(fields, hidden, of)
    text_inner, visual_inner = _pair(fields, of.inner, (1536, 512))
    text_count, visual_count = _pair(fields, of.experts)
    text = routed(fields, hidden, of, text_count, text_inner)
    visual = routed(fields, hidden, of, visual_count, visual_inner)
    shared = fields.integer("moe_num_shared_experts", default=0, minimum=0) * text_inner
    block = with_router(fields, hidden, of, text, shared)
    # Two routers are loaded, and a token passes through one of them: the other is no GEMM.
    return replace(block, other=block.other + hidden * visual_count + visual_count, visual_experts=visual)


def _pair(fields: Fields, key: str, default: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return a size for text and one for visual tokens; a single number is both."""
    value = fields.first(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, (list, tuple)):
        size = fields.integer(key)
        return size, size
    sizes = fields.integers(key, ())
    if len(sizes) != 2 or min(sizes) < 1:
        raise fields.fault(key, "is no pair of sizes for text and visual experts")
    return sizes[0], sizes[1]


def _seen(fields: Fields, block: Block, view: str) -> Block:
    """Return an attention block that sees as much of the cache as the kind of its layer says."""
    if view == FULL or block.attention is None:
        return block
    window = fields.integer("attention_chunk_size" if view == CHUNKED else "sliding_window")
    return replace(block, attention=replace(block.attention, window_tokens=window, chunked=view == CHUNKED))


def _views(fields: Fields, layers: int, rule: ViewRule) -> list[str]:
    """Return of every layer what its queries see: all, a sliding window or a chunk of the sequence.

    ``every``: a window wherever ``sliding_window`` is set; ``flagged``: if ``use_sliding_window`` says so, too;
    ``alternating``, ``even``, ``tail``, ``chunks``: as ``layer_types`` lists. Without a list these mean every other
    layer from the first; likewise but below ``max_window_layers`` and if flagged; layers from ``max_window_layers`` on;
    all but those of ``no_rope_layers``, which are every fourth where the config does not list them.
    """
    if rule == "full" or (rule == "every" and fields.first("sliding_window") is None):
        return [FULL] * layers
    if rule in ("flagged", "even") and not fields.flag("use_sliding_window", False):
        return [FULL] * layers
    if rule in ("flagged", "every"):
        return [SLIDING] * layers
    kinds = layer_kinds(fields, "layer_types", layers)
    if kinds is not None:
        known(fields, "layer_types", kinds, (FULL, CHUNKED if rule == "chunks" else SLIDING))
        return kinds
    if rule == "tail" and fields.first("sliding_window") is None:
        return [FULL] * layers
    if rule == "chunks":
        rotary = fields.integers("no_rope_layers", ())
        if rotary and len(rotary) != layers:
            raise fields.fault("no_rope_layers", f"is no list of {layers} layers")
        every = fields.integer("no_rope_layer_interval", default=4)
        return [
            CHUNKED if (rotary[index] if rotary else (index + 1) % every) else FULL for index in range(layers)
        ]
    last = fields.integer("max_window_layers", default=layers, minimum=0)
    windowed: dict[str, Callable[[int], bool]] = {
        "alternating": lambda index: index % 2 == 0,
        "even": lambda index: index % 2 == 0 and index < last,
        "tail": lambda index: index >= last,
    }
    return [SLIDING if windowed[rule](index) else FULL for index in range(layers)]
