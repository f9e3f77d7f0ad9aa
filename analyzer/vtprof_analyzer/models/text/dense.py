"""Dense decoders: one builder for all, and a table of what sets each model type apart.

Parameter counts equal those of the published classes: biases, norms of queries and keys and additional norms included.
"""

from dataclasses import dataclass, replace
from typing import Literal

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import Attention, LanguageModel, LayerGroup
from vtprof_analyzer.models.text.layers import (
    HIDDEN,
    LAYERS,
    VOCAB,
    Heads,
    WindowRule,
    attention_activations,
    attention_params,
    context_tokens,
    heads,
    mlp_activations,
    mlp_params,
    windows,
)

Flag = bool | str
"""Yes, no, or the config's field that says so."""


@dataclass(frozen=True)
class Traits:
    """What sets a decoder apart from the plainest one: RMS norms, no biases, a gated MLP, all of the context in sight."""

    qkv_bias: Flag = False
    output_bias: Flag = False
    mlp_bias: Flag = False
    head_bias: bool = False
    gated: bool = True
    norms: int = 2
    """Norms over the hidden width in one layer."""
    more_norms: tuple[Flag, int] = (False, 0)
    """A flag and by how many norms it changes their number."""
    norm_values: int = 1
    """Parameters of a norm for each value: none, a weight, or weight and bias."""
    qk_norm: Flag = False
    qk_norm_over: Literal["head", "width"] = "head"
    """One norm for all heads, with a bias if the other norms have one, or a weight for every value of all heads."""
    window: WindowRule = "none"
    pattern: int = 1
    unspoken: tuple[tuple[str, bool], ...] = ()
    """Defaults of flags for classes that are published with their checkpoints."""


_BIASED = Traits(qkv_bias="attention_bias", output_bias="attention_bias")
"""Attention with biases where ``attention_bias`` says so."""
_LLAMA = replace(_BIASED, mlp_bias="mlp_bias")
_INTERNLM = Traits(qkv_bias="bias", output_bias="bias", unspoken=(("bias", True),))
_MISTRAL = Traits(window="every")
_QWEN2 = Traits(qkv_bias=True, window="flagged")
_QWEN3 = replace(_BIASED, qk_norm=True)
_OLMO2 = replace(_QWEN3, qk_norm_over="width")
_ERNIE = Traits(qkv_bias="use_bias", output_bias="use_bias", mlp_bias="use_bias")
_STABLELM = Traits(
    qkv_bias="use_qkv_bias",
    norm_values=2,
    more_norms=("use_parallel_residual", -1),
    qk_norm="qk_layernorm",
    qk_norm_over="width",
)

TRAITS: dict[str, Traits] = {
    "llama": _LLAMA,
    "Yi": Traits(),
    "minicpm": Traits(),
    "baichuan": Traits(),
    "emu3_text_model": _LLAMA,
    "granite": _LLAMA,
    "granite4_vision_text": _LLAMA,
    "granite_docling_text": _LLAMA,
    "internlm": _INTERNLM,
    "internlm2": _INTERNLM,
    "internlm3": _LLAMA,
    "mistral": _MISTRAL,
    "ministral": _MISTRAL,
    "ministral3": _MISTRAL,
    "qwen2": _QWEN2,
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen2_5_omni_text": _QWEN2,
    "qwen3": replace(_QWEN3, window="flagged"),
    "qwen3_vl_text": _QWEN3,
    "hunyuan_v1_dense": _QWEN3,
    "hunyuan_vl_text": _QWEN3,
    "phi": Traits(
        qkv_bias=True, output_bias=True, mlp_bias=True, head_bias=True, gated=False, norms=1, norm_values=2,
        qk_norm="qk_layernorm",
    ),
    "phi3": _MISTRAL,
    "phi4_multimodal": _MISTRAL,
    "gemma": _BIASED,
    "gemma2": replace(_BIASED, norms=4, window="pattern", pattern=2),
    "gemma3_text": replace(_QWEN3, norms=4, window="pattern", pattern=6),
    "glm": Traits(qkv_bias="attention_bias"),
    "glm4": Traits(qkv_bias="attention_bias", norms=4),
    "glm4v_text": Traits(qkv_bias=True, norms=4),
    "glm_ocr_text": Traits(norms=4),
    "cohere": replace(_BIASED, norms=1, qk_norm="use_qk_norm", qk_norm_over="width"),
    "cohere2": replace(_BIASED, norms=1, window="pattern", pattern=4),
    "smollm3": replace(_LLAMA, window="flagged"),
    "olmo": replace(_BIASED, norm_values=0),
    "olmo2": _OLMO2,
    "olmo3": replace(_OLMO2, window="pattern", pattern=4),
    "stablelm": _STABLELM,
    "stablelm_epoch": _STABLELM,
    "starcoder2": replace(_ERNIE, gated=False, norm_values=2, window="every"),
    "exaone4": Traits(qk_norm=True, window="pattern", pattern=4),
    "ernie4_5": _ERNIE,
    "paddleocr_vl_text": _ERNIE,
    "helium": Traits(qkv_bias="attention_bias", mlp_bias="mlp_bias"),
    "seed_oss": Traits(qkv_bias="attention_bias", output_bias="attention_out_bias", mlp_bias="mlp_bias"),
    "hyperclovax": replace(_LLAMA, more_norms=("use_post_norm", 2)),
    "arcee": replace(_LLAMA, gated=False),
    "cosmos3_edge_text": replace(_LLAMA, gated=False),
}  # fmt: skip
"""Model type to traits."""


def language_model(fields: Fields, tied: bool) -> LanguageModel:
    """Turn a text section into a language model; raise `DataError` that names the field at fault."""
    return build(fields, TRAITS[str(fields.text("model_type"))], tied)


def build(
    fields: Fields, traits: Traits, tied: bool, of: Heads | None = None, inner: int | None = None
) -> LanguageModel:
    """Build a decoder of these traits.

    ``of`` and ``inner`` (width of the MLP) stand in for ``num_key_value_heads`` and ``intermediate_size`` where a config
    says them otherwise. Raises `DataError` that names the field at fault.
    """
    hidden = fields.integer(*HIDDEN)
    layers = fields.integer(*LAYERS)
    of = of or heads(fields, hidden)
    inner = inner or fields.integer("intermediate_size")
    linear = attention_params(hidden, of) + mlp_params(hidden, inner, traits.gated)
    norms = traits.norms + (traits.more_norms[1] if _says(fields, traits, traits.more_norms[0]) else 0)
    other = biases(fields, traits, hidden, of, inner) + norms * traits.norm_values * hidden
    if _says(fields, traits, traits.qk_norm):
        other += _qk_norm_params(traits, of)
    # The norms of a layer beyond two are as large as the others: in and out of each.
    activation = (
        attention_activations(hidden, of) + mlp_activations(hidden, inner, traits.gated) + 2 * norms * hidden
    )
    return LanguageModel(
        hidden_size=hidden,
        vocab_size=fields.integer(*VOCAB),
        groups=tuple(
            LayerGroup(count, Attention(of.query, of.kv, of.dim, window), linear, other, activation)
            for count, window in windows(fields, layers, traits.window, traits.pattern)
        ),
        final_params=traits.norm_values * hidden,
        tied_embeddings=tied,
        head_bias=traits.head_bias,
        context_tokens=context_tokens(fields),
    )


def biases(fields: Fields, traits: Traits, hidden: int, of: Heads, inner: int) -> int:
    """Return the biases of one layer's linear layers."""
    qkv = of.query_width + 2 * of.kv_width if _says(fields, traits, traits.qkv_bias) else 0
    output = hidden if _says(fields, traits, traits.output_bias) else 0
    mlp = (2 if traits.gated else 1) * inner + hidden if _says(fields, traits, traits.mlp_bias) else 0
    return qkv + output + mlp


def _qk_norm_params(traits: Traits, of: Heads) -> int:
    if traits.qk_norm_over == "width":
        return of.query_width + of.kv_width
    return 2 * of.dim * traits.norm_values


def _says(fields: Fields, traits: Traits, flag: Flag) -> bool:
    if isinstance(flag, bool):
        return flag
    return fields.flag(flag, dict(traits.unspoken).get(flag, False))
