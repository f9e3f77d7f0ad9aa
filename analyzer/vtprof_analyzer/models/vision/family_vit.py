"""Plain vision transformers that belong to one family: InternViT, Pixtral's, Llama 4's, and those of the Idefics line."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import Tower
from vtprof_analyzer.models.vision.vit import Style, build

_PIXTRAL = Style(
    rms=True,
    positions="none",
    patch_bias=False,
    pre_norm=True,
    post_norm=False,
    query_bias=False,
    key_bias=False,
    value_bias=False,
    out_bias=False,
    mlp_bias=False,
    gated=True,
)


def tower(fields: Fields, layers_run: int | None) -> Tower:
    """Turn a vision section into a tower by its ``model_type``; raise `DataError` that names the field at fault."""
    return _READERS[fields.text("model_type") or ""](fields, layers_run)


def _intern(fields: Fields, layers_run: int | None) -> Tower:
    """InternViT, 300M and 6B, under the names of its own code and of transformers.

    Queries and keys of the large one have a norm over all heads together.
    """
    bias = fields.flag("qkv_bias" if fields.first("qkv_bias") is not None else "attention_bias", False)
    normed = fields.flag(
        "qk_normalization" if fields.first("qk_normalization") is not None else "use_qk_norm", False
    )
    width = fields.integer("hidden_size")
    positions = fields.first("use_absolute_position_embeddings") is None or fields.flag(
        "use_absolute_position_embeddings", True
    )
    pooled = fields.first("use_mean_pooling") is None or fields.flag("use_mean_pooling", True)
    style = Style(
        rms=fields.text("norm_type", default="layer_norm") == "rms_norm",
        class_token=True,
        mask_token=fields.first("use_mask_token") is not None and fields.flag("use_mask_token", False),
        positions="learned" if positions else "none",
        post_norm=False,
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
        layer_scale=True,
        other_params=0 if pooled else 2 * width,
    )
    plain = build(fields, style, layers_run)
    if not normed:
        return plain
    groups = tuple(replace(group, other_params=group.other_params + 2 * width) for group in plain.groups)
    idle = (fields.integer("num_hidden_layers") - plain.layers) * 2 * width
    return replace(plain, groups=groups, idle_params=plain.idle_params + idle)


def _pixtral(fields: Fields, layers_run: int | None) -> Tower:
    """Pixtral's: RMS norms, a gated MLP, rotary positions in two directions, no bias."""
    return build(fields, _PIXTRAL, layers_run)


def _llama4(fields: Fields, layers_run: int | None) -> Tower:
    """Llama 4's: a class token (the last), learned positions and rotary ones."""
    return build(fields, Style(class_token=True, patch_bias=False, pre_norm=True), layers_run)


def _siglip(fields: Fields, layers_run: int | None) -> Tower:
    """The SigLIP of Idefics2, Idefics3, SmolVLM and Aria: any resolution, no head."""
    return build(fields, Style(), layers_run)


def _idefics(fields: Fields, layers_run: int | None) -> Tower:
    """IDEFICS' CLIP: its width is ``embed_dim``."""
    values: Mapping[str, Any] = {**fields.values, "hidden_size": fields.integer("embed_dim", "hidden_size")}
    named = Fields(values, fields.path, fields.file, fields.assumed)
    return build(named, Style(class_token=True, patch_bias=False, pre_norm=True), layers_run)


_READERS: dict[str, Callable[[Fields, int | None], Tower]] = {
    "internvl_vision": _intern,
    "qianfan_ocr_vision": _intern,
    "intern_vit_6b": _intern,
    "intern_vit_300m": _intern,
    "pixtral": _pixtral,
    "llama4_vision_model": _llama4,
    "idefics_vision": _idefics,
    "idefics2_vision": _siglip,
    "idefics3_vision": _siglip,
    "smolvlm_vision": _siglip,
}
