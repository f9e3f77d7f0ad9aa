"""Which file knows which tower, by the ``model_type`` of a vision or audio section."""

import importlib
import reprlib
from typing import Protocol, cast

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import Tower

_VISION = "vtprof_analyzer.models.vision"


class Encoder(Protocol):
    """What a tower's module offers."""

    def tower(self, fields: Fields, layers_run: int | None) -> Tower:
        """Turn a section into a tower without adapter (``adapter=()``, ``patches_per_token=1.0``).

        ``layers_run`` None: all layers; else the first so many, and the rest are ``idle_params``.
        """
        ...


ENCODERS: dict[str, str] = {
    "clip_vision_model": "vit",
    "clip": "vit",
    "metaclip_2_vision_model": "vit",
    "metaclip_2": "vit",
    "altclip_vision_model": "vit",
    "altclip": "vit",
    "chinese_clip_vision_model": "vit",
    "chinese_clip": "vit",
    "siglip_vision_model": "vit",
    "siglip": "vit",
    "siglip2_vision_model": "vit",
    "siglip2": "vit",
    "dinov2": "vit",
    "dinov2_with_registers": "vit",
    "dinov3_vit": "vit",
    "vit": "vit",
    "ijepa": "vit",
    "aimv2_vision_model": "vit",
    "aimv2": "vit",
    "mlcd_vision_model": "vit",
    "eva_clip_vision_model": "vit",
    "qwen2_vl_vision": "native",
    "qwen2_5_vl_vision": "native",
    "qwen2_5_omni_vision_encoder": "native",
    "exaone4_5_vision": "native",
    "qwen3_vl_vision": "native",
    "qwen3_vl_moe_vision": "native",
    "qwen3_omni_moe_vision_encoder": "native",
    "qwen3_5_vision": "native",
    "qwen3_5_moe_vision": "native",
    "glm4v_vision": "native",
    "glm4v_moe_vision": "native",
    "glm_ocr_vision": "native",
    "video_llama_3_vision": "native",
    "paddleocr_vl_vision": "native",
    "keye_vision": "native",
    "moonvit": "native",
    "kimi_k25_vision": "native",
    "ernie4_5_vl_moe_vision": "native",
    "hunyuan_vl_vision": "native",
    "dots_vit": "native",
    "whisper": "whisper",
    "qwen2_audio_encoder": "whisper",
    "voxtral_encoder": "whisper",
    "audioflamingo3_encoder": "whisper",
    "glmasr_encoder": "whisper",
    "qwen2_5_omni_audio_encoder": "whisper",
    "qwen3_omni_moe_audio_encoder": "whisper",
    "qwen3_asr_encoder": "whisper",
    "qwen3_asr_audio_encoder": "whisper",
    "granite_speech_encoder": "conformer",
    "phi4_multimodal_audio": "conformer",
    "gemma3n_audio": "conformer",
    "gemma4_audio": "conformer",
    "wav2vec2": "waveform",
    "hubert": "waveform",
    "mllama_vision_model": "mllama",
    "timm_wrapper": "timm",
    "internvl_vision": "family_vit",
    "qianfan_ocr_vision": "family_vit",
    "intern_vit_6b": "family_vit",
    "intern_vit_300m": "family_vit",
    "pixtral": "family_vit",
    "llama4_vision_model": "family_vit",
    "idefics_vision": "family_vit",
    "idefics2_vision": "family_vit",
    "idefics3_vision": "family_vit",
    "smolvlm_vision": "family_vit",
    "gemma4_vision": "gemma",
    "gemma3n_vision": "gemma",
    "sam_vision_model": "sam",
    "got_ocr2_vision": "sam",
    "florence_vision": "davit",
    "gemma4_unified_vision": "gemma",
    "gemma4_unified_audio": "gemma",
}
"""Model type to module of `models.vision`; a module is imported when it is asked for."""


def encoder(fields: Fields, layers_run: int | None = None) -> Tower:
    """Turn a section, its defaults filled in, into a tower by its ``model_type``; families add the adapter.

    Raises `DataError` for a tower that is not known and for a field at fault.
    """
    kind = fields.text("model_type")
    if kind is None:
        raise fields.missing("model_type")
    if kind not in ENCODERS:
        raise fields.fault("model_type", f"is {reprlib.repr(kind)}, a tower without a cost model yet")
    return cast(Encoder, importlib.import_module(f"{_VISION}.{ENCODERS[kind]}")).tower(fields, layers_run)


def layers_run(selected: int, layers: int) -> int:
    """Return how many layers run for the hidden state that a config selects (-1 the last, -2 the one before, 0 none)."""
    return max(0, min(layers, selected if selected >= 0 else layers + 1 + selected))
