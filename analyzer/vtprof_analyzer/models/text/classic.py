"""Older decoders with names and parts of their own: OPT, the GPTs, Persimmon, BLOOM, Falcon, MPT, ChatGLM, the first Qwen.

Each reads what is peculiar to it and leaves the rest to `dense.build`.
"""

from collections.abc import Callable
from dataclasses import replace

from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import LanguageModel
from vtprof_analyzer.models.text.dense import Traits, build
from vtprof_analyzer.models.text.layers import HEADS, HIDDEN, Heads

_BIASED = Traits(qkv_bias=True, output_bias=True, mlp_bias=True, gated=False, norm_values=2)


def language_model(fields: Fields, tied: bool) -> LanguageModel:
    """Turn a text section into a language model; raise `DataError` that names the field at fault."""
    return _READERS[str(fields.text("model_type"))](fields, tied)


def _heads(fields: Fields, hidden: int, kv: int | None = None) -> Heads:
    """Return heads that split the hidden width; as many key-value heads where ``kv`` is None."""
    query = fields.integer(*HEADS)
    key = next(key for key in HEADS if fields.first(key) is not None)
    if kv is not None and query % kv:
        raise fields.fault(key, f"is {query}, not divisible by {kv} key-value heads")
    return Heads(query, query if kv is None else kv, divide(fields, key, hidden, query))


def _opt(fields: Fields, tied: bool) -> LanguageModel:
    """Read OPT: two positions more than the context has, and an embedding that may be narrower than the layers."""
    hidden = fields.integer("hidden_size")
    affine = fields.flag("layer_norm_elementwise_affine", True)
    bias = "enable_bias"
    traits = replace(_BIASED, qkv_bias=bias, output_bias=bias, mlp_bias=bias, norm_values=2 if affine else 0)
    model = build(fields, traits, tied, _heads(fields, hidden), fields.integer("ffn_dim"))
    last_norm = fields.flag("do_layer_norm_before", True) and not fields.flag(
        "_remove_final_layer_norm", False
    )
    embedding = fields.integer("word_embed_proj_dim", default=hidden)
    projections = 2 * embedding * hidden if embedding != hidden else 0
    return replace(
        model,
        final_params=(model.final_params if last_norm else 0) + projections,
        embedding_size=embedding,
        table_params=(fields.integer("max_position_embeddings") + 2) * hidden,
    )


def _gpt2(fields: Fields, tied: bool) -> LanguageModel:
    hidden = fields.integer(*HIDDEN)
    inner = fields.integer("n_inner", default=4 * hidden)
    model = build(fields, _BIASED, tied, _heads(fields, hidden), inner)
    return replace(model, table_params=fields.integer("n_positions", "max_position_embeddings") * hidden)


def _bloom(fields: Fields, tied: bool) -> LanguageModel:
    """Read BLOOM: its embedding has a norm."""
    hidden = fields.integer(*HIDDEN)
    model = build(fields, _BIASED, tied, _heads(fields, hidden), 4 * hidden)
    return replace(model, final_params=model.final_params + 2 * hidden)


def _falcon(fields: Fields, tied: bool) -> LanguageModel:
    hidden = fields.integer(*HIDDEN)
    new = fields.flag("new_decoder_architecture", False)
    if new and fields.first("num_kv_heads", "n_head_kv") is not None:
        kv: int | None = fields.integer("num_kv_heads", "n_head_kv")
    else:
        kv = 1 if not new and fields.flag("multi_query", True) else None
    in_parallel = fields.integer("num_ln_in_parallel_attn", default=2 if new else 1)
    norms = 1 if fields.flag("parallel_attn", True) and in_parallel != 2 else 2
    traits = Traits(
        qkv_bias="bias", output_bias="bias", mlp_bias="bias", gated=False, norms=norms, norm_values=2
    )
    inner = fields.integer("ffn_hidden_size", default=4 * hidden)
    return build(fields, traits, tied, _heads(fields, hidden, kv), inner)


def _mpt(fields: Fields, tied: bool) -> LanguageModel:
    hidden = fields.integer(*HIDDEN)
    inner = hidden * fields.integer("expansion_ratio", default=4)
    return build(fields, Traits(gated=False), tied, _heads(fields, hidden), inner)


def _chatglm(fields: Fields, tied: bool) -> LanguageModel:
    """Read ChatGLM 2 to GLM-4 as their own code names the fields."""
    grouped = fields.flag("multi_query_attention", False)
    query = fields.integer("num_attention_heads")
    kv = fields.integer("multi_query_group_num", default=1) if grouped else query
    if query % kv:
        raise fields.fault("multi_query_group_num", f"is {kv}, no divisor of {query} attention heads")
    everywhere = fields.flag("add_bias_linear", False)
    traits = Traits(
        qkv_bias=everywhere or fields.flag("add_qkv_bias", False),
        output_bias=everywhere,
        mlp_bias=everywhere,
        norm_values=1 if fields.flag("rmsnorm", True) else 2,
    )
    heads = Heads(query, kv, fields.integer("kv_channels", default=128))
    return build(fields, traits, tied, heads, fields.integer("ffn_hidden_size"))


def _qwen(fields: Fields, tied: bool) -> LanguageModel:
    """Read the first Qwen: ``intermediate_size`` counts gate and up together."""
    both = fields.integer("intermediate_size")
    biased = not fields.flag("no_bias", True)
    query = fields.integer("num_attention_heads")
    width = fields.integer(
        "kv_channels", default=divide(fields, "num_attention_heads", fields.integer(*HIDDEN), query)
    )
    traits = Traits(qkv_bias=True, output_bias=biased, mlp_bias=biased)
    return build(
        fields, traits, tied, Heads(query, query, width), divide(fields, "intermediate_size", both, 2)
    )


def _neox(fields: Fields, tied: bool) -> LanguageModel:
    flag = "attention_bias"
    return build(
        fields,
        replace(_BIASED, qkv_bias=flag, output_bias=flag),
        tied,
        _heads(fields, fields.integer(*HIDDEN)),
    )


def _persimmon(fields: Fields, tied: bool) -> LanguageModel:
    traits = replace(_BIASED, qk_norm="qk_layernorm")
    return build(fields, traits, tied, _heads(fields, fields.integer(*HIDDEN)))


def _kosmos(fields: Fields, tied: bool) -> LanguageModel:
    """Read Kosmos 2 and 2.5: a norm inside of the MLP, in Kosmos 2 one before attention's output; in 2.5 two segments."""
    hidden, inner = fields.integer(*HIDDEN), fields.integer("ffn_dim")
    second = fields.text("model_type") == "kosmos_2_text_model"
    model = build(fields, _BIASED, tied, _heads(fields, hidden), inner)
    extra = 2 * inner + (2 * hidden if second else 0)
    groups = tuple(
        replace(
            group,
            other_params=group.other_params + extra,
            activation_values=group.activation_values + extra,
        )
        for group in model.groups
    )
    return replace(model, groups=groups, table_params=0 if second else 2 * hidden)


def _molmo2(fields: Fields, tied: bool) -> LanguageModel:
    """Read Molmo 2: rows of the embedding for its own tokens, which the head does not have."""
    kind = fields.text("qk_norm_type", default="qwen3")
    traits = Traits(
        qkv_bias="attention_bias", qk_norm=True, qk_norm_over="head" if kind == "qwen3" else "width"
    )
    model = build(fields, traits, tied)
    rows = fields.integer("additional_vocab_size", default=128, minimum=0)
    return replace(model, table_params=rows * model.hidden_size)


_READERS: dict[str, Callable[[Fields, bool], LanguageModel]] = {
    "kosmos_2_text_model": _kosmos,
    "kosmos_2_5_text_model": _kosmos,
    "molmo2_text": _molmo2,
    "opt": _opt,
    "gpt2": _gpt2,
    "gpt_neox": _neox,
    "persimmon": _persimmon,
    "bloom": _bloom,
    "falcon": _falcon,
    "mpt": _mpt,
    "chatglm": _chatglm,
    "qwen": _qwen,
}
