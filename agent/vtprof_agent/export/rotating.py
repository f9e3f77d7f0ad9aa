"""Growing JSON-lines files that rotate by size and age: ``vtprof-<utc>-<instance>-NNNN.<signal>.jsonl``, mode 0600.

Readers follow them while they grow, so a line is written whole, in one call, and never renamed afterwards. A write
that failed half way (a full disk) is cut off again; what a killed agent left of a line stays and is counted by the
reader, because the next agent begins a new file.
"""

import errno
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vtprof_agent.export.passing_folder import nearest, nothing_left
from vtprof_schemas.errors import ConfigError

logger = logging.getLogger(__name__)
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Rotation:
    """When a file ends and how much is kept."""

    max_bytes: int = 64 * 1024 * 1024
    max_age_s: float = 300.0
    keep_bytes: int | None = None
    """Delete the oldest finished files of this kind in the folder beyond so many bytes; None keeps all."""


class RotatingLines:
    """Whole lines over rotating files; folder and first file are made by the first line."""

    def __init__(
        self,
        folder: Path,
        instance: str,
        signal: str,
        rotation: Rotation,
        clock: Callable[[], float] = time.monotonic,
        utc: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; raises ConfigError when the folder cannot be made or written to."""
        self._folder = folder
        self._instance = instance
        self._signal = signal
        self._rotation = rotation
        self._clock = clock
        self._utc = utc
        self._number = 0
        self._fd: int | None = None
        self._size = 0
        self._opened = 0.0
        self.path: Path | None = None
        check_folder(folder)

    def write(self, line: bytes) -> None:
        """Append one line, in a new file when the present one is full or old; raises OSError, then nothing is kept."""
        if self._fd is not None and (
            self._size + len(line) > self._rotation.max_bytes
            or self._clock() - self._opened >= self._rotation.max_age_s
        ):
            self._finish_file()
        if self._fd is None:
            self._open_file()
        assert self._fd is not None
        written = 0
        try:
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += written

    def close(self) -> None:
        """End the present file."""
        self._finish_file()

    def _open_file(self) -> None:
        _make(self._folder)
        while True:
            self._number += 1
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._utc()))
            path = self._folder / f"vtprof-{stamp}-{self._instance}-{self._number:04d}.{self._signal}.jsonl"
            try:
                self._fd = os.open(
                    path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
                )
            except FileExistsError:
                continue
            self.path, self._size, self._opened = path, 0, self._clock()
            return

    def _finish_file(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            if self._rotation.keep_bytes is not None:
                self._drop_oldest(self._rotation.keep_bytes)

    def _drop_oldest(self, keep_bytes: int) -> None:
        sizes = []
        for path in sorted(self._folder.glob(f"vtprof-*.{self._signal}.jsonl"), reverse=True):
            try:
                sizes.append((path, path.stat().st_size))
            except FileNotFoundError:
                continue  # somebody else cleans up too
        kept = 0
        for path, size in sizes:
            kept += size
            if kept > keep_bytes and path != self.path:
                path.unlink(missing_ok=True)
                logger.info("removed %s: more than %d bytes of %s kept", path, keep_bytes, self._signal)


def _make(folder: Path) -> None:
    """Make a folder that is not there for this user alone, as its files are: their names tell of the run too."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def check_folder(folder: Path) -> None:
    """Raise ConfigError unless files can be written to a folder that may have yet to be made; leave nothing behind."""
    there = nearest(folder)
    if not there.is_dir():
        raise ConfigError(f"--out {folder}: cannot make the folder ({there} is not a folder); choose another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {folder}: no permission to write to {there}; choose another folder")
    try:  # some file systems, such as /proc, refuse only that
        with nothing_left(folder):
            _make(folder)
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if error.errno not in _FULL:  # that may pass, and is waited for
            raise ConfigError(
                f"--out {folder}: cannot be written to: {error.strerror}; choose another folder"
            ) from error
