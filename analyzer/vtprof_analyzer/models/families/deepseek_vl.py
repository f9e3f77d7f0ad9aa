"""DeepSeek-VL, DeepSeek-VL2 and DeepSeek-OCR: a SigLIP tower, an MLP, a decoder.

DeepSeek-VL-7B has a SAM encoder beside its tower; DeepSeek-OCR has one in front of a CLIP tower instead, and
DeepSeek-OCR-2 in front of a small decoder that turns learned queries into tokens.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.families.llava import mlp
from vtprof_analyzer.models.families.phi_vision import CLIP_L_336
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower, TowerGroup
from vtprof_analyzer.models.text import registry as text_registry
from vtprof_analyzer.models.vision import sam
from vtprof_analyzer.models.vision.registry import encoder
from vtprof_analyzer.models.vision.vit import Style, build

SO400M = {"width": 1152, "layers": 27, "heads": 16, "mlp_ratio": 3.7362, "patch_size": 14, "image_size": 384}
"""``siglip_so400m_patch14_384``, which the published configs name and describe in part."""

QUERIES = "the tower's decoder sees patches both ways and queries causally; its attention is counted both ways throughout"


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of the DeepSeek-VL line into a spec; raise `DataError` that names the field at fault."""
    kind = str(config["model_type"])
    if kind in ("deepseek_vl_v2", "deepseek_ocr"):
        return _second(config)
    top, vision, text = Fields(config), parts.vision_section(config), parts.text_section(config, "llama")
    language = parts.language_model(top, text)
    if kind == "deepseek_ocr2":
        return ModelSpec(
            model_type=kind,
            vision=_sam_and_decoder(vision, language.hidden_size),
            language=language,
            dtype=parts.dtype(top, text),
            notes=(QUERIES,),
        )
    tower = encoder(vision)
    out, width = language.hidden_size, tower.hidden_size
    extra: tuple[Tower, ...] = ()
    if kind == "deepseek_vl_hybrid":
        half = out // 2
        fused = AdapterStage(out * out, out, 2 * out)
        tower = replace(tower, adapter=(mlp(width, half, depth=1), fused))
        high = parts.vision_section(config, "high_res_vision_config")
        seen = _patches(high, 1024, 16) / _patches(vision, 384, 16)
        extra = (parts.beside(_high_resolution(high, half, seen), seen),)
    else:
        tower = replace(tower, adapter=(mlp(width, out),))
    return ModelSpec(
        model_type=kind,
        vision=tower,
        language=language,
        dtype=parts.dtype(top, text),
        extra_towers=extra,
    )


def _high_resolution(fields: Fields, out: int, ratio: float) -> Tower:
    """Return SAM with a second neck on its first global layer, and two halvings that both necks run through.

    ``ratio`` is how many of its patches there are for one of the tower beside it. Before the halvings the grid becomes
    four times as wide as that tower's, whatever it was.
    """
    tower = encoder(fields)
    channels = fields.integer("output_channels", default=256)
    shrink = (
        replace(sam.halving(channels, 2 * channels, ratio / 4), runs=2),
        replace(sam.halving(2 * channels, 4 * channels, ratio), runs=2),
    )
    projection = mlp(4 * channels, out, depth=1, patches_per_unit=ratio)
    # The weight of the second neck's features is one parameter.
    return replace(
        tower,
        adapter=(*tower.adapter, sam.neck(fields), *shrink, projection),
        patches_per_token=ratio,
        other_params=tower.other_params + 1,
    )


def _patches(fields: Fields, side: int, patch: int) -> int:
    return (
        max(1, fields.integer("image_size", default=side) // fields.integer("patch_size", default=patch)) ** 2
    )


def _second(config: Mapping[str, Any]) -> ModelSpec:
    """Read DeepSeek-VL2: joined patches, learned newline and separator; experts, and latent attention but in the small."""
    top = Fields(config)
    section = top.section("language_config")
    if section is None:
        raise top.missing("language_config")
    given = {"qk_rope_head_dim": 64, **section.values, "model_type": "deepseek_v2"}
    text = Fields(complete(given), "language_config")
    language = parts.language_model(top, text)
    projector = top.section("projector_config") or Fields({}, "projector_config")
    classes = top.first("architectures")
    read = isinstance(classes, list) and "DeepseekOCRForCausalLM" in classes
    if read or config["model_type"] == "deepseek_ocr":
        tower = _sam_and_clip(projector.integer("n_embed", default=language.hidden_size))
    else:
        tower = _joined(top, projector, language.hidden_size)
    return ModelSpec(
        model_type=str(config["model_type"]),
        vision=tower,
        language=language,
        dtype=parts.dtype(top, text, section),
    )


def _joined(top: Fields, projector: Fields, hidden: int) -> Tower:
    """Return DeepSeek-VL2's tower with an MLP on joined patches, a learned newline and a separator."""
    vision = _so400m(top.section("vision_config") or Fields({}, "vision_config"))
    joined = projector.integer("downsample_ratio", default=2) ** 2
    out = projector.integer("n_embed", default=hidden)
    width = vision.hidden_size * joined
    inner = out * projector.integer("mlp_ratio", default=1)
    depth = projector.integer("depth", default=2)
    stage = AdapterStage(
        width * inner + max(0, depth - 2) * inner * inner + inner * out,
        max(1, depth - 1) * inner + out,
        width + 2 * (depth - 1) * inner + out,
        patches_per_unit=float(joined),
    )
    return replace(
        vision, adapter=(stage,), patches_per_token=float(joined), other_params=vision.other_params + 2 * out
    )


def _sam_and_clip(out: int) -> Tower:
    """Return DeepSeek-OCR's tower: SAM-B, two halvings, CLIP ViT-L on what is left, one matrix on both outputs."""
    fields = Fields(complete({"model_type": "sam_vision_model", "global_attn_indexes": [2, 5, 8, 11]}))
    first = encoder(fields)
    channels = fields.integer("output_channels", default=256)
    clip = build(
        Fields({**CLIP_L_336, "image_size": 224}),
        Style(class_token=True, patch_bias=False, pre_norm=True, post_norm=False),
        None,
    )
    second = tuple(replace(group, positions_per_patch=1 / 16) for group in clip.groups)
    shrink = (sam.halving(channels, 2 * channels, 4.0), sam.halving(2 * channels, 4 * channels, 16.0))
    projection = mlp(4 * channels + clip.hidden_size, out, depth=1, patches_per_unit=16.0)
    return replace(
        first,
        groups=(*first.groups, *second),
        adapter=(*first.adapter, *shrink, projection),
        patches_per_token=16.0,
        # A learned newline and a separator; CLIP's own patch embedding is loaded and not run.
        other_params=first.other_params + clip.other_params + 2 * out,
        idle_params=clip.patch_params,
    )


def _sam_and_decoder(vision: Fields, out: int) -> Tower:
    """Return DeepSeek-OCR-2's tower: SAM, two halvings, a decoder on what is left and as many learned queries."""
    section, inside = vision.section("sam_config"), vision.section("encoder_config")
    if section is None or inside is None:
        raise vision.missing("sam_config" if section is None else "encoder_config")
    first = encoder(Fields({**section.values, "model_type": "sam_vision_model"}, section.path))
    decoder = text_registry.language_model(
        Fields({**inside.values, "model_type": "qwen2"}, inside.path), False
    )
    (group, *_) = decoder.groups
    width = decoder.hidden_size
    layers = TowerGroup(
        layers=decoder.layers,
        attention_width=group.attention.query_width,
        linear_params=group.linear_params,
        other_params=group.other_params,
        activation_values=group.activation_values,
        positions_per_patch=2 / 16,
    )
    channels = section.integer("output_channels", default=256)
    steps = section.integers("downsample_channels", (512, width))
    if len(steps) != 2 or min(steps) < 1 or max(steps) > 2**20:
        raise section.fault("downsample_channels", "is no pair of sizes")
    shrink = (sam.halving(channels, steps[0], 4.0), sam.halving(steps[0], steps[1], 16.0))
    # A query for every token: those of tiles of 768 pixels, and those of the overview of 1024.
    queries = (144 + 256) * width
    return replace(
        first,
        groups=(*first.groups, layers),
        adapter=(*first.adapter, *shrink, mlp(width, out, depth=1, patches_per_unit=16.0)),
        patches_per_token=16.0,
        other_params=first.other_params + decoder.final_params + queries + out,
    )


def _so400m(section: Fields) -> Tower:
    given = {name: section.first(name) or value for name, value in SO400M.items()}
    named = {
        "hidden_size": given["width"],
        "num_hidden_layers": given["layers"],
        "num_attention_heads": given["heads"],
        "patch_size": given["patch_size"],
        "image_size": given["image_size"],
    }
    fields = Fields(named, section.path)
    ratio = Fields({"mlp_ratio": given["mlp_ratio"]}, section.path).number("mlp_ratio")
    width = fields.integer("hidden_size")
    return build(fields, Style(head="siglip"), None, inner=max(1, int(width * ratio)))
