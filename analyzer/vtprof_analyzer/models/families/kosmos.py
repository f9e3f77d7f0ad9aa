"""Kosmos-2 and Kosmos-2.5: a tower, a matrix, latents that attend to the patches once, a decoder of their own kind."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import (
    AdapterStage,
    Attention,
    LanguageModel,
    LayerGroup,
    ModelSpec,
    Tower,
    TowerGroup,
)
from vtprof_analyzer.models.vision.vit import Style, build


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of Kosmos-2 or Kosmos-2.5 into a spec; raise `DataError` that names the field at fault."""
    kind, top = str(config["model_type"]), Fields(config)
    text, vision = parts.text_section(config), parts.vision_section(config)
    second = kind == "kosmos-2"
    language = _decoder(text, parts.tied(top, text), inner_norm=second)
    if second:
        plain = build(vision, Style(class_token=True, patch_bias=False, pre_norm=True), None)
    else:
        plain = _pixels(vision)
        segments = 2 * language.hidden_size
        language = replace(language, table_params=language.table_params + segments)
    latents = top.integer("latent_query_num", default=64 if second else 2048)
    return ModelSpec(
        model_type=kind,
        vision=_queried(plain, latents, language.hidden_size, vision),
        language=language,
        dtype=parts.dtype(top, text),
    )


def _decoder(text: Fields, tied: bool, inner_norm: bool) -> LanguageModel:
    """Return the decoder: biases and norms with bias throughout, a norm inside the MLP and (2) inside attention."""
    width, inner = text.integer("embed_dim"), text.integer("ffn_dim")
    heads = text.integer("attention_heads")
    head = divide(text, "attention_heads", width, heads)
    group = LayerGroup(
        layers=text.integer("layers"),
        attention=Attention(heads, heads, head),
        linear_params=4 * width**2 + 2 * width * inner,
        other_params=4 * width + inner + width + 4 * width + 2 * inner + (2 * width if inner_norm else 0),
        activation_values=6 * width + 2 * (width + inner) + 4 * width + 2 * inner,
    )
    return LanguageModel(
        hidden_size=width,
        vocab_size=text.integer("vocab_size"),
        groups=(group,),
        final_params=2 * width,
        tied_embeddings=tied,
        context_tokens=text.integer("max_position_embeddings", default=2048),
    )


def _pixels(vision: Fields) -> Tower:
    """Return the tower of Kosmos-2.5: rows and columns looked up, a gated MLP, RMS norms, no bias in the layers."""
    width, inner = vision.integer("hidden_size"), vision.integer("intermediate_size")
    attention = vision.integer("num_attention_heads") * vision.integer("head_dim", default=64)
    patch = vision.integer("patch_embed_hidden_size", default=768)
    group = TowerGroup(
        layers=vision.integer("num_hidden_layers"),
        attention_width=attention,
        linear_params=4 * width * attention + 3 * width * inner,
        other_params=2 * width,
        activation_values=2 * width + 4 * attention + 2 * width + 3 * inner + 4 * width,
    )
    tables = 2 * vision.integer("max_num_patches", default=4096) * width
    return Tower(
        hidden_size=width,
        patch_params=patch * width,
        patch_values=patch,
        groups=(group,),
        adapter=(),
        patches_per_token=1.0,
        other_params=width + tables + width,
    )


def _queried(tower: Tower, latents: int, out: int, vision: Fields) -> Tower:
    """Return the tower with a matrix on each patch, keys and values of patches and latents, and the latents' attention."""
    dense = AdapterStage(tower.hidden_size * out, out, tower.hidden_size + out)
    keys = AdapterStage(2 * out * out, 2 * out, 3 * out)
    # The latents are keys and values too, by the same two matrices: their part is small beside the patches'.
    rest = AdapterStage(
        linear_params=2 * out * out,
        other_params=2 * out + latents * out,
        activation_values=4 * out,
        patches_per_unit=None,
        queries=latents,
        query_attention_width=out,
        cross_attention_width=out,
    )
    side = vision.first("image_size")
    patches = (side // vision.integer("patch_size")) ** 2 if isinstance(side, int) else 4096
    return replace(tower, adapter=(dense, keys, rest), patches_per_token=max(1, patches) / latents)
