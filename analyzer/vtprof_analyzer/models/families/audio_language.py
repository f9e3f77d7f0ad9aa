"""Audio-language models: Qwen2-Audio, Qwen3-ASR, Voxtral, Audio and Music Flamingo, GLM-ASR, Granite Speech, Ultravox."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.families import parts
from vtprof_analyzer.models.fields import Fields, divide
from vtprof_analyzer.models.spec import AdapterStage, ModelSpec, Tower
from vtprof_analyzer.models.vision.audio import audio_tower, matrix
from vtprof_schemas.errors import DataError

_NEVER_TIED = ("audioflamingo3", "musicflamingo", "qwen2_audio", "voxtral")
"""Their classes have no tied weights, whatever a file says."""


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Turn a config of an audio-language model into a spec; raise `DataError` that names the field at fault."""
    kind = str(config.get("model_type"))
    if kind == "qwen3_asr":
        config = _qwen3_asr(config)
    if kind == "ultravox":
        config = _ultravox(config)
    top = Fields(config)
    text = parts.text_section(config)
    language = parts.language_model(top, text)
    if kind in _NEVER_TIED:
        language = replace(language, tied_embeddings=False)
    if kind == "granite_speech":
        tower, notes = _granite(top, language.hidden_size), _lora_note(top)
    else:
        audio = parts.vision_section(config, "audio_config")
        tower, notes = _with_adapter(kind, top, audio, language.hidden_size), ()
    return ModelSpec(
        model_type=kind,
        vision=None,
        language=language,
        dtype=parts.dtype(top, text),
        audio=tower,
        notes=notes,
    )


def _with_adapter(kind: str, top: Fields, audio: Fields, out: int) -> Tower:
    """Return the tower of an audio section with the adapter of its model type; ``out`` is the language model's width."""
    tower = audio_tower(audio, out)
    width = tower.hidden_size
    if kind == "qwen2_audio":
        return replace(tower, adapter=(matrix(width, out, patches_per_unit=4.0),), patches_per_token=4.0)
    if kind in ("audioflamingo3", "musicflamingo"):
        bias = top.flag("projector_bias", True)
        stages = (
            matrix(width, out, bias, patches_per_unit=4.0),
            matrix(out, out, bias, patches_per_unit=4.0),
        )
        return replace(tower, adapter=stages, patches_per_token=4.0)
    if kind in ("voxtral", "glmasr"):
        stacked = audio.integer("intermediate_size")
        ratio = 2.0 * divide(audio, "hidden_size", stacked, width)
        inner, bias = (out, False) if kind == "voxtral" else (2 * out, True)
        stages = (
            matrix(stacked, inner, bias, patches_per_unit=ratio),
            matrix(inner, out, bias, patches_per_unit=ratio),
        )
        return replace(tower, adapter=stages, patches_per_token=ratio)
    if kind == "ultravox":
        return _stacked(tower, top, out)
    return tower


def _stacked(tower: Tower, top: Fields, out: int) -> Tower:
    """Return Ultravox's tower: positions stacked by 8, a gated pair of matrices, norms without bias."""
    if top.integer("num_projector_layers", default=0, minimum=0):
        raise top.fault("num_projector_layers", "is not 0: a projector of layers has no cost model yet")
    stack = top.integer("stack_factor", default=8)
    stacked, inner = tower.hidden_size * stack, top.integer("hidden_size")
    middle = inner // 2 if top.text("projector_act", default="swiglu") == "swiglu" else inner
    norm = middle if top.flag("projector_ln_mid", False) else out
    ratio = 2.0 * stack
    stages = (
        matrix(stacked, inner, False, stacked, patches_per_unit=ratio),
        matrix(middle, out, False, norm, patches_per_unit=ratio),
    )
    return replace(tower, adapter=stages, patches_per_token=ratio)


def _granite(top: Fields, out: int) -> Tower:
    """Return Granite Speech's tower: a Q-Former with some queries for every window of 15 pairs of frames."""
    audio, former = parts.vision_section(top.values, "encoder_config"), top.section("projector_config")
    if former is None:
        raise top.missing("projector_config")
    tower = audio_tower(audio, out)
    width, source = (
        former.integer("hidden_size"),
        former.integer("encoder_hidden_size", default=tower.hidden_size),
    )
    if source != tower.hidden_size:
        raise former.fault(
            "encoder_hidden_size", f"is {source}, while the encoder's width is {tower.hidden_size}"
        )
    inner, layers = former.integer("intermediate_size"), former.integer("num_hidden_layers")
    crossed = -(-layers // former.integer("cross_attention_frequency", default=2))
    window = top.integer("window_size", default=15)
    queries = window // top.integer("downsample_rate", default=5)
    if not queries:
        raise top.fault("window_size", f"is {window}, less than downsample_rate")
    feed, feed_other = 2 * width * inner, inner + width + 2 * width
    unit = AdapterStage(
        linear_params=layers * (4 * width**2 + feed) + crossed * 2 * width**2 + width * out,
        other_params=queries * width  # the queries themselves
        + 2 * width  # the norm before the layers
        + layers * (4 * width + 2 * width + feed_other)
        + crossed * (2 * width + 2 * width)
        + out,
        activation_values=layers * (10 * width + 2 * inner) + crossed * 4 * width + width + out,
        per_token=True,
    )
    # Keys and values of the encoder's positions, for each layer with cross-attention.
    keys = AdapterStage(crossed * 2 * source * width, crossed * 2 * width, crossed * (source + 2 * width))
    idle = layers * (feed + feed_other) if former.flag("use_qformer_text_input", False) else 0
    return replace(
        tower,
        adapter=(keys, unit),
        patches_per_token=window / queries,
        idle_params=tower.idle_params + idle,
    )


def _lora_note(top: Fields) -> tuple[str, ...]:
    if not top.flag("has_lora_adapter", True):
        return ()
    return ("the LoRA adapter that runs with audio is a file of its own: its parameters are not counted",)


def _qwen3_asr(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the newer form: the published one nests its sections under ``thinker_config``."""
    thinker = Fields(config).section("thinker_config")
    if thinker is None:
        return config
    sections = {key: thinker.section(key) for key in ("audio_config", "text_config")}
    given = {
        # Both are renamed kinds of what transformers has.
        key: {k: v for k, v in section.values.items() if k != "model_type"}
        for key, section in sections.items()
        if section is not None
    }
    rest = {key: value for key, value in config.items() if key not in ("thinker_config", *given)}
    return complete({**rest, **given})


def _ultravox(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config with the defaults of its sections; it may name them by checkpoint alone, which is an error."""
    done = dict(config)
    for key, other, kind in (
        ("text_config", "text_model_id", "llama"),
        ("audio_config", "audio_model_id", "whisper"),
    ):
        section = Fields(config).section(key)
        if section is None:
            raise DataError(
                f"model config: {key} is missing ({other} only names it); put that checkpoint's config.json there"
            )
        done[key] = complete(section.values, kind)
    return done
