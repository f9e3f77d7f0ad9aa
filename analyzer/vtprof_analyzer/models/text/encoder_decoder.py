"""T5 and BART, the language models of BLIP-2 and Florence-2: the decoder with its cross-attention; the encoder as weights.

Prompt and image run through the encoder once; the layers here are the decoder's, each counted as two: self-attention
with the MLP, and cross-attention to the encoder's positions.
"""

from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import Attention, LanguageModel, LayerGroup
from vtprof_analyzer.models.text.layers import (
    Heads,
    attention_activations,
    attention_params,
    mlp_activations,
    mlp_params,
)

NOTE = (
    "the language model has an encoder: its weights are counted, its work on prompt and image is not; prompt tokens cost"
    " what the decoder's layers would"
)


def language_model(fields: Fields, tied: bool) -> LanguageModel:
    """Turn a text section into a language model; raise `DataError` that names the field at fault."""
    return _t5(fields, tied) if fields.text("model_type") in ("t5", "mt5", "umt5") else _bart(fields, tied)


def _t5(fields: Fields, tied: bool) -> LanguageModel:
    """Read T5: RMS norms, no biases, a table of relative positions in the first layer of either half."""
    hidden, inner = fields.integer("d_model"), fields.integer("d_ff")
    query = fields.integer("num_heads")
    of = Heads(query, query, fields.integer("d_kv"))
    layers = fields.integer("num_layers")
    gated = (fields.text("feed_forward_proj", default="relu") or "").startswith("gated")
    attention, mlp = attention_params(hidden, of), mlp_params(hidden, inner, gated)
    positions = fields.integer("relative_attention_num_buckets", default=32) * query
    return LanguageModel(
        hidden_size=hidden,
        vocab_size=fields.integer("vocab_size"),
        groups=_groups(
            fields.integer("num_decoder_layers", default=layers), hidden, of, mlp, hidden, 0, inner, gated
        ),
        final_params=hidden,
        # A file that says nothing means the first T5, which ties; later ones say that they do not.
        tied_embeddings=tied or fields.first("tie_word_embeddings") is None,
        table_params=2 * positions + layers * (attention + mlp + 2 * hidden) + hidden,
        notes=(NOTE,),
    )


def _bart(fields: Fields, tied: bool) -> LanguageModel:
    """Read BART: layer norms and biases everywhere, learned positions and a norm of the embedding in either half."""
    hidden = fields.integer("d_model")
    halves = []
    for half in ("encoder", "decoder"):
        query = fields.integer(f"{half}_attention_heads")
        of = Heads(query, query, divide(fields, f"{half}_attention_heads", hidden, query))
        halves.append((fields.integer(f"{half}_layers"), of, fields.integer(f"{half}_ffn_dim")))
    (encoder_layers, encoder_heads, encoder_inner), (layers, of, inner) = halves
    context, vocab = fields.integer("max_position_embeddings"), fields.integer("vocab_size")
    encoder = attention_params(hidden, encoder_heads) + mlp_params(hidden, encoder_inner, gated=False)
    encoder += 4 * hidden + encoder_inner + hidden + 2 * 2 * hidden
    positions = (context + 2) * hidden
    return LanguageModel(
        hidden_size=hidden,
        vocab_size=vocab,
        groups=_groups(layers, hidden, of, mlp_params(hidden, inner, False), 2 * hidden, 1, inner, False),
        final_params=2 * hidden,
        tied_embeddings=tied,
        # Untied, each half has a table of its own beside the shared one.
        table_params=2 * positions
        + encoder_layers * encoder
        + 2 * hidden
        + (0 if tied else 2 * vocab * hidden),
        context_tokens=context,
        notes=(NOTE,),
    )


def _groups(
    layers: int, hidden: int, of: Heads, mlp: int, norm: int, bias: int, inner: int, gated: bool
) -> tuple[LayerGroup, ...]:
    """Return the decoder's layers; ``norm`` is the size of one norm, ``bias`` 1 where linear layers have one."""
    activation = attention_activations(hidden, of)
    biases = bias * (of.query_width + 2 * of.kv_width + hidden)
    own = LayerGroup(
        layers,
        Attention(of.query, of.kv, of.dim),
        attention_params(hidden, of) + mlp,
        biases + bias * (inner + hidden) + 2 * norm,
        activation + mlp_activations(hidden, inner, gated) + 4 * hidden,
    )
    crossed = LayerGroup(
        layers,
        Attention(of.query, of.kv, of.dim, cross=True),
        2 * hidden * of.query_width,
        biases + norm,
        activation - 2 * of.kv_width + 2 * hidden,
        cross_linear_params=2 * hidden * of.kv_width,
    )
    return own, crossed
