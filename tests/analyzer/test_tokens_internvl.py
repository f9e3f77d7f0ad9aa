"""Tokens of the InternVL line: tiles and thumbnails to the token, both as transformers and as the models' own code cut."""

from typing import Any

import pytest
from oracle_processors import SIZES, image, positions, tokenizer

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_analyzer.models.tokens.internvl import digits_to
from vtprof_analyzer.models.tokens.item import Counter
from vtprof_analyzer.models.tokens.tiling import closest_grid, tile_grids, tiles_and_thumbnail
from vtprof_schemas.errors import ConfigError, DataError

PLAIN = {"do_rescale": False, "do_normalize": False}
CHAT = {
    "model_type": "internvl_chat",
    "force_image_size": 448,
    "downsample_ratio": 0.5,
    "max_dynamic_patch": 12,
    "use_thumbnail": True,
    "vision_config": {"image_size": 448, "patch_size": 14},
}


def _counter(config: dict[str, Any], **files: Any) -> Counter:
    return load_counter(ModelFiles("model", config, **files))


@pytest.mark.torch
@pytest.mark.parametrize("preprocessor", [{}, {"max_patches": 6}, {"min_patches": 2, "max_patches": 40}])
def test_internvl_counts_what_its_processor_writes(preprocessor: dict[str, Any]) -> None:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    preprocessor = {"size": {"height": 448, "width": 448}, "crop_to_patches": False, **preprocessor, **PLAIN}
    counter = _counter({"model_type": "internvl"}, preprocessor=preprocessor)
    words = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<ctx>",
        video_token="<video>",
    )
    processor = InternVLProcessor(GotOcr2ImageProcessor(**preprocessor), words, InternVLVideoProcessor())
    for height, width in SIZES:
        made = processor(images=image(height, width), text="<ctx>")
        counted = counter.image(height, width)
        assert counted.tokens == positions(made["input_ids"], words.context_image_token_id), (height, width)
        assert counted.tokens + counted.extra_tokens == len(made["input_ids"][0])
        tiles = len(made["pixel_values"])
        assert [(grid.count, grid.height, grid.width) for grid in counted.grids] == [(tiles, 32, 32)]


@pytest.mark.torch
def test_internvl_video_is_one_tile_a_frame() -> None:
    import numpy as np
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    sizes = {"size": {"height": 448, "width": 448}, **PLAIN}
    words = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<ctx>",
        video_token="<video>",
    )
    processor = InternVLProcessor(GotOcr2ImageProcessor(**sizes), words, InternVLVideoProcessor(**sizes))
    counter = _counter({"model_type": "internvl"}, preprocessor=sizes, video_preprocessor=sizes)
    for frames in (1, 3, 8):
        clip = np.zeros((frames, 60, 100, 3), np.uint8)
        made = processor(videos=[clip], text="<video>")["input_ids"]
        counted = counter.video(frames, 60, 100)
        assert counted.tokens == positions(made, words.context_image_token_id) == 256 * frames
        # "Frame", digit, colon, blank and two tags each, and line breaks between.
        assert counted.extra_tokens == frames * 6 + frames - 1
    assert digits_to(1) == 1
    assert digits_to(12) == 9 + 6
    assert digits_to(1000) == 9 + 180 + 2700 + 4


@pytest.mark.parametrize(
    ("height", "width", "tiles"),
    # 448: one tile; 896x448: two and a thumbnail; 16:9 is nearest to 7:4 = 1.75? No grid of 12 has it: 2:1 is 0.222 away,
    # 5:3 is not within 12, 3:2 is 0.278 away: 2x1, and as 1080p covers more than half of 4x2, 8 tiles and a thumbnail.
    [(448, 448, 1), (896, 448, 3), (1080, 1920, 9), (448, 5376, 13), (100, 100, 1), (2000, 2000, 10)],
)
def test_internvl_chat_tiles_as_its_own_code(height: int, width: int, tiles: int) -> None:
    counted = _counter(CHAT).image(height, width)
    assert counted.tokens == 256 * tiles
    assert counted.extra_tokens == 2
    assert counted.patches == 1024 * tiles


def test_s049_a_tile_becomes_256_tokens_or_64_by_the_router() -> None:
    flash = {**CHAT, "flash_mode": True}
    files = ModelFiles("flash", flash)
    counted = load_counter(files).image(448, 448)
    assert (counted.patches, counted.tokens) == (1024, 256)
    # What the router picks is not in the config, and the output says so.
    assert any("image_seq_length" in note for note in files.assumed)
    assert _counter(flash, processor={"image_seq_length": 64}).image(448, 448).tokens == 64
    # Half of a set's tiles compressed: (256 + 64) / 2 on average, r = 5/32 (S116).
    mixed = _counter(flash, processor={"image_seq_length": 160}).image(1080, 1920)
    assert mixed.tokens / mixed.patches == 5 / 32
    assert _counter({**CHAT, "downsample_ratio": 0.25}).image(448, 448).tokens == 64


def test_s048_a_model_without_tiling_sees_one_tile() -> None:
    whole = _counter({**CHAT, "dynamic_image_size": False})
    assert {whole.image(height, width).tokens for height, width in SIZES} == {256}  # S113: no variance
    assert _counter({**CHAT, "use_thumbnail": False}).image(896, 448).tokens == 512


@pytest.mark.torch
@pytest.mark.parametrize("cut", [False, True])
def test_got_ocr2_counts_what_its_processor_writes(cut: bool) -> None:
    from transformers import GotOcr2ImageProcessor, GotOcr2Processor

    preprocessor = {
        "size": {"height": 1024, "width": 1024},
        "crop_to_patches": cut,
        "max_patches": 4,
        **PLAIN,
    }
    counter = _counter({"model_type": "got_ocr2"}, preprocessor=preprocessor)
    words = tokenizer("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>")
    processor = GotOcr2Processor(GotOcr2ImageProcessor(**preprocessor), words)
    for height, width in [size for size in SIZES if max(size) < 4096]:
        made = processor(images=image(height, width), crop_to_patches=cut, max_patches=4)
        expected = positions(made["input_ids"], words.convert_tokens_to_ids("<imgpad>"))
        assert counter.image(height, width).tokens == expected, (height, width)


def test_s114_tiles_and_thumbnail_of_a_fixed_size() -> None:
    # G019, F3: 2048x2048 is 16 tiles of 512, each (512 / 16)^2 = 1024 patches, and a thumbnail of (256 / 16)^2 = 256.
    counted = tiles_and_thumbnail(2048, 2048, tile=512, patch=16, thumbnail=256)
    assert counted.tokens == 16 * 1024 + 256 == 16_640
    # 513 rows need a second row of tiles; one tile alone has no overview.
    assert tiles_and_thumbnail(513, 512, 512, 16, 256).tokens == 2 * 1024 + 256
    assert tiles_and_thumbnail(512, 100, 512, 16, 256).tokens == 1024
    assert tiles_and_thumbnail(2048, 2048, 512, 16, None, patches_per_token=4).tokens == 16 * 256


def test_grids_are_bounded_and_extreme_images_are_instant() -> None:
    assert tile_grids(1, 4) == ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 4), (2, 2), (4, 1))
    assert tile_grids(5, 4) == ((1, 1),)
    assert closest_grid(1, 1_000_000, 448**2, tile_grids(1, 12)) == (12, 1)
    with pytest.raises(DataError, match="max_dynamic_patch is"):
        _counter({**CHAT, "max_dynamic_patch": 2**30})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"downsample_ratio": 0.0}, "downsample_ratio"),
        ({"downsample_ratio": 0.001}, "downsample_ratio"),
        ({"force_image_size": 7}, "patch_size"),
        ({"vision_config": [1]}, "vision_config"),
        ({"max_dynamic_patch": "12"}, "max_dynamic_patch"),
    ],
)
def test_a_fault_names_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _counter({**CHAT, **change})
    with pytest.raises(ConfigError, match="no audio"):
        _counter(CHAT).audio(1.0)
