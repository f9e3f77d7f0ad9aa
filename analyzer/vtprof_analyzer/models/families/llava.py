"""LLaVA's line as transformers has it: a vision transformer (of which the last layers may not run), an MLP, a decoder.

Also VipLLaVA, LLaVA-NeXT and -Video, LLaVA-OneVision, Video-LLaVA, Aya Vision, Command A Vision, FastVLM, Perception LM.
Configs of the original projects, with ``mm_vision_tower``, are read by `llava_original`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.original_llava import is_original
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower
from vtprof_analyzer.models.vision.registry import encoder, layers_run

_NEWLINE = frozenset({"llava_next", "llava_next_video", "llava_onevision"})
"""Types with a learned newline vector."""
_SHUFFLED = frozenset({"aya_vision", "cohere2_vision"})


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of the LLaVA line into a spec; raise `DataError` that names the field which is missing or wrong."""
    if is_original(config):
        from vtprof_analyzer.models.families import llava_original

        return llava_original.spec(config)
    kind = str(config["model_type"])
    top, vision = Fields(config), parts.vision_section(config)
    text = parts.text_section(config, "llama")
    language = parts.language_model(top, text)
    plain = encoder(vision, _layers_run(top, vision))
    if kind in _SHUFFLED:
        tower = _shuffled(plain, top, language.hidden_size, normed=kind == "aya_vision")
    elif kind == "perception_lm":
        tower = _pooled(plain, top, language.hidden_size)
    else:
        tower = _plain(plain, top, kind, language.hidden_size)
    return ModelSpec(
        model_type=kind,
        vision=tower,
        language=language,
        dtype=parts.dtype(top, text),
    )


def mlp(width: int, out: int, depth: int = 2, bias: bool = True, norm: int = 0, **units: Any) -> AdapterStage:
    """Return an MLP of ``depth`` matrices from ``width`` to ``out``, a norm of ``norm`` parameters before it.

    ``units`` are fields of `AdapterStage` that say how often it runs; by default once a patch.
    """
    return AdapterStage(
        linear_params=width * out + (depth - 1) * out * out,
        other_params=norm + depth * out * int(bias),
        activation_values=width + out + (depth - 1) * 2 * out + (2 * width if norm else 0),
        **units,
    )


def _selected(top: Fields) -> list[int]:
    """Return the layers whose outputs the projector gets."""
    value = top.first("vision_feature_layer")
    chosen = value if isinstance(value, list) else [value if value is not None else -1]
    if (
        not chosen
        or len(chosen) > 1000
        or not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in chosen)
    ):
        raise top.fault("vision_feature_layer", "is no layer and no list of layers")
    return chosen


def _layers_run(top: Fields, vision: Fields) -> int | None:
    """Return how many layers run: up to the last that is selected; None where the tower has no such count."""
    if vision.first("num_hidden_layers") is None:
        return None
    layers = vision.integer("num_hidden_layers")
    return max(layers_run(layer, layers) for layer in _selected(top))


def _plain(tower: Tower, top: Fields, kind: str, out: int) -> Tower:
    """Return the tower with an MLP on each patch (S102: r = 1), of the selected layers side by side."""
    width = tower.hidden_size * len(_selected(top))
    bias = top.flag("multimodal_projector_bias", True)
    norm = 2 * width if kind == "vipllava" else 0
    # Frames of LLaVA-NeXT-Video are pooled before the projector: there the tokens are its units.
    per_token = kind == "llava_next_video"
    stage = mlp(width, out, bias=bias, norm=norm, per_token=per_token)
    newline = out if kind in _NEWLINE else 0
    # Video-LLaVA has a tower for videos and one for images, alike; an item runs through one of them.
    twin = tower.params if kind == "video_llava" else 0
    return dataclasses.replace(
        tower,
        adapter=(stage,),
        other_params=tower.other_params + newline,
        idle_params=tower.idle_params + twin,
    )


def _shuffled(tower: Tower, top: Fields, out: int, normed: bool) -> Tower:
    """Return the tower with pixel shuffle and a gated MLP on squares of patches (S110)."""
    merge = top.integer("downsample_factor") ** 2
    width = tower.hidden_size * merge
    inner = top.integer("alignment_intermediate_size", default=out)
    half = inner // 2
    norm = 2 * width if normed else 0
    stage = AdapterStage(
        linear_params=width * inner + half * out,
        other_params=norm + inner + out,
        activation_values=width + inner + half + out + norm,
        patches_per_unit=float(merge),
    )
    return dataclasses.replace(tower, adapter=(stage,), patches_per_token=float(merge))


def _pooled(tower: Tower, top: Fields, out: int) -> Tower:
    """Return the tower with an MLP on each patch whose outputs are pooled afterwards."""
    ratio = top.integer("projector_pooling_ratio", default=1) ** 2
    return dataclasses.replace(tower, adapter=(mlp(tower.hidden_size, out),), patches_per_token=float(ratio))
