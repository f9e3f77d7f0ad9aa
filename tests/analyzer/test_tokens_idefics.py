"""Tokens of IDEFICS, Idefics2, Idefics3 and SmolVLM equal those that transformers' own processors write."""

from typing import Any

import pytest
from oracle_processors import SIZES, image, positions, tokenizer

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_analyzer.models.tokens.item import Counter
from vtprof_schemas.errors import ConfigError, DataError

torch = pytest.mark.torch
PLAIN = {"do_rescale": False, "do_normalize": False}
TAGS = [f"<row_{row}_col_{column}>" for row in range(1, 13) for column in range(1, 13)]


def _counter(kind: str, config: dict[str, Any] | None = None, **files: Any) -> Counter:
    return load_counter(ModelFiles("model", {"model_type": kind, **(config or {})}, **files))


def _words() -> Any:
    return tokenizer(
        "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *TAGS, image_token="<image>",
        video_token="<video>", image_boundary_token="<fake_token_around_image>",
    )  # fmt: skip


CHECKPOINTS: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "Idefics3-8B": (
        "idefics3",
        {"scale_factor": 2, "vision_config": {"image_size": 364, "patch_size": 14}},
        {"size": {"longest_edge": 1456}, "max_image_size": {"longest_edge": 364}},
        169,
    ),
    "SmolVLM-2.2B": (
        "smolvlm",
        {"scale_factor": 3, "vision_config": {"image_size": 384, "patch_size": 14}},
        {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}},
        81,
    ),
    "SmolVLM-256M": (
        "smolvlm",
        {"scale_factor": 4, "vision_config": {"image_size": 512, "patch_size": 16}},
        {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}},
        64,
    ),
    "an odd longest edge beyond 4096 pixels": (
        "idefics3",
        {"scale_factor": 2, "vision_config": {"image_size": 512, "patch_size": 16}},
        {"size": {"longest_edge": 4301}, "max_image_size": {"longest_edge": 512}},
        256,
    ),
    # The shorter side is rounded up to an even number, which may begin another row.
    "an odd tile": (
        "idefics3",
        {"scale_factor": 2, "vision_config": {"image_size": 365, "patch_size": 14}},
        {"size": {"longest_edge": 1095}, "max_image_size": {"longest_edge": 365}},
        169,
    ),
    "whole images": (
        "idefics3",
        {"scale_factor": 2, "vision_config": {"image_size": 364, "patch_size": 14}},
        {
            "size": {"longest_edge": 1456},
            "max_image_size": {"longest_edge": 364},
            "do_image_splitting": False,
        },
        169,
    ),
}


def _split_processor(
    kind: str, preprocessor: dict[str, Any], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> Any:
    import transformers

    if kind == "idefics3":
        images = transformers.Idefics3ImageProcessor(**preprocessor, **PLAIN)
        return transformers.Idefics3Processor(images, _words(), image_seq_len=tokens)
    # The processor spells a number of frames with a package that is not needed for counting.
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", str)
    images = transformers.SmolVLMImageProcessor(**preprocessor, **PLAIN)
    videos = transformers.SmolVLMVideoProcessor(**preprocessor, **PLAIN)
    return transformers.SmolVLMProcessor(images, _words(), videos, image_seq_len=tokens)


@torch
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_split_images_count_what_their_processor_writes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, config, preprocessor, tokens = CHECKPOINTS[name]
    counters = [
        _counter(kind, config, preprocessor=preprocessor, processor={"image_seq_len": tokens}),
        # The model's own patches and shuffle lead to the same number.
        _counter(kind, config, preprocessor=preprocessor),
    ]
    processor = _split_processor(kind, preprocessor, tokens, monkeypatch)
    words = processor.tokenizer
    # Each image of the largest kind is resized to 18 megapixels: a few of them tell.
    sizes = SIZES[3::5] if "4096" in name else SIZES
    for height, width in (*sizes, (365, 1095), (1095, 365)):
        made = processor(text="<image>", images=[image(height, width)])
        expected = positions(made["input_ids"], words.image_token_id)
        for counter in counters:
            counted = counter.image(height, width)
            assert counted.tokens == expected, (height, width)
            assert sum(grid.count for grid in counted.grids) == expected // tokens
            # Line breaks end the rows; the test's tokenizer drops them.
            rows = len({tag for tag in _tags(words, made) if tag.endswith("_col_1>")})
            assert counted.extra_tokens == len(made["input_ids"][0]) - expected + rows


def _tags(words: Any, made: Any) -> list[str]:
    return [
        str(tag) for tag in words.convert_ids_to_tokens(made["input_ids"][0]) if str(tag).startswith("<row_")
    ]


@torch
def test_s057_smolvlm_video_is_one_tile_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    kind, config, preprocessor, tokens = CHECKPOINTS["SmolVLM-256M"]
    processor = _split_processor(kind, preprocessor, tokens, monkeypatch)
    counter = _counter(kind, config, preprocessor=preprocessor)
    for frames, height, width in ((1, 64, 64), (3, 90, 160), (8, 300, 50)):
        clip = [np.zeros((frames, height, width, 3), np.uint8)]
        made = processor(text="<video>", videos=clip, return_tensors="pt")
        counted = counter.video(frames, height, width)
        assert (
            counted.tokens == positions(made["input_ids"], processor.tokenizer.image_token_id) == 64 * frames
        )
        assert [(grid.count, grid.height, grid.width) for grid in counted.grids] == [(frames, 32, 32)]
    with pytest.raises(ConfigError, match="no video"):
        _counter("idefics3").video(3, 90, 160)


@torch
@pytest.mark.parametrize("splits", [False, True])
def test_idefics2_counts_what_its_processor_writes(splits: bool) -> None:
    from transformers import Idefics2ImageProcessor, Idefics2Processor

    preprocessor = {
        "size": {"shortest_edge": 378, "longest_edge": 980},
        "do_image_splitting": splits,
        **PLAIN,
    }
    config = {"vision_config": {"patch_size": 14}, "perceiver_config": {"resampler_n_latents": 64}}
    counter = _counter("idefics2", config, preprocessor=preprocessor)
    words = _words()
    processor = Idefics2Processor(Idefics2ImageProcessor(**preprocessor), words, image_seq_len=64)
    for height, width in [size for size in SIZES if not splits or min(size) > 1]:
        made = processor(text="<image>", images=[image(height, width)])
        counted = counter.image(height, width)
        assert counted.tokens == positions(made["input_ids"], words.image_token_id), (height, width)
        assert counted.tokens + counted.extra_tokens == len(made["input_ids"][0])
        count, _, high, wide = made["pixel_values"][0].shape
        assert [(grid.count, grid.height, grid.width) for grid in counted.grids] == [
            (count, high // 14, wide // 14)
        ]
    if splits:
        with pytest.raises(ConfigError, match="too small to be split"):
            counter.image(1, 150)


def test_s073_idefics_cross_attends_to_latents_or_to_every_patch() -> None:
    config = {"use_resampler": True, "vision_config": {"image_size": 224, "patch_size": 14}}
    assert _counter("idefics", config).image(480, 640).tokens == 64
    # (224 / 14)^2 patches and the class token.
    plain = _counter("idefics", {**config, "use_resampler": False}).image(480, 640)
    assert (plain.tokens, plain.extra_tokens, plain.patches) == (257, 3, 256)


@pytest.mark.parametrize(
    ("kind", "config", "files", "message"),
    [
        ("idefics3", {"vision_config": {"patch_size": 999}}, {}, "patch_size is 999"),
        ("idefics3", {"scale_factor": 999}, {}, "scale_factor is 999"),
        ("smolvlm", {}, {"preprocessor": {"size": {"longest_edge": "big"}}}, "size.longest_edge"),
        ("idefics2", {}, {"preprocessor": {"size": {"shortest_edge": 1}}}, "size"),
        ("idefics", {"vision_config": {"patch_size": 300}}, {}, "patch_size is 300"),
    ],
)
def test_a_fault_names_its_field(
    kind: str, config: dict[str, Any], files: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _counter(kind, config, **files)
