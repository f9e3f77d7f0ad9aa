"""Bundled language models: sizes as published, each total to the last parameter."""

import json
from importlib import resources
from typing import Any

import pytest

from vtprof_analyzer.models.registry import load_spec

MODELS: dict[str, Any] = json.loads(
    resources.files("vtprof_analyzer.models.catalogue").joinpath("language.json").read_text("utf-8")
)


@pytest.mark.parametrize("name", MODELS)
def test_a_bundled_language_model_has_its_published_size(name: str) -> None:
    spec = load_spec(MODELS[name]["config"])
    assert spec.params.total == MODELS[name]["params"]
    assert spec.params.vision == 0


def test_the_names_carry_the_published_active_billions() -> None:
    # Qwen names billions rounded down, the embedding of 151936 x 2048 among them.
    for name, active in (("Qwen3-30B-A3B", 3), ("Qwen3-Next-80B-A3B", 3)):
        assert load_spec(MODELS[name]["config"]).params.active // 10**9 == active


def test_keys_and_values_of_a_token_take_the_published_bytes() -> None:
    # 2 x 80 layers x 8 heads x 128 x 2 bytes = 320 KiB (C12); DeepSeek-V3 keeps 70.272 KB (arXiv 2505.09343, table 1).
    for name, expected in (("Llama-3-70B", 320 * 1024), ("DeepSeek-V3", 70272)):
        groups = load_spec(MODELS[name]["config"]).language.groups
        assert 2 * sum(group.layers * group.attention.kv_values_per_token for group in groups) == expected
