"""Visual tokens of the Qwen2-VL family: golden numbers, rounding and limits, with the published processor config."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_analyzer.models.tokens.cells import clip_resize, enlarge, smart_resize
from vtprof_analyzer.models.tokens.item import Counter, PatchGrid
from vtprof_schemas.errors import ConfigError, DataError

PUBLISHED = {
    "min_pixels": 3136,
    "max_pixels": 12_845_056,
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
}
"""preprocessor_config.json of Qwen2-VL and Qwen2.5-VL, which holds for videos too where there is no file for them."""


def _counter(kind: str = "qwen2_5_vl", preprocessor: dict[str, Any] | None = None) -> Counter:
    return load_counter(
        ModelFiles("model", {"model_type": kind}, PUBLISHED if preprocessor is None else preprocessor)
    )


@pytest.mark.parametrize(
    ("golden", "side", "tokens"), [("G179", 1024, 1369), ("G180", 512, 324), ("G181", 2048, 5329)]
)
def test_golden_image_tokens(golden: str, side: int, tokens: int) -> None:
    assert _counter().image(side, side).tokens == tokens


def test_golden_video_tokens_g182_g183() -> None:
    counter = _counter()
    assert counter.video(2, 720, 1280).tokens == 1196
    assert counter.video(84, 720, 1280).tokens == 42 * 1196
    assert counter.video(84, 720, 1280).tokens >= 50_000 > counter.video(82, 720, 1280).tokens


def test_first_generation_and_second_generation_of_the_seed_systems() -> None:
    # S041 and S115: 1024x1024 gives 1369; limits clip: at most 1280 cells, at least 4.
    small = _counter("qwen2_vl", {**PUBLISHED, "max_pixels": 1280 * 784})
    assert _counter("qwen2_vl").image(1024, 1024).tokens == 1369
    assert small.image(4096, 4096).tokens == 35 * 35
    assert small.image(10, 10).tokens == 4
    # S040: a fixed budget of 256 queries on 32 x 32 patches, whatever the size.
    visual = {"image_size": 448, "patch_size": 14}
    fixed = load_counter(ModelFiles("model", {"model_type": "qwen", "visual": visual}))
    assert [fixed.image(*size).tokens for size in ((28, 28), (4096, 100))] == [256, 256]
    assert fixed.image(28, 28).grids == (PatchGrid(1, 32, 32),)
    with pytest.raises(DataError, match="text-only model"):
        load_counter(ModelFiles("model", {"model_type": "qwen"}))


def test_an_incomplete_pair_of_frames_is_padded() -> None:
    # S101: a token is two frames; one of each kind of clip has one temporal patch for two frames or for one.
    counted = [_counter().video(frames, 280, 420).grids[0].count for frames in (1, 2, 3, 4)]
    assert counted == [1, 1, 2, 2]


def test_a_half_cell_rounds_to_even() -> None:
    # 42 / 28 = 1.5 and 70 / 28 = 2.5 both become 2.
    assert smart_resize(42, 70, 28, 1, 10**9) == (56, 56)
    assert smart_resize(70, 42, 28, 1, 10**9) == (56, 56)


def test_limits_are_kept_in_both_directions() -> None:
    # sqrt(8e6 / 1,003,520) = 2.8235: 2000 / 2.8235 = 708.3 -> 700, 4000 / 2.8235 = 1416.7 -> 1400.
    assert smart_resize(2000, 4000, 28, 3136, 1280 * 784) == (700, 1400)
    assert smart_resize(10, 10, 28, 3136, 10**9) == (56, 56)


def test_limits_of_a_clip_hold_for_all_its_frames() -> None:
    # 8 frames of 280 x 420 are 940,800 pixels: over 470,400 each side shrinks by sqrt(2): 197.99 and 296.98.
    assert clip_resize(8, 280, 420, 2, 28, 1, 470_400) == (196, 280)
    # Seven frames count as round(3.5) * 2 = 8 where it is decided, as seven where it is scaled: sqrt(823,200 / 900,000)
    # is 0.956, under one, so that 280 / 0.956 = 292.8 and 420 / 0.956 = 439.2 grow before they are floored.
    assert clip_resize(7, 280, 420, 2, 28, 1, 900_000) == (280, 420)
    with pytest.raises(ConfigError, match="needs at least 2"):
        clip_resize(1, 280, 420, 2, 28, 1, 10**9)


def test_sides_below_a_cell_are_enlarged_where_a_family_does_so() -> None:
    assert enlarge(7, 100, 28) == (28, 400)
    assert enlarge(100, 7, 28) == (400, 28)
    assert enlarge(28, 28, 28) == (28, 28)


def test_pairs_are_per_temporal_patch() -> None:
    counted = _counter().video(4, 280, 420)
    # 10 x 15 cells, 20 x 30 patches, in two temporal patches.
    assert (counted.patches, counted.tokens, counted.grids[0].attention_pairs) == (1200, 300, 2 * 600**2)


@pytest.mark.parametrize(("height", "width"), [(0, 10), (10, -1), (1, 201), (4020, 20), (1_000_000, 1)])
def test_sizes_that_the_processors_refuse_are_refused(height: int, width: int) -> None:
    for kind in ("qwen2_vl", "qwen3_vl"):
        with pytest.raises(ConfigError, match=f"image of {height}x{width}"):
            _counter(kind).image(height, width)
    with pytest.raises(ConfigError, match="video of 0 frames"):
        _counter().video(0, 100, 100)
    with pytest.raises(ConfigError, match="takes no audio"):
        _counter().audio(1.0)


def test_defaults_of_the_class_stand_in_for_a_missing_file_and_are_noted() -> None:
    files = ModelFiles("model", {"model_type": "qwen2_vl"})
    # 28 * 28 * 1280 pixels at most: 1369 cells are shrunk to 35 x 35.
    assert load_counter(files).image(1024, 1024).tokens == 35 * 35
    assert any("max_pixels" in note for note in files.assumed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_pixels": "large"}, "max_pixels is 'large'"),
        ({"size": 448}, "size is int"),
        ({"size": {"longest_edge": -1}}, "size.longest_edge is -1"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"merge_size": None, "patch_size": [14, 16]}, "patch_size is"),
        ({"cap_pixels_per_frame": 1}, "cap_pixels_per_frame is 1"),
    ],
)
def test_a_fault_of_a_processor_config_is_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _counter(preprocessor=fields)
    assert str(caught.value).startswith("preprocessor_config.json: ")
    assert "\n" not in str(caught.value)


SIDES = st.integers(1, 9000)


@pytest.fixture(scope="module")
def their_resize() -> Any:
    """Return transformers' own function; its import takes seconds, so not inside an example."""
    pytest.importorskip("torch")  # before torchvision, which the module imports
    return pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize


@pytest.fixture(scope="module")
def their_clip_resize() -> Any:
    """Return transformers' own function for clips."""
    pytest.importorskip("torch")
    return pytest.importorskip("transformers.models.glm4v.image_processing_pil_glm4v").smart_resize


@pytest.mark.torch
@settings(deadline=None)
@given(SIDES, SIDES, st.sampled_from([28, 32]), st.integers(1, 64), st.integers(64, 20_000))
def test_smart_resize_equals_that_of_transformers(
    their_resize: Any, height: int, width: int, cell: int, least: int, most: int
) -> None:
    limits = (least * cell**2, most * cell**2)
    try:
        expected = their_resize(height, width, cell, *limits)
    except ValueError:
        with pytest.raises(ConfigError):
            smart_resize(height, width, cell, *limits)
        return
    assert smart_resize(height, width, cell, *limits) == expected


@pytest.mark.torch
@settings(deadline=None)
@given(st.integers(1, 900), SIDES, SIDES, st.sampled_from([28, 32]), st.integers(64, 50_000))
def test_clip_resize_equals_that_of_transformers(
    their_clip_resize: Any, frames: int, height: int, width: int, cell: int, most: int
) -> None:
    limits = (64 * cell**2, most * cell**2)
    try:
        expected = their_clip_resize(frames, height, width, 2, cell, *limits)
    except ValueError:
        with pytest.raises(ConfigError):
            clip_resize(frames, height, width, 2, cell, *limits)
        return
    assert clip_resize(frames, height, width, 2, cell, *limits) == expected


@settings(deadline=None)
@given(st.integers(30, 5000), st.integers(30, 5000))
def test_an_image_is_whole_cells_inside_its_limits(height: int, width: int) -> None:
    counted = _counter(preprocessor={**PUBLISHED, "max_pixels": 1280 * 784}).image(height, width)
    assert counted.patches == 4 * counted.tokens
    assert 3136 <= counted.tokens * 784 <= 1280 * 784
