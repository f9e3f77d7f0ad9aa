"""GOT-OCR 2.0: the segment-anything encoder, two halving convolutions, a matrix, a Qwen2 decoder."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower
from vtprof_analyzer.models.vision.sam import halving


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a spec; raise `DataError` that names the field which is missing or wrong."""
    return parts.composite(config, _with_projector)


def _with_projector(tower: Tower, _: Fields, vision: Fields, out: int) -> Tower:
    channels = vision.integer("output_channels", default=256)
    shrunk = (halving(channels, 2 * channels, 4.0), halving(2 * channels, out, 16.0))
    projection = AdapterStage(out * out, out, 2 * out, patches_per_unit=16.0)
    return replace(tower, adapter=(*tower.adapter, *shrunk, projection), patches_per_token=16.0)
