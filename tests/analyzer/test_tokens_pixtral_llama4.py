"""Tokens of Pixtral, Mistral 3, LightOnOCR, Llama 4, Aria and LFM2-VL equal those that transformers' processors write."""

from typing import Any

import pytest
from oracle_processors import SIZES, image, positions, tokenizer

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_analyzer.models.tokens.item import Counter
from vtprof_schemas.errors import ConfigError, DataError

torch = pytest.mark.torch
PLAIN = {"do_rescale": False, "do_normalize": False}
IMAGE_TAGS = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")


def _counter(kind: str, config: dict[str, Any] | None = None, **files: Any) -> Counter:
    return load_counter(ModelFiles("model", {"model_type": kind, **(config or {})}, **files))


@torch
@pytest.mark.parametrize(
    ("kind", "config", "longest", "settings"),
    [
        ("llava", {"vision_config": {"model_type": "pixtral", "image_size": 1024, "patch_size": 16}}, 1024,
         {"patch_size": 16}),
        ("mistral3", {}, 1540, {"patch_size": 14, "spatial_merge_size": 2}),
    ],
)  # fmt: skip
def test_pixtral_counts_what_its_processor_writes(
    kind: str, config: dict[str, Any], longest: int, settings: dict[str, Any]
) -> None:
    from transformers import PixtralImageProcessor, PixtralProcessor

    preprocessor = {"size": {"longest_edge": longest}, **PLAIN}
    counter = _counter(kind, config, preprocessor=preprocessor, processor=settings)
    # The model's own fields say the same where the processor's files are missing.
    bare = _counter(kind, config)
    words = tokenizer(*IMAGE_TAGS)
    processor = PixtralProcessor(PixtralImageProcessor(**preprocessor), words, **settings)
    for height, width in SIZES:
        made = processor(images=[image(height, width)], text="[IMG]", return_tensors="pt")
        counted = counter.image(height, width)
        assert counted.tokens == positions(made["input_ids"], processor.image_token_id), (height, width)
        assert counted.tokens + counted.extra_tokens == made["input_ids"].numel()
        high, wide = (int(side) for side in made["image_sizes"][0])
        patch = settings["patch_size"]
        assert [(grid.height, grid.width) for grid in counted.grids] == [(high // patch, wide // patch)]
        assert bare.image(height, width) == counted


@torch
@pytest.mark.parametrize("patch", [14, 28])
def test_lighton_ocr_counts_what_its_processor_writes(patch: int) -> None:
    from transformers import PixtralImageProcessor
    from transformers.models.lighton_ocr.processing_lighton_ocr import LightOnOcrProcessor

    preprocessor = {"size": {"longest_edge": 1540}, "patch_size": {"height": patch, "width": patch}, **PLAIN}
    settings = {"patch_size": 14, "spatial_merge_size": 2}
    counter = _counter("lighton_ocr", preprocessor=preprocessor, processor=settings)
    words = tokenizer(image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]")
    processor = LightOnOcrProcessor(PixtralImageProcessor(**preprocessor), words, **settings)
    for height, width in SIZES:
        made = processor(images=[image(height, width)], text="[IMG]", return_tensors="pt")
        counted = counter.image(height, width)
        assert counted.tokens == positions(made["input_ids"], processor.image_token_id), (height, width)
        assert counted.extra_tokens == 0


def test_pixtral_refuses_an_image_of_which_no_row_is_left() -> None:
    with pytest.raises(ConfigError, match="1x1000000 pixels"):
        _counter("mistral3").image(1, 1_000_000)
    with pytest.raises(DataError, match="patch_size"):
        _counter("mistral3", processor={"patch_size": 0})


@torch
@pytest.mark.parametrize("settings", [{}, {"max_patches": 5}, {"resize_to_max_canvas": True}])
def test_llama4_counts_what_its_processor_writes(settings: dict[str, Any]) -> None:
    from transformers import Llama4ImageProcessor, Llama4Processor
    from transformers.models.llama4.image_processing_llama4 import find_supported_resolutions

    find_supported_resolutions.cache_clear()
    preprocessor = {"size": {"height": 336, "width": 336}, **settings, **PLAIN}
    counter = _counter("llama4", preprocessor=preprocessor)
    words = tokenizer(
        "<|image|>",
        "<|patch|>",
        "<|image_start|>",
        "<|image_end|>",
        "<|tile_x_separator|>",
        "<|tile_y_separator|>",
    )
    processor = Llama4Processor(Llama4ImageProcessor(**preprocessor), words)
    patch = words.convert_tokens_to_ids("<|patch|>")
    for height, width in SIZES:
        made = processor(images=[image(height, width)], text="<|image|>", return_tensors="pt")
        counted = counter.image(height, width)
        assert counted.tokens == positions(made["input_ids"], patch), (height, width)
        assert counted.tokens + counted.extra_tokens == made["input_ids"].numel()
        assert [(grid.count, grid.height, grid.width) for grid in counted.grids] == [
            (made["pixel_values"].shape[0], 24, 24)
        ]


@torch
@pytest.mark.parametrize(("side", "splits"), [(980, False), (490, False), (490, True), (980, True)])
def test_aria_counts_what_its_processor_writes(side: int, splits: bool) -> None:
    from transformers import AriaImageProcessor, AriaProcessor

    call = {"max_image_size": side, "split_image": splits}
    counter = _counter("aria", {"vision_config": {"image_size": 980, "patch_size": 14}}, preprocessor=call)
    words = tokenizer(image_token="<image>")
    processor = AriaProcessor(AriaImageProcessor(**PLAIN), words)
    for height, width in [size for size in SIZES if not splits or max(size) / min(size) < 50]:
        made = processor(text="<image>", images=image(height, width), **call)
        counted = counter.image(height, width)
        assert counted.tokens == positions(made["input_ids"], words.image_token_id), (height, width)
        assert sum(grid.count for grid in counted.grids) == len(made["pixel_values"])
        assert counted.grids[0].height == side // 14


@torch
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_thumbnail": False, "max_tiles": 4},
        {"do_image_splitting": False},
        {"min_image_tokens": 32, "max_image_tokens": 100, "tile_size": 320},
    ],
)
def test_lfm2_vl_counts_what_its_processor_writes(settings: dict[str, Any]) -> None:
    from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor
    from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor

    counter = _counter("lfm2_vl", preprocessor=settings)
    tags = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 11) for column in range(1, 11)]
    words = tokenizer(
        *tags, image_token="<image>", image_start_token="<|image_start|>", image_end_token="<|image_end|>",
        image_thumbnail_token="<|img_thumbnail|>",
    )  # fmt: skip
    processor = Lfm2VlProcessor(Lfm2VlImageProcessor(**settings, **PLAIN), words)
    # 736 x 736 is 529 cells: just beyond twice the most tokens of one tile.
    for height, width in (*SIZES, (736, 736), (704, 736)):
        made = processor(text="<image>", images=[image(height, width)])
        counted = counter.image(height, width)
        assert counted.tokens == positions(made["input_ids"], words.image_token_id), (height, width)
        assert counted.tokens + counted.extra_tokens == len(made["input_ids"][0])
        shapes = [tuple(int(side) for side in shape) for shape in made["spatial_shapes"]]
        listed = [shape for grid in counted.grids for shape in [(grid.height, grid.width)] * grid.count]
        assert listed == shapes, (height, width)


@pytest.mark.parametrize(
    ("kind", "preprocessor", "message"),
    [
        ("aria", {"max_image_size": 700}, "max_image_size is 700"),
        ("aria", {"split_image": True, "split_resolutions": [[1]]}, "split_resolutions"),
        ("llama4", {"size": {"height": 336, "width": 448}}, "size is 336x448"),
        ("llama4", {"max_patches": 2**33}, "max_patches"),
        ("lfm2_vl", {"tile_size": 8}, "tile_size is 8"),
        ("lfm2_vl", {"encoder_patch_size": None, "min_tiles": -1}, "min_tiles is -1"),
    ],
)
def test_a_fault_names_its_field(kind: str, preprocessor: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _counter(kind, preprocessor=preprocessor)


@pytest.mark.parametrize(
    ("processor_class", "tokens"),
    [
        ("InternVLProcessor", 256),  # one tile
        ("GotOcr2Processor", 256),
        ("Gemma3Processor", 256),
        ("Gemma3nProcessor", 256),
        ("Gemma4Processor", 256),  # 16 x 16 cells are the largest square within 280
        ("PaliGemmaProcessor", 256),
        ("IdeficsProcessor", 257),  # no resampler where no config says so
        ("Idefics2Processor", 64),
        ("Idefics3Processor", 17 * 169),  # 1456 pixels a side are 4 x 4 tiles of 364, and the whole
        ("SmolVLMProcessor", 17 * 169),
        ("PixtralProcessor", 28 * 28),  # 448 / 16
        ("LightOnOcrProcessor", 28 * 28),
        ("Llama4Processor", 5 * 144),  # 2 x 2 tiles and the whole
        ("AriaProcessor", 256),
        ("Lfm2VlProcessor", 14 * 14),
    ],
)
def test_a_processor_config_alone_is_enough_and_says_what_is_assumed(
    processor_class: str, tokens: int
) -> None:
    files = ModelFiles("folder", None, preprocessor={"processor_class": processor_class})
    assert load_counter(files).image(448, 448).tokens == tokens
    assert files.assumed
