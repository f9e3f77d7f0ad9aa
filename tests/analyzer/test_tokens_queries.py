"""Models of a fixed count agree with transformers' own processors, whatever the size of the image."""

from collections.abc import Callable
from typing import Any

import pytest
from oracle_processors import SIZES, image, positions, tokenizer

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_schemas.errors import ConfigError

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True, scope="module")
def _torch_first() -> None:
    """Import torch ahead of torchvision, whose operators are declared only then."""
    import torch  # noqa: F401


PLAIN = {"do_rescale": False, "do_normalize": False}


def blip_2() -> tuple[Any, Callable[[Any], int]]:
    """Return BLIP-2's processor and what counts its positions."""
    from transformers import Blip2Processor, BlipImageProcessorPil

    words = tokenizer(image_token="<image>")
    words.image_token = type("Token", (), {"content": "<image>"})()
    size = {"height": 224, "width": 224}
    made = Blip2Processor(BlipImageProcessorPil(size=size, **PLAIN), words, num_query_tokens=32)
    return made, lambda out: positions(out["input_ids"], words.image_token_id)


def instructblip() -> tuple[Any, Callable[[Any], int]]:
    """Return InstructBLIP's processor and what counts its positions."""
    from transformers import BlipImageProcessorPil, InstructBlipProcessor

    words, questions = tokenizer(image_token="<image>"), tokenizer()
    words.image_token = type("Token", (), {"content": "<image>"})()
    size = {"height": 224, "width": 224}
    made = InstructBlipProcessor(
        BlipImageProcessorPil(size=size, **PLAIN), words, questions, num_query_tokens=32
    )
    return made, lambda out: positions(out["input_ids"], words.image_token_id)


def deepseek_vl() -> tuple[Any, Callable[[Any], int]]:
    """Return DeepSeek-VL's processor and what counts its positions."""
    from transformers import DeepseekVLImageProcessorPil, DeepseekVLProcessor

    words = tokenizer(image_token="<image_placeholder>")
    made = DeepseekVLProcessor(DeepseekVLImageProcessorPil(**PLAIN), words)
    return made, lambda out: positions(out["input_ids"].tolist(), words.image_token_id)


def deepseek_vl_hybrid() -> tuple[Any, Callable[[Any], int]]:
    """Return the processor of DeepSeek-VL-7B and what counts its positions."""
    from transformers import DeepseekVLHybridImageProcessorPil, DeepseekVLHybridProcessor

    words = tokenizer(image_token="<image_placeholder>")
    made = DeepseekVLHybridProcessor(DeepseekVLHybridImageProcessorPil(**PLAIN), words)
    return made, lambda out: positions(out["input_ids"].tolist(), words.image_token_id)


def janus() -> tuple[Any, Callable[[Any], int]]:
    """Return Janus's processor and what counts its positions."""
    from transformers import JanusImageProcessorPil, JanusProcessor

    words = tokenizer(
        image_token="<image_placeholder>", boi_token="<begin_of_image>", eoi_token="<end_of_image>"
    )
    made = JanusProcessor(JanusImageProcessorPil(**PLAIN), words)
    return made, lambda out: positions(out["input_ids"].tolist(), words.image_token_id)


def chameleon() -> tuple[Any, Callable[[Any], int]]:
    """Return Chameleon's processor and what counts its positions."""
    from transformers import ChameleonImageProcessorPil, ChameleonProcessor

    words = tokenizer(
        image_token="<image>", boi_token="<racm3:break>", eoi_token="<eoss>", sep_token="<reserved>"
    )
    made = ChameleonProcessor(ChameleonImageProcessorPil(**PLAIN), words)
    return made, lambda out: positions(out["input_ids"].tolist(), words.image_token_id)


def kosmos_2() -> tuple[Any, Callable[[Any], int]]:
    """Return Kosmos-2's processor and what counts its positions."""
    from transformers import CLIPImageProcessorPil, Kosmos2Processor

    made = Kosmos2Processor(CLIPImageProcessorPil(**PLAIN), tokenizer())
    return made, lambda out: sum(out["image_embeds_position_mask"][0])


def kosmos_2_5() -> tuple[Any, Callable[[Any], int]]:
    """Return Kosmos-2.5's processor and what counts its positions."""
    from transformers import Kosmos2_5ImageProcessorPil, Kosmos2_5Processor

    words = tokenizer(image_token="<s>", boi_token="<image>", eoi_token="</image>")
    made = Kosmos2_5Processor(Kosmos2_5ImageProcessorPil(), words)
    return made, lambda out: int((out["image_embeds_position_mask"] == 1).sum())


def florence_2() -> tuple[Any, Callable[[Any], int]]:
    """Return Florence-2's processor and what counts its positions."""
    from transformers import CLIPImageProcessorPil, Florence2Processor

    size = {"height": 768, "width": 768}
    pixels = CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False, **PLAIN)
    pixels.image_seq_length = 577
    words = tokenizer(image_token="<image>")
    made = Florence2Processor(pixels, words)
    return made, lambda out: positions(out["input_ids"], words.image_token_id)


PROCESSORS: dict[str, tuple[Callable[[], Any], str, int, int]] = {
    "blip-2": (blip_2, "a question", 32, 0),
    "instructblip": (instructblip, "a question", 32, 0),
    "deepseek_vl": (deepseek_vl, "<image_placeholder>", 576, 0),
    "deepseek_vl_hybrid": (deepseek_vl_hybrid, "<image_placeholder>", 576, 0),
    "janus": (janus, "<image_placeholder>", 576, 2),
    "chameleon": (chameleon, "<image>", 1024, 2),
    "kosmos-2": (kosmos_2, "a question", 64, 2),
    "kosmos-2.5": (kosmos_2_5, "a question", 2048, 2),
    "florence2": (florence_2, "a question", 577, 0),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_count_is_the_processors_at_every_size(kind: str) -> None:
    make, prompt, tokens, extra = PROCESSORS[kind]
    processor, count = make()
    counter = load_counter(ModelFiles("folder", {"model_type": kind}))
    for height, width in SIZES:
        if kind == "kosmos-2.5" and height * width > 2_000_000:
            continue  # it enlarges every image to 4096 patches by torch, slowly
        item = counter.image(height, width)
        assert item.tokens == tokens, (height, width)
        assert item.extra_tokens == extra
        try:
            out = processor(images=[image(height, width)], text=[prompt])
        except ValueError:
            continue  # a side of the shrunk image is nothing; the model's count does not depend on it
        assert count(out) == item.tokens, (height, width)


def test_instructblip_video_writes_four_frames_of_queries() -> None:
    import torch
    from transformers import InstructBlipVideoProcessor, InstructBlipVideoVideoProcessor

    words, questions = tokenizer(video_token="<video>"), tokenizer()
    words.video_token = type("Token", (), {"content": "<video>"})()
    pixels = InstructBlipVideoVideoProcessor(size={"height": 224, "width": 224}, **PLAIN)
    processor = InstructBlipVideoProcessor(pixels, words, questions, num_query_tokens=32)
    counter = load_counter(ModelFiles("folder", {"model_type": "instructblipvideo"}))
    for frames, height, width in ((4, 48, 64), (4, 300, 200), (8, 48, 64)):
        video = torch.zeros(frames, 3, height, width, dtype=torch.uint8)
        out = processor(images=video, text="a question")
        item = counter.video(frames, height, width)
        assert positions(out["input_ids"], words.video_token_id) == item.tokens == 128
        assert item.patches == frames * 16 * 16
    with pytest.raises(ConfigError):
        counter.image(48, 64)


def test_processor_files_decide_the_count() -> None:
    files = ModelFiles(
        "folder",
        {"model_type": "blip-2"},
        {"size": {"height": 364, "width": 364}},
        None,
        {"num_query_tokens": 16},
    )
    item = load_counter(files).image(100, 200)
    assert (item.tokens, item.grids[0].height, item.grids[0].width) == (16, 26, 26)


def test_processor_class_stands_in_for_an_absent_config() -> None:
    files = ModelFiles(
        "folder", None, None, None, {"processor_class": "JanusProcessor", "num_image_tokens": 100}
    )
    assert load_counter(files).image(10, 20).tokens == 100
