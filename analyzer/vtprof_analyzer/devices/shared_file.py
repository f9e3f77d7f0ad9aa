"""A small file that several processes change: one at a time, replaced at once, its old form kept where asked for."""

import contextlib
import errno
import fcntl
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from vtprof_schemas.errors import BackendError

LOCK_WAIT_S = 10.0
"""Reading and writing takes milliseconds: who waits longer waits for a process that was stopped."""
_RETRY_S = 0.01
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What network file systems without locks answer; a measurement is not thrown away for that."""


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keep other processes out of a file, by a lock file beside it that is gone afterwards.

    Raises BackendError when another process keeps it too long, and OSError when the folder is not writable.
    """
    lock = file.with_name(f".{file.name[:100]}.lock")
    deadline = time.monotonic() + LOCK_WAIT_S
    handle = _try_lock(lock)
    while handle is None:
        if time.monotonic() > deadline:
            raise BackendError(
                f"{file}: another vtprof has had it locked for {LOCK_WAIT_S:g} s; end that one, or name another"
                " file with --out"
            )
        time.sleep(_RETRY_S)
        handle = _try_lock(lock)
    try:
        yield
    finally:
        # First gone, then open: whoever gets the old one sees that its name leads elsewhere.
        lock.unlink(missing_ok=True)
        os.close(handle)


def _try_lock(lock: Path) -> int | None:
    """Return the open lock file, or None while another process has it."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), lock.stat()):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return handle
        os.close(handle)
        raise
    os.close(handle)
    return None


def replace_text(file: Path, text: str, keep_old: bool = False) -> Path | None:
    """Write a file at once, never half; return the name that the old one got, where it is to be kept.

    That is the first free one of ``x.bak``, ``x.bak2``, …: call it under the lock. Raises OSError when the system
    refuses.
    """
    handle, name = tempfile.mkstemp(prefix=f".{file.name[:100]}.", dir=file.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            opened.write(text)
        kept = _free_name(file) if keep_old else None
        if kept is not None:
            file.rename(kept)
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return kept


def _free_name(file: Path) -> Path:
    names = (f"{file.name}.bak{number if number > 1 else ''}" for number in itertools.count(1))
    return next(place for name in names if not os.path.lexists(place := file.with_name(name)))
