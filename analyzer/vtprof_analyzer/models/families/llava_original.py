"""LLaVA's line in the form of the original projects: a flat decoder config that names tower and projector.

LLaVA 1.5 to OneVision, LongVA, Yi-VL, MobileVLM, FastVLM, ConvLLaVA, TokenPacker, QueCC, Cambrian-1; and VILA, NVILA and
LongVILA, which nest ``llm_cfg``, ``vision_tower_cfg`` and ``mm_projector_cfg``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.families.projectors import projector
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.original_llava import tower_names, vision_section
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower
from vtprof_analyzer.models.vision.named import Convolutional
from vtprof_analyzer.models.vision.registry import encoder, layers_run
from vtprof_analyzer.models.vision.timm import convolutional

_DECODERS = (
    ("mistral", "mistral"),
    ("qwen", "qwen2"),
    ("gemma", "gemma"),
    ("phi3", "phi3"),
    ("phi", "phi"),
    ("stablelm", "stablelm"),
)
"""Word in the model type to decoder; all others are Llama."""


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a spec; raise `DataError` that names the field which is missing or wrong."""
    kind = str(config["model_type"])
    top = Fields(config)
    text = _text(config, kind)
    language = parts.language_model(top, text)
    names = tower_names(top)
    tower = _tower(top, vision_section(top, names[0]), original="vision_tower_cfg" not in config)
    stage, notes = projector(top, tower, language.hidden_size)
    newline = language.hidden_size if _has_newline(top) else 0
    main = dataclasses.replace(
        tower,
        adapter=stage,
        patches_per_token=_patches_per_token(top, vision_section(top, names[0]), stage),
        other_params=tower.other_params + newline,
    )
    return ModelSpec(
        model_type=kind,
        vision=main,
        language=language,
        dtype=parts.dtype(top, text),
        notes=notes,
        extra_towers=tuple(_further(top, names[0], name) for name in names[1:]),
    )


def _text(config: Mapping[str, Any], kind: str) -> Fields:
    nested = Fields(config).section("llm_cfg")
    if nested is not None:
        return Fields(complete(nested.values, "llama"), "llm_cfg")
    decoder = next((decoder for word, decoder in _DECODERS if word in kind), "llama")
    flat = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    return Fields(complete({**flat, "model_type": decoder}))


def _tower(top: Fields, section: Fields | Convolutional, original: bool) -> Tower:
    if isinstance(section, Convolutional):
        return convolutional(section.width, section.stride, section.params)
    if original and section.text("model_type") == "siglip_vision_model":
        # The original code takes SigLIP's last layer and head away, and runs what is left.
        layers = max(1, section.integer("num_hidden_layers") - 1)
        return encoder(Fields({**section.values, "num_hidden_layers": layers, "vision_use_head": False}))
    selected = top.first("mm_vision_select_layer")
    layers = section.integer("num_hidden_layers")
    if selected is None:
        selected = -2
    if isinstance(selected, bool) or not isinstance(selected, int):
        raise top.fault("mm_vision_select_layer", "is no layer")
    return encoder(section, layers_run(selected, layers))


def _further(top: Fields, first: str, name: str) -> Tower:
    """Return one of several towers, each of which sees the image at a size of its own."""
    section = vision_section(top, name)
    return parts.beside(
        _tower(top, section, original=True), _side(section) ** 2 / _side(vision_section(top, first)) ** 2
    )


def _side(section: Fields | Convolutional) -> int:
    """Return patches on a side of a tower's square image."""
    if isinstance(section, Convolutional):
        return max(1, section.side // section.stride)
    return max(1, section.integer("image_size") // section.integer("patch_size"))


def _has_newline(top: Fields) -> bool:
    return (
        "unpad" in (top.text("mm_patch_merge_type") or "")
        or top.first("mm_vision_tower_aux_list") is not None
    )


def _patches_per_token(
    top: Fields, section: Fields | Convolutional, stages: tuple[AdapterStage, ...]
) -> float:
    """Return how many patches become one token: of a compressor with a set number of tokens, or of the last stage."""
    if top.first("mm_vision_output_combined_token_count") is not None:
        return _side(section) ** 2 / top.integer("mm_vision_output_combined_token_count")
    last = stages[-1] if stages else None
    return 1.0 if last is None or last.patches_per_unit is None else last.patches_per_unit
