"""What a user calls MODEL: a folder, a config file, or the name of a bundled model."""

from dataclasses import replace
from pathlib import Path

from vtprof_analyzer.models.bundled import Bundled, exactly, find_bundled, is_variant, suggest_models
from vtprof_analyzer.models.config_file import shown_path
from vtprof_analyzer.models.files import ModelFiles, read_files
from vtprof_schemas.errors import ConfigError


def find_model(name: str) -> ModelFiles:
    """Return the files of a model; raise ConfigError when nothing has that name, DataError for files at fault."""
    if not name.strip():
        raise ConfigError(
            "MODEL is empty; give a model's folder, its config file or a bundled name (--list-models)"
        )
    path = Path(name)
    if exists(path):
        return read_files(path)
    found = find_bundled(name)
    if found is not None:
        return replace(found.files, notes=(*found.files.notes, *_notes(name, found)))
    near = suggest_models(name)
    meant = f"did you mean {', '.join(near)}? " if near else ""
    raise ConfigError(
        f"{shown_path(path)}: no such file or folder, and no bundled model; {meant}--list-models names all"
    )


def _notes(name: str, found: Bundled) -> tuple[str, ...]:
    """Return what a reader should know of a name that says more than the bundled model has."""
    if exactly(name) is not None:
        return ()
    if not is_variant(name):
        owner = name.strip().rstrip("/").rpartition("/")[0].lower()
        owners = {known.rpartition("/")[0].lower() for known in found.ids}
        return (
            (f"{name.strip()}: taken for the bundled {found.name}",) if owner and owner not in owners else ()
        )
    config = found.files.config or {}
    sections = (config, config.get("text_config") or {})
    own = any(section.get("quantization_config") for section in sections)
    instead = f"in the quantisation of {found.name}" if own else "without its quantisation"
    return (f"{name.strip()}: bundled {instead}; see --dtype",)


def exists(path: Path) -> bool:
    """Tell whether something is at a path, be it a link that leads nowhere; what cannot be a path has nothing."""
    try:
        return path.exists() or path.is_symlink()
    except (OSError, ValueError):  # longer than any path, or with a null byte
        return False
