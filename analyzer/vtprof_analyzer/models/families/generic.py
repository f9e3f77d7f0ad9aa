"""A model type without a file of its own, put together from its sections: a known decoder behind a known tower.

The adapter is taken as an MLP of two matrices and the tokens as one per patch (or per merged cell, where the config names
one); the spec's notes say so.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.families.parts import dtype, language_model, text_section
from vtprof_analyzer.models.fields import Fields, shown
from vtprof_analyzer.models.registry import model_type
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower
from vtprof_analyzer.models.vision.registry import encoder
from vtprof_schemas.errors import DataError
from vtprof_schemas.printable import one_line

_FLAT_TEXT = "llama"
"""What a flat config without a decoder's type is taken for: the widest spread layout."""

_NOTE = "model type {} is not known: put together from its sections, with an adapter of two matrices assumed"
_UNTYPED = f"its decoder names no model_type: counted as {_FLAT_TEXT}'s, with that type's defaults for what is absent"


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config with a text and a vision section into a spec, with notes on what was assumed.

    Raises `DataError` where the decoder or the tower is not known either.
    """
    try:
        return _put_together(config)
    except DataError as error:
        fault = str(error).removeprefix("model config: ")
        raise DataError(
            f"model config: model_type {shown(model_type(config))} is not known, and its sections do not make a model:"
            f" {fault.rpartition('; ')[0] or fault}; give a model of a known type, or a bundled name (--list-models)"
        ) from error


def _put_together(config: Mapping[str, Any]) -> ModelSpec:
    kind = one_line(str(model_type(config)))
    # Of a type that is not known nothing was filled in: each section has the defaults of its own type.
    config = {key: complete(value) if isinstance(value, Mapping) else value for key, value in config.items()}
    top = Fields(config)
    text = text_section(config, _FLAT_TEXT)
    given = config.get("text_config")
    named = isinstance(given, Mapping) and given.get("model_type") is not None
    untyped = () if named else (_UNTYPED,)
    language = language_model(top, text)
    vision = top.section("vision_config")
    if vision is None:
        raise top.missing("vision_config")
    tower = encoder(vision)
    merge = vision.integer("spatial_merge_size", "merge_size", default=1)
    return ModelSpec(
        model_type=kind,
        vision=_with_adapter(tower, merge, language.hidden_size),
        language=language,
        dtype=dtype(top, text),
        notes=(_NOTE.format(kind), *untyped),
    )


def _with_adapter(tower: Tower, merge: int, out: int) -> Tower:
    cell = tower.hidden_size * merge**2
    stage = AdapterStage(
        linear_params=cell * out + out * out,
        other_params=2 * out,
        activation_values=cell + 3 * out,
        patches_per_unit=float(merge**2),
    )
    return replace(tower, adapter=(stage,), patches_per_token=float(merge**2))
