"""Decoders with latent attention (MLA; DeepSeek-V2, arXiv 2405.04434): the cache keeps one vector for all heads."""

from dataclasses import dataclass, replace

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import Attention, LanguageModel, LayerGroup
from vtprof_analyzer.models.text.blocks import (
    Block,
    Flag,
    decoder,
    grouped,
    heads_block,
    layer,
    layer_count,
    mlp_block,
    says,
)
from vtprof_analyzer.models.text.layers import HEADS, HIDDEN
from vtprof_analyzer.models.text.mixture import SHARED, Mixture, SparseRule, mixture_block, sparse_layers


@dataclass(frozen=True)
class Traits:
    """What sets a decoder with latent attention apart: where its mixtures of experts are, if any, and biases."""

    mixture: Mixture | None = SHARED
    sparse: SparseRule = "first"
    mlp_bias: Flag = False


TRAITS: dict[str, Traits] = {
    "deepseek_v2": Traits(replace(SHARED, shared_bias="mlp_bias"), mlp_bias="mlp_bias"),
    "deepseek_v3": Traits(),
    "kimi_k2": Traits(),
    "mistral4": Traits(),
    "glm4_moe_lite": Traits(sparse="types"),
    "minicpm3": Traits(mixture=None),
    "youtu": Traits(mixture=None),
}
"""Model type to traits."""


def language_model(fields: Fields, tied: bool) -> LanguageModel:
    """Turn a text section into a language model; raise `DataError` that names the field at fault."""
    traits = TRAITS[str(fields.text("model_type"))]
    hidden = fields.integer(*HIDDEN)
    layers = layer_count(fields)
    sparse = sparse_layers(fields, layers, traits.sparse) if traits.mixture else [False] * layers
    attention = attention_block(fields, hidden)

    def make(is_sparse: bool) -> LayerGroup:
        if is_sparse and traits.mixture:
            return layer(hidden, attention, mixture_block(fields, hidden, traits.mixture))
        inner = fields.integer("intermediate_size")
        return layer(hidden, attention, mlp_block(hidden, inner, bias=says(fields, traits.mlp_bias)))

    return decoder(fields, tied, grouped(sparse, make))


def attention_block(fields: Fields, hidden: int) -> Block:
    """Return latent attention, or heads with keys and values of their own where the config turns it off.

    ``use_mla: false`` or ``kv_lora_rank: null`` turn it off, as in the small DeepSeek-VL2 and in DeepSeek-OCR.
    """
    if fields.flag("use_mla", True) is False or fields.values.get("kv_lora_rank", 0) is None:
        return heads_block(fields, hidden, bias="attention_bias", output_bias="attention_bias")
    query_heads = fields.integer(*HEADS)
    rank = fields.integer("kv_lora_rank")
    rotary, plain = fields.integer("qk_rope_head_dim"), fields.integer("qk_nope_head_dim")
    value = fields.integer("v_head_dim")
    query_rank = fields.integer("q_lora_rank") if fields.first("q_lora_rank") is not None else 0
    query, out = query_heads * (rotary + plain), query_heads * value
    # Queries come from the hidden state, or through a narrow latent vector of their own.
    queries = hidden * query_rank + query_rank * query if query_rank else hidden * query
    cached, expanded = rank + rotary, query_heads * (plain + value)
    bias = query_rank + cached + hidden if fields.flag("attention_bias", False) else 0
    return Block(
        linear=queries + hidden * cached + rank * expanded + out * hidden,
        other=query_rank + rank + bias,
        values=2 * hidden + 2 * query_rank + query + cached + rank + expanded + out,
        attention=Attention(
            query_heads,
            query_heads,
            rotary + plain,
            value_dim=value,
            latent_values=cached,
            latent_rank=rank,
        ),
    )
