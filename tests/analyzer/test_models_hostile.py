"""Configs that no model was published with: one line that names the field, never a traceback or a wait."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from qwen_configs import TINY_2_5

from vtprof_analyzer.devices.roofs import choose_roof
from vtprof_analyzer.models.config_file import MAX_BYTES, read_config_text
from vtprof_analyzer.models.registry import load_spec, parse_config
from vtprof_schemas.errors import ConfigError, DataError

PLACES = [
    ("text_config", "hidden_size"), ("text_config", "num_attention_heads"), ("text_config", "num_hidden_layers"),
    ("text_config", "vocab_size"), ("text_config", "intermediate_size"), ("vision_config", "depth"),
    ("vision_config", "num_heads"), ("vision_config", "patch_size"),
]  # fmt: skip
ODD = [
    float("inf"),
    float("-inf"),
    float("nan"),
    10**400,
    2**40 + 1,
    -1,
    0,
    1.5,
    "7",
    True,
    [1, 2],
    [[[[]]]],
    {},
]


@pytest.mark.parametrize("place", PLACES, ids=".".join)
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:12])
def test_a_field_that_is_no_size_is_named_in_one_short_line(place: tuple[str, str], odd: Any) -> None:
    config = copy.deepcopy(TINY_2_5)
    config[place[0]][place[1]] = odd
    with pytest.raises(DataError, match=place[1]) as caught:
        load_spec(json.loads(json.dumps(config)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_sizes_that_multiply_beyond_any_model_are_refused() -> None:
    config = copy.deepcopy(TINY_2_5)
    config["text_config"]["num_hidden_layers"] = 2**40
    with pytest.raises(DataError, match="parameters, more than any model has"):
        load_spec(config)


def test_json_nested_beyond_reason_is_one_line() -> None:
    with pytest.raises(DataError, match="nested too deeply"):
        parse_config('{"a":' * 100_000 + "1" + "}" * 100_000)


def test_pipes_devices_and_large_files_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(DataError, match="not a regular file"):
            read_config_text(tmp_path / name)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="larger than 2 MiB, as no config is"):
        read_config_text(tmp_path / "large")


def test_a_path_that_is_too_long_is_one_short_line_and_a_missing_one_says_what_to_give() -> None:
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_config_text(Path("/" + "a" * 5_000))
    assert len(str(caught.value)) < 400
    with pytest.raises(ConfigError, match=r"no config\.json there"):
        read_config_text(Path("/no/such/folder"))


@pytest.mark.parametrize(
    ("peak", "bandwidth"), [(1.0, 1e12), (1e12, 1e22), (float("nan"), 1e12), (1e12, -1.0)]
)
def test_recorded_ceilings_of_no_device_are_left_out_with_a_note(peak: float, bandwidth: float) -> None:
    choice = choose_roof("NVIDIA H200", "bfloat16", peak, bandwidth, "test")
    assert choice.roof is not None
    assert choice.roof.kind == "datasheet"
    assert any("out of range" in note for note in choice.notes)
