"""Finds a process by the number it has in a PID namespace of its own, as in a container; the first namespace sees all."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Final

FIRST_NAMESPACE: Final = 0xEFFFFFFC
"""Inode of the machine's first PID namespace: PROC_PID_INIT_INO of the kernel."""
_NUMBERS: Final = b"NSpid:"
"""Line of /proc/PID/status: the process's number in this namespace and in each below it, down to its own."""


def namespace_inode(proc_root: Path) -> int:
    """Return the inode of this process's PID namespace; 0 when it cannot be read."""
    try:
        return (proc_root / "self/ns/pid").stat().st_ino
    except OSError:
        return 0


def sees_all(proc_root: Path) -> bool:
    """Tell whether this /proc shows every process of the machine: the first namespace's, and mounted without hidepid."""
    return namespace_inode(proc_root) == FIRST_NAMESPACE and os.access(proc_root / "1/status", os.R_OK)


@lru_cache(maxsize=4096)
def outer_pid(pid: int, start_ticks: int, proc_root: Path) -> int | None:
    """Return the number here of a process that has ``pid`` in a namespace below, None when there is none.

    The answer is kept: a search reads all of /proc, and neither a number nor a death is taken back.
    """
    for folder in proc_root.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            if read_stat(folder)[1] == start_ticks and _innermost(folder) == pid:
                return int(folder.name)
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile
    return None


def read_stat(folder: Path) -> tuple[bytes, int]:
    """Return the state and the start time [ticks] of a process: fields 3 and 22 of proc(5). Raises as file and text do."""
    stat = (folder / "stat").read_bytes()
    fields = stat[stat.rindex(b")") + 1 :].split()
    return fields[0], int(fields[19])


def _innermost(folder: Path) -> int | None:
    """Return the number of a process in its own namespace; None for one of ours."""
    for line in (folder / "status").read_bytes().splitlines():
        if line.startswith(_NUMBERS):
            numbers = line.removeprefix(_NUMBERS).split()
            return int(numbers[-1]) if len(numbers) > 1 else None
    return None
