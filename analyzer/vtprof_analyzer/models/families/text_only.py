"""A language model without a tower: the config of a decoder alone."""

from collections.abc import Mapping
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.models.text.registry import language_model


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a decoder's config into a spec without vision; raise `DataError` that names the field at fault."""
    top = Fields(config)
    return ModelSpec(
        model_type=str(config["model_type"]),
        vision=None,
        language=language_model(top),
        dtype=parts.dtype(top),
    )
