"""What `vtprof compare` takes as a user runs it: wall time with start-up, and peak memory, at two sizes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from regress_days.services import Side, service, simulate
from regress_days.tables import frame

KIB_PER_MIB = 1024
NS_PER_S = 1_000_000_000
BARS: Final = {3_000: (1.0, float("inf")), 1_000_000: (15.0, 2048.0)}
"""By requests a side: seconds, MiB."""
TRIES: Final = {3_000: 5, 1_000_000: 2}
SIMULATED = 20_000
"""Requests of a large table that are simulated; the rest repeats them, later."""


@dataclass(frozen=True)
class Speed:
    """The best of some tries."""

    what: str
    wall_s: float
    peak_mib: float
    bar_s: float
    bar_mib: float

    def holds(self) -> bool:
        """Tell whether the bar is met."""
        return self.wall_s <= self.bar_s and self.peak_mib <= self.bar_mib


def measure(folder: Path, seed: int) -> Iterator[Speed]:
    """Time tables of both sizes, the small ones as CSV too."""
    for requests, (bar_s, bar_mib) in BARS.items():
        side = Side(service(np.random.default_rng(seed)), min(requests, SIMULATED))
        tables = [table(side, seed, number, requests) for number in (0, 1)]
        for ending in ("parquet", "csv") if requests == min(BARS) else ("parquet",):
            paths = [folder / f"{name}-{requests}.{ending}" for name in ("base", "new")]
            for made, path in zip(tables, paths, strict=True):
                (made.write_csv if ending == "csv" else made.write_parquet)(path)
            taken = [timed("compare", *map(str, paths), "--format", "json") for _ in range(TRIES[requests])]
            wall_s, peak_mib = min(each[0] for each in taken), max(each[1] for each in taken)
            yield Speed(f"2 x {requests:,} requests, {ending}", wall_s, peak_mib, bar_s, bar_mib)


def table(side: Side, seed: int, number: int, requests: int) -> pl.DataFrame:
    """Return a request table of one run."""
    (run,) = simulate(replace(side, runs=1), seed, number)
    once = frame(run.requests)
    length_ns = int(np.ptp(run.requests.start_ns)) + NS_PER_S
    times = -(-requests // len(once))
    return pl.concat(
        once.with_columns(
            pl.col("start_unix_nano") + turn * length_ns, pl.col("request_id") + (f"-{turn}" if turn else "")
        )
        for turn in range(times)
    ).head(requests)


def timed(*arguments: str) -> tuple[float, float]:
    """Run `vtprof` once, JSON discarded; return seconds and MiB of resident memory at its highest."""
    command = [str(Path(sys.executable).parent / "vtprof"), *arguments]
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    # `ru_maxrss` of a child begins with what its parent had: too much only where the command needs less than we do.
    _, status, used = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - begin
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 1):
        sys.exit(f"{' '.join(command)}: exit code {child.returncode}")
    return wall_s, used.ru_maxrss / KIB_PER_MIB
