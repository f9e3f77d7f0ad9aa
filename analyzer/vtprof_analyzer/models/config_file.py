"""Read the JSON files of a model that a user named: regular files of a sane size, or one line that says what is wrong."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from vtprof_schemas.errors import ConfigError, DataError

CONFIG_FILE = "config.json"
MAX_BYTES = 16 * 1024**2
"""A config is some kilobytes."""
_SHOWN_CHARACTERS = 200


def read_config_text(path: Path) -> str:
    """Return the text of a config file, or of the one in a folder.

    Raises ConfigError when there is nothing at ``path``, DataError for what is there but cannot be used.
    """
    text = _text(path / CONFIG_FILE if is_folder(path) else path, f"--model {shown_path(path)}")
    if text is None:
        raise ConfigError(
            f"--model {shown_path(path)}: no {CONFIG_FILE} there; give the model's folder or its config file"
        )
    return text


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; what cannot be a path is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # longer than any path, or with a null byte
        return False


def read_json_object(file: Path, shown: str, missing_ok: bool = False) -> dict[str, Any] | None:
    """Return the JSON object in a file; None for one that may be missing and is.

    Raises ConfigError when the file is missing, DataError for one that holds no JSON object.
    """
    text = _text(file, shown)
    if text is None:
        if missing_ok:
            return None
        raise ConfigError(f"{shown}: no such file; give a model's folder, its config file or a bundled name")
    try:
        return parse_object(text)
    except DataError as error:
        raise DataError(f"{shown}: {error}") from error


def parse_object(text: str) -> dict[str, Any]:
    """Parse a JSON object; raise `DataError` for anything else."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"not JSON ({error}); use the file of the model as published") from None
    except RecursionError:
        raise DataError("nested too deeply; use the file of the model as published") from None
    if not isinstance(value, dict):
        raise DataError(
            f"{type(value).__name__} instead of an object; use the file of the model as published"
        )
    return value


def _text(file: Path, shown: str) -> str | None:
    """Return a file's text, None when it is missing; raise DataError for what cannot be used."""
    try:
        content = _read(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(
            f"{shown}: cannot be read ({error.strerror or error}); give the model's own file"
        ) from error
    if content is None:
        raise DataError(f"{shown}: not a regular file; give the model's {CONFIG_FILE}")
    if len(content) > MAX_BYTES:
        raise DataError(f"{shown}: larger than {MAX_BYTES // 1024**2} MiB; give the model's {CONFIG_FILE}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown}: is not UTF-8 text (byte {error.start}); give the model's {CONFIG_FILE}"
        ) from error


def shown_path(path: Path) -> str:
    """Return a path for a message; of one longer than any real one only the beginning."""
    text = str(path)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _read(file: Path) -> bytes | None:
    """Return a regular file's bytes, one more than allowed at most; None for a pipe or device, never waited for."""
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(MAX_BYTES + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
