"""Llama 3.2 Vision: a language model that attends to the image in layers of its own, and never has it in its sequence."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec
from vtprof_analyzer.models.text import registry as text_registry
from vtprof_analyzer.models.vision.mllama import output_width, tile_patches
from vtprof_analyzer.models.vision.registry import encoder


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a spec; raise `DataError` that names the field which is missing or wrong."""
    top, text, vision = Fields(config), parts.text_section(config), parts.vision_section(config)
    # Its class has no tied weights, whatever a file says.
    language = text_registry.language_model(text, tied=False)
    width, hidden, patches = output_width(vision), language.hidden_size, tile_patches(vision)
    given = vision.integer("vision_output_dim", default=width)
    if given != width:
        raise vision.fault(
            "vision_output_dim", f"is {given}, while the tower's outputs are {width} wide together"
        )
    # One matrix for every patch and class token, whose number is a tile's patches and one.
    ratio = patches / (patches + 1)
    stage = AdapterStage(width * hidden, hidden, width + hidden, patches_per_unit=ratio)
    return ModelSpec(
        model_type=str(config["model_type"]),
        vision=replace(encoder(vision), adapter=(stage,), patches_per_token=ratio),
        language=language,
        dtype=parts.dtype(top, text),
    )
