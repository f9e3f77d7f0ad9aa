"""Molmo and Molmo2: two layers of a vision transformer side by side, attention that pools patches, a gated MLP."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, LanguageModel, ModelSpec, Tower
from vtprof_analyzer.models.text.dense import Traits
from vtprof_analyzer.models.text.dense import build as build_decoder
from vtprof_analyzer.models.vision.vit import Style, build

POOLED = 4
"""Patches that become a token of an image."""
_CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""Molmo's tower, of which its configs say nothing: CLIP ViT-L/14 without its last layer."""


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of Molmo or Molmo2 into a spec; raise `DataError` that names the field which is missing or wrong."""
    kind, top = str(config["model_type"]), Fields(config)
    if kind == "molmo2":
        text = parts.text_section(config)
        language = _decoder(text, text.integer("intermediate_size"))
        tower = _second(top, parts.vision_section(config, "adapter_config"))
    else:
        text = Fields(
            complete({**config, "model_type": "molmo2_text", "attention_bias": config.get("qkv_bias", True)})
        )
        # One number for gate and up together.
        inner = top.integer("intermediate_size") // 2
        language = _first_decoder(text, top, inner)
        plain = build(
            Fields(_CLIP), Style(class_token=True, patch_bias=False, pre_norm=True, post_norm=False), None
        )
        # Two vectors stand for padding, whole and in part.
        tower = _pooled(plain, 2, 1024, inner, language.hidden_size, other=2 * 2 * plain.hidden_size)
    return ModelSpec(
        model_type=kind,
        vision=tower,
        language=language,
        dtype=parts.dtype(top, text),
    )


def _decoder(text: Fields, inner: int, normed: bool = True) -> LanguageModel:
    """Return the decoder; rows for the tags follow the embedding's and have none in the head."""
    over = "head" if text.text("qk_norm_type", default="qwen3") == "qwen3" else "width"
    traits = Traits(
        qkv_bias="attention_bias", qk_norm=normed, qk_norm_over="head" if over == "head" else "width"
    )
    model = build_decoder(text, traits, False, inner=inner)
    rows = text.integer("additional_vocab_size", default=128, minimum=0)
    return replace(model, vocab_size=model.vocab_size + rows, head_vocab_size=model.vocab_size)


def _first_decoder(text: Fields, top: Fields, inner: int) -> LanguageModel:
    named = dict(text.values)
    if top.first("embedding_size") is not None:
        named["vocab_size"] = top.integer("embedding_size")
    named.pop("head_dim", None)
    named["qk_norm_type"] = "olmo"
    return _decoder(Fields(named), inner, normed=top.flag("attention_layer_norm", False))


def _second(top: Fields, adapter: Fields) -> Tower:
    # Files of before the rename keep layers that no one reads; the class drops these on loading.
    older = top.section("vit_config")
    vision = older or parts.vision_section(top.values)
    selected = adapter.first("vision_feature_layer", "vit_layers") or [24, 18]
    if not isinstance(selected, list) or not 0 < len(selected) <= 16:
        raise adapter.fault("vision_feature_layer", "is no list of layers")
    layers = vision.integer("num_hidden_layers", default=25)
    if not all(isinstance(layer, int) and -layers <= layer < layers for layer in selected):
        raise adapter.fault("vision_feature_layer", f"names a layer that {layers} layers do not have")
    run = max(layer % layers for layer in selected) + 1
    named = {
        **complete({**vision.values, "model_type": "molmo2_vision"}),
        "num_hidden_layers": run if older else layers,
        "image_size": vision.first("image_size", "image_default_input_size") or [378, 378],
        "patch_size": vision.integer("image_patch_size", "patch_size", default=14),
    }
    bias = vision.flag("attention_bias", True)
    style = Style(post_norm=False, query_bias=bias, key_bias=bias, value_bias=bias, out_bias=bias)
    plain = build(Fields(named, vision.path), style, run)
    return _pooled(
        plain,
        len(selected),
        adapter.integer("hidden_size"),
        adapter.integer("intermediate_size"),
        adapter.integer("text_hidden_size"),
        bias=adapter.flag("attention_bias", True),
        mlp_bias=adapter.flag("mlp_bias", False),
    )


def _pooled(
    tower: Tower,
    taken: int,
    width: int,
    inner: int,
    out: int,
    other: int = 0,
    bias: bool = True,
    mlp_bias: bool = False,
) -> Tower:
    """Return the tower with its adapter: keys and values of every patch, the rest once a token.

    A token's query sees the few patches that it pools: the pairs are too few to count.
    """
    source = taken * tower.hidden_size
    keys = AdapterStage(2 * source * width, 2 * width * int(bias), source + 2 * width)
    rest = AdapterStage(
        linear_params=source * width + width * width + 2 * width * inner + inner * out,
        other_params=2 * width * int(bias) + 2 * inner * int(mlp_bias) + other,
        activation_values=source + 4 * width + 3 * inner + out,
        per_token=True,
    )
    return replace(tower, adapter=(keys, rest), patches_per_token=float(POOLED))
