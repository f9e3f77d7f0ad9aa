"""Laws of video models from papers: the papers' own counts, and how the tokens grow between clips of two lengths."""

from typing import Any

import pytest

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.known import FAMILIES
from vtprof_analyzer.models.registry import load_counter, load_spec
from vtprof_analyzer.models.tokens.item import Counter
from vtprof_analyzer.models.tokens.video_laws import LAWS
from vtprof_schemas.errors import ConfigError, DataError


def _counter(kind: str, **config: Any) -> Counter:
    return load_counter(ModelFiles("model", {"model_type": kind, **config}))


@pytest.mark.parametrize(
    ("kind", "frames", "tokens"),
    [
        ("VideoChatGPT", 100, 356),  # 100 + 256
        ("longva", 128, 18_432),  # 128 x 144
        ("slowfast_llava", 50, 3_680),  # 10 x 288 + 50 x 16
        ("longvlm", 100, 305),  # 10 x 30 + 5
        ("videochat_flash_qwen", 512, 8_192),  # 16 a frame
        ("videochat_flash_qwen", 5, 128),  # a clip of four, and one more
        ("moviechat", 10_000, 32),
        ("video_xl_2", 2048, 100_352),  # 512 x 196
        ("dynamic_vlm", 8, 8 * 576),
        ("dynamic_vlm", 256, 16_384),  # the budget
    ],
)
def test_the_papers_counts(kind: str, frames: int, tokens: int) -> None:
    assert _counter(kind).video(frames, 360, 640).tokens == tokens


@pytest.mark.parametrize("kind", list(LAWS))
def test_growth_between_two_clips_is_what_the_law_says(kind: str) -> None:
    counter = _counter(kind)
    short, middle, long = (counter.video(frames, 360, 640).tokens for frames in (100, 200, 400))
    if LAWS[kind].growth == "fixed":
        assert short == middle == long
    elif LAWS[kind].growth == "linear":
        assert long - middle == 2 * (middle - short) > 0
    else:
        assert long < 2 * middle < 4 * short


@pytest.mark.parametrize("kind", list(LAWS))
def test_every_frame_is_encoded_whatever_is_left_of_it(kind: str) -> None:
    (grid,) = _counter(kind).video(12, 360, 640).grids
    assert grid.count == 12


def test_what_a_law_leaves_open_is_said() -> None:
    files = ModelFiles("model", {"model_type": "video_xl_2"})
    assert load_counter(files).video(8, 100, 100).extra_tokens == 2
    assert any("assumed" in note for note in files.assumed)


def test_a_model_of_clips_alone_takes_no_image() -> None:
    with pytest.raises(ConfigError, match="no images"):
        _counter("moviechat").image(100, 100)
    assert _counter("longva").image(100, 100).tokens == 144


def test_a_field_at_fault_is_named() -> None:
    with pytest.raises(DataError, match="mm_local_num_frames"):
        _counter("videochat_flash_qwen", mm_local_num_frames="four")


def test_video_chatgpt_has_the_weights_of_a_llava_with_one_matrix() -> None:
    config = {"model_type": "VideoChatGPT", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
              "num_attention_heads": 32, "vocab_size": 32006, "mm_vision_tower": "openai/clip-vit-large-patch14",
              "mm_hidden_size": 1024}  # fmt: skip
    spec = load_spec(config)
    assert spec.vision is not None
    assert spec.vision.adapter_params == 1024 * 4096 + 4096
    assert set(LAWS) - set(FAMILIES) <= {"moviechat"}
