"""The bundled audio models: each loads, has its published size, and counts audio."""

import json
from importlib import resources
from typing import Any

import pytest

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter, load_spec

ENTRIES: dict[str, dict[str, Any]] = json.loads(
    resources.files("vtprof_analyzer.models.catalogue").joinpath("audio.json").read_text("utf-8")
)


@pytest.mark.parametrize("name", ENTRIES)
def test_size_is_the_published_one(name: str) -> None:
    entry = ENTRIES[name]
    total = load_spec(entry["config"]).params.total
    if "params" in entry:
        assert total == entry["params"]
    else:
        assert total == pytest.approx(entry["params_b"] * 1e9, rel=0.001)


@pytest.mark.parametrize("name", ENTRIES)
def test_where_its_numbers_come_from_is_said(name: str) -> None:
    entry = ENTRIES[name]
    assert entry["source"]
    assert entry["confidence"] in ("high", "medium", "low")
    assert all("/" in checkpoint for checkpoint in entry["ids"])


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("whisper-large-v3", 1500),  # one padded window
        ("Qwen2-Audio-7B", 250),  # 25 a second
        ("Voxtral-Mini-3B", 375),  # a padded window at 12.5
        ("Audio-Flamingo-3", 250),
        ("GLM-ASR-Nano", 125),
        ("Qwen3-ASR-1.7B", 130),
        ("Granite-Speech-3.3-8B", 102),  # 500 pairs: 33.3 windows of 15, 3 queries each
        ("Ultravox-v0.5-Llama-3.1-8B", 63),  # 62.5
    ],
)
def test_ten_seconds(name: str, tokens: int) -> None:
    entry = ENTRIES[name]
    files = ModelFiles(name, entry["config"], entry["preprocessor"], None, entry.get("processor"))
    assert load_counter(files).audio(10.0).tokens == tokens
