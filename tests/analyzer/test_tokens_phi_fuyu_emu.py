"""Phi-4-multimodal, Fuyu and Emu3 agree with transformers' own processors; Phi-3-vision with its published arithmetic."""

from typing import Any

import pytest
from oracle_processors import SIZES, image, positions, tokenizer

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_schemas.errors import ConfigError

torch_test = pytest.mark.torch
PLAIN: dict[str, Any] = {"do_rescale": False, "do_normalize": False}


@pytest.fixture(autouse=True)
def _torch_first(request: pytest.FixtureRequest) -> None:
    """Import torch ahead of torchvision, whose operators are declared only then."""
    if request.node.get_closest_marker("torch"):
        import torch  # noqa: F401


@torch_test
@pytest.mark.parametrize("options", [{}, {"dynamic_hd": 9}])
def test_phi_4_multimodal(options: dict[str, Any]) -> None:
    from transformers import Phi4MultimodalImageProcessor

    processor = Phi4MultimodalImageProcessor(do_rescale=False, do_normalize=False, **options)
    counter = load_counter(ModelFiles("folder", {"model_type": "phi4_multimodal"}, options))
    refused = 0
    for height, width in (*SIZES, (449, 1000), (1344, 2600), (460, 450), (5000, 4500)):
        try:
            out = processor(image(height, width), return_tensors="pt")
        except ValueError:
            refused += 1
            with pytest.raises(ConfigError):
                counter.image(height, width)
            continue
        item = counter.image(height, width)
        assert item.tokens == int(out["num_img_tokens"][0]), (height, width)
        assert item.grids[0].count == out["image_pixel_values"].shape[1], (height, width)
    assert refused < 3


@torch_test
def test_phi_4_multimodal_counts_speech_too() -> None:
    counter = load_counter(ModelFiles("folder", {"model_type": "phi4_multimodal"}))
    # 10 s at 16 kHz: (160000 - 400) // 160 + 1 = 998 frames, 8 to a token.
    assert counter.audio(10.0).tokens == 125


@torch_test
def test_fuyu() -> None:
    from transformers import FuyuImageProcessor, FuyuProcessor

    words = tokenizer("<0x04>", image_token="|SPEAKER|", image_newline_token="|NEWLINE|")
    processor = FuyuProcessor(FuyuImageProcessor(), words)
    counter = load_counter(ModelFiles("folder", {"model_type": "fuyu"}))
    for height, width in SIZES:
        _, texts = processor._process_images([image(height, width)])
        item = counter.image(height, width)
        assert item.tokens == texts[0].count("|SPEAKER|"), (height, width)
        assert item.extra_tokens == texts[0].count("|NEWLINE|"), (height, width)
    with pytest.raises(ConfigError):
        counter.image(1, 10_000)


@torch_test
def test_emu_3() -> None:
    from transformers import Emu3ImageProcessor, Emu3Processor

    words = tokenizer(
        image_token="<image>",
        boi_token="<|image start|>",
        eoi_token="<|image end|>",
        image_wrapper_token="<|image token|>",
        eof_token="<|extra_201|>",
    )
    processor = Emu3Processor(Emu3ImageProcessor(**PLAIN), words)
    counter = load_counter(ModelFiles("folder", {"model_type": "emu3"}))
    for height, width in SIZES:
        if height == 1:
            continue  # its arrays of one row are taken for images of one channel
        out = processor(images=[image(height, width)], text=["<image>"])
        assert counter.image(height, width).tokens == positions(out["input_ids"], words.image_token_id), (
            height,
            width,
        )
    with pytest.raises(ConfigError):
        counter.image(1, 300)


# Crops of 336 pixels; 144 tokens a crop and an overview of 144, 12 learned vectors for each row of crops and for the
# overview, one between them. The long side has the most crops s for which s * ceil(s / ratio) is within the limit.
PHI_3 = [
    (16, 336, 336, 17 * 144 + 1 + 5 * 12),  # 4 x 4
    (16, 1024, 1024, 2509),
    (
        16,
        876,
        1300,
        13 * 144 + 1 + 4 * 12,
    ),  # 3 x 4: 1344 / 1.484 = 905 pixels, three crops; 1921 in vLLM's tests
    (16, 336, 672, 16 * 144 + 1 + 4 * 12),  # 3 x 5
    (16, 672, 336, 16 * 144 + 1 + 6 * 12),  # 5 x 3
    (16, 8000, 50, 17 * 144 + 1 + 17 * 12),  # 16 x 1
    (4, 336, 336, 5 * 144 + 1 + 3 * 12),  # 2 x 2; 757 in vLLM's tests
    (4, 876, 1300, 757),
    (1, 876, 1300, 2 * 144 + 1 + 2 * 12),
]


@pytest.mark.parametrize(("crops", "height", "width", "tokens"), PHI_3)
def test_phi_3_vision(crops: int, height: int, width: int, tokens: int) -> None:
    files = ModelFiles("folder", {"model_type": "phi3_v"}, {"num_crops": crops})
    assert load_counter(files).image(height, width).tokens == tokens


def test_phi_3_vision_refuses_what_shrinks_to_nothing() -> None:
    with pytest.raises(ConfigError, match="refuses"):
        load_counter(ModelFiles("folder", {"model_type": "phi3_v"})).image(1, 1_000_000)
