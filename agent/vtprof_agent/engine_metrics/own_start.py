"""When the agent's process began, told as Prometheus' client tells it of a server: the two can be compared."""

import os
import time
from pathlib import Path

from vtprof_schemas.units import NS_PER_S

_START_TICKS = 19
"""Field of a process's stat, counted from behind its name."""


def own_start_ns(proc_root: Path = Path("/proc")) -> int:
    """Return it as Unix time, ns: the boot, told in whole seconds, and the ticks since; now where that cannot be read."""
    try:
        fields = (proc_root / "self" / "stat").read_bytes().rpartition(b")")[2].split()
        lines = (proc_root / "stat").read_bytes().splitlines()
        (boot_s,) = [int(line.split()[1]) for line in lines if line.startswith(b"btime ")]
        return boot_s * NS_PER_S + int(fields[_START_TICKS]) * NS_PER_S // os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.time_ns()
