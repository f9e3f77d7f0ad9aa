"""Unpacks the Python files of a wheel: ``unpack_sources.py WHEEL FOLDER``. Run by install_vllm.sh."""

import sys
import zipfile
from pathlib import Path


def unpack(wheel: Path, folder: Path) -> None:
    """Write the wheel's ``.py`` files below the folder."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".py")])


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
