"""Qwen2-VL and Qwen2.5-VL: config.json to `ModelSpec`.

Both config forms are read: text fields at the top level (as published) and nested under ``text_config`` (as newer
transformers write them).
"""

from collections.abc import Mapping
from typing import Any

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import (
    Attention,
    LanguageModel,
    LayerGroup,
    ModelSpec,
    TowerGroup,
    VisionTower,
    canonical_dtype,
)

QWEN2_5 = "qwen2_5_vl"


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of model type ``qwen2_vl`` or ``qwen2_5_vl`` into a spec.

    Raises `DataError` that names the field which is missing or wrong.
    """
    top = Fields(config)
    text = top.section("text_config") or top
    vision = top.section("vision_config")
    if vision is None:
        raise top.fault("vision_config", "is missing")
    model_type = str(config["model_type"])
    language = _language(text, top)
    tower = _tower_2_5(vision, language) if model_type == QWEN2_5 else _tower_2(vision, language)
    dtype = top.first("dtype", "torch_dtype") or text.first("dtype", "torch_dtype")
    return ModelSpec(model_type, tower, language, canonical_dtype(dtype) if isinstance(dtype, str) else None)


def _language(text: Fields, top: Fields) -> LanguageModel:
    hidden = text.integer("hidden_size")
    intermediate = text.integer("intermediate_size")
    layers = text.integer("num_hidden_layers")
    query_heads = text.integer("num_attention_heads")
    kv_heads = text.integer("num_key_value_heads", default=query_heads)
    if query_heads % kv_heads:
        raise text.fault("num_key_value_heads", f"is {kv_heads}, no divisor of {query_heads} attention heads")
    head_dim = text.integer("head_dim", default=_divide(text, "num_attention_heads", hidden, query_heads))
    query_width, kv_width = query_heads * head_dim, kv_heads * head_dim
    linear = hidden * (2 * query_width + 2 * kv_width) + 3 * hidden * intermediate
    # Biases on query, key and value only, and the two norms.
    other = query_width + 2 * kv_width + 2 * hidden
    # In and out of the fused qkv, the output, the fused gate and up, and the down projection; twice a norm in and out.
    activation = 2 * (hidden + query_width) + 2 * kv_width + 2 * hidden + 3 * intermediate + 4 * hidden
    groups = tuple(
        LayerGroup(count, Attention(query_heads, kv_heads, head_dim, window), linear, other, activation)
        for count, window in _windows(text, layers)
        if count
    )
    return LanguageModel(
        hidden_size=hidden,
        vocab_size=text.integer("vocab_size"),
        groups=groups,
        final_params=hidden,
        # Older files keep the flag inside text_config; either place ties.
        tied_embeddings=top.flag("tie_word_embeddings", False) or text.flag("tie_word_embeddings", False),
    )


def _windows(text: Fields, layers: int) -> list[tuple[int, int | None]]:
    """Return how many layers see everything and how many a sliding window."""
    if not text.flag("use_sliding_window", False) or text.first("sliding_window") is None:
        return [(layers, None)]
    window = text.integer("sliding_window")
    kinds = text.first("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise text.fault("layer_types", f"is no list of {layers} layers")
        sliding = sum(kind == "sliding_attention" for kind in kinds)
    else:
        sliding = max(0, layers - text.integer("max_window_layers", minimum=0))
    return [(layers - sliding, None), (sliding, window)]


def _patch(vision: Fields) -> tuple[int, int, int, int]:
    """Return patch side, frames of a temporal patch, merge side and input values of a patch."""
    side = vision.integer("patch_size", "spatial_patch_size")
    frames = vision.integer("temporal_patch_size", default=2)
    channels = vision.integer("in_channels", "in_chans", default=3)
    return side, frames, vision.integer("spatial_merge_size", default=2), channels * frames * side**2


def _divide(fields: Fields, key: str, width: int, heads: int) -> int:
    if width % heads:
        raise fields.fault(key, f"is {heads}, no divisor of the width {width}")
    return width // heads


def _tower(vision: Fields, hidden: int, out: int, groups: tuple[TowerGroup, ...], norm: int) -> VisionTower:
    side, frames, merge, patch_values = _patch(vision)
    merged = hidden * merge**2
    _divide(vision, "num_heads", hidden, vision.integer("num_heads", "num_attention_heads"))
    return VisionTower(
        patch_pixels=side,
        temporal_patch_frames=frames,
        merge_patches=merge,
        hidden_size=hidden,
        patch_params=patch_values * hidden,
        groups=groups,
        adapter_linear_params=merged * merged + merged * out,
        adapter_other_params=norm + merged + out,
        adapter_activation_values=2 * merged + 2 * merged + merged + out,
        patch_values=patch_values,
    )


def _tower_2(vision: Fields, language: LanguageModel) -> VisionTower:
    """Return Qwen2-VL's tower: full attention, a two-matrix MLP, layer norms; its width is ``embed_dim``."""
    width = vision.integer("embed_dim")
    inner = width * vision.integer("mlp_ratio", default=4)
    group = TowerGroup(
        layers=vision.integer("depth", "num_hidden_layers"),
        attention_width=width,
        linear_params=4 * width**2 + 2 * width * inner,
        other_params=4 * width + inner + width + 4 * width,
        activation_values=(width + 3 * width) + 2 * width + 2 * (width + inner) + 4 * width,
    )
    # ``hidden_size`` is what leaves the merger: the language model's width.
    out = vision.integer("hidden_size", default=language.hidden_size)
    _same_width(vision, "hidden_size", out, language)
    return _tower(vision, width, out, (group,), norm=2 * width)


def _tower_2_5(vision: Fields, language: LanguageModel) -> VisionTower:
    """Return Qwen2.5-VL's tower: windowed attention but for a few layers, a gated MLP with biases, RMS norms."""
    width = vision.integer("hidden_size")
    inner = vision.integer("intermediate_size")
    depth = vision.integer("depth", "num_hidden_layers")
    side, _, merge, _ = _patch(vision)
    window_tokens = vision.integer("window_size", default=112) // merge // side
    if window_tokens < 1:
        raise vision.fault("window_size", "holds no merged patch")
    full = len(
        {index for index in vision.integers("fullatt_block_indexes", (7, 15, 23, 31)) if index < depth}
    )

    def group(layers: int, window: int | None) -> TowerGroup:
        return TowerGroup(
            layers=layers,
            attention_width=width,
            linear_params=4 * width**2 + 3 * width * inner,
            other_params=4 * width + 2 * inner + width + 2 * width,
            activation_values=(width + 3 * width) + 2 * width + (2 * width + 3 * inner) + 4 * width,
            window_patches=window,
        )

    layers = ((full, None), (depth - full, (window_tokens * merge) ** 2))
    out = vision.integer("out_hidden_size", default=language.hidden_size)
    _same_width(vision, "out_hidden_size", out, language)
    return _tower(vision, width, out, tuple(group(n, window) for n, window in layers if n), norm=width)


def _same_width(vision: Fields, key: str, out: int, language: LanguageModel) -> None:
    if out != language.hidden_size:
        raise vision.fault(key, f"is {out}, while the language model's hidden_size is {language.hidden_size}")
