"""Put a rendered report where the user wants it: the only place of the report that touches the disk.

A file appears whole or not at all: it is written beside its final name and moved there at the end.
"""

import os
import tempfile
from pathlib import Path

from vtprof_schemas.errors import BackendError, ConfigError


def write(directory: Path, file_name: str, text: str) -> Path:
    """Write ``text`` as UTF-8 to ``directory / file_name``, making the directory; return the path.

    Raises ``ConfigError`` when the place cannot be a folder or file, ``BackendError`` when the system refuses.
    """
    target = directory / file_name
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{directory}: not a folder; give another one with -o") from error
    except OSError as error:
        raise BackendError(
            f"{directory}: cannot make the folder ({error.strerror}); give another one with -o"
        ) from error
    if target.is_dir():
        raise ConfigError(f"{target}: is a folder, a file is to be written there; move it or give another -o")
    try:
        _replace(target, text)
    except OSError as error:
        raise BackendError(
            f"{target}: cannot write the report ({error.strerror}); free space or give another -o"
        ) from error
    return target


def _replace(target: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
        # mkstemp makes a private file; a report is an ordinary one, as the user's umask wants it.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
