"""Read the JSON files of a model that a user named: regular files of a sane size, or one line that says what is wrong."""

import json
import os
import reprlib
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from vtprof_schemas.errors import ConfigError, DataError
from vtprof_schemas.printable import one_line

CONFIG_FILE = "config.json"
MAX_BYTES = 2 * 1024**2
"""A config is some kilobytes; the lists of modules left unquantised make it a hundred at most."""
_SHOWN_CHARACTERS = 200
_NAMED_TWICE = 3


def read_config_text(path: Path) -> str:
    """Return the text of a config file, or of the one in a folder.

    Raises ConfigError when there is nothing at ``path``, DataError for what is there but cannot be used.
    """
    text = _text(path / CONFIG_FILE if is_folder(path) else path, f"--model {shown_path(path)}")
    if text is None:
        raise ConfigError(
            f"--model {shown_path(path)}: no {CONFIG_FILE} there, and no bundled model of that name; give the model's"
            " folder, its config file or a bundled name (vtprof tokens --list-models names all)"
        )
    return text


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; what cannot be a path is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # longer than any path, or with a null byte
        return False


def read_json_object(
    file: Path, shown: str, missing_ok: bool = False, notes: list[str] | None = None
) -> dict[str, Any] | None:
    """Return the JSON object in a file; None for one that may be missing and is. ``notes`` takes what is odd about it.

    Raises ConfigError when the file is missing, DataError for one that holds no JSON object.
    """
    text = _text(file, shown)
    if text is None:
        if missing_ok:
            return None
        raise ConfigError(
            f"{shown}: no such file; give a model's folder, its config file or a bundled name (--list-models)"
        )
    twice: list[str] = []
    try:
        value = parse_object(text, twice)
    except DataError as error:
        raise DataError(f"{shown}: {error}") from error
    if twice and notes is not None:
        notes.append(_said_twice(_published(file), twice))
    return value


def parse_object(text: str, twice: list[str] | None = None) -> dict[str, Any]:
    """Parse a JSON object; raise `DataError` for anything else. ``twice`` takes the keys that an object in it repeats."""

    def pairs(read: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(read)
        if twice is not None and len(made) < len(read):
            twice.extend(key for key, times in Counter(key for key, _ in read).items() if times > 1)
        return made

    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error}); use the file of the model as published") from None
    except ValueError:  # Python's limit of digits
        raise DataError(
            "a number in it has thousands of digits; use the file of the model as published"
        ) from None
    except RecursionError:
        raise DataError("nested too deeply; use the file of the model as published") from None
    if not isinstance(value, dict):
        raise DataError(
            f"{type(value).__name__} instead of an object; use the file of the model as published"
        )
    return value


def _text(file: Path, shown: str) -> str | None:
    """Return a file's text, None when it is missing; raise DataError for what cannot be used."""
    remedy = f"give the model's {_published(file)} as published"
    try:
        content = _read(file)
    except FileNotFoundError:
        if not file.is_symlink():
            return None
        raise DataError(f"{shown}: is a link that leads nowhere; {remedy}") from None
    except OSError as error:
        raise DataError(f"{shown}: cannot be read ({error.strerror or error}); {remedy}") from error
    if content is None:
        raise DataError(f"{shown}: not a regular file; {remedy}")
    if len(content) > MAX_BYTES:
        raise DataError(f"{shown}: larger than {MAX_BYTES // 1024**2} MiB, as no config is; {remedy}")
    try:
        return content.decode("utf-8-sig")  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        raise DataError(f"{shown}: is not UTF-8 text (byte {error.start}); {remedy}") from error


def _published(file: Path) -> str:
    """Return what the file is called where models are published."""
    return one_line(file.name) if file.name.endswith(f"processor_{CONFIG_FILE}") else CONFIG_FILE


def _said_twice(name: str, keys: list[str]) -> str:
    """Say which keys a file repeats: a sentence, of many only the first."""
    named = [key if key.isidentifier() else reprlib.repr(key) for key in dict.fromkeys(keys)]
    more = f" and {len(named) - _NAMED_TWICE} more" if len(named) > _NAMED_TWICE else ""
    return f"{name} names {', '.join(named[:_NAMED_TWICE])}{more} twice; the last counts"


def shown_path(path: Path) -> str:
    """Return a path for a message, on one line; of one longer than any real one only the beginning."""
    text = one_line(str(path))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _read(file: Path) -> bytes | None:
    """Return a regular file's bytes, one more than allowed at most; None for a pipe or device, never waited for."""
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(MAX_BYTES + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
