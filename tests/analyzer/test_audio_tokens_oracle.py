"""Audio tokens equal the positions that transformers' own processors and encoders make of a clip."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from oracle_processors import positions, tokenizer

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_analyzer.models.tokens.audio import rule
from vtprof_schemas.errors import ConfigError

pytestmark = pytest.mark.torch

RATE = 16_000
SAMPLES = (
    1_600, 1_601, 4_999, 8_000, 15_999, 16_001, 47_999, 48_000, 123_457, 160_160, 320_479,
    479_679, 479_840, 479_999, 480_000, 480_001, 480_159, 480_161, 727_273, 959_999, 960_001, 1_234_567, 1_520_000,
)  # fmt: skip
"""0.1 s to 95 s: odd counts, frames begun and whole, and both sides of 30 s and 60 s."""


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    """Import torch before anything imports torchvision, whose operators are declared by then (tests/torchvision_path.py)."""
    pytest.importorskip("torch")


def counted(kind: str, samples: int, **parts: Any) -> int:
    config = {"model_type": kind, **parts.pop("config", {})}
    return rule(ModelFiles(kind, config, **parts), kind)(samples / RATE).tokens


def silence(samples: int) -> Any:
    return np.zeros(samples, np.float32)


@cache
def whisper(mels: int = 128) -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=mels, return_attention_mask=True)


@cache
def words() -> Any:
    names = {
        "image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>",
        "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>",
    }  # fmt: skip
    return tokenizer("<sound>", "<|pad|>", "<|sound_bos|>", "<|sound_eos|>", **names)


@cache
def processor(name: str) -> Any:
    import transformers

    made = getattr(transformers, name)
    if name in ("Qwen2_5OmniProcessor", "Qwen3OmniMoeProcessor"):
        return made(
            transformers.Qwen2VLImageProcessor(), transformers.Qwen2VLVideoProcessor(), whisper(), words()
        )
    if name == "Qwen3ASRProcessor":
        return made(transformers.Qwen3ASRFeatureExtractor(), words())
    return made(whisper(), words())


PLACED = (
    ("qwen2_audio", "Qwen2AudioProcessor", "<|AUDIO|>"),
    ("qwen2_5_omni", "Qwen2_5OmniProcessor", "<|AUDIO|>"),
    ("qwen3_omni_moe", "Qwen3OmniMoeProcessor", "<|AUDIO|>"),
    ("qwen3_asr", "Qwen3ASRProcessor", "<|AUDIO|>"),
    ("audioflamingo3", "AudioFlamingo3Processor", "<sound>"),
    ("musicflamingo", "MusicFlamingoProcessor", "<sound>"),
    ("glmasr", "GlmAsrProcessor", "<|pad|>"),
)


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize(("kind", "name", "token"), PLACED, ids=[kind for kind, *_ in PLACED])
def test_tokens_are_the_placeholders_of_the_processor(kind: str, name: str, token: str, samples: int) -> None:
    made = processor(name)(text=[token], audio=[silence(samples)], return_tensors="pt")
    assert counted(kind, samples) == positions(made["input_ids"], words().convert_tokens_to_ids(token))


def test_audio_flamingo_cuts_at_ten_minutes_and_omni_reads_a_longer_window() -> None:
    assert counted("audioflamingo3", 700 * RATE) == counted("audioflamingo3", 600 * RATE) == 600 * 25
    longer = {"chunk_length": 300, "feature_size": 128, "sampling_rate": RATE, "hop_length": 160}
    from transformers import Qwen2_5OmniProcessor, WhisperFeatureExtractor

    long = WhisperFeatureExtractor(**{**longer, "return_attention_mask": True})
    theirs = processor("Qwen2_5OmniProcessor")
    made = Qwen2_5OmniProcessor(theirs.image_processor, theirs.video_processor, long, words())
    for samples in (480_001, 1_000_001):
        ids = made(text=["<|AUDIO|>"], audio=[silence(samples)], return_tensors="pt")["input_ids"]
        expected = positions(ids, words().convert_tokens_to_ids("<|AUDIO|>"))
        assert counted("qwen2_5_omni", samples, preprocessor=longer) == expected


@pytest.mark.parametrize("samples", SAMPLES)
def test_voxtral_fills_whole_windows_of_375(samples: int) -> None:
    padded = whisper()(
        silence(samples), sampling_rate=RATE, padding=True, truncation=False, pad_to_multiple_of=480_000
    )
    # 3000 frames become 1500 positions, four of which the projector stacks.
    assert counted("voxtral", samples) == np.asarray(padded["input_features"]).shape[-1] // 2 // 4


@pytest.mark.parametrize("samples", SAMPLES)
def test_phi4_multimodal(samples: int) -> None:
    from transformers import Phi4MultimodalFeatureExtractor

    made = Phi4MultimodalFeatureExtractor()(silence(samples), sampling_rate=RATE)
    assert counted("phi4_multimodal", samples) == int(made["audio_embed_sizes"][0])


@pytest.mark.parametrize("samples", SAMPLES)
def test_granite_speech(samples: int) -> None:
    from transformers import GraniteSpeechFeatureExtractor

    # The class needs a library for its spectrogram that the arithmetic of lengths does not.
    bare = SimpleNamespace(
        melspec_kwargs={"hop_length": 160}, projector_window_size=15, projector_downsample_rate=5
    )
    expected = GraniteSpeechFeatureExtractor._get_num_audio_features(bare, [samples])[0]
    assert counted("granite_speech", samples) == expected


@pytest.mark.parametrize("samples", SAMPLES)
def test_gemma4(samples: int) -> None:
    from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
    from transformers.models.gemma4.processing_gemma4 import Gemma4Processor

    made = Gemma4AudioFeatureExtractor()([silence(samples)])
    tags = SimpleNamespace(boa_token="", eoa_token="", audio_token="*")
    assert counted("gemma4", samples) == len(Gemma4Processor.replace_audio_token(tags, made, 0))
    item = rule(ModelFiles("g", {"model_type": "gemma4"}), "gemma4")(samples / RATE)
    assert item.patches == made["input_features"][0].shape[0]


@pytest.mark.parametrize("samples", SAMPLES)
def test_gemma3n_encodes_what_is_there_and_fills_188(samples: int) -> None:
    from transformers import Gemma3nAudioFeatureExtractor

    made = Gemma3nAudioFeatureExtractor()([silence(samples)])
    item = rule(ModelFiles("g", {"model_type": "gemma3n"}), "gemma3n")(samples / RATE)
    assert (item.tokens, item.patches) == (188, made["input_features"][0].shape[0])


@pytest.mark.parametrize("samples", SAMPLES)
def test_w2v_bert(samples: int) -> None:
    from transformers import SeamlessM4TFeatureExtractor

    made = SeamlessM4TFeatureExtractor()(silence(samples), sampling_rate=RATE, return_tensors="np")
    assert counted("wav2vec2-bert", samples) == made["input_features"].shape[1]


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
@pytest.mark.parametrize(
    "config",
    [{}, {"conv_kernel": [8, 4, 2], "conv_stride": [4, 2, 2], "conv_dim": [32, 32, 32]}],
    ids=["published", "three convolutions"],
)
def test_waveform_encoders(kind: str, config: dict[str, Any]) -> None:
    import torch
    import transformers

    made = transformers.CONFIG_MAPPING[kind](**config)
    with torch.device("meta"):
        model = (transformers.HubertModel if kind == "hubert" else transformers.Wav2Vec2Model)(made)
    for samples in SAMPLES:
        expected = int(model._get_feat_extract_output_lengths(samples))
        assert counted(kind, samples, config=config) == expected


def test_waveform_encoders_make_just_under_fifty_a_second() -> None:
    # 320 samples a position: 10 s are 160,000 / 320 = 500, less the one that the kernels' overhang costs.
    assert counted("hubert", 160_000) == counted("wav2vec2", 160_000) == 499


def test_whisper_pads_to_its_window() -> None:
    made = whisper()(silence(1_600), sampling_rate=RATE)
    assert np.asarray(made["input_features"]).shape[-1] == 3000
    item = load_counter(ModelFiles("w", {"model_type": "whisper"})).audio(0.1)
    assert (item.tokens, item.patches) == (1500, 3000)


@pytest.mark.parametrize(("kind", "least"), [("phi4_multimodal", 400), ("qwen3_omni_moe", 201)])
def test_clips_that_the_extractor_cannot_use_are_refused(kind: str, least: int) -> None:
    assert counted(kind, least) >= 0
    with pytest.raises(ConfigError, match="processor needs"):
        counted(kind, least - 1)
    from transformers import Phi4MultimodalFeatureExtractor

    extractor = Phi4MultimodalFeatureExtractor() if kind == "phi4_multimodal" else whisper()
    with pytest.raises((RuntimeError, ValueError)):
        extractor(silence(least - 1), sampling_rate=RATE, padding=True, truncation=False)
