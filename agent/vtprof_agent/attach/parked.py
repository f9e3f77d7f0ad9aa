"""Finds the threads of a process that wait in a system call in which they hold no lock."""

from collections.abc import Mapping
from dataclasses import dataclass

from vtprof_agent.attach.machine import call_rank
from vtprof_agent.attach.memory import PROC


@dataclass(frozen=True, order=True)
class Parked:
    """A thread that may be borrowed; the best are the least."""

    rank: int
    main: bool
    """The main thread last: of helpers nobody waits for."""
    tid: int
    behind: int
    """Address of the instruction after its call."""


def parked_threads(pid: int, calls: Mapping[int, int]) -> list[Parked]:
    """Return the threads that may be borrowed at this moment, the best first. Raises PermissionError."""
    found = []
    try:
        threads = [int(entry.name) for entry in (PROC / str(pid) / "task").iterdir()]
    except FileNotFoundError:
        return []
    for tid in threads:
        try:
            words = (PROC / str(pid) / "task" / str(tid) / "syscall").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if len(words) < 9 or words[0] == "-1":  # "running", or stopped outside a call
            continue
        rank = call_rank(calls, int(words[0]), int(words[2], 16))
        if rank is not None:
            found.append(Parked(rank, tid == pid, tid, int(words[-1], 16)))
    return sorted(found)
