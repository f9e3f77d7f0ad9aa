"""The engines' own way to load the probe: a staged folder on PYTHONPATH is a distribution with both entry points."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vtprof_agent.staging import stage
from vtprof_schemas import names

GROUPS = ("vllm.general_plugins", "sglang.srt.plugins")
LOAD = """
import json, sys
from importlib.metadata import distribution, entry_points
found = [entry for group in sys.argv[1:] for entry in entry_points(group=group) if entry.name == "vtprof"]
for entry in found:
    entry.load()()
import vtprof_probe
print(json.dumps([[entry.group, entry.value] for entry in found]
    + [vtprof_probe.enabled(), vtprof_probe.__file__, distribution("vtprof-probe").version]))
"""


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    stage(folder)
    return folder


def load(staged: Path, rings: Path, **environment: str) -> list[object]:
    """Load the plugins as an engine does, in a Python without any installed package."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VTPROF"))}
    settings = {"PYTHONPATH": str(staged), names.ENV_RING_DIR: str(rings), **environment}
    ran = subprocess.run(
        # -S: no site-packages, and no sitecustomize either: the plugin alone.
        [sys.executable, "-S", "-c", LOAD, *GROUPS],
        env=clean | settings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stderr == ""
    answer: list[object] = json.loads(ran.stdout)
    return answer


def test_staged_folder_offers_the_plugin_to_both_engines(staged: Path, tmp_path: Path) -> None:
    *entries, _, file, version = load(staged, tmp_path)
    assert entries == [[group, "vtprof_probe.plugin:load"] for group in GROUPS]
    assert str(file).startswith(str(staged))
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert version == project["version"]
    assert project["entry-points"] == {group: {"vtprof": "vtprof_probe.plugin:load"} for group in GROUPS}


@pytest.mark.parametrize("wish", [{}, {names.ENV_ENABLE: "0"}, {names.ENV_ENABLE: ""}])
def test_being_installed_is_no_wish_to_be_profiled(
    staged: Path, tmp_path: Path, wish: dict[str, str]
) -> None:
    assert load(staged, tmp_path / "rings", **wish)[2] is False
    assert not (tmp_path / "rings").exists()


def test_plugin_enables_the_probe_once_and_makes_no_ring_before_work(staged: Path, tmp_path: Path) -> None:
    assert load(staged, tmp_path / "rings", **{names.ENV_ENABLE: "1"})[2] is True
    assert not (tmp_path / "rings").exists()


def test_plugin_that_fails_does_not_reach_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vtprof_probe import plugin

    def broken() -> None:
        raise OSError("no more memory")

    monkeypatch.setenv(names.ENV_ENABLE, "1")
    monkeypatch.setattr(plugin, "enable", broken)
    plugin.load()


def test_staging_anew_leaves_one_distribution_of_the_new_version(tmp_path: Path) -> None:
    stale = tmp_path / "vtprof_probe-0.0.1.dist-info"
    stale.mkdir()
    (stale / "METADATA").write_text("Metadata-Version: 2.1\nName: vtprof-probe\nVersion: 0.0.1\n")
    (tmp_path / "other-1.dist-info").mkdir()
    stage(tmp_path)
    assert [path for path in tmp_path.glob("vtprof_probe-*.dist-info") if path == stale] == []
    assert len(list(tmp_path.glob("vtprof_probe-*.dist-info"))) == 1
    assert (tmp_path / "other-1.dist-info").exists()
