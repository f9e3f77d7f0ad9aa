"""Visual tokens of the Qwen2-VL family, to the token."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_analyzer.models.tokens.qwen2_vl import (
    ImageLimits,
    VideoLimits,
    image_grid,
    smart_resize,
    video_grid,
)
from vtprof_schemas.errors import ConfigError

NO_CAP = VideoLimits(max_pixels=2**40)


@pytest.mark.parametrize(
    ("golden", "height", "width", "tokens"),
    [("G179", 1024, 1024, 1369), ("G180", 512, 512, 324), ("G181", 2048, 2048, 5329)],
)
def test_golden_image_tokens(golden: str, height: int, width: int, tokens: int) -> None:
    assert image_grid(height, width).tokens == tokens


def test_golden_video_tokens_g182_g183() -> None:
    assert video_grid(2, 720, 1280, NO_CAP).tokens == 1196
    assert video_grid(84, 720, 1280, NO_CAP).tokens == 42 * 1196
    assert video_grid(84, 720, 1280, NO_CAP).tokens >= 50_000 > video_grid(82, 720, 1280, NO_CAP).tokens


def test_an_incomplete_pair_of_frames_is_padded() -> None:
    assert [video_grid(frames, 280, 420, NO_CAP).frames for frames in (1, 2, 3, 4)] == [1, 1, 2, 2]


def test_a_half_cell_rounds_to_even() -> None:
    # 42 / 28 = 1.5 and 70 / 28 = 2.5 both become 2.
    assert smart_resize(42, 70, 28, 1, 10**9) == (56, 56)
    assert smart_resize(70, 42, 28, 1, 10**9) == (56, 56)


def test_limits_are_kept_in_both_directions() -> None:
    # sqrt(8e6 / 1,003,520) = 2.8235: 1000 and 708.3 wide before flooring to cells... 2000 / 2.8235 = 708.3 -> 700.
    assert smart_resize(2000, 4000, 28, 3136, 1280 * 784) == (700, 1400)
    assert smart_resize(10, 10, 28, 3136, 10**9) == (56, 56)


def test_pairs_are_per_temporal_patch() -> None:
    grid = video_grid(4, 280, 420, NO_CAP)
    # At least 128 cells a frame: 280x420 is 10x15 cells, 20x30 patches, in two temporal patches.
    assert (grid.patches, grid.tokens, grid.attention_pairs) == (1200, 300, 2 * 600**2)


@pytest.mark.parametrize(("height", "width"), [(0, 10), (10, -1), (1, 201), (4020, 20)])
def test_sizes_that_the_processors_refuse_are_refused(height: int, width: int) -> None:
    with pytest.raises(ConfigError, match=f"image of {height}x{width}"):
        image_grid(height, width)
    with pytest.raises(ConfigError, match="video of 0 frames"):
        video_grid(0, 100, 100)


SIDES = st.integers(1, 9000)


@pytest.fixture(scope="module")
def their_resize() -> Any:
    """Return transformers' own function; its import takes seconds, so not inside an example."""
    return pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl").smart_resize


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


@settings(deadline=None)
@given(st.integers(30, 5000), st.integers(30, 5000))
def test_an_image_is_whole_cells_inside_its_limits(height: int, width: int) -> None:
    limits = ImageLimits(max_pixels=1280 * 784)
    grid = image_grid(height, width, limits)
    assert grid.patches == 4 * grid.tokens
    assert grid.tokens * 784 <= limits.max_pixels
