"""Whisper: its encoder as the audio tower, its decoder with cross-attention to the encoder's positions."""

from collections.abc import Mapping
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import Attention, LanguageModel, LayerGroup, ModelSpec
from vtprof_analyzer.models.vision.registry import encoder


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of type ``whisper`` into a spec; raise `DataError` that names the field at fault.

    Each decoder layer counts as two: one of self-attention with the MLP, one of cross-attention.
    """
    top = Fields(config)
    width, inner = top.integer("d_model"), top.integer("decoder_ffn_dim")
    layers, heads = top.integer("decoder_layers"), top.integer("decoder_attention_heads")
    head = divide(top, "decoder_attention_heads", width, heads)
    positions = top.integer("max_target_positions", default=448)
    own = LayerGroup(
        layers=layers,
        attention=Attention(heads, heads, head),
        linear_params=4 * width**2 + 2 * width * inner,
        # Keys have no bias; two of the layer's three norms.
        other_params=3 * width + inner + width + 4 * width,
        activation_values=(width + 3 * width) + 2 * width + 2 * (width + inner) + 4 * width,
    )
    crossed = LayerGroup(
        layers=layers,
        attention=Attention(heads, heads, head, cross=True),
        linear_params=2 * width**2,
        other_params=3 * width + 2 * width,
        activation_values=4 * width + 2 * width,
        cross_linear_params=2 * width**2,
    )
    language = LanguageModel(
        hidden_size=width,
        vocab_size=top.integer("vocab_size"),
        groups=(own, crossed),
        final_params=2 * width,
        tied_embeddings=top.flag("tie_word_embeddings", True),
        table_params=positions * width,
        context_tokens=positions,
    )
    return ModelSpec(
        model_type="whisper",
        vision=None,
        language=language,
        dtype=parts.dtype(top),
        audio=encoder(top),
    )
