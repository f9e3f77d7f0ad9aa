"""Reads and writes another process's memory, and lists what is mapped there."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vtprof_agent.attach.refusal import Refused

PROC = Path("/proc")


@dataclass(frozen=True)
class Mapping:
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    path: str
    """Empty: anonymous."""


def mappings(pid: int) -> list[Mapping]:
    """Return what is mapped, by address; empty for a kernel thread. Raises OSError."""
    found = []
    for line in (PROC / str(pid) / "maps").read_text(errors="replace").splitlines():
        addresses, permissions, offset, _device, _inode, *path = line.split(None, 5)
        start, end = (int(part, 16) for part in addresses.split("-"))
        found.append(Mapping(start, end, permissions, int(offset, 16), path[0] if path else ""))
    return found


class Memory:
    """The memory of a process, open for reading and writing."""

    def __init__(self, pid: int) -> None:
        """Open it; raises OSError."""
        self._file = os.open(PROC / str(pid) / "mem", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Close it."""
        os.close(self._file)

    def read(self, address: int, length: int) -> bytes:
        """Return the bytes at an address; raises Refused when they are not there."""
        try:
            found = os.pread(self._file, length, address)
        except (OSError, OverflowError) as error:
            raise Refused(
                f"its memory at {address:#x} cannot be read: it has just ended or changed"
            ) from error
        if len(found) < length:
            raise Refused(f"its memory at {address:#x} cannot be read: it has just ended or changed")
        return found

    def write(self, address: int, content: bytes) -> None:
        """Write bytes, read-only pages included; raises Refused."""
        try:
            written = os.pwrite(self._file, content, address)
        except OSError as error:
            raise Refused(f"its memory cannot be written: {error.strerror}") from error
        if written != len(content):
            raise Refused("its memory cannot be written to the end")

    def words(self, address: int, size: int, count: int) -> Iterator[int]:
        """Yield ``count`` little-endian unsigned numbers of ``size`` bytes."""
        content = self.read(address, size * count)
        for place in range(0, len(content), size):
            yield int.from_bytes(content[place : place + size], "little")
