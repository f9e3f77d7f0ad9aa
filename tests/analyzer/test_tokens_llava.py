"""Tokens of the LLaVA line equal those that transformers' own processors write, size by size."""

from typing import Any

import pytest
from oracle_processors import SIZES, image, positions, tokenizer

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_analyzer.models.tokens.item import Counter
from vtprof_schemas.errors import DataError

torch = pytest.mark.torch
PLAIN = {"do_rescale": False, "do_normalize": False}
"""The pixels' values decide nothing, and leaving them saves time."""
CLIP_336 = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}, **PLAIN}
CLIP_VISION = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
SIGLIP_VISION = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}
PROCESSOR = {"patch_size": 14, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
WITHOUT_CLASS_TOKEN = {
    "patch_size": 14,
    "num_additional_image_tokens": 0,
    "vision_feature_select_strategy": "full",
}
NEXT_34B = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
GRANITE = [
    [384 * down, 384 * across] for down in range(1, 11) for across in range(1, 11) if down * across <= 10
]


def _counter(kind: str, config: dict[str, Any] | None = None, **files: Any) -> Counter:
    return load_counter(ModelFiles("model", {"model_type": kind, **(config or {})}, **files))


def _tokenizer() -> Any:
    return tokenizer(image_token="<image>", video_token="<video>")


def _written(processor: Any, height: int, width: int) -> int:
    return positions(
        processor(images=image(height, width), text="<image>", return_tensors="pt")["input_ids"],
        processor.tokenizer.convert_tokens_to_ids("<image>"),
    )


LLAVA: tuple[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]], ...] = (
    ("llava", {"vision_config": CLIP_VISION}, CLIP_336, PROCESSOR),
    ("llava", {"vision_config": CLIP_VISION}, {**CLIP_336, "do_pad": True}, PROCESSOR),
    # No crop: the image keeps its ratio, and its patches follow.
    ("llava", {}, {**CLIP_336, "do_center_crop": False}, PROCESSOR),
    ("vipllava", {"vision_config": CLIP_VISION}, CLIP_336, PROCESSOR),
    (
        "fast_vlm", {}, {"size": {"shortest_edge": 1024}, "crop_size": {"height": 1024, "width": 1024}, **PLAIN},
        {"patch_size": 64, "num_additional_image_tokens": 0, "vision_feature_select_strategy": "full"},
    ),
)  # fmt: skip


@torch
@pytest.mark.parametrize(("kind", "config", "preprocessor", "settings"), LLAVA)
def test_llava_counts_what_its_processor_writes(
    kind: str, config: dict[str, Any], preprocessor: dict[str, Any], settings: dict[str, Any]
) -> None:
    from transformers import LlavaImageProcessor, LlavaProcessor

    counter = _counter(kind, config, preprocessor=preprocessor, processor=settings)
    processor = LlavaProcessor(LlavaImageProcessor(**preprocessor), _tokenizer(), **settings)
    # The processor really resizes: a strip of 1:150 to a shorter side of 1024 would be 157 million pixels.
    steepest = {"fast_vlm": 25}.get(kind, 4096 if preprocessor.get("do_center_crop", True) else 25)
    sizes = [size for size in SIZES if max(size) < 4096 and max(size) <= steepest * min(size)]
    assert len(sizes) >= 20
    for height, width in sizes:
        assert counter.image(height, width).tokens == _written(processor, height, width), (height, width)


NEXT: tuple[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]], ...] = (
    ("llava_next", {"vision_config": CLIP_VISION}, {**CLIP_336, "image_grid_pinpoints": NEXT_34B}, PROCESSOR),
    (
        "llava_next", {"vision_config": SIGLIP_VISION},
        {"size": {"height": 384, "width": 384}, "crop_size": {"height": 384, "width": 384},
         "image_grid_pinpoints": GRANITE, **PLAIN},
        WITHOUT_CLASS_TOKEN,
    ),
    ("llava_next_video", {"vision_config": CLIP_VISION}, {**CLIP_336, "image_grid_pinpoints": NEXT_34B}, PROCESSOR),
)  # fmt: skip


@torch
@pytest.mark.parametrize(("kind", "config", "preprocessor", "settings"), NEXT)
def test_llava_next_counts_what_its_processor_writes(
    kind: str, config: dict[str, Any], preprocessor: dict[str, Any], settings: dict[str, Any]
) -> None:
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    counter = _counter(kind, config, preprocessor=preprocessor, processor=settings)
    processor = LlavaNextProcessor(LlavaNextImageProcessor(**preprocessor), _tokenizer(), **settings)
    for height, width in SIZES:
        item = counter.image(height, width)
        made = processor(images=image(height, width), text="<image>", return_tensors="pt")
        tiles = made["pixel_values"].shape[1]
        assert item.tokens == positions(made["input_ids"], processor.image_token_id), (height, width)
        assert item.grids[0].count == tiles, (height, width)


@torch
def test_llava_next_video_counts_frames_as_its_processor_does() -> None:
    import numpy
    from transformers import LlavaNextImageProcessor, LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor

    video = {**CLIP_336, "size": {"shortest_edge": 336}}
    counter = _counter(
        "llava_next_video", {"vision_config": CLIP_VISION}, preprocessor=video, processor=PROCESSOR
    )
    processor = LlavaNextVideoProcessor(
        LlavaNextVideoVideoProcessor(**video), LlavaNextImageProcessor(**CLIP_336), _tokenizer(), **PROCESSOR
    )
    for frames, height, width in ((1, 336, 336), (3, 100, 300), (8, 224, 224), (5, 333, 77)):
        clip = numpy.zeros((frames, height, width, 3), dtype="uint8")
        made = processor(videos=clip, text="<video>", return_tensors="pt")
        assert counter.video(frames, height, width).tokens == positions(
            made["input_ids"], processor.video_token_id
        )
    assert counter.video(32, 720, 1280).tokens == 32 * 144


@torch
def test_video_llava_counts_images_and_frames_as_its_processor_does() -> None:
    import numpy
    from transformers import VideoLlavaImageProcessor, VideoLlavaProcessor, VideoLlavaVideoProcessor

    crop = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, **PLAIN}
    counter = _counter("video_llava", preprocessor=crop)
    processor = VideoLlavaProcessor(
        VideoLlavaImageProcessor(**crop), VideoLlavaVideoProcessor(**crop), _tokenizer()
    )
    for height, width in SIZES:
        if max(height, width) < 4096 and min(height, width) > 1:
            assert counter.image(height, width).tokens == _written(processor, height, width)
    for frames, height, width in ((8, 224, 224), (3, 100, 300), (1, 30, 40)):
        clip = numpy.zeros((frames, height, width, 3), dtype="uint8")
        made = processor(videos=clip, text="<video>", return_tensors="pt")
        assert counter.video(frames, height, width).tokens == positions(
            made["input_ids"], processor.video_token_id
        )
    assert counter.video(8, 224, 224).tokens == 2056


ONEVISION: dict[str, Any] = {"num_image_tokens": 729, "vision_feature_select_strategy": "full"}


def _onevision(ratio: str) -> tuple[Counter, Any]:
    from transformers import (
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    settings = {**ONEVISION, "vision_aspect_ratio": ratio}
    counter = _counter(
        "llava_onevision", preprocessor={"size": {"height": 384, "width": 384}}, processor=settings
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(**PLAIN), _tokenizer(), LlavaOnevisionVideoProcessor(**PLAIN), **settings
    )
    return counter, processor


@torch
@pytest.mark.parametrize("ratio", ["anyres_max_9", "anyres_max_4"])
def test_llava_onevision_counts_what_its_processor_writes(ratio: str) -> None:
    counter, processor = _onevision(ratio)
    # The last ones lie between the cap and a tenth over it, where nothing is shrunk.
    for height, width in (*SIZES, (1152, 1280), (768, 800)):
        made = processor(images=image(height, width), text="<image>", return_tensors="pt")
        item = counter.image(height, width)
        assert item.tokens == positions(made["input_ids"], processor.image_token_id), (height, width)
        assert item.grids[0].count == made["pixel_values"].shape[1], (height, width)


@torch
def test_llava_onevision_does_not_tile_several_images_of_one_request() -> None:
    counter, processor = _onevision("anyres_max_9")
    pair = [[image(1080, 1920), image(333, 777)]]
    made = processor(images=pair, text="<image><image>", return_tensors="pt")
    both = counter.image(1080, 1920, images=2).tokens + counter.image(333, 777, images=2).tokens
    assert both == positions(made["input_ids"], processor.image_token_id) == 2 * 730


@torch
def test_llava_onevision_pools_frames_and_ends_a_video_with_one_newline() -> None:
    import numpy

    counter, processor = _onevision("anyres_max_9")
    for frames in (1, 4, 9):
        clip = numpy.zeros((frames, 100, 80, 3), dtype="uint8")
        made = processor(videos=clip, text="<video>", return_tensors="pt")
        tokens = counter.video(frames, 100, 80).tokens
        assert tokens == positions(made["input_ids"], processor.video_token_id) == 196 * frames + 1


def test_llava_onevision_of_a_two_by_two_image_is_near_the_published_2900() -> None:
    # G037 reports about 2900: four tiles and an overview of 27 x 27 features, and a newline for each of 54 rows.
    tokens = _counter("llava_onevision").image(768, 768).tokens
    assert tokens == 4 * 729 + 729 + 54
    # A 6 x 6 canvas is shrunk to the cap of nine tiles, 81 x 81: G037's 3 x 3 grid with overview, 7290, and 81 newlines.
    assert _counter("llava_onevision").image(4096, 4096).tokens == 7290 + 81
    # With 336-pixel crops, G037's own reading: 5 x 576 = 2880 before newlines, 2928 with LLaVA-NeXT's 48 of them.
    assert _counter("llava_next").image(672, 672).tokens == 2880 + 48


@torch
@pytest.mark.parametrize(("tiled", "most"), [(True, 12), (True, 5), (False, 9)])
def test_aya_vision_counts_what_its_processor_writes(tiled: bool, most: int) -> None:
    from transformers import AyaVisionProcessor, GotOcr2ImageProcessor

    fields = {"size": {"height": 364, "width": 364}, "crop_to_patches": tiled, "max_patches": most, **PLAIN}
    settings = {"patch_size": 14, "img_size": 364, "downsample_factor": 2}
    tags = (
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "TILE_GLOBAL",
        *(f"TILE_{n}" for n in range(1, 13)),
    )
    made = tokenizer(*tags, "<image>", "TILE", "<|IMG_LINE_BREAK|>")
    processor = AyaVisionProcessor(GotOcr2ImageProcessor(**fields), made, **settings)
    counter = _counter("aya_vision", preprocessor=fields, processor=settings)
    for height, width in SIZES:
        ids = processor(images=image(height, width), text="<image>", return_tensors="pt")["input_ids"]
        item = counter.image(height, width)
        assert item.tokens == positions(ids, processor.image_token_id), (height, width)
        assert item.tokens + item.extra_tokens == ids.shape[1], (height, width)


@torch
@pytest.mark.parametrize("most", [12, 7, 1])
def test_command_a_vision_counts_what_its_processor_writes(most: int) -> None:
    from transformers import Cohere2VisionImageProcessor, Cohere2VisionProcessor

    fields = {"max_patches": most, **PLAIN}
    made = tokenizer(
        image_token="<image>", boi_token="<boi>", eoi_token="<eoi>", img_line_break_token="<line>"
    )
    processor = Cohere2VisionProcessor(Cohere2VisionImageProcessor(**fields), made)
    counter = _counter("cohere2_vision", preprocessor=fields)
    for height, width in SIZES:
        ids = processor(images=image(height, width), text="<image>", return_tensors="pt")["input_ids"]
        item = counter.image(height, width)
        assert item.tokens == positions(ids, processor.image_token_id), (height, width)
        assert item.tokens + item.extra_tokens == ids.shape[1], (height, width)


@torch
@pytest.mark.parametrize(("kind", "most"), [("thumb+tile", 36), ("thumb+tile", 4), ("vanilla", 36)])
def test_perception_lm_counts_what_its_processor_writes(kind: str, most: int) -> None:
    import numpy
    from transformers import PerceptionLMImageProcessor, PerceptionLMProcessor, PerceptionLMVideoProcessor

    fields = {"vision_input_type": kind, "max_num_tiles": most, "tile_size": 448, **PLAIN}
    settings = {"patch_size": 14, "pooling_ratio": 2}
    images, videos = PerceptionLMImageProcessor(**fields), PerceptionLMVideoProcessor(**PLAIN)
    processor = PerceptionLMProcessor(videos, images, _tokenizer(), **settings)
    counter = _counter("perception_lm", preprocessor=fields, processor=settings)
    for height, width in SIZES:
        tokens = counter.image(height, width).tokens
        assert tokens == _written(processor, height, width), (height, width)
    clip = numpy.zeros((3, 90, 120, 3), dtype="uint8")
    made = processor(videos=clip, text="<video>", return_tensors="pt")
    assert counter.video(3, 90, 120).tokens == positions(made["input_ids"], processor.video_token_id)


GOLDEN = (
    # G020/S045: 336/14; G045 to G049 are frames of 224/14.
    ("llava", {"vision_config": CLIP_VISION}, (480, 640), 576),
    ("llava_next", {}, (672, 672), 4 * 576 + 576 + 48),
)


@pytest.mark.parametrize(("kind", "config", "size", "tokens"), GOLDEN)
def test_defaults_of_the_family_give_the_golden_numbers(
    kind: str, config: dict[str, Any], size: tuple[int, int], tokens: int
) -> None:
    files = ModelFiles("model", {"model_type": kind, **config})
    assert load_counter(files).image(*size).tokens == tokens


@pytest.mark.parametrize(("frames", "tokens"), [(60, 15_360), (30, 7_680), (15, 3_840)])
def test_a_minute_of_frames_at_256_tokens_each(frames: int, tokens: int) -> None:
    # G045, G046, G047 and G049: 1, 0.5 and 0.25 frames a second. Video-LLaVA's frames carry a class token each beside 256.
    assert _counter("video_llava").video(frames, 224, 224).tokens == tokens + frames


def test_a_processor_alone_tells_its_family() -> None:
    files = ModelFiles(
        "model", None, preprocessor=CLIP_336, processor={**PROCESSOR, "processor_class": "LlavaProcessor"}
    )
    assert load_counter(files).image(100, 100).tokens == 576


def test_extreme_images_are_counted_at_once() -> None:
    for kind in ("llava", "llava_next", "llava_onevision", "aya_vision", "cohere2_vision", "perception_lm"):
        assert _counter(kind).image(1, 1_000_000).tokens > 0


@pytest.mark.parametrize(
    ("kind", "preprocessor", "message"),
    [
        ("llava_next", {"image_grid_pinpoints": [[336, "x"]]}, "image_grid_pinpoints"),
        ("llava_next", {"image_grid_pinpoints": []}, "image_grid_pinpoints"),
        ("llava_next", {"image_grid_pinpoints": [[10, 10]]}, "image_grid_pinpoints"),
        ("llava_onevision", {"size": {"height": "tall", "width": 3}}, "height"),
        ("llava", {"crop_size": {"height": -1, "width": 5}}, "crop_size"),
        ("llava", {"size": {"deep": 3}, "do_center_crop": False}, "size"),
        ("aya_vision", {"max_patches": 2**39}, "max_patches"),
        ("perception_lm", {"tile_size": 10}, "tile"),
    ],
)
def test_a_field_at_fault_is_named(kind: str, preprocessor: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _counter(kind, preprocessor=preprocessor).image(100, 100)
