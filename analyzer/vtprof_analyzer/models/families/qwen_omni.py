"""Qwen2.5-Omni and Qwen3-Omni: the thinker, which sees, hears and writes; talker and codec, which speak, are apart."""

from collections.abc import Mapping
from typing import Any

from vtprof_analyzer.models.families import native, parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.models.vision.audio import audio_tower

_SPEECH = "the talker and the codec that speak are left out: parameters and costs are those of the thinker"


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a whole config or a thinker's into a spec; raise `DataError` that names the field at fault."""
    kind = str(config["model_type"])
    top = Fields(config)
    thinker = top.section("thinker_config") or top
    text = parts.text_section(thinker.values)
    language = parts.language_model(thinker, text)
    vision = native.tower(parts.vision_section(thinker.values), language)
    hears = thinker.section("audio_config")
    if hears is None:
        raise thinker.missing("audio_config")
    return ModelSpec(
        model_type=kind,
        vision=vision,
        language=language,
        dtype=parts.dtype(top, thinker, text),
        audio=audio_tower(hears, language.hidden_size),
        notes=(_SPEECH,) if kind in ("qwen2_5_omni", "qwen3_omni_moe") else (),
    )
