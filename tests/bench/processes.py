"""Measure work in a process of its own: CPU, wall clock and peak memory, so that nothing of one run is in the next.

A benchmark starts itself again with the name of the work; the child calls `tell`, and only what is under way then is
measured, not the imports.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

BYTES_PER_MB = 1e6
ABSENT = 3
"""Exit code of a child that lacks a package."""


@dataclass(frozen=True)
class Measured:
    """What one run took."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    """Resident memory at its highest [10^6 bytes], the interpreter and its packages included."""
    result: list[float]
    """What the work returned."""


def run(script: str, *arguments: object, packages: Path | None = None) -> Measured | None:
    """Run ``script`` with arguments and return what it told; None when it lacks a package.

    ``packages`` is a folder that only the child imports from. Exits when the child fails.
    """
    environment = dict(os.environ)
    if packages:
        given = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([str(packages), *([given] if given else [])])
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == ABSENT:
        return None
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}: exit code {done.returncode}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def best(runs: list[Measured]) -> Measured:
    """Return the run with the least CPU time: what others do on the machine only adds to it."""
    return min(runs, key=lambda each: each.cpu_s)


def tell(work: Callable[[], list[float] | Callable[[], list[float]]]) -> None:
    """Do the work and print what it took, for `run` to read; a function that it returns makes the result, unmeasured."""
    cpu, wall = _cpu_s(), time.perf_counter()
    result = work()
    cpu, wall, peak = _cpu_s() - cpu, time.perf_counter() - wall, _peak_mb()
    print(json.dumps(asdict(Measured(cpu, wall, peak, result() if callable(result) else result))))


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak_mb() -> float:
    # `ru_maxrss` of a child begins with what its parent had.
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / BYTES_PER_MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / BYTES_PER_MB
