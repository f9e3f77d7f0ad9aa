"""Read the config.json that a user named: a regular file of a sane size, or one line that says what it is instead."""

import os
import stat
from pathlib import Path

from vtprof_schemas.errors import ConfigError, DataError

CONFIG_FILE = "config.json"
MAX_BYTES = 16 * 1024**2
"""A config is some kilobytes."""
_SHOWN_CHARACTERS = 200


def read_config_text(path: Path) -> str:
    """Return the text of a config file, or of the one in a folder.

    Raises ConfigError when there is nothing at ``path``, DataError for what is there but cannot be used.
    """
    shown = shown_path(path)
    try:
        file = path / CONFIG_FILE if path.is_dir() else path
        content = _read(file)
    except FileNotFoundError as error:
        raise ConfigError(
            f"--model {shown}: no {CONFIG_FILE} there; give the model's folder or its config file"
        ) from error
    except OSError as error:
        raise DataError(
            f"--model {shown}: cannot be read ({error.strerror or error}); give the model's {CONFIG_FILE}"
        ) from error
    if content is None:
        raise DataError(f"--model {shown}: not a regular file; give the model's {CONFIG_FILE}")
    if len(content) > MAX_BYTES:
        raise DataError(
            f"--model {shown}: larger than {MAX_BYTES // 1024**2} MiB; give the model's {CONFIG_FILE}"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"--model {shown}: is not UTF-8 text (byte {error.start}); give the model's {CONFIG_FILE}"
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
