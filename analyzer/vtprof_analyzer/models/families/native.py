"""Families whose tower takes images at native resolution and merges squares of patches: Qwen-VL, GLM-V, Kimi-VL and kin.

What stands between tower and language model differs; `_ADAPTERS` has a function for each kind.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields, shown
from vtprof_analyzer.models.spec import AdapterStage, LanguageModel, ModelSpec, Tower
from vtprof_analyzer.models.vision.registry import encoder

_FLAT = {
    "qwen2_vl": "qwen2_vl_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "dots_ocr": "qwen2",
    "videollama3_qwen2": "qwen2",
    "keye": "qwen3",
    "Keye": "qwen3",
    "hunyuan_vl": "hunyuan_vl_text",
    "paddleocr_vl": "paddleocr_vl_text",
    "ernie4_5_moe_vl": "ernie4_5_vl_moe_text",
    "ernie4_5_vl_moe": "ernie4_5_vl_moe_text",
}
"""Families published with the text fields at the top level, and the decoder that these describe."""
_TOWERS = {
    "dots_ocr": "dots_vit",
    "videollama3_qwen2": "video_llama_3_vision",
    "keye": "keye_vision",
    "Keye": "keye_vision",
    "kimi_vl": "moonvit",
    "ernie4_5_moe_vl": "ernie4_5_vl_moe_vision",
}
"""Towers of families that transformers has no class for."""


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a composite config into a spec; raise `DataError` that names the field which is missing or wrong."""
    kind = str(config["model_type"])
    top = Fields(config)
    text = parts.text_section(config, _FLAT.get(kind))
    key = "vision_encoder_config" if kind == "videollama3_qwen2" else "vision_config"
    vision = parts.vision_section(config, key, _TOWERS.get(kind))
    language = parts.language_model(top, text)
    return ModelSpec(
        model_type=kind,
        vision=tower(vision, language),
        language=language,
        dtype=parts.dtype(top, text),
    )


def tower(vision: Fields, language: LanguageModel) -> Tower:
    """Return the tower of a vision section with the adapter of its kind."""
    plain = encoder(vision)
    kind = vision.text("model_type") or ""
    if kind not in _ADAPTERS:
        raise vision.fault("model_type", f"is {shown(kind)}, a tower of another family")
    return _ADAPTERS[kind](vision, plain, language)


def _merge(vision: Fields) -> int:
    """Return the patches that become one token."""
    return vision.integer("spatial_merge_size", "merge_kernel_size", default=2) ** 2


def _out(vision: Fields, key: str, language: LanguageModel) -> int:
    """Return the width that leaves the merger; raise `DataError` where it is not the language model's."""
    out = vision.integer(key, default=language.hidden_size)
    if out != language.hidden_size:
        raise vision.fault(key, f"is {out}, while the language model's hidden_size is {language.hidden_size}")
    return out


def _mlp(merged: int, middle: int, out: int, norm: int, merge: int, count: int = 1) -> AdapterStage:
    """Return ``count`` MLPs of two matrices with biases on merged patches, a norm of ``norm`` values before each."""
    return AdapterStage(
        linear_params=count * (merged * middle + middle * out),
        other_params=count * (norm + middle + out),
        activation_values=count * (2 * merged + (merged + middle) + (middle + out)),
        patches_per_unit=merge,
    )


def _merger(plain: Tower, merge: int, out: int, norm_values: int) -> Tower:
    """Return a tower with the usual merger: norm, then an MLP as wide as the merged patches."""
    merged = plain.hidden_size * merge
    stage = _mlp(merged, merged, out, norm_values * plain.hidden_size, merge)
    return dataclasses.replace(plain, adapter=(stage,), patches_per_token=float(merge))


def _qwen2(vision: Fields, plain: Tower, language: LanguageModel) -> Tower:
    return _merger(plain, _merge(vision), _out(vision, "hidden_size", language), 2)


def _qwen2_5(vision: Fields, plain: Tower, language: LanguageModel) -> Tower:
    return _merger(plain, _merge(vision), _out(vision, "out_hidden_size", language), 1)


def _qwen3(vision: Fields, plain: Tower, language: LanguageModel) -> Tower:
    """Qwen3-VL: the merger, and one for each layer whose output goes into the decoder's first layers (deepstack)."""
    merge = _merge(vision)
    merged = plain.hidden_size * merge
    out = _out(vision, "out_hidden_size", language)
    whole = _merger(plain, merge, out, 2)
    taps = len(vision.integers("deepstack_visual_indexes", ()))
    if not taps:
        return whole
    deepstack = _mlp(merged, merged, out, 2 * merged, merge, taps)
    return dataclasses.replace(whole, adapter=(*whole.adapter, deepstack))


def _glm(vision: Fields, plain: Tower, language: LanguageModel) -> Tower:
    """GLM-V: a strided convolution merges, a matrix and a gated MLP follow."""
    merge = _merge(vision)
    out = _out(vision, "out_hidden_size", language)
    if vision.text("model_type") == "glm_ocr_vision":
        inner = out * vision.integer("in_channels", default=3)
    else:
        inner = vision.integer("intermediate_size")
    stage = AdapterStage(
        linear_params=plain.hidden_size * merge * out + out * out + 3 * out * inner,
        other_params=out + 2 * out,
        activation_values=plain.hidden_size * merge + out + 2 * out + 2 * out + 2 * out + 3 * inner,
        patches_per_unit=merge,
    )
    return dataclasses.replace(plain, adapter=(stage,), patches_per_token=float(merge))


def _projector(vision: Fields, plain: Tower, language: LanguageModel) -> Tower:
    """MoonViT, PaddleOCR-VL, Keye-VL: the usual merger with a layer norm, behind MoonViT's average over a chunk's frames."""
    whole = _merger(plain, _merge(vision), language.hidden_size, 2)
    stage = dataclasses.replace(whole.adapter[0], per_token=True)
    return dataclasses.replace(whole, adapter=(stage,))


def _dots(vision: Fields, plain: Tower, language: LanguageModel) -> Tower:
    return _merger(plain, _merge(vision), _out(vision, "hidden_size", language), 2)


def _video_llama(vision: Fields, plain: Tower, language: LanguageModel) -> Tower:  # noqa: ARG001
    """VideoLLaMA 3: patches of a video are averaged into tokens, those of an image are tokens; then an MLP."""
    width, out = plain.hidden_size, language.hidden_size
    stage = dataclasses.replace(_mlp(width, out, out, 0, 1), per_token=True)
    return dataclasses.replace(plain, adapter=(stage,), patches_per_token=1.0)


def _ernie(vision: Fields, plain: Tower, language: LanguageModel) -> Tower:
    """ERNIE 4.5 VL: patches merge, then pairs of frames (an image pairs with itself), then one matrix."""
    merge = _merge(vision)
    frames = vision.integer("temporal_merge_size", default=2)
    merged = plain.hidden_size * merge
    out = language.hidden_size
    # Two matrices with biases, a layer norm behind them; before the second such block the frames lie side by side.
    spatial = AdapterStage(2 * merged**2, 4 * merged, 6 * merged, patches_per_unit=merge)
    pairs = (frames + 1) * merged**2
    temporal = AdapterStage(
        linear_params=pairs + merged * out,
        other_params=4 * merged + out + out,
        activation_values=frames * merged + 3 * merged + 2 * merged + merged + out + 2 * out,
        per_token=True,
    )
    return dataclasses.replace(plain, adapter=(spatial, temporal), patches_per_token=float(merge))


def _hunyuan(vision: Fields, plain: Tower, language: LanguageModel) -> Tower:
    """HunyuanOCR: a strided and a plain convolution merge; a matrix then takes row ends too; two learned vectors around."""
    merge = _merge(vision)
    width, out = plain.hidden_size, language.hidden_size
    convolutions = AdapterStage(
        linear_params=2 * width**2 * merge + 8 * width**2,
        # Their biases, the norm before them and the vector of a row's end.
        other_params=2 * width + 4 * width + width + 4 * width,
        activation_values=2 * width * merge + width * merge + 2 * width + 2 * width + 4 * width,
        patches_per_unit=merge,
    )
    # A bias, the norm behind it and the vectors of begin, end and separator.
    linear = AdapterStage(4 * width * out, out + out + 3 * out, 4 * width + out + 2 * out, per_token=True)
    return dataclasses.replace(plain, adapter=(convolutions, linear), patches_per_token=float(merge))


_ADAPTERS: dict[str, Callable[[Fields, Tower, LanguageModel], Tower]] = {
    "qwen2_vl_vision": _qwen2,
    "qwen2_5_vl_vision": _qwen2_5,
    "qwen2_5_omni_vision_encoder": _qwen2_5,
    "exaone4_5_vision": _qwen2_5,
    "qwen3_vl_vision": _qwen3,
    "qwen3_vl_moe_vision": _qwen3,
    "qwen3_omni_moe_vision_encoder": _qwen3,
    "qwen3_5_vision": _qwen3,
    "qwen3_5_moe_vision": _qwen3,
    "glm4v_vision": _glm,
    "glm4v_moe_vision": _glm,
    "glm_ocr_vision": _glm,
    "video_llama_3_vision": _video_llama,
    "paddleocr_vl_vision": _projector,
    "keye_vision": _projector,
    "moonvit": _projector,
    "kimi_k25_vision": _projector,
    "ernie4_5_vl_moe_vision": _ernie,
    "hunyuan_vl_vision": _hunyuan,
    "dots_vit": _dots,
}
