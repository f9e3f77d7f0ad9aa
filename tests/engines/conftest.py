"""Fixtures of the engine tests: where vLLM is installed, and the tiny model that all servers here serve."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "engines"), str(TESTS / "agent"), str(TESTS / "fixtures" / "vllm")]


@pytest.fixture(scope="session")
def engine_venv() -> Path:
    """The virtual environment with vLLM in it; its absence fails, lest a run without an engine look like a good one."""
    from engine_places import VENV_VARIABLE, venv_folder

    folder = venv_folder()
    if not (folder / "bin" / "vllm").exists():
        pytest.fail(f"no vLLM in {folder}; run `make test-engines`, or name a folder in {VENV_VARIABLE}")
    return folder


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen2.5-VL's files."""
    import tiny_model

    folder = tmp_path_factory.mktemp("model") / tiny_model.MODEL_NAME
    tiny_model.write_model(folder)
    return folder
