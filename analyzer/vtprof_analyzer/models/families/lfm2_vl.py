"""LFM2-VL: SigLIP 2 at native resolution, pixel shuffle and an MLP before a decoder of convolutions and attention."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a spec; raise `DataError` that names the field which is missing or wrong."""
    return parts.composite(config, _with_projector)


def _with_projector(tower: Tower, top: Fields, _: Fields, out: int) -> Tower:
    merged = top.integer("downsample_factor", default=2) ** 2
    width = tower.hidden_size * merged
    inner = top.integer("projector_hidden_size", default=2560)
    norm = 2 * width if top.flag("projector_use_layernorm", True) else 0
    stage = AdapterStage(
        linear_params=width * inner + inner * out,
        other_params=norm + (inner + out) * int(top.flag("projector_bias", True)),
        activation_values=width + 2 * inner + out + norm,
        patches_per_unit=float(merged),
    )
    return replace(tower, adapter=(stage,), patches_per_token=float(merged))
