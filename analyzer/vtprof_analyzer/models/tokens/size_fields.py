"""What processor configs may leave out: sections, edges, flags, and config.json itself."""

from collections.abc import Mapping

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.config_file import CONFIG_FILE
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import counted_type


def model_fields(files: ModelFiles) -> Fields:
    """Return config.json with the defaults of its model type; without it only the type that the processor's class has.

    Defaults of a class are not those of its checkpoints: where there is no config.json the rules stand in their own.
    """
    if files.config is not None:
        return Fields(complete(files.config), "", CONFIG_FILE, files.assumed)
    return Fields({"model_type": counted_type(files)}, "", CONFIG_FILE, files.assumed)


def section(fields: Fields, key: str) -> Fields:
    """Return a section, or an empty one in its place."""
    return fields.section(key) or Fields({}, key, fields.file, fields.assumed)


def either(first: Fields, key: str, second: Fields, other_key: str, default: int) -> int:
    """Return a number of the first section, or else of the second, or the default."""
    return first.integer(key) if first.first(key) is not None else second.integer(other_key, default=default)


def edge(fields: Fields, key: str, name: str, default: int) -> int:
    """Return an edge [pixels] by its ``name`` of an object like ``{"longest_edge": 1536}``, or a plain number."""
    if isinstance(fields.first(key), Mapping):
        return section(fields, key).integer(name, default=default)
    return fields.integer(key, default=default)


def count_as_asked(files: ModelFiles, key: str) -> None:
    """Note a setting of the files that transformers' own processor overrules unless a call asks for it."""
    note = f"{key} counts as if each call asked for it; transformers' processor takes it from the call alone"
    if note not in files.assumed:
        files.assumed.append(note)


def setting(fields: Fields, key: str, default: bool) -> bool:
    """Return a flag that published files leave null as often as absent."""
    return fields.flag(key, default) if fields.first(key) is not None else default
