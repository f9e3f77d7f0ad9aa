"""Mistral 3 (Mistral Small 3.1 and later, Ministral 3) and LightOnOCR: Pixtral's tower, patches merged, an MLP, a decoder.

Pixtral 12B itself is a LLaVA with this tower.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower
from vtprof_analyzer.models.vision.registry import encoder, layers_run


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a spec; raise `DataError` that names the field which is missing or wrong."""
    top, vision = Fields(config), parts.vision_section(config)
    text = parts.text_section(config)
    language = parts.language_model(top, text)
    tower = encoder(vision, _layers(top, vision))
    bias = top.text("model_type") != "lighton_ocr" and top.flag("multimodal_projector_bias", False)
    return ModelSpec(
        model_type=str(config["model_type"]),
        vision=_with_merger(tower, top, language.hidden_size, bias),
        language=language,
        dtype=parts.dtype(top, text),
    )


def _layers(top: Fields, vision: Fields) -> int:
    selected = top.first("vision_feature_layer")
    if isinstance(selected, bool) or not isinstance(selected, (int, type(None))):
        raise top.fault("vision_feature_layer", "is no layer")
    return layers_run(-1 if selected is None else selected, vision.integer("num_hidden_layers"))


def _with_merger(tower: Tower, top: Fields, out: int, bias: bool) -> Tower:
    width = tower.hidden_size
    merged = top.integer("spatial_merge_size", default=2) ** 2
    stage = AdapterStage(
        linear_params=merged * width * width + width * out + out * out,
        other_params=width + 2 * out * int(bias),
        activation_values=3 * merged * width + 2 * width + 3 * out,
        patches_per_unit=float(merged),
    )
    return replace(tower, adapter=(stage,), patches_per_token=float(merged))
