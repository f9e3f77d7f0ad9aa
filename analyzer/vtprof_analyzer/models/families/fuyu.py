"""Fuyu: no tower, one matrix turns each patch of pixels into a position of the language model."""

from collections.abc import Mapping
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import ModelSpec, Tower


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of Fuyu into a spec; raise `DataError` that names the field which is missing or wrong."""
    top = Fields(config)
    text = parts.text_section(config, "persimmon")
    language = parts.language_model(top, text)
    values = top.integer("num_channels", default=3) * top.integer("patch_size", default=30) ** 2
    tower = Tower(
        hidden_size=language.hidden_size,
        patch_params=values * language.hidden_size,
        patch_values=values,
        groups=(),
        adapter=(),
        patches_per_token=1.0,
        other_params=language.hidden_size,
    )
    return ModelSpec(
        model_type="fuyu",
        vision=tower,
        language=language,
        dtype=parts.dtype(top, text),
    )
