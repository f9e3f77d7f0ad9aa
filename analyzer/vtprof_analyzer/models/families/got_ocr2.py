"""GOT-OCR 2.0: the segment-anything encoder, two halving convolutions, a matrix, a Qwen2 decoder."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower
from vtprof_analyzer.models.vision.registry import encoder
from vtprof_analyzer.models.vision.sam import halving


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a spec; raise `DataError` that names the field which is missing or wrong."""
    top, vision = Fields(config), parts.vision_section(config)
    text = parts.text_section(config)
    language = parts.language_model(top, text)
    return ModelSpec(
        model_type=str(config["model_type"]),
        vision=_with_projector(encoder(vision), vision, language.hidden_size),
        language=language,
        dtype=parts.dtype(top, text),
    )


def _with_projector(tower: Tower, vision: Fields, out: int) -> Tower:
    channels = vision.integer("output_channels", default=256)
    shrunk = (halving(channels, 2 * channels, 4.0), halving(2 * channels, out, 16.0))
    projection = AdapterStage(out * out, out, 2 * out, patches_per_unit=16.0)
    return replace(tower, adapter=(*tower.adapter, *shrunk, projection), patches_per_token=16.0)
