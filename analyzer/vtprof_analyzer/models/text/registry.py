"""Which file knows which decoder, by the ``model_type`` of a text section or of a text-only config."""

import importlib
import reprlib
from dataclasses import replace
from typing import Protocol, cast

from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import LanguageModel

_TEXT = "vtprof_analyzer.models.text"


class Decoder(Protocol):
    """What a decoder's module offers."""

    def language_model(self, fields: Fields, tied: bool) -> LanguageModel:
        """Turn a text section into a language model; raise `DataError` that names the field at fault."""
        ...


DECODERS: dict[str, str] = {
    "llama": "dense",
    "Yi": "dense",
    "minicpm": "dense",
    "mistral": "dense",
    "ministral": "dense",
    "ministral3": "dense",
    "qwen2": "dense",
    "qwen2_vl_text": "dense",
    "qwen2_5_vl_text": "dense",
    "qwen2_5_omni_text": "dense",
    "qwen3": "dense",
    "qwen3_vl_text": "dense",
    "internlm": "dense",
    "internlm2": "dense",
    "internlm3": "dense",
    "phi": "dense",
    "phi3": "dense",
    "phi4_multimodal": "dense",
    "gemma": "dense",
    "gemma2": "dense",
    "gemma3_text": "dense",
    "glm": "dense",
    "glm4": "dense",
    "glm4v_text": "dense",
    "glm_ocr_text": "dense",
    "cohere": "dense",
    "cohere2": "dense",
    "granite": "dense",
    "granite4_vision_text": "dense",
    "smollm3": "dense",
    "olmo": "dense",
    "olmo2": "dense",
    "olmo3": "dense",
    "stablelm": "dense",
    "starcoder2": "dense",
    "exaone4": "dense",
    "ernie4_5": "dense",
    "paddleocr_vl_text": "dense",
    "hunyuan_v1_dense": "dense",
    "hunyuan_vl_text": "dense",
    "helium": "dense",
    "seed_oss": "dense",
    "hyperclovax": "dense",
    "arcee": "dense",
    "emu3_text_model": "dense",
    "gemma3n_text": "gemma",
    "gemma4_text": "gemma",
    "gemma4_unified_text": "gemma",
    "stablelm_epoch": "dense",
    "baichuan": "dense",
    "persimmon": "classic",
    "gpt_neox": "classic",
    "opt": "classic",
    "gpt2": "classic",
    "bloom": "classic",
    "falcon": "classic",
    "mpt": "classic",
    "chatglm": "classic",
    "qwen": "classic",
    "mllama_text_model": "mllama",
    "mixtral": "moe",
    "qwen2_moe": "moe",
    "qwen3_moe": "moe",
    "qwen3_vl_moe_text": "moe",
    "qwen3_omni_moe_text": "moe",
    "llama4_text": "moe",
    "glm4_moe": "moe",
    "glm4v_moe_text": "moe",
    "ernie4_5_moe": "moe",
    "ernie4_5_vl_moe_text": "moe",
    "ernie4_5_moe_vl": "moe",
    "aria_text": "moe",
    "dbrx": "moe",
    "deepseek": "moe",
    "deepseek_ocr2_text": "moe",
    "gpt_oss": "moe",
    "phimoe": "moe",
    "granitemoe": "moe",
    "granitemoeshared": "moe",
    "dots1": "moe",
    "olmoe": "moe",
    "flex_olmo": "moe",
    "minimax_m2": "moe",
    "hunyuan_v1_moe": "moe",
    "deepseek_v2": "latent",
    "deepseek_v3": "latent",
    "kimi_k2": "latent",
    "mistral4": "latent",
    "glm4_moe_lite": "latent",
    "minicpm3": "latent",
    "youtu": "latent",
    "qwen3_next": "hybrid",
    "qwen3_5_text": "hybrid",
    "qwen3_5_moe_text": "hybrid",
    "lfm2": "hybrid",
    "lfm2_moe": "hybrid",
    "minimax": "hybrid",
    "minimax_text_01": "hybrid",
    "kimi_linear": "hybrid",
    "granitemoehybrid": "mamba",
    "bamba": "mamba",
    "falcon_h1": "mamba",
    "jamba": "mamba",
    "nemotron_h": "mamba",
    "t5": "encoder_decoder",
    "bart": "encoder_decoder",
    "granite_docling_text": "dense",
    "cosmos3_edge_text": "dense",
    "kosmos_2_text_model": "classic",
    "kosmos_2_5_text_model": "classic",
    "molmo2_text": "classic",
}
"""Model type to module of `models.text`; a module is imported when it is asked for."""


def is_text(model_type: str) -> bool:
    """Tell whether a model type is a decoder that the cost model knows."""
    return model_type in DECODERS


def language_model(fields: Fields, tied: bool | None = None) -> LanguageModel:
    """Turn a text section, its defaults filled in, into a language model; by its ``model_type``.

    ``tied`` is what the composite config says of the output head; None: what the section itself says. Raises `DataError`
    for a decoder that is not known and for a field at fault.
    """
    kind = fields.text("model_type")
    if kind is None:
        raise fields.missing("model_type")
    if kind not in DECODERS:
        raise fields.fault("model_type", f"is {reprlib.repr(kind)}, a decoder without a cost model yet")
    if tied is None:
        tied = fields.flag("tie_word_embeddings", False)
    decoder = cast(Decoder, importlib.import_module(f"{_TEXT}.{DECODERS[kind]}"))
    return _without_idle_windows(decoder.language_model(fields, tied))


def _without_idle_windows(language: LanguageModel) -> LanguageModel:
    """Return the language model without windows that its context never fills: those layers see and keep everything."""
    context = language.context_tokens
    if context is None or not any((g.attention.window_tokens or 0) >= context for g in language.groups):
        return language
    groups = tuple(
        replace(group, attention=replace(group.attention, window_tokens=None))
        if (group.attention.window_tokens or 0) >= context
        else group
        for group in language.groups
    )
    return replace(language, groups=groups)
