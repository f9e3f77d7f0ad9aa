"""Audio towers and audio-language models: parameters as transformers has them, FLOPs as torch counts them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle_models
import pytest

from vtprof_analyzer.cost.towers import tower_cost, work_of_items
from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.spec import Tower
from vtprof_analyzer.models.tokens.clips import sequences
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid
from vtprof_analyzer.models.vision.audio import audio_tower, first_qwen_audio_tower
from vtprof_schemas.errors import DataError

pytestmark = pytest.mark.torch

QWEN2_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 151672,
}  # fmt: skip
FORMER = {
    "model_type": "blip_2_qformer", "encoder_hidden_size": 1024, "hidden_size": 1024, "intermediate_size": 4096,
    "num_attention_heads": 16, "num_hidden_layers": 2, "cross_attention_frequency": 1,
}  # fmt: skip
WHISPER_LARGE = {
    "model_type": "whisper", "d_model": 1280, "encoder_layers": 32, "decoder_layers": 32,
    "encoder_attention_heads": 20, "decoder_attention_heads": 20, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120,
    "num_mel_bins": 128, "vocab_size": 51866,
}  # fmt: skip
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "qwen2_audio": (
        {"model_type": "qwen2_audio", "text_config": {
            "model_type": "qwen2", "vocab_size": 156032, "intermediate_size": 11008}},
        "Qwen2AudioForConditionalGeneration",
    ),
    "qwen3_asr": (
        {"model_type": "qwen3_asr", "audio_config": {"model_type": "qwen3_asr_encoder", "output_dim": 2048}},
        "Qwen3ASRForConditionalGeneration",
    ),
    "voxtral": (
        {"model_type": "voxtral", "text_config": {
            "model_type": "llama", "vocab_size": 131072, "hidden_size": 3072, "intermediate_size": 8192,
            "num_hidden_layers": 30, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}},
        "VoxtralForConditionalGeneration",
    ),
    "audioflamingo3": (
        {"model_type": "audioflamingo3", "text_config": QWEN2_7B}, "AudioFlamingo3ForConditionalGeneration"
    ),
    "musicflamingo": (
        {"model_type": "musicflamingo", "text_config": QWEN2_7B}, "MusicFlamingoForConditionalGeneration"
    ),
    "glmasr": ({"model_type": "glmasr"}, "GlmAsrForConditionalGeneration"),
    "granite_speech": (
        {"model_type": "granite_speech", "encoder_config": {"num_layers": 16, "output_dim": 256},
         "projector_config": FORMER},
        "GraniteSpeechForConditionalGeneration",
    ),
    "whisper": (WHISPER_LARGE, "WhisperForConditionalGeneration"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_parameters_are_those_of_transformers(kind: str) -> None:
    config, architecture = MODELS[kind]
    model = oracle_models.build(config, architecture)
    spec = load_spec(config)
    assert spec.params.total == oracle_models.params(model)
    inner = model.model
    tower = inner.encoder if kind in ("whisper", "granite_speech") else inner.audio_tower
    adapter = getattr(inner, "multi_modal_projector", None) or getattr(inner, "projector", None)
    expected = oracle_models.params(tower) + (oracle_models.params(adapter) if adapter is not None else 0)
    assert spec.params.audio == expected


def encoder(kind: str, config: dict[str, Any]) -> Any:
    """Build a tower alone, without memory for its weights."""
    import torch

    with torch.device("meta"):
        return tiny(kind, config)


def tiny(kind: str, config: dict[str, Any]) -> Any:
    import transformers
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nAudioEncoder
    from transformers.models.gemma4.modeling_gemma4 import Gemma4AudioModel
    from transformers.models.granite_speech.modeling_granite_speech import GraniteSpeechCTCEncoder
    from transformers.models.phi4_multimodal.modeling_phi4_multimodal import Phi4MultimodalAudioModel
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeAudioEncoder
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    classes = {
        "whisper": WhisperEncoder,
        "qwen2_5_omni_audio_encoder": Qwen2_5OmniAudioEncoder,
        "qwen3_omni_moe_audio_encoder": Qwen3OmniMoeAudioEncoder,
        "granite_speech_encoder": GraniteSpeechCTCEncoder,
        "phi4_multimodal_audio": Phi4MultimodalAudioModel,
        "gemma3n_audio": Gemma3nAudioEncoder,
        "gemma4_audio": Gemma4AudioModel,
        "hubert": transformers.HubertModel,
        "wav2vec2": transformers.Wav2Vec2Model,
    }
    types = {**transformers.CONFIG_MAPPING}
    if kind == "granite_speech_encoder":
        from transformers import GraniteSpeechEncoderConfig

        made = GraniteSpeechEncoderConfig(**config)
    else:
        made = types[kind](**config)
    made._attn_implementation = "eager"
    return classes[kind](made).eval()


def our_tower(kind: str, config: dict[str, Any], text_width: int = 64) -> Tower:
    return audio_tower(Fields(complete({**config, "model_type": kind})), text_width)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("qwen2_5_omni_audio_encoder", {"output_dim": 3584}),
        ("qwen3_omni_moe_audio_encoder", {"output_dim": 2048}),
        ("phi4_multimodal_audio", {}),
        ("gemma3n_audio", {}),
        ("gemma4_audio", {}),
        ("hubert", {}),
        ("wav2vec2", {}),
        (
            "hubert",
            {
                "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
                "feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True,
            },
        ),
    ],
)  # fmt: skip
def test_parameters_of_towers(kind: str, config: dict[str, Any]) -> None:
    ours = our_tower(kind, config, 2048)
    theirs = oracle_models.params(encoder(kind, config))
    inside = kind.startswith("qwen")  # whose projection is part of the encoder's class
    idle = ours.idle_params
    assert ours.params - idle - (0 if inside else ours.adapter_params) == theirs
    # Phi-4 has a second pair of projections for speech beside images: 1024 and 2048 wide, biases.
    assert idle == ((1024 * 2048 + 2048) + (2048 * 2048 + 2048) if kind == "phi4_multimodal_audio" else 0)


SMALL = {
    "d_model": 64,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "num_mel_bins": 80,
}


def _spectrogram(frames: int, mels: int) -> Any:
    import torch

    return torch.zeros(mels, frames)


RUNS: dict[str, tuple[str, dict[str, Any], int, int, Callable[[Any, Any], object]]] = {
    "whisper": ("whisper", SMALL, 3000, 3000, lambda model, x: model(x[None])),
    "omni chunks": (
        "qwen2_5_omni_audio_encoder", {**SMALL, "output_dim": 96}, 1000, 200,
        lambda model, x: model(x, feature_lens=_lengths(x)),
    ),
    "omni moe windows": (
        "qwen3_omni_moe_audio_encoder",
        {**SMALL, "output_dim": 96, "downsample_hidden_size": 16, "n_window_infer": 400}, 2000, 400,
        lambda model, x: model(x, feature_lens=_lengths(x)),
    ),
    "phi4": (
        "phi4_multimodal_audio",
        {"hidden_size": 64, "intermediate_size": 96, "num_blocks": 3, "num_attention_heads": 4,
         "nemo_conv_channels": 32, "ext_pw_out_channel": 64, "depthwise_separable_out_channel": 64}, 3200, 4000,
        lambda model, x: model(x.T[None], None),
    ),
    "granite": (
        "granite_speech_encoder",
        {"input_dim": 160, "num_layers": 3, "hidden_dim": 64, "num_heads": 4, "context_size": 100}, 1000, 1000,
        lambda model, x: model(x.T[None]),
    ),
    "hubert": (
        "hubert",
        {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128,
         "conv_dim": [32] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}, 800, 800,
        lambda model, x: model(x.new_zeros(1, 800 * 320 + 80)),
    ),
}  # fmt: skip


def _lengths(x: Any) -> Any:
    import torch

    return torch.tensor([x.shape[-1]])


@pytest.mark.parametrize("name", RUNS)
def test_flops_of_towers_are_those_that_torch_counts(name: str) -> None:
    kind, config, frames, longest, call = RUNS[name]
    model = tiny(kind, config)
    mels = config.get("num_mel_bins", config.get("input_dim", 80))
    counted = oracle_models.flops(lambda: call(model, _spectrogram(frames, mels)))
    ours = our_tower(kind, config)
    inside = ours.adapter if kind.startswith("qwen") else ()
    item = ItemTokens(0, 0, sequences(frames, longest))
    tower = Tower(**{**ours.__dict__, "adapter": inside})
    assert tower_cost(tower, work_of_items([item]), 2.0).flops[0] == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("kind", ["gemma3n_audio", "gemma4_audio"])
def test_flops_of_gemma_towers(kind: str) -> None:
    import torch

    sizes = {"conf_num_attention_heads": 4, "conf_num_hidden_layers": 3} if kind == "gemma3n_audio" else {
        "num_attention_heads": 4, "num_hidden_layers": 3, "output_proj_dims": 96}  # fmt: skip
    config = {"hidden_size": 128, **sizes}
    model, frames = tiny(kind, config), 960
    x = torch.zeros(1, frames, 128)
    masked = torch.zeros(1, frames, dtype=torch.bool)
    counted = oracle_models.flops(lambda: model(x, masked if kind == "gemma3n_audio" else ~masked))
    ours = our_tower(kind, config)
    tower = Tower(**{**ours.__dict__, "adapter": ()})
    item = ItemTokens(0, 0, (PatchGrid(1, 1, frames),))
    # What relative positions add (13 keys a query, and their projection) is left out: 2 % of these narrow layers.
    assert tower_cost(tower, work_of_items([item]), 2.0).flops[0] == pytest.approx(counted, rel=0.03)


def test_flops_of_granite_speech_with_its_former() -> None:
    import torch

    former = {**FORMER, "encoder_hidden_size": 64, "hidden_size": 64, "intermediate_size": 128,
              "num_attention_heads": 4}  # fmt: skip
    config = {
        "model_type": "granite_speech",
        "encoder_config": {"num_layers": 3, "hidden_dim": 64, "num_heads": 4, "context_size": 100},
        "projector_config": former,
        "text_config": {"model_type": "granite", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
                        "num_attention_heads": 4, "vocab_size": 100},
    }  # fmt: skip
    import transformers

    made = transformers.CONFIG_MAPPING["granite_speech"].from_dict(config, attn_implementation="eager")
    model = transformers.GraniteSpeechForConditionalGeneration(made).eval()
    pairs = 1200
    counted = oracle_models.flops(lambda: model.model.get_audio_features(torch.zeros(1, pairs, 160)))
    tower = load_spec(config).audio
    assert tower is not None
    # 15 pairs of frames become 3 tokens; attention among 3 queries and 15 keys is left out.
    item = ItemTokens(pairs // 15 * 3, 0, (PatchGrid(1, 1, pairs),))
    assert tower_cost(tower, work_of_items([item]), 2.0).flops[0] == pytest.approx(counted, rel=0.01)


def test_padded_and_unpadded_encoder_cost_differ() -> None:
    """A second of audio costs Whisper's encoder as much as thirty do, and Qwen2.5-Omni's a thirtieth (S119)."""
    from vtprof_analyzer.models.files import ModelFiles
    from vtprof_analyzer.models.tokens.audio import rule

    tower = load_spec(WHISPER_LARGE).audio
    assert tower is not None

    def flops(kind: str, seconds: float) -> float:
        item = rule(ModelFiles("m", {"model_type": kind}), kind)(seconds)
        return float(np.sum(tower_cost(tower, work_of_items([item]), 2.0).flops))

    assert flops("whisper", 1.0) == flops("whisper", 30.0)
    assert flops("qwen2_5_omni", 1.0) == pytest.approx(flops("qwen2_5_omni", 30.0) / 30, rel=0.01)


def test_layers_past_the_selected_one_are_idle() -> None:
    from vtprof_analyzer.models.vision.registry import encoder as build

    whole, part = (build(Fields(complete(WHISPER_LARGE)), run) for run in (None, 30))
    assert (whole.layers, part.layers) == (33, 31)  # the second convolution counts as one
    assert whole.params == part.params
    assert part.idle_params == 2 * (whole.groups[1].linear_params + whole.groups[1].other_params)


ULTRAVOX = {
    "model_type": "ultravox", "hidden_size": 4096, "stack_factor": 8, "projector_act": "swiglu",
    "projector_ln_mid": True, "torch_dtype": "bfloat16",
    "text_config": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
    "audio_config": {k: v for k, v in WHISPER_LARGE.items() if not k.startswith("decoder")},
}  # fmt: skip


def test_ultravox_is_whisper_a_gated_projector_and_llama() -> None:
    spec = load_spec(ULTRAVOX)
    # 8 positions of 1280 stacked into 10240: a norm, 10240 -> 4096, a gate halves it, a norm, 2048 -> 4096.
    projector = 10240 + 10240 * 4096 + 2048 + 2048 * 4096
    assert spec.params.audio == 636_968_960 + projector
    # The Llama 3.1 8B of its cards: 8,030,261,248.
    assert spec.params.language == 8_030_261_248
    assert spec.dtype == "bfloat16"


def test_ultravox_of_named_checkpoints_says_what_to_do() -> None:
    named = {key: value for key, value in ULTRAVOX.items() if key != "text_config"}
    with pytest.raises(DataError, match=r"text_config is missing .*put that checkpoint's config\.json there"):
        load_spec({**named, "text_model_id": "meta-llama/Llama-3.1-8B-Instruct"})


def test_the_published_form_of_qwen3_asr_is_read() -> None:
    given, _ = MODELS["qwen3_asr"]
    audio = {**given["audio_config"], "model_type": "qwen3_asr_audio_encoder"}
    text = {"model_type": "qwen3_asr_text", **complete(given)["text_config"], "tie_word_embeddings": True}
    published = {
        "model_type": "qwen3_asr",
        "thinker_config": {"model_type": "qwen3_asr_thinker", "audio_config": audio, "text_config": text},
    }
    assert load_spec(published).params == load_spec(given).params


def test_the_first_qwen_audio_has_whispers_encoder_and_one_matrix() -> None:
    section = {"n_state": 1280, "n_head": 20, "n_layer": 32, "n_mels": 80, "n_ctx": 1500, "output_dim": 4096}
    tower = first_qwen_audio_tower(Fields(section, "audio"), 4096)
    # Whisper large-v2's encoder of 80 mels, its positions fixed; the matrix to 4096 and two learned vectors.
    layer = 4 * 1280**2 + 2 * 1280 * 5120 + (3 * 1280 + 5120 + 1280) + 4 * 1280
    front = (3 * 80 * 1280 + 1280) + (3 * 1280**2 + 1280) + 2 * 1280
    assert tower.params == 32 * layer + front + (1280 * 4096 + 4096) + 2 * 4096
    assert tower.patches_per_token == 4.0
    with pytest.raises(DataError, match=r"audio\.n_state is missing"):
        first_qwen_audio_tower(Fields({}, "audio"), 4096)
