"""Llama 4: a vision transformer with pixel shuffle and an MLP inside, one matrix, a mixture-of-experts decoder."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a spec; raise `DataError` that names the field which is missing or wrong."""
    return parts.composite(config, _with_adapter)


def _with_adapter(tower: Tower, _: Fields, vision: Fields, out: int) -> Tower:
    ratio = vision.number("pixel_shuffle_ratio", default=0.5)
    if not 1 / 64 <= ratio <= 1.0:
        raise vision.fault("pixel_shuffle_ratio", f"is {ratio:g}; it must be over 0 and at most 1")
    merged = round(1 / ratio**2)
    # The first matrix reads the shuffled patches, whose width the config calls that of the MLP.
    shuffled = vision.integer("intermediate_size")
    inner, projected = vision.integer("projector_input_dim"), vision.integer("projector_output_dim")
    given = vision.integer("vision_output_dim")
    stage = AdapterStage(
        linear_params=shuffled * inner + projected * projected + given * out,
        other_params=0,
        activation_values=shuffled + inner + 2 * projected + given + out,
        patches_per_unit=float(merged),
    )
    return replace(tower, adapter=(stage,), patches_per_token=float(merged))
