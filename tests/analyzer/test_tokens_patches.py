"""Patch arithmetic stands in for token rules that are not known, and says so."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_analyzer.models.tokens.count import Item, count_items
from vtprof_analyzer.models.tokens.patches import patch_grid
from vtprof_schemas.errors import ConfigError, DataError

NAMED = {"model_type": "never_seen_vl", "vision_config": {"patch_size": 14}}


def files(preprocessor: dict[str, Any] | None = None, **config: Any) -> ModelFiles:
    return ModelFiles("m", {**NAMED, **config}, preprocessor)


def test_an_unknown_family_is_counted_by_patches_and_says_so() -> None:
    counts = count_items(files(), [Item("image", 336, 336)])
    assert counts.tokens == 24 * 24
    assert any("'never_seen_vl' has no token rule of its own" in note for note in counts.notes)


@pytest.mark.parametrize(
    ("preprocessor", "config", "size", "tokens"),
    [
        (None, {}, (1024, 1024), 74**2),  # 73.14 patches, rounded up
        (None, {}, (1, 1), 1),
        ({"size": {"height": 224, "width": 448}}, {}, (999, 7), 16 * 32),
        ({"size": {"shortest_edge": 336}, "crop_size": 336}, {}, (999, 7), 24 * 24),
        ({"size": {"shortest_edge": 336}, "crop_size": 336, "do_center_crop": False}, {}, (28, 28), 4),
        ({"size": 28, "do_resize": False}, {}, (56, 56), 16),
        ({"merge_size": 2}, {}, (57, 56), 3 * 2),  # cells of 28: 2.04 and 2
        ({}, {"downsample_ratio": 0.5}, (56, 56), 4),
        (None, {"vision_config": {"patch_size": 16, "image_size": 64}}, (999, 999), 16),
        ({}, {"vision_config": {"patch_size": 16, "image_size": 64}}, (128, 128), 64),
        ({"patch_size": 32}, {"vision_config": "someone/checkpoint"}, (64, 64), 4),
    ],
)
def test_sizes_and_merges_that_the_files_name(
    preprocessor: dict[str, Any] | None, config: dict[str, Any], size: tuple[int, int], tokens: int
) -> None:
    assert load_counter(files(preprocessor, **config)).image(*size).tokens == tokens


def test_frames_share_temporal_patches_where_the_files_name_one() -> None:
    config = {"vision_config": {"patch_size": 14, "temporal_patch_size": 2}}
    item = load_counter(files(**config)).video(5, 28, 28)
    assert (item.tokens, item.grids[0].count) == (3 * 4, 3)
    assert load_counter(files()).video(5, 28, 28).tokens == 5 * 4


def test_without_a_patch_size_there_is_no_guess() -> None:
    with pytest.raises(
        DataError, match=r"^m: model type 'x' has no token rule, .*add vision_config\.patch_size"
    ):
        load_counter(ModelFiles("m", {"model_type": "x"}))


@pytest.mark.parametrize("patch", ["14", 0, -1, 2**50, True, [14, 16], float("nan")])
def test_a_broken_patch_size_is_named(patch: object) -> None:
    with pytest.raises(DataError, match=r"config\.json: vision_config\.patch_size "):
        load_counter(files(vision_config={"patch_size": patch}))


def test_impossible_items_are_refused() -> None:
    counter = load_counter(files())
    for call in (lambda: counter.image(0, 5), lambda: counter.video(0, 5, 5), lambda: counter.audio(1.0)):
        with pytest.raises(ConfigError):
            call()


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 64))
def test_up_and_down_differ_by_a_row_at_most(height: int, width: int, patch: int) -> None:
    down, up = patch_grid(height, width, patch, "floor"), patch_grid(height, width, patch, "ceil")
    assert all(0 <= more - less <= 1 for less, more in zip(down, up, strict=True))
    assert up[0] * patch >= height > (up[0] - 1) * patch
