"""Phi-3-vision, Phi-3.5-vision and Phi-4-multimodal: a CLIP or SigLIP tower on every crop, an MLP on joined patches.

Phi-4 has two sets of low-rank matrices on the language model's layers, for images and for speech, in the files of its
remote code (``phi4mm``); transformers loads them apart.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.families.llava import mlp
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import LanguageModel, LayerGroup, ModelSpec, Tower
from vtprof_analyzer.models.vision.audio import audio_tower
from vtprof_analyzer.models.vision.registry import layers_run
from vtprof_analyzer.models.vision.vit import Style, build

CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""Phi-3's tower, which its configs only name."""
LORA_APART = "low-rank matrices for images and speech are loaded apart and not counted"


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of Phi-3-vision or Phi-4-multimodal into a spec; raise `DataError` that names the field at fault."""
    kind = str(config["model_type"])
    if kind == "phi3_v":
        return _phi_3(config)
    whole = complete({**config, "model_type": "phi4_multimodal"})
    top = Fields(whole)
    text = parts.text_section(whole, "phi4_multimodal")
    remote = kind == "phi4mm"
    language = parts.language_model(top, text)
    if remote:
        language = _adapted(language, top)
    audio = top.section("audio_config")
    return ModelSpec(
        model_type=kind,
        vision=_phi_4_tower(parts.vision_section(whole), language.hidden_size),
        language=language,
        dtype=parts.dtype(top),
        audio=audio_tower(audio, language.hidden_size) if audio else None,
        notes=() if remote else (LORA_APART,),
    )


def _phi_3(config: Mapping[str, Any]) -> ModelSpec:
    top = Fields(config)
    text = parts.text_section(config, "phi3")
    language = parts.language_model(top, text)
    clip = Fields(complete(CLIP_L_336))
    plain = build(clip, Style(class_token=True, patch_bias=False, pre_norm=True), layers_run(-2, 24))
    joined = 4 * plain.hidden_size
    # Two learned vectors of the joined width: row ends, and what parts the views.
    tower = replace(
        plain,
        adapter=(mlp(joined, language.hidden_size, per_token=True),),
        patches_per_token=4.0,
        other_params=plain.other_params + 2 * joined,
    )
    return ModelSpec(
        model_type="phi3_v",
        vision=tower,
        language=language,
        dtype=parts.dtype(top),
    )


def _phi_4_tower(vision: Fields, out: int) -> Tower:
    layers = vision.integer("num_hidden_layers")
    selected = vision.first("feature_layer")
    run = layers_run(selected if isinstance(selected, int) and abs(selected) <= layers else -2, layers)
    plain = build(vision, Style(head="siglip"), run)
    return replace(
        plain,
        adapter=(mlp(plain.hidden_size, out, per_token=True),),
        patches_per_token=4.0,
        other_params=plain.other_params + 2 * plain.hidden_size,
    )


def _adapted(language: LanguageModel, top: Fields) -> LanguageModel:
    """Return the language model with low-rank matrices beside those of attention and MLP.

    The set for images works on every token of a request with images; that for speech is loaded and waits.
    """
    rank = dict.fromkeys(("vision_lora", "speech_lora"), 0)
    for name, default in (("vision_lora", 256), ("speech_lora", 320)):
        section = top.section(name)
        rank[name] = section.integer("r", default=default) if section else default
    inner = top.integer("intermediate_size")

    def adapt(group: LayerGroup) -> LayerGroup:
        hidden, attention = language.hidden_size, group.attention
        qkv = attention.query_width + attention.kv_values_read_per_token
        sides = (hidden + qkv) + (attention.query_width + hidden) + (hidden + 2 * inner) + (inner + hidden)
        return replace(
            group,
            linear_params=group.linear_params + rank["vision_lora"] * sides,
            other_params=group.other_params + rank["speech_lora"] * sides,
        )

    return replace(language, groups=tuple(adapt(group) for group in language.groups))
