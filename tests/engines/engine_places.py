"""Where the engine tests find their vLLM and the sources of other versions: see README.md."""

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
VENV_VARIABLE: Final = "VTPROF_ENGINE_VENV"
SOURCES_VARIABLE: Final = "VTPROF_ENGINE_SOURCES"


def venv_folder() -> Path:
    """Return the folder of the engines' virtual environment, by default where `make test-engines` makes it."""
    return Path(os.environ.get(VENV_VARIABLE) or ROOT / ".venv-engines").absolute()


def sources_folder() -> Path:
    """Return the folder of unpacked sources, `<distribution>-<version>/` each."""
    return Path(os.environ.get(SOURCES_VARIABLE) or venv_folder() / "sources").absolute()
