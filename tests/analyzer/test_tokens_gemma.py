"""Tokens of the Gemma families equal those that transformers' own processors write, size by size."""

from typing import Any

import pytest
from oracle_processors import SIZES, image, positions, tokenizer

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_analyzer.models.tokens.item import Counter
from vtprof_schemas.errors import ConfigError, DataError

torch = pytest.mark.torch
PLAIN = {"do_rescale": False, "do_normalize": False}
SIGLIP = {"model_type": "siglip_vision_model", "image_size": 896, "patch_size": 14}


def _counter(kind: str, config: dict[str, Any] | None = None, **files: Any) -> Counter:
    return load_counter(ModelFiles("model", {"model_type": kind, **(config or {})}, **files))


def _words() -> Any:
    return tokenizer(
        "<|video|>", image_token="<soft>", boi_token="<boi>", eoi_token="<eoi>", audio_token="<sound>",
        boa_token="<boa>", eoa_token="<eoa>",
    )  # fmt: skip


@torch
@pytest.mark.parametrize(
    "cut",
    [
        {},
        {"do_pan_and_scan": True},
        {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 100, "pan_and_scan_max_num_crops": 8,
         "pan_and_scan_min_ratio_to_activate": 1.5},
    ],
)  # fmt: skip
def test_gemma3_counts_what_its_processor_writes(cut: dict[str, Any]) -> None:
    from transformers import Gemma3ImageProcessor, Gemma3Processor

    preprocessor = {"size": {"height": 896, "width": 896}, **PLAIN}
    counter = _counter("gemma3", {"vision_config": SIGLIP}, preprocessor={**preprocessor, **cut})
    words = _words()
    processor = Gemma3Processor(Gemma3ImageProcessor(**preprocessor), words, image_seq_length=256)
    # Aspect ratios of 2.55 and 3.5: the number of crops is rounded half up.
    for height, width in (*SIZES, (200, 510), (510, 200), (300, 1050)):
        made = processor(text="<boi>", images=image(height, width), **cut)
        counted = counter.image(height, width)
        sequences = positions(made["input_ids"], words.boi_token_id)
        assert counted.tokens == positions(made["input_ids"], words.image_token_id), (height, width)
        assert [(grid.count, grid.height, grid.width) for grid in counted.grids] == [(sequences, 64, 64)]
        # The empty lines before and after, which the test's tokenizer drops, are a token each.
        tags = positions(made["input_ids"], [words.boi_token_id, words.eoi_token_id]) + 2 * sequences
        assert counted.extra_tokens >= tags
        assert (counted.extra_tokens == tags) == (sequences == 1)


@torch
@pytest.mark.parametrize(("side", "tokens"), [(224, 256), (448, 1024), (896, 4096)])
def test_s056_paligemma_has_a_fixed_count_by_resolution(side: int, tokens: int) -> None:
    from transformers import PaliGemmaProcessor, SiglipImageProcessor

    preprocessor = {"size": {"height": side, "width": side}, "image_seq_length": tokens, **PLAIN}
    config = {"vision_config": {"model_type": "siglip_vision_model", "image_size": side, "patch_size": 14}}
    words = tokenizer(image_token="<image>")
    images = SiglipImageProcessor(**preprocessor)
    images.image_seq_length = tokens
    processor = PaliGemmaProcessor(images, words)
    counter = _counter("paligemma", config, preprocessor=preprocessor)
    for height, width in [size for size in SIZES if max(size) < 4096][:20]:
        made = processor(text="<image>caption", images=image(height, width))
        assert (
            counter.image(height, width).tokens
            == positions(made["input_ids"], words.image_token_id)
            == tokens
        )
    # (224 / 14)^2 = 256 without the processor's own number as well.
    assert _counter("paligemma", config).image(100, 50).tokens == tokens
    assert (
        _counter("colpali", {"vlm_config": {"model_type": "paligemma", **config}}).image(9, 9).tokens
        == tokens
    )


def test_gemma3n_and_gemma3_without_files_take_their_families_counts() -> None:
    assert _counter("gemma3n").image(333, 777).tokens == 256
    assert _counter("gemma3n").audio(10.0).tokens == 188
    assert _counter("gemma3").image(333, 777).tokens == 256
    assert _counter("shieldgemma2").image(333, 777).tokens == 256
    assert _counter("gemma3", processor={"image_seq_length": 64}).image(333, 777).tokens == 64


def _unified(tokens: int, frame_tokens: int) -> Any:
    from transformers.models.gemma4_unified import (
        feature_extraction_gemma4_unified,
        image_processing_gemma4_unified,
        processing_gemma4_unified,
        video_processing_gemma4_unified,
    )

    images = image_processing_gemma4_unified.Gemma4UnifiedImageProcessor(max_soft_tokens=tokens, **PLAIN)
    videos = video_processing_gemma4_unified.Gemma4UnifiedVideoProcessor(
        max_soft_tokens=frame_tokens, do_sample_frames=False, **PLAIN
    )
    audio = feature_extraction_gemma4_unified.Gemma4UnifiedAudioFeatureExtractor()
    return processing_gemma4_unified.Gemma4UnifiedProcessor(audio, images, _words(), videos)


@torch
def test_gemma4_unified_counts_what_its_processor_writes() -> None:
    import numpy as np

    processor = _unified(280, 140)
    counter = _counter("gemma4_unified", video_preprocessor={"max_soft_tokens": 140})
    for height, width in SIZES:
        made = processor(text="<soft>", images=image(height, width))
        counted = counter.image(height, width)
        assert counted.tokens == positions(made["input_ids"], processor.image_token_id), (height, width)
        assert counted.patches == int((made["image_position_ids"][0] >= 0).all(-1).sum()) == counted.tokens
    made = processor(text="<|video|>", videos=[np.zeros((3, 90, 160, 3), np.uint8)])
    assert counter.video(3, 90, 160).tokens == positions(made["input_ids"], processor.video_token_id)
    for heard in (100, 640, 641, 48_000):
        made = processor(text="<sound>", audio=[np.zeros(heard, np.float32)])
        assert counter.audio(heard / 16_000).tokens == positions(made["input_ids"], processor.audio_token_id)


def _gemma4(tokens: int, frame_tokens: int) -> Any:
    from transformers import (
        Gemma4AudioFeatureExtractor,
        Gemma4ImageProcessor,
        Gemma4Processor,
        Gemma4VideoProcessor,
    )

    return Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(max_soft_tokens=tokens, **PLAIN),
        _words(),
        Gemma4VideoProcessor(max_soft_tokens=frame_tokens, do_sample_frames=False, **PLAIN),
    )


@torch
@pytest.mark.parametrize("budget", [70, 140, 280, 560, 1120])
def test_s055_gemma4_counts_what_its_processor_writes_at_every_budget(budget: int) -> None:
    processor = _gemma4(budget, 70)
    counter = _counter("gemma4", processor={"image_processor": {"max_soft_tokens": budget}})
    for height, width in SIZES:
        made = processor(text="<soft>", images=image(height, width))
        counted = counter.image(height, width)
        assert counted.tokens == positions(made["input_ids"], processor.image_token_id), (height, width)
        assert counted.tokens + counted.extra_tokens == len(made["input_ids"][0])
        filled = int((made["image_position_ids"][0] >= 0).all(-1).sum())
        assert counted.patches == filled == 9 * counted.tokens <= 9 * budget


@torch
def test_gemma4_video_counts_what_its_processor_writes() -> None:
    import numpy as np

    processor = _gemma4(280, 70)
    counter = _counter("gemma4", preprocessor={"max_soft_tokens": 1120})
    for frames, height, width in ((1, 64, 64), (4, 90, 160), (7, 300, 50), (2, 5, 150)):
        made = processor(text="<|video|>", videos=[np.zeros((frames, height, width, 3), np.uint8)])
        counted = counter.video(frames, height, width)
        assert counted.tokens == positions(made["input_ids"], processor.video_token_id), (
            frames,
            height,
            width,
        )
        assert counted.extra_tokens == frames * (2 + 6) + frames - 1


def test_gemma4_refuses_what_its_processor_refuses() -> None:
    with pytest.raises(DataError, match="max_soft_tokens is 300, none of 70, 140, 280, 560, 1120"):
        _counter("gemma4", preprocessor={"max_soft_tokens": 300})
    with pytest.raises(ConfigError, match="no video"):
        _counter("gemma3").video(4, 100, 100)
    assert _counter("gemma4").image(1, 1_000_000).tokens == 280
    assert _counter("gemma4").image(1_000_000, 1).tokens == 280
