"""The files of one model that decide its physics: config.json and the processor configs beside it, as plain mappings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtprof_analyzer.models.config_file import CONFIG_FILE, is_folder, read_json_object, shown_path
from vtprof_analyzer.models.fields import Fields
from vtprof_schemas.errors import ConfigError, DataError

PREPROCESSOR_FILE = "preprocessor_config.json"
VIDEO_PREPROCESSOR_FILE = "video_preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"
_IN_PROCESSOR_FILE = {
    "image": ("image_processor",),
    "video": ("video_processor",),
    "audio": ("feature_extractor", "audio_processor"),
}
"""Sections of processor_config.json; the first that is there counts."""


@dataclass(frozen=True)
class ModelFiles:
    """One model's files; what is absent is None. ``assumed`` collects what was not in them and taken from the family."""

    name: str
    """As the user called it, for messages."""
    config: Mapping[str, Any] | None
    preprocessor: Mapping[str, Any] | None = None
    video_preprocessor: Mapping[str, Any] | None = None
    processor: Mapping[str, Any] | None = None
    assumed: list[str] = field(default_factory=list)
    """Filled by token rules as they read: ``preprocessor_config.json: size``, or a sentence."""
    assumed_of: Mapping[str, list[str]] = field(default_factory=lambda: {"video": [], "audio": []})
    """Likewise, what only videos or audio clips are counted by: no matter to a request without them."""
    bundled: bool = False
    """The numbers are the bundled catalogue's, not read from files of the user's."""
    notes: tuple[str, ...] = ()
    """What was taken for what the user called the model, and what is odd about its files, a line each."""

    @property
    def has_processor(self) -> bool:
        """Tell whether any processor config is there."""
        return any(part is not None for part in (self.preprocessor, self.video_preprocessor, self.processor))

    def image_fields(self) -> Fields:
        """Return the image processor's fields: of preprocessor_config.json, or nested in processor_config.json.

        Where both are there the nested ones alone count, as in transformers: the other file is left from an older save.
        Defaults that are used are noted in ``assumed``, those of videos and audio in ``assumed_of``.
        """
        return self._media("image", PREPROCESSOR_FILE, self.preprocessor)

    def video_fields(self) -> Fields:
        """Return the video processor's fields, likewise; older models keep them in preprocessor_config.json."""
        file, values = VIDEO_PREPROCESSOR_FILE, self.video_preprocessor
        nested = self._nested("video")
        if values is None and nested is None and self.preprocessor is not None:
            file, values = PREPROCESSOR_FILE, self.preprocessor
        return self._media("video", file, values)

    def audio_fields(self) -> Fields:
        """Return the audio feature extractor's fields, likewise."""
        return self._media("audio", PREPROCESSOR_FILE, self.preprocessor)

    def processor_fields(self, kind: str | None = None) -> Fields:
        """Return the fields of processor_config.json itself; older ones also lie in preprocessor_config.json.

        ``kind`` is the one kind of media that what is read matters to.
        """
        values = {**(self.preprocessor or {}), **(self.processor or {})}
        file = PROCESSOR_FILE if self.processor is not None else PREPROCESSOR_FILE
        return Fields(values, "", file, self.assumed_of.get(kind or "", self.assumed))

    def config_fields(self) -> Fields:
        """Return the fields of config.json with the defaults of its model type filled in; empty when it is absent."""
        return Fields(self.config or {}, "", CONFIG_FILE, self.assumed)

    def _nested(self, kind: str) -> Mapping[str, Any] | None:
        for key in _IN_PROCESSOR_FILE[kind]:
            value = (self.processor or {}).get(key)
            if isinstance(value, Mapping):
                return value
            if value is not None:
                raise DataError(f"{PROCESSOR_FILE}: {key} is no object; use the file as published")
        return None

    def _media(self, kind: str, file: str, values: Mapping[str, Any] | None) -> Fields:
        nested, assumed = self._nested(kind), self.assumed_of.get(kind, self.assumed)
        if nested is not None:
            return Fields(nested, "", PROCESSOR_FILE, assumed)
        return Fields(values or {}, "", file, assumed)


def read_files(path: Path) -> ModelFiles:
    """Read a model's folder, or one config file with nothing beside it.

    Raises ConfigError when there is nothing to read at ``path``, DataError for a file that cannot be used.
    """
    shown = shown_path(path)
    notes: list[str] = []
    if is_folder(path):
        config, image, video, processor = (
            read_json_object(path / name, f"{shown}/{name}", missing_ok=True, notes=notes)
            for name in (CONFIG_FILE, PREPROCESSOR_FILE, VIDEO_PREPROCESSOR_FILE, PROCESSOR_FILE)
        )
        files = ModelFiles(shown, config, image, video, processor, notes=tuple(notes))
        if config is None and not files.has_processor:
            raise ConfigError(
                f"{shown}: no {CONFIG_FILE} there; give a model's folder, its config file or a bundled name"
                " (--list-models)"
            )
        return files
    config = read_json_object(path, shown, notes=notes)
    return ModelFiles(shown, config, notes=tuple(notes))
