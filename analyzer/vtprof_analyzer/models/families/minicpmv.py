"""MiniCPM-V and MiniCPM-OCR: a SigLIP tower on slices, then a resampler (remote code) or mergers (transformers)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower, TowerGroup
from vtprof_analyzer.models.tokens.minicpmv import remote_version
from vtprof_analyzer.models.vision.vit import Style, build

_DECODERS = {(2, 0): "minicpm", (2, 5): "llama", (2, 6): "qwen2", (4, 0): "llama", (4, 5): "qwen3"}
"""The flat configs of the remote code name the whole model's type; its version tells the decoder."""
_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 980,
    "patch_size": 14,
}


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of the MiniCPM-V line into a spec; raise `DataError` that names the field which is missing or wrong."""
    kind, top = str(config["model_type"]), Fields(config)
    if kind == "minicpmv":
        version = remote_version(top)
        if version not in _DECODERS:
            raise top.fault("version", f"is none of {', '.join(f'{a}.{b}' for a, b in _DECODERS)}")
        text = parts.text_section(config, _DECODERS[version])
        language = parts.language_model(top, text)
        tower = _resampled(_so400m(top, version), top, language.hidden_size, version)
    else:
        text = parts.text_section(config)
        language = parts.language_model(top, text)
        tower = _merged(parts.vision_section(config), top, language.hidden_size)
    return ModelSpec(
        model_type=kind,
        vision=tower,
        language=language,
        dtype=parts.dtype(top, text),
    )


def _so400m(top: Fields, version: tuple[int, int]) -> Tower:
    section = top.section("vision_config")
    given = {**_SO400M, **(dict(section.values) if section else {})}
    if version == (2, 0):
        # The first one names a timm model, whose positions are those of 384 pixels.
        given["image_size"] = 448 if section is None else given["image_size"]
    vision = Fields(given, "vision_config")
    layers = vision.integer("num_hidden_layers")
    if top.flag("drop_vision_last_layer", version == (2, 0)):
        vision = Fields({**given, "num_hidden_layers": max(1, layers - 1)}, "vision_config")
    return build(vision, Style(), None)


def _resampled(tower: Tower, top: Fields, out: int, version: tuple[int, int]) -> Tower:
    """Return the tower with queries that attend to the patches of a slice once."""
    queries = top.integer("query_num", default=96 if version == (2, 5) else 64)
    source = tower.hidden_size
    # Keys and values come of patches projected to the language model's width.
    keys = AdapterStage(source * out + 2 * out * out, 2 * out + 2 * out, source + 5 * out)
    rest = AdapterStage(
        linear_params=3 * out * out,
        other_params=2 * out + 4 * out + queries * out,
        activation_values=6 * out + 4 * out,
        patches_per_unit=None,
        queries=queries,
        cross_attention_width=out,
    )
    side = top.integer("scale_resolution", default=448) // 14
    return replace(tower, adapter=(keys, rest), patches_per_token=side**2 / queries)


def _merged(vision: Fields, top: Fields, out: int) -> Tower:
    """Return the tower with a merger among its layers (which ``4x`` leaves out) and one behind them."""
    plain = build(vision, Style(), None)
    layers, width = vision.integer("num_hidden_layers"), plain.hidden_size
    inner = vision.integer("intermediate_size")
    window = _area(vision, "window_kernel_size")
    merge = _area(top, "merge_kernel_size")
    early = min(layers, top.integer("insert_layer_id", default=6, minimum=0) + 1)
    wide, deep = width * window, inner * window
    attention = TowerGroup(1, width, 4 * width**2, 6 * width, 8 * width, window_patches=window)
    joining = TowerGroup(
        layers=1,
        attention_width=0,
        linear_params=wide * deep + deep * width,
        other_params=2 * wide + deep + width,
        activation_values=3 * wide + 2 * deep + width,
        positions_per_patch=1 / window,
    )
    inserted = attention.linear_params + attention.other_params + joining.linear_params + joining.other_params
    group = plain.groups[0]
    if top.text("downsample_mode", default="16x") == "4x":
        tower, rate = replace(plain, idle_params=plain.idle_params + inserted), 1
    else:
        late = replace(group, layers=layers - early, positions_per_patch=1 / window)
        groups = (replace(group, layers=early), attention, joining, late)
        tower, rate = replace(plain, groups=tuple(item for item in groups if item.layers)), window
    stages = []
    rounds = top.integer("merger_times", default=1)
    if rounds > 10:
        raise top.fault("merger_times", f"is {rounds}, more than any model's")
    for step in range(rounds):
        rate *= merge
        target = out if step == rounds - 1 else width
        wide = width * merge
        stages.append(
            AdapterStage(
                linear_params=wide * wide + wide * target,
                other_params=2 * wide + wide + target,
                activation_values=6 * wide + target,
                patches_per_unit=float(rate),
            )
        )
    return replace(tower, adapter=tuple(stages), patches_per_token=float(rate))


def _area(fields: Fields, key: str) -> int:
    sides = fields.integers(key, (2, 2))
    if len(sides) != 2 or min(sides) < 1 or max(sides) > 2**10:
        raise fields.fault(key, "is no pair of sides")
    return sides[0] * sides[1]
