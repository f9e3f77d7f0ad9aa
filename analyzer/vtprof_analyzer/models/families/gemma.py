"""Gemma 3, 3n and 4, ShieldGemma 2 and PaliGemma: a SigLIP, convolutional or own tower, pooling, one matrix, a Gemma."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import AdapterStage, LanguageModel, ModelSpec, Tower
from vtprof_analyzer.models.text.registry import language_model
from vtprof_analyzer.models.vision.registry import encoder


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config into a spec; raise `DataError` that names the field which is missing or wrong."""
    kind = str(config["model_type"])
    top = Fields(config)
    if kind in ("paligemma", "colpali"):
        return _paligemma(config if kind == "paligemma" else _nested(top), kind)
    text = parts.text_section(config, "gemma3_text")
    # ShieldGemma 2 wraps a whole Gemma 3, whose head is tied whatever the wrapper's own default says.
    language = language_model(text) if kind == "shieldgemma2" else parts.language_model(top, text)
    vision = top.section("vision_config")
    tower = _tower(kind, top, vision, language.hidden_size) if vision else None
    audio = top.section("audio_config")
    return ModelSpec(
        model_type=kind,
        vision=tower,
        language=_bidirectional(language, kind),
        dtype=parts.dtype(top, text),
        audio=_audio(audio, language.hidden_size, kind) if audio else None,
    )


def _bidirectional(language: LanguageModel, kind: str) -> LanguageModel:
    """Mark Gemma 3's image tokens, which see one another both ways; Gemma 4's config says whether they do."""
    return (
        replace(language, prefix_bidirectional="visual") if kind in ("gemma3", "shieldgemma2") else language
    )


def _nested(top: Fields) -> Mapping[str, Any]:
    section = top.section("vlm_config")
    if section is None:
        raise top.missing("vlm_config")
    return {**section.values, "embedding_dim": top.integer("embedding_dim", default=128)}


def _paligemma(config: Mapping[str, Any], kind: str) -> ModelSpec:
    """PaliGemma and PaliGemma 2: a matrix on each patch; the whole prompt sees itself both ways.

    ColPali is PaliGemma with one more matrix on every output and no text to generate.
    """
    top, vision = Fields(config), parts.vision_section(config)
    text = parts.text_section(config, "gemma")
    language = replace(parts.language_model(top, text), prefix_bidirectional="prompt")
    tower = encoder(vision)
    out = top.integer(
        "projection_dim", default=vision.integer("projection_dim", default=language.hidden_size)
    )
    if out != language.hidden_size:
        raise top.fault(
            "projection_dim", f"is {out}, while the language model's hidden_size is {language.hidden_size}"
        )
    stage = AdapterStage(tower.hidden_size * out, out, tower.hidden_size + out)
    if kind == "colpali":
        embedding = top.integer("embedding_dim", default=128)
        # The matrix of the embeddings stands where the head of words would: there is none.
        language = replace(language, tied_embeddings=False, head_vocab_size=embedding, head_bias=True)
    return ModelSpec(
        model_type=kind,
        vision=replace(tower, adapter=(stage,)),
        language=language,
        dtype=parts.dtype(top, text),
    )


def _tower(kind: str, top: Fields, vision: Fields, out: int) -> Tower:
    if kind == "gemma4":
        return _gemma4(vision, out)
    if kind == "gemma4_unified":
        tower = encoder(vision)
        width = vision.integer("output_proj_dims", default=tower.hidden_size)
        return replace(tower, adapter=(AdapterStage(width * out, 0, 3 * width + out),))
    if kind == "gemma3n":
        tower = encoder(vision)
        return replace(tower, adapter=(_embedder(vision, tower.hidden_size, out),))
    return _gemma3(top, vision, out)


def _gemma3(top: Fields, vision: Fields, out: int) -> Tower:
    """Gemma 3: the grid averaged down to a fixed number of tokens, a norm and a matrix."""
    tower = encoder(vision)
    side = vision.integer("image_size") // vision.integer("patch_size")
    tokens = top.integer("mm_tokens_per_image", default=256)
    kept = int(tokens**0.5)
    if not 0 < kept <= side:
        raise top.fault("mm_tokens_per_image", f"is {tokens}, more than the tower's {side * side} patches")
    pooled = (side // kept) ** 2
    width = tower.hidden_size
    stage = AdapterStage(
        linear_params=width * out,
        other_params=width,
        activation_values=pooled * width + 4 * width + out,
        patches_per_unit=float(pooled),
    )
    return replace(tower, adapter=(stage,), patches_per_token=float(pooled))


def _gemma4(vision: Fields, out: int) -> Tower:
    """Gemma 4: squares of patches averaged, a norm without weights and a matrix."""
    tower = encoder(vision)
    pooled = vision.integer("pooling_kernel_size", default=3) ** 2
    stage = AdapterStage(
        linear_params=tower.hidden_size * out,
        other_params=0,
        activation_values=(pooled + 3) * tower.hidden_size + out,
        patches_per_unit=float(pooled),
    )
    return replace(tower, adapter=(stage,), patches_per_token=float(pooled))


def _embedder(section: Fields, width: int, out: int) -> AdapterStage:
    """Return Gemma 3n's embedder: a matrix between norms, and a table of its modality's own tokens."""
    rows = section.integer("vocab_size", default=128)
    return AdapterStage(width * out, 2 * width + rows * width, 3 * width + 3 * out)


def _audio(section: Fields, out: int, kind: str) -> Tower:
    tower = encoder(section)
    if kind == "gemma3n":
        stage = _embedder(section, tower.hidden_size, out)
    else:
        unified = kind == "gemma4_unified"
        width = tower.hidden_size if unified else section.integer("output_proj_dims", default=1536)
        stage = AdapterStage(width * out, 0, 3 * width + out)
    return replace(tower, adapter=(*tower.adapter, replace(stage, per_token=True)))
