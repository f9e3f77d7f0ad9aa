"""Models that are published with code of their own: counts worked out by hand, size by size.

The same numbers come out of vLLM's processing of these models.
"""

from typing import Any

import pytest

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_schemas.errors import ConfigError, DataError

# A tile of 384 pixels has 27 x 27 patches, joined to 14 x 14. Overview 14 x 15 with newlines, one separator, tiles
# 14 r x (14 c + 1). The resolution kept is the one that shrinks least and then wastes least.
DEEPSEEK_VL2 = [
    (384, 384, 1, 210 + 1 + 14 * 15),
    (1000, 1000, 1, 210 + 1 + 42 * 43),  # 1152 x 1152 keeps every pixel
    (480, 640, 1, 210 + 1 + 28 * 29),  # 768 x 768
    (480, 640, 2, 1023),
    (480, 640, 3, 421),  # of three images none is cut
    (100, 2000, 1, 210 + 1 + 14 * (14 * 6 + 1)),  # 2304 x 384
    (2000, 100, 1, 210 + 1 + 14 * 6 * 15),
]


@pytest.mark.parametrize(("height", "width", "images", "tokens"), DEEPSEEK_VL2)
def test_deepseek_vl2(height: int, width: int, images: int, tokens: int) -> None:
    counter = load_counter(ModelFiles("folder", {"model_type": "deepseek_vl_v2"}))
    assert counter.image(height, width, images).tokens == tokens


def test_deepseek_vl2_refuses_what_shrinks_to_nothing() -> None:
    with pytest.raises(ConfigError, match="refuses"):
        load_counter(ModelFiles("folder", {"model_type": "deepseek_vl_v2"})).image(1, 1_000_000)


# Overview of 1024 pixels: 16 x 17 and a separator; tiles of 640: 10 r x (10 c + 1), none below 640 pixels.
@pytest.mark.parametrize(
    ("height", "width", "tokens"),
    [
        (640, 640, 273),
        (64, 640, 273),
        (1024, 1024, 273 + 20 * 21),
        (1280, 960, 273 + 30 * 21),
        (641, 100, 273 + 60 * 11),
    ],
)
def test_deepseek_ocr(height: int, width: int, tokens: int) -> None:
    config = {"model_type": "deepseek_vl_v2", "architectures": ["DeepseekOCRForCausalLM"]}
    assert load_counter(ModelFiles("folder", config)).image(height, width).tokens == tokens


# 64 (or 96) tokens for the overview and for each slice; slices cover the image at about 448 x 448 pixels each.
MINICPM = [
    ({"version": 2.6, "query_num": 64}, 448, 448, 64, 2 + 3),
    ({"version": 2.6, "query_num": 64}, 1344, 1344, 640, 3 + 20 + 2),  # 3 x 3 slices, two line breaks
    ({"version": 2.6, "query_num": 64}, 480, 640, 192, 3 + 6),  # 1 x 2
    ({"version": "4.5", "query_num": 64}, 4096, 4096, 640, 25),
    (
        {"query_num": 96, "hidden_size": 4096},
        480,
        640,
        288,
        6 + 2,
    ),  # 2.5 wraps the slices and numbers nothing
    ({"query_num": 64, "hidden_size": 2304}, 448, 448, 64, 2),  # 2.0
]


@pytest.mark.parametrize(("config", "height", "width", "tokens", "extra"), MINICPM)
def test_minicpm_v(config: dict[str, Any], height: int, width: int, tokens: int, extra: int) -> None:
    item = load_counter(ModelFiles("folder", {"model_type": "minicpmv", **config})).image(height, width)
    assert (item.tokens, item.extra_tokens) == (tokens, extra)


def test_minicpm_v_without_config_is_told_by_its_processor() -> None:
    own = {
        "processor_class": "MiniCPMVProcessor",
        "version": 2.6,
        "image_feature_size": 64,
        "max_slice_nums": 9,
    }
    item = load_counter(ModelFiles("folder", None, own)).image(480, 640)
    assert (item.tokens, item.extra_tokens) == (192, 9)


def test_minicpm_v_encoder_sequences() -> None:
    files = ModelFiles("folder", {"model_type": "minicpmv", "version": 2.6})
    # 480 x 640 has 307200 pixels, over 448 squared: overview of int(448 / sqrt(4/3)) = 387 x 516 pixels, 28 x 37
    # patches; each of two slices of 480 x 320: 448 / sqrt(2/3) = 548 x 365 pixels, 39 x 26 patches.
    overview, part = load_counter(files).image(480, 640).grids
    assert (overview.count, overview.height, overview.width) == (1, 28, 37)
    assert (part.count, part.height, part.width) == (2, 39, 26)


def test_minicpm_v_video_frames_are_not_cut() -> None:
    counter = load_counter(ModelFiles("folder", {"model_type": "minicpmv", "version": 2.6}))
    assert counter.video(16, 1080, 1920).tokens == 16 * 64
    with pytest.raises(ConfigError):
        load_counter(ModelFiles("folder", {"model_type": "minicpmv", "version": 2.5})).video(1, 10, 10)


# Crops of 336 pixels that add 224 each; 24 patches, pooled by 2: 12 x 12 of the overview, then (16 r + 8) / 2 rows.
@pytest.mark.parametrize(
    ("height", "width", "tokens", "extra"),
    [
        (336, 336, 144 + 144, 4 + 12 + 12),
        (1000, 1000, 144 + 28 * 28, 4 + 12 + 28),  # none of 12 crops holds it: 3 x 3 shrinks least
        (480, 640, 144 + 20 * 28, 4 + 12 + 20),  # 2 x 3
    ],
)
def test_molmo(height: int, width: int, tokens: int, extra: int) -> None:
    item = load_counter(ModelFiles("folder", {"model_type": "molmo"})).image(height, width)
    assert (item.tokens, item.extra_tokens) == (tokens, extra)


# Tiles of 448 pixels, 16 x 16 tokens each, an overview beside several; a grid does that keeps over 90 % of the pixels.
@pytest.mark.parametrize(
    ("height", "width", "tokens", "extra"),
    [(448, 448, 256, 3), (1000, 1000, 2560, 3 + 6 + 2), (448, 896, 3 * 256, 3 + 1)],
)
def test_ovis(height: int, width: int, tokens: int, extra: int) -> None:
    tokenizer = {"hidden_stride": 2, "backbone_config": {"image_size": 448, "patch_size": 14}}
    files = ModelFiles("folder", {"model_type": "ovis", "visual_tokenizer_config": tokenizer})
    item = load_counter(files).image(height, width)
    assert (item.tokens, item.extra_tokens) == (tokens, extra)


def test_ovis_1_6_pads_an_odd_grid() -> None:
    # 384 / 14 is 27.4: 28 x 28 patches, a quarter of them 196.
    tokenizer = {"hidden_stride": 2, "backbone_config": {"image_size": 384, "patch_size": 14}}
    files = ModelFiles("folder", {"model_type": "ovis", "visual_tokenizer_config": tokenizer})
    assert load_counter(files).image(384, 384).tokens == 196


FIXED: list[tuple[dict[str, Any], int]] = [
    ({"model_type": "chatglm", "vision_config": {"image_size": 1120, "patch_size": 14}}, 40 * 40 + 2),
    ({"model_type": "cogvlm", "vision_config": {"image_size": 490, "patch_size": 14}}, 35 * 35 + 2),
    (
        {
            "model_type": "cogvlm",
            "num_multi_query_heads": 8,
            "vision_config": {"image_size": 1344, "patch_size": 14},
        },
        48 * 48 + 2,
    ),
    ({"model_type": "minigpt4"}, 32),
    ({"model_type": "minigpt_v2"}, 32 * 32 // 4),
    ({"model_type": "mplug_owl2"}, 64 + 1),
    ({"model_type": "moondream1"}, 27 * 27),
    ({"model_type": "flamingo"}, 64),
    ({"model_type": "honeybee", "projector_config": {"num_query_tokens": 144}}, 144),
    ({"model_type": "honeybee", "projector_config": {"num_query_tokens": 256, "num_eos_tokens": 1}}, 257),
    ({"model_type": "internlmxcomposer2", "img_size": 490}, 35 * 35),
    ({"model_type": "git"}, 14 * 14 + 1),
]


@pytest.mark.parametrize(("config", "tokens"), FIXED)
def test_fixed_count(config: dict[str, Any], tokens: int) -> None:
    counter = load_counter(ModelFiles("folder", config))
    assert {counter.image(*size).tokens for size in ((28, 28), (1, 100_000), (4096, 4096))} == {tokens}


@pytest.mark.parametrize("kind", ["video_llama", "videochat"])
def test_video_qformer_has_as_many_tokens_for_every_clip(kind: str) -> None:
    config = {"model_type": kind, "num_video_query_tokens": 96 if kind == "videochat" else 32}
    counter = load_counter(ModelFiles("folder", config))
    short, long = counter.video(8, 224, 224), counter.video(64, 720, 1280)
    assert short.tokens == long.tokens == config["num_video_query_tokens"]
    # The encoder sees every frame.
    assert long.patches == 8 * short.patches


def test_xcomposer_4khd() -> None:
    # 16:10: nine crops wide (9 * 6 = 54 of 55), 3024 / 1.6 = 1890 pixels high, six crops.
    counter = load_counter(ModelFiles("folder", {"model_type": "internlmxcomposer2"}))
    assert counter.image(1680, 2688).tokens == 55 * 144 + 1 + 7 * 12


@pytest.mark.parametrize(
    ("config", "preprocessor", "field"),
    [
        ({"model_type": "deepseek_vl_v2", "candidate_resolutions": []}, None, "candidate_resolutions"),
        (
            {"model_type": "deepseek_vl_v2", "candidate_resolutions": [[384, 400]]},
            None,
            "candidate_resolutions",
        ),
        (
            {"model_type": "deepseek_vl_v2", "candidate_resolutions": [[384, "x"]]},
            None,
            "candidate_resolutions",
        ),
        ({"model_type": "phi3_v"}, {"num_crops": 2**40}, "num_crops"),
        ({"model_type": "minicpmv", "version": "newest"}, None, "version"),
        ({"model_type": "minicpmv"}, {"max_slice_nums": -1}, "max_slice_nums"),
        ({"model_type": "molmo"}, {"overlap_margins": [20, 20]}, "overlap_margins"),
        ({"model_type": "ovis2"}, {"size": {"height": 2, "width": 3}}, "size"),
        ({"model_type": "emu3"}, {"max_pixels": 5}, "max_pixels"),
        ({"model_type": "fuyu"}, {"patch_size": 37}, "patch_size"),
        ({"model_type": "blip-2"}, {"num_query_tokens": "many"}, "num_query_tokens"),
    ],
)
def test_a_fault_is_one_line_that_names_the_field(
    config: dict[str, Any], preprocessor: dict[str, Any] | None, field: str
) -> None:
    with pytest.raises(DataError, match=field) as caught:
        load_counter(ModelFiles("folder", config, preprocessor))
    assert "\n" not in str(caught.value)
