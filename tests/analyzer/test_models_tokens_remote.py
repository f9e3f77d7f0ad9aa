"""Tokens of native-resolution families that transformers has no processor for, by hand from their published arithmetic."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter
from vtprof_analyzer.models.tokens.item import Counter, PatchGrid
from vtprof_schemas.errors import ConfigError, DataError


def _counter(kind: str, preprocessor: dict[str, Any] | None = None, **config: Any) -> Counter:
    return load_counter(ModelFiles("model", {"model_type": kind, **config}, preprocessor))


KIMI_VL = {"patch_size": 14, "merge_kernel_size": [2, 2], "in_token_limit": 4096, "pad_input": True}


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        # Within 4096 patches nothing shrinks: sides are padded to multiples of 28.
        (28, 28, 2, 2), (29, 27, 4, 2), (1, 150, 2, 12), (224, 224, 16, 16), (336, 336, 24, 24), (448, 448, 32, 32),
        (512, 512, 38, 38), (481, 641, 36, 46), (600, 800, 44, 58), (896, 896, 64, 64),
        (100, 2000, 8, 144), (37, 1999, 4, 144), (13, 13, 2, 2), (333, 777, 24, 56),
        # 73 x 73 = 5329 patches: scale sqrt(4096 / 5329) = 64 / 73; 1024 * 0.8767 = 897.7 -> 897, padded to 924.
        (1024, 1024, 66, 66),
        # 51 x 91 = 4641: scale 0.93945; 720 -> 676, padded to 700; 1280 -> 1202, padded to 1204.
        (720, 1280, 50, 86),
        # 77 x 137 = 10549: scale 0.62312; 1080 -> 672 (whole cells), 1920 -> 1196, padded to 1204.
        (1080, 1920, 48, 86),
        # 292 x 292: scale 64 / 292; 4096 -> 897, padded to 924.
        (4096, 4096, 66, 66),
        # 42 x 214 = 8988: scale 0.67507; 600 -> 405, padded to 420; 3000 -> 2025, padded to 2044.
        (600, 3000, 30, 146),
        # 57 x 57 = 3249: nothing shrinks; 801 and 799 are both padded to 812.
        (801, 799, 58, 58),
    ],
)  # fmt: skip
def test_kimi_vl_shrinks_to_its_limit_and_pads_to_whole_cells(
    height: int, width: int, rows: int, columns: int
) -> None:
    counted = _counter("kimi_vl", KIMI_VL).image(height, width)
    assert counted.grids == (PatchGrid(1, rows, columns),)
    assert (counted.tokens, counted.extra_tokens) == (rows * columns // 4, 4)


def test_kimi_vl_refuses_what_its_position_table_does_not_hold() -> None:
    # 14 x 7154 pixels are 511 patches, padded to 512; 512 and more are refused.
    assert _counter("kimi_vl", KIMI_VL).image(28, 7140).tokens == 255
    with pytest.raises(ConfigError, match="a side of 512 patches"):
        _counter("kimi_vl", KIMI_VL).image(14, 7154)
    with pytest.raises(ConfigError, match="takes no video"):
        _counter("kimi_vl").video(4, 100, 100)


def test_kimi_k25_is_read_in_its_published_form() -> None:
    published = {
        "media_proc_cfg": {
            "patch_size": 14, "merge_kernel_size": 2, "in_patch_limit": 16384, "patch_limit_on_one_side": 512,
            "in_patch_limit_each_frame": 4096, "temporal_merge_kernel_size": 4,
        }
    }  # fmt: skip
    counter = _counter("kimi_k25", published)
    assert counter.image(1024, 1024).tokens == 37 * 37
    # Frames keep 4096 patches (1024 -> 897, padded to 924: 66 x 66); ten are chunks of four, four and two.
    counted = counter.video(10, 1024, 1024)
    assert counted.tokens == 3 * 33 * 33
    assert counted.grids == (PatchGrid(2, 4 * 66, 66), PatchGrid(1, 2 * 66, 66))
    assert counted.extra_tokens == 3 * 11


def test_keye_enlarges_sides_below_a_cell() -> None:
    counter = _counter(
        "Keye", {"size": {"min_pixels": 3136, "max_pixels": 1_003_520}, "patch_size": 14, "merge_size": 2}
    )
    # 7 x 100 becomes 28 x 400, which is 1 x 14 cells.
    assert counter.image(7, 100).tokens == 14
    # 1024 x 1024 is 37 x 37 cells, over 1280: scale sqrt(1024^2 / 1,003,520) = 1.0222, 1001.8 -> 980.
    assert counter.image(1024, 1024).tokens == 35 * 35


def test_dots_ocr_and_the_original_videollama_3() -> None:
    dots = _counter("dots_ocr", {"min_pixels": 3136, "max_pixels": 11_289_600})
    # 73 x 73 cells of 784 pixels are 4,177,936; the limit is 14,400 cells.
    assert dots.image(2048, 2048).tokens == 73 * 73
    with pytest.raises(ConfigError, match="takes no video"):
        dots.video(2, 100, 100)
    # Tokens of 14 pixels, 16,384 for all images together: 73 x 73 alone; of four, 1024 / 1.1429 = 896 pixels a side.
    original = _counter("videollama3_qwen2")
    assert original.image(1024, 1024).tokens == 73 * 73
    assert original.image(1024, 1024, images=4).tokens == 64 * 64


def test_the_family_is_told_by_the_processors_class_where_config_json_is_missing() -> None:
    files = ModelFiles("model", None, {"processor_class": "Qwen2_5_VLProcessor", "max_pixels": 12_845_056})
    assert load_counter(files).image(1024, 1024).tokens == 1369


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("kimi_vl", {"in_token_limit": 0}),
        ("kimi_vl", {"merge_kernel_size": [2, 3]}),
        ("kimi_k25", {"size": {"max_height": "512"}}),
        ("kimi_k25", {"media_proc_cfg": 3}),
        ("hunyuan_vl", {"cat_extra_token": "yes"}),
        ("glm4v", {"temporal_patch_size": -1}),
    ],
)
def test_a_fault_of_a_processor_config_is_one_line(kind: str, fields: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(fields))) as caught:
        _counter(kind, fields)
    assert "\n" not in str(caught.value)


def test_glm_46v_is_told_from_45v_by_its_processor() -> None:
    # Five frames of 112 x 112 are three temporal patches: seconds alone, or with a fraction and a unit in three tokens more.
    old = _counter("glm4v_moe", {"processor_class": "Glm4vProcessor"}).video(5, 112, 112)
    new = _counter("glm4v_moe", {"processor_class": "Glm46VProcessor"}).video(5, 112, 112)
    assert (new.tokens, new.extra_tokens - old.extra_tokens) == (old.tokens, 3 * 3)


def test_time_stamps_of_a_long_clip_grow_with_their_digits() -> None:
    # 24 frames are seconds 0 to 11: ten of one digit, two of two; ten million frames are counted as fast as two.
    counter = _counter("qwen3_vl")
    assert counter.video(24, 32, 32).extra_tokens == 2 + 12 * (2 + 5) + 10 + 2 * 2
    assert counter.video(10_000_000, 720, 1280).extra_tokens > 5_000_000 * 8


KINDS = ("qwen2_vl", "qwen3_vl", "qwen2_5_omni", "glm4v", "kimi_vl", "kimi_k25", "paddleocr_vl", "hunyuan_vl", "Keye",
         "ernie4_5_vl_moe", "video_llama_3", "videollama3_qwen2")  # fmt: skip
FIELDS = ("patch_size", "merge_size", "temporal_patch_size", "size", "min_pixels", "max_pixels", "cap_pixels_per_frame",
          "max_video_tokens", "merge_kernel_size", "in_token_limit", "max_patches", "media_proc_cfg", "n_window",
          "processor_class", "cat_extra_token")  # fmt: skip
SIZES_OF = ("shortest_edge", "longest_edge", "max_height", "min_pixels")
NUMBERS = st.one_of(st.integers(-1, 3), st.integers(1, 2**42), st.sampled_from([14, 28, 3136, 10**6]))
ODD = st.one_of(
    st.none(), st.booleans(), st.text(max_size=3), st.floats(), NUMBERS, st.lists(NUMBERS, max_size=2),
    st.dictionaries(st.sampled_from(SIZES_OF), NUMBERS),
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(FIELDS), ODD),
    st.integers(1, 10**6),
    st.integers(1, 10**6),
)
def test_any_processor_config_counts_or_is_one_line(
    kind: str, fields: dict[str, Any], height: int, width: int
) -> None:
    try:
        counter = _counter(kind, fields)
        counted = counter.image(height, width)
        assert counted.tokens > 0
        assert counted.patches > 0
        counter.video(1 + height % 100, height, width)
    except (DataError, ConfigError) as error:
        assert "\n" not in str(error)
