"""The decoder of Llama 3.2 Vision: Llama's layers, and among them layers that attend to the image instead of the text.

Self-attention layers see text only; images add nothing to their cache.
"""

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import Attention, LanguageModel, LayerGroup
from vtprof_analyzer.models.text.layers import (
    attention_activations,
    attention_params,
    context_tokens,
    heads,
    mlp_activations,
    mlp_params,
)

CROSS_LAYERS = (3, 8, 13, 18, 23, 28, 33, 38)
IMAGE_TOKENS = 8
"""Rows of the embedding beyond the vocabulary: the image token and spare ones; the head has none for them."""


def language_model(fields: Fields, tied: bool) -> LanguageModel:
    """Turn a text section into a language model; raise `DataError` that names the field at fault."""
    hidden = fields.integer("hidden_size")
    layers = fields.integer("num_hidden_layers")
    inner = fields.integer("intermediate_size")
    of = heads(fields, hidden)
    cross = len(
        {index for index in fields.integers("cross_attention_layers", CROSS_LAYERS) if index < layers}
    )
    mlp, norms = mlp_params(hidden, inner), 2 * hidden
    activation = attention_activations(hidden, of) + mlp_activations(hidden, inner) + 2 * norms
    groups = (
        LayerGroup(
            layers - cross,
            Attention(of.query, of.kv, of.dim),
            attention_params(hidden, of) + mlp,
            norms,
            activation,
        ),
        LayerGroup(
            cross,
            Attention(of.query, of.kv, of.dim, cross=True),
            2 * hidden * of.query_width + mlp,
            norms + 2 * of.dim + 2,  # norms of queries and keys; a gate of attention and one of the MLP
            activation - 2 * of.kv_width,  # keys and values are made of the image, once
            cross_linear_params=2 * hidden * of.kv_width,
        ),
    )
    return LanguageModel(
        hidden_size=hidden,
        vocab_size=fields.integer("vocab_size"),
        groups=tuple(group for group in groups if group.layers),
        final_params=hidden,
        tied_embeddings=tied,
        table_params=IMAGE_TOKENS * hidden,
        context_tokens=context_tokens(fields),
    )
