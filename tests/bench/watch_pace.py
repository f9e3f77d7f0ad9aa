"""How many requests a second `watch` judges on one core: the detector alone, and the command with all that it does."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from compare_speed import timed
from regress_days.tables import frame
from watch_streams import Watched, batches

from vtprof_analyzer.regress.base_model import CostModel
from vtprof_analyzer.regress.requests import Requests
from vtprof_analyzer.watch.detector import Detector

REQUESTS_PER_S: Final = 5_000
TURNS = 5
"""The stream is a simulated one so many times over."""
BATCH_REQUESTS = 1_000
NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class Pace:
    """What was reached."""

    what: str
    requests_per_s: float

    def holds(self) -> bool:
        """Tell whether the bar is met."""
        return self.requests_per_s >= REQUESTS_PER_S


def measure(first_seed: int) -> Iterator[Pace]:
    """Judge a long stream, first handed to the detector, then by the command."""
    base, once, _ = Watched("no change", 0, first_seed).made()
    turns = list(_turns(once))
    count = sum(map(len, turns))
    detector = Detector(CostModel.fit([base]), runs=[base])
    begin = time.process_time()
    for turn in turns:
        for batch, settled in batches(turn, BATCH_REQUESTS):
            # The stream goes on: only its end is settled for good.
            detector.add(batch, settled if turn is turns[-1] else min(settled, int(turn.start_ns[-1])))
    yield Pace("detector alone, CPU time", count / (time.process_time() - begin))
    with tempfile.TemporaryDirectory(prefix="vtprof-bench-") as name:
        paths = Path(name) / "stream.parquet", Path(name) / "base.parquet"
        pl.concat(map(frame, turns)).write_parquet(paths[0])
        frame(base).write_parquet(paths[1])
        wall_s, peak_mib = timed("watch", str(paths[0]), "--base", str(paths[1]), "--once")
    what = f"vtprof watch --once of {count:,}, its start and BASE's fit included, {peak_mib:.0f} MiB"
    yield Pace(what, count / wall_s)


def _turns(once: Requests) -> Iterator[Requests]:
    length_ns = int(np.ptp(once.start_ns)) + NS_PER_S
    for turn in range(TURNS):
        yield replace(
            once,
            start_ns=once.start_ns + turn * length_ns,
            ids=np.array([f"{each}-{turn}" for each in once.ids]),
        )
