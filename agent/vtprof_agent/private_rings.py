"""Ring folders of one session (`exec`, a followed `attach`), in memory where there is a /dev/shm; gone when it ends."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "vtprof-rings-"
_SHARED_MEMORY = Path("/dev/shm")


@contextmanager
def private_rings(owner: int | None = None) -> Iterator[Path]:
    """Make a folder and remove it at the end; given to the user ``owner`` where this process may do so."""
    usable = os.access(_SHARED_MEMORY, os.W_OK | os.X_OK)
    # A process that outlives the session may still write there while it is removed.
    with tempfile.TemporaryDirectory(
        prefix=PREFIX, dir=_SHARED_MEMORY if usable else None, ignore_cleanup_errors=True
    ) as folder:
        if owner is not None and os.geteuid() == 0:
            os.chown(folder, owner, -1)
        yield Path(folder)


def sessions() -> list[Path]:
    """Return the ring folders of sessions whose rings this user may read."""
    places = dict.fromkeys((_SHARED_MEMORY, Path(tempfile.gettempdir())))
    found = (path for place in places for path in sorted(place.glob(f"{PREFIX}*")))
    return [path for path in found if path.is_dir() and os.access(path, os.R_OK | os.X_OK)]
