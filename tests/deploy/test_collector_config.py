"""The Collector's configuration is consistent, and its files are of a kind that `vtprof analyze` reads."""

from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIG = Path(__file__).parents[2] / "deploy" / "collector" / "collector.yaml"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    return loaded


def test_every_component_of_a_pipeline_is_configured(config: dict[str, Any]) -> None:
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])


def test_memory_limiter_stands_first(config: dict[str, Any]) -> None:
    for pipeline in config["service"]["pipelines"].values():
        assert pipeline["processors"][0] == "memory_limiter"


def test_files_are_plain_json_lines_one_signal_each(config: dict[str, Any]) -> None:
    exporters = config["exporters"]
    assert len({exporter["path"] for exporter in exporters.values()}) == len(exporters)
    for exporter in exporters.values():
        assert exporter["format"] == "json"
        assert "compression" not in exporter
        assert exporter["path"].endswith(".jsonl")


def test_receivers_listen_on_loopback_by_default(config: dict[str, Any]) -> None:
    for protocol in config["receivers"]["otlp"]["protocols"].values():
        assert protocol["endpoint"].startswith("127.0.0.1:")
