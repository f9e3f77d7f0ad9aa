"""A folder for as long as something is tried in it: what had to be made for that is taken away again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def nearest(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there, of whatever kind it is."""
    return next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Take away at the end what was made of a folder and those above it, as far as it is empty."""
    there = nearest(folder).absolute()
    try:
        yield
    finally:
        for made in (folder.absolute(), *folder.absolute().parents):
            if made == there:
                break
            with suppress(OSError):
                made.rmdir()
