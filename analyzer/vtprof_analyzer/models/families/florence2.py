"""Florence-2: DaViT, one matrix, and BART, whose encoder reads image and prompt together."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec
from vtprof_analyzer.models.vision.registry import encoder


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of Florence-2 into a spec; raise `DataError` that names the field which is missing or wrong."""
    top, vision, text = Fields(config), parts.vision_section(config), parts.text_section(config)
    language = parts.language_model(top, text)
    plain = encoder(vision)
    width = plain.hidden_size
    out = vision.integer("projection_dim", default=language.hidden_size)
    rows = vision.integer("max_position_embeddings", default=50)
    # Rows and columns have half of the width each; a norm follows the matrix, which has no bias.
    stage = AdapterStage(
        width * out,
        2 * rows * (width // 2) + 2 * out,
        width + 3 * out,
        patches_per_unit=plain.patches_per_token,
    )
    return ModelSpec(
        model_type="florence2",
        vision=replace(plain, adapter=(stage,)),
        language=language,
        dtype=parts.dtype(top, text),
    )
