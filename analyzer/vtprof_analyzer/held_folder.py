"""A temporary folder that its process holds by a lock: what a process left that was killed, the next one removes."""

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_BOOT_CHARACTERS: Final = 8
_RANDOM_CHARACTERS: Final = 8
"""Of the names that tempfile makes."""
_ATTEMPTS: Final = 10


@contextmanager
def held_folder(prefix: str, parent: Path, contents: tuple[str, ...]) -> Iterator[Path]:
    """Make a folder in ``parent``, its name beginning with ``prefix``, and remove it in the end.

    Before, those are removed that this machine made under the same prefix and that nobody holds any more, if nothing is in
    them but what begins with one of ``contents``. Raises OSError.
    """
    # Of shared file systems not all show one machine's locks to another.
    own = f"{prefix}{_boot()}."
    _remove_left(own, parent, contents)
    folder, lock = _make(own, parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _boot() -> str:
    """Return what tells the running kernel from others."""
    try:
        return _BOOT.read_text("ascii")[:_BOOT_CHARACTERS]
    except OSError:
        return os.uname().nodename


def _make(prefix: str, parent: Path) -> tuple[Path, int]:
    """Return a new folder, and the open handle that holds it."""
    for _ in range(_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # where there are no locks nothing is removed either
                fcntl.flock(lock, fcntl.LOCK_EX)
            # Before the lock stood, another process may have taken it for one that was left.
            if folder.is_dir():
                return folder, lock
            os.close(lock)
    raise FileNotFoundError(f"{parent}: folders disappear there")


def _remove_left(prefix: str, parent: Path, contents: tuple[str, ...]) -> None:
    for folder in parent.glob(f"{glob.escape(prefix)}{'?' * _RANDOM_CHARACTERS}"):
        with suppress(OSError):
            _remove_if_left(folder, contents)


def _remove_if_left(folder: Path, contents: tuple[str, ...]) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if all(entry.name.startswith(contents) for entry in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
