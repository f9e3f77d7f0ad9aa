"""What a user calls MODEL: a folder, a config file, or the name of a bundled model."""

from pathlib import Path

from vtprof_analyzer.models.bundled import find_bundled, suggest_models
from vtprof_analyzer.models.config_file import shown_path
from vtprof_analyzer.models.files import ModelFiles, read_files
from vtprof_schemas.errors import ConfigError


def find_model(name: str) -> ModelFiles:
    """Return the files of a model; raise ConfigError when nothing has that name, DataError for files at fault."""
    path = Path(name)
    if exists(path):
        return read_files(path)
    found = find_bundled(name)
    if found is not None:
        return found.files
    near = suggest_models(name)
    meant = f"did you mean {', '.join(near)}? " if near else ""
    raise ConfigError(
        f"{shown_path(path)}: no such file or folder, and no bundled model; {meant}--list-models names all"
    )


def exists(path: Path) -> bool:
    """Tell whether a path leads somewhere; what cannot be a path does not."""
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than any path, or with a null byte
        return False
