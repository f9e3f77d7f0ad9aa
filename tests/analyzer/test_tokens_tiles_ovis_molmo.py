"""Ovis2, Molmo2, MiniCPM-V 4.6, MiniCPM-OCR and DeepSeek-OCR-2 agree with transformers' own processors to the token."""

from typing import Any

import pytest
from oracle_processors import SIZES, image, positions, tokenizer

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True, scope="module")
def _torch_first() -> None:
    """Import torch ahead of torchvision, whose operators are declared only then."""
    import torch  # noqa: F401


PLAIN: dict[str, Any] = {"do_rescale": False, "do_normalize": False}


@pytest.mark.parametrize(
    "options",
    [
        {"crop_to_patches": True, "max_patches": 9, "size": {"height": 448, "width": 448}},
        {"crop_to_patches": True, "use_covering_area_grid": False, "min_patches": 2},
        {"crop_to_patches": False},
    ],
)
def test_ovis_2(options: dict[str, Any]) -> None:
    from transformers import Ovis2ImageProcessorPil, Ovis2Processor

    tags = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    words = tokenizer("<IMG_ATOM>", *tags, image_token="<image>")
    processor = Ovis2Processor(Ovis2ImageProcessorPil(**options, **PLAIN), words)
    counter = load_counter(ModelFiles("folder", {"model_type": "ovis2"}, options))
    for height, width in SIZES:
        ids = processor(images=[image(height, width)], text="<image>", return_tensors="pt")[
            "input_ids"
        ].tolist()
        item = counter.image(height, width)
        assert item.tokens == positions(ids, words.convert_tokens_to_ids("<IMG_ATOM>")), (height, width)
        assert item.extra_tokens == positions(ids, words.convert_tokens_to_ids(list(tags))), (height, width)


MOLMO_TAGS = (
    "<im_col>",
    "<im_start>",
    "<low_res_im_start>",
    "<frame_start>",
    "<im_end>",
    "<frame_end>",
    "<im_low>",
)


def molmo_2(**options: Any) -> tuple[Any, Any]:
    """Return Molmo2's processor and its tokenizer."""
    from transformers import Molmo2ImageProcessor, Molmo2Processor, Molmo2VideoProcessor

    words = tokenizer("<im_patch>", *MOLMO_TAGS, image_token="<|image|>", video_token="<|video|>")
    made = Molmo2Processor(Molmo2ImageProcessor(**options, **PLAIN), Molmo2VideoProcessor(**PLAIN), words)
    return made, words


@pytest.mark.parametrize("options", [{}, {"max_crops": 24}])
def test_molmo_2_images(options: dict[str, Any]) -> None:
    processor, words = molmo_2(**options)
    counter = load_counter(ModelFiles("folder", {"model_type": "molmo2"}, options))
    for height, width in (*SIZES, (112, 112), (112, 500), (378, 378), (379, 378), (644, 911)):
        # As many crops as tokens decide; the pixels themselves would take minutes.
        grid, crops = processor.image_processor.get_image_grid_and_crops(height, width)
        text = processor.replace_image_token({"image_grids": [grid]}, 0)
        ids = words(text)["input_ids"]
        item = counter.image(height, width)
        assert item.tokens == positions(ids, words.convert_tokens_to_ids("<im_patch>")), (height, width)
        assert item.extra_tokens == positions(ids, words.convert_tokens_to_ids(list(MOLMO_TAGS))), (
            height,
            width,
        )
        assert item.grids[0].count == crops


@pytest.mark.parametrize(("height", "width"), [(224, 224), (481, 641), (100, 2000), (28, 28)])
def test_molmo_2_pixels(height: int, width: int) -> None:
    processor, words = molmo_2()
    counter = load_counter(ModelFiles("folder", {"model_type": "molmo2"}))
    out = processor(images=[image(height, width)], text="<|image|>")
    assert counter.image(height, width).tokens == positions(
        out["input_ids"], words.convert_tokens_to_ids("<im_patch>")
    )


def test_molmo_2_video() -> None:
    import torch

    processor, words = molmo_2()
    counter = load_counter(ModelFiles("folder", {"model_type": "molmo2"}))
    for frames, height, width in ((1, 28, 28), (5, 300, 200), (8, 64, 480)):
        video = torch.zeros(frames, 3, height, width, dtype=torch.uint8)
        out = processor(videos=[video], text="<|video|>", do_sample_frames=False)
        item = counter.video(frames, height, width)
        assert item.tokens == positions(out["input_ids"], words.convert_tokens_to_ids("<im_patch>"))
        # One position of each frame is its time, as text.
        tags = positions(out["input_ids"], words.convert_tokens_to_ids(list(MOLMO_TAGS)))
        assert item.extra_tokens == tags + frames


MINICPM_TAGS = {
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


def minicpm(name: str, **options: Any) -> tuple[Any, Any]:
    """Return the processor of a MiniCPM model in transformers and its tokenizer."""
    import transformers

    words = tokenizer(image_token="<|image_pad|>", video_token="<|video_pad|>", **MINICPM_TAGS)
    pixels = getattr(transformers, f"{name}ImageProcessor")(**options, **PLAIN)
    frames = getattr(transformers, f"{name}VideoProcessor")(**options)
    return getattr(transformers, f"{name}Processor")(pixels, frames, words), words


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("minicpmv4_6", "MiniCPMV4_6", {}),
        ("minicpmv4_6", "MiniCPMV4_6", {"downsample_mode": "4x", "max_slice_nums": 36}),
        ("minicpmv4_6", "MiniCPMV4_6", {"slice_mode": False}),
        ("minicpm_ocr", "MiniCPMOcr", {}),
    ],
)
def test_minicpm(kind: str, name: str, options: dict[str, Any]) -> None:
    processor, words = minicpm(name, **options)
    counter = load_counter(ModelFiles("folder", {"model_type": kind}, options))
    tags = words.convert_tokens_to_ids(list(MINICPM_TAGS.values()))
    for height, width in SIZES:
        out = processor(images=[image(height, width)], text=["<|image_pad|>"])
        item = counter.image(height, width)
        assert item.tokens == positions(out["input_ids"], words.image_token_id), (height, width)
        assert item.patches == int(out["target_sizes"].prod(-1).sum()), (height, width)
        rows = counter.slices.grid(height, width) if options.get("slice_mode", True) else None
        # The image's number is one position; a line break between rows would be another with a real tokenizer.
        breaks = rows[0] - 1 if rows else 0
        assert item.extra_tokens == positions(out["input_ids"], tags) + 1 + breaks, (height, width)


def test_minicpm_video() -> None:
    import torch

    processor, words = minicpm("MiniCPMV4_6")
    counter = load_counter(ModelFiles("folder", {"model_type": "minicpmv4_6"}))
    for frames, height, width in ((1, 100, 60), (3, 448, 448), (2, 600, 900)):
        video = torch.zeros(frames, 3, height, width, dtype=torch.uint8)
        out = processor(videos=[video], text=["<|video_pad|>"], do_sample_frames=False)
        item = counter.video(frames, height, width)
        assert item.tokens == positions(out["input_ids"], words.video_token_id), (frames, height, width)


@pytest.mark.parametrize("options", [{}, {"max_patches": 9, "min_patches": 1}, {"crop_to_patches": False}])
def test_deepseek_ocr_2(options: dict[str, Any]) -> None:
    from transformers import DeepseekOcr2ImageProcessorPil, DeepseekOcr2Processor

    words = tokenizer(image_token="<image>")
    processor = DeepseekOcr2Processor(DeepseekOcr2ImageProcessorPil(**options, **PLAIN), words)
    processor.images_kwargs = {}
    counter = load_counter(ModelFiles("folder", {"model_type": "deepseek_ocr2"}, options))
    for height, width in SIZES:
        item = counter.image(height, width)
        try:
            out = processor(images=[image(height, width)], text="<image>", **options)
        except ValueError:
            assert max(height, width) > 1024 * min(height, width) / 10
            continue
        assert item.tokens == positions(out["input_ids"], words.image_token_id), (height, width)
