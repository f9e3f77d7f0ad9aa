"""The Idefics line: IDEFICS (cross-attention, resampler), Idefics2 (resampler), Idefics3 and SmolVLM (pixel shuffle)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, Attention, LanguageModel, LayerGroup, ModelSpec, Tower
from vtprof_analyzer.models.text.layers import (
    attention_activations,
    attention_params,
    context_tokens,
    heads,
    mlp_activations,
    mlp_params,
)
from vtprof_analyzer.models.vision.registry import encoder


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a spec; raise `DataError` that names the field which is missing or wrong."""
    kind = str(config["model_type"])
    top, vision = Fields(config), parts.vision_section(config)
    tower = encoder(vision)
    if kind == "idefics":
        language = _gated_decoder(top, tower.hidden_size)
        tower = _resampled(tower, top)
    else:
        text = parts.text_section(config)
        language = parts.language_model(top, text)
        if kind == "idefics2":
            tower = _projected_and_resampled(tower, top, text, language.hidden_size)
        else:
            tower = _shuffled(tower, top, language.hidden_size)
    return ModelSpec(
        model_type=kind,
        vision=tower,
        language=language,
        dtype=parts.dtype(top, *(section for section in (top.section("text_config"),) if section)),
    )


def _shuffled(tower: Tower, top: Fields, out: int) -> Tower:
    """Idefics3 and SmolVLM: squares of patches side by side, one matrix."""
    merged = top.integer("scale_factor", default=2) ** 2
    width = tower.hidden_size * merged
    stage = AdapterStage(width * out, 0, width + out, patches_per_unit=float(merged))
    return replace(tower, adapter=(stage,), patches_per_token=float(merged))


def _projected_and_resampled(tower: Tower, top: Fields, text: Fields, out: int) -> Tower:
    """Idefics2: a gated MLP on each patch, then latents that attend to the patches and to one another.

    Keys and values of the latents, which share the patches' matrices, are left out of the count: 64 beside thousands.
    """
    perceiver = top.section("perceiver_config") or Fields({}, "perceiver_config")
    depth = perceiver.integer("resampler_depth", default=3)
    head_dim = perceiver.integer("resampler_head_dim", default=96)
    query_width = perceiver.integer("resampler_n_heads", default=16) * head_dim
    kv_width = perceiver.integer("num_key_value_heads", default=4) * head_dim
    latents = perceiver.integer("resampler_n_latents", default=64)
    width, inner = tower.hidden_size, text.integer("intermediate_size")
    project = AdapterStage(2 * width * inner + inner * out, 0, width + 3 * inner + out)
    keys = AdapterStage(depth * 2 * out * kv_width, depth * out, depth * (3 * out + 2 * kv_width))
    query = AdapterStage(
        linear_params=depth * (2 * out * query_width + 3 * out * 4 * out),
        other_params=depth * 2 * out + out + latents * out,
        activation_values=depth * (2 * (out + query_width) + 2 * out + 3 * 4 * out + 4 * out),
        patches_per_unit=None,
        queries=latents,
        query_attention_width=depth * query_width,
        cross_attention_width=depth * query_width,
    )
    patches = (top.section("vision_config") or top).integer("image_size", default=980)
    side = (top.section("vision_config") or top).integer("patch_size", default=14)
    largest = max(1, (patches // side) ** 2)
    return replace(tower, adapter=(project, keys, query), patches_per_token=largest / latents)


def _resampled(tower: Tower, top: Fields) -> Tower:
    """IDEFICS: latents, or without the resampler all patches and the class token, for the cross-attention layers."""
    vision = top.section("vision_config") or top
    side = vision.integer("image_size", default=224) // vision.integer("patch_size", default=14)
    patches = max(1, side * side)
    if not top.flag("use_resampler", False):
        return replace(tower, patches_per_token=patches / (patches + 1))
    perceiver = top.section("perceiver_config") or Fields({}, "perceiver_config")
    depth = perceiver.integer("resampler_depth", default=6)
    head_dim = perceiver.integer("resampler_head_dim", default=96)
    inner = perceiver.integer("resampler_n_heads", default=16) * head_dim
    latents = perceiver.integer("resampler_n_latents", default=64)
    norms = 4 * head_dim if perceiver.flag("qk_layer_norms_perceiver", False) else 0
    width = tower.hidden_size
    keys = AdapterStage(
        linear_params=depth * 2 * width * inner,
        other_params=depth * 2 * width,
        activation_values=depth * (3 * width + 2 * inner),
        # The same matrices make keys and values of the class token and of the latents; every image has one size.
        patches_per_unit=patches / (patches + 1 + latents),
    )
    query = AdapterStage(
        linear_params=depth * (2 * width * inner + 8 * width * width),
        other_params=depth * (4 * width + norms) + 2 * width + latents * width,
        activation_values=depth * (2 * (width + inner) + 2 * 5 * width + 4 * width),
        patches_per_unit=None,
        queries=latents,
        query_attention_width=depth * inner,
        cross_attention_width=depth * inner,
    )
    return replace(tower, adapter=(keys, query), patches_per_token=patches / latents)


def _gated_decoder(top: Fields, vision_width: int) -> LanguageModel:
    """IDEFICS' Llama: before every so manieth layer a gated one whose attention sees the image and not the text (S073)."""
    hidden, inner = top.integer("hidden_size"), top.integer("intermediate_size")
    layers = top.integer("num_hidden_layers")
    of = heads(top, hidden)
    cross = layers // top.integer("cross_layer_interval", default=1)
    mlp, norms = mlp_params(hidden, inner), 2 * hidden
    activation = attention_activations(hidden, of) + mlp_activations(hidden, inner) + 2 * norms
    gates = 2 * (hidden if top.text("alpha_type") == "vector" else 1)
    head_norms = 2 * of.dim if top.flag("qk_layer_norms", False) else 0
    plain = LayerGroup(
        layers, Attention(of.query, of.kv, of.dim), attention_params(hidden, of) + mlp, norms, activation
    )
    gated = LayerGroup(
        cross,
        Attention(of.query, of.kv, of.dim, cross=True),
        2 * hidden * of.query_width + mlp,
        norms + gates + head_norms,
        activation - 2 * of.kv_width,
        cross_linear_params=2 * vision_width * of.kv_width,
    )
    return LanguageModel(
        hidden_size=hidden,
        vocab_size=top.integer("vocab_size") + top.integer("additional_vocab_size", default=0, minimum=0),
        groups=(plain, gated) if cross else (plain,),
        final_params=hidden,
        tied_embeddings=top.flag("tie_word_embeddings", False),
        context_tokens=context_tokens(top),
    )
