"""Who this process is, so that no other can be taken for it: PID, start time, boot id and PID namespace from /proc."""

import os
import uuid
from typing import NamedTuple

_START_TICKS_FIELD = 22
"""Of /proc/<pid>/stat, counted from 1 as in proc(5)."""
_FIRST_FIELD_AFTER_NAME = 3


class ProcessIdentity(NamedTuple):
    """One process of one boot; 0 or empty bytes where /proc does not tell."""

    pid: int
    start_ticks: int
    boot_id: bytes
    """16 bytes."""
    pid_namespace: int
    """Inode of the PID namespace."""


def parse_start_ticks(stat: bytes) -> int:
    """Return the start time in clock ticks since boot from the text of ``/proc/<pid>/stat``; 0 when it is not there.

    The process name, field 2, may itself hold spaces and brackets: fields count from the last ``)``.
    """
    fields = stat[stat.rfind(b")") + 1 :].split()
    try:
        return max(0, int(fields[_START_TICKS_FIELD - _FIRST_FIELD_AFTER_NAME]))
    except (IndexError, ValueError):
        return 0


def read_process_identity(proc_root: str = "/proc") -> ProcessIdentity:
    """Read the identity of the calling process; never raises."""
    try:
        boot_id = uuid.UUID(_read(proc_root + "/sys/kernel/random/boot_id").decode("ascii").strip()).bytes
    except ValueError:
        boot_id = bytes(16)
    try:
        pid_namespace = os.stat(proc_root + "/self/ns/pid").st_ino
    except OSError:
        pid_namespace = 0
    return ProcessIdentity(
        os.getpid(), parse_start_ticks(_read(proc_root + "/self/stat")), boot_id, pid_namespace
    )


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(4096)
    except OSError:
        return b""
