"""Traces of a synthetic day, copied until there are as many spans as asked for: input of the benchmarks of whole runs."""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from synthetic.day import make_day
from synthetic.scenarios import TWO_ENGINES
from synthetic.write import Format


@dataclass(frozen=True)
class Run:
    """What was written."""

    folder: Path
    spans: int
    size: int
    """All files together [B]."""


def write_run(folder: Path, spans: int, format: Format = "jsonl") -> Run:
    """Write whole days into ``folder``, so many that they have ``spans`` spans at least."""
    day = make_day(TWO_ENGINES, 1, interference=False)
    copies = -(-spans // len(day.spans))
    paths = day.write(folder, format, copies=copies)
    return Run(folder, copies * len(day.spans), sum(path.stat().st_size for path in paths))
