"""Opens files of a folder that others may write to: a link, a FIFO or a device in a file's place is refused at once."""

import errno
import os
import stat
from pathlib import Path


def open_regular(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file as ``os.open`` does and return its descriptor; raises OSError, of what is no regular file as well."""
    # Without O_NONBLOCK to open a FIFO waits for its other end.
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file
