"""Small runs to make baselines of."""

from dataclasses import fields
from typing import Any

import numpy as np

from vtprof_analyzer.regress.requests import Requests, Run

START_NS = 1_763_800_000_000_000_000
HOUR_NS = 3_600_000_000_000

SAVE_ONE = """
import sys
from pathlib import Path
from baseline_runs import a_run
from vtprof_analyzer.runs import baselines
folder, first = Path(sys.argv[1]), 4 * int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + 4):
    baselines.save("main", [a_run(number)], folder, add=True)
"""
"""A program that adds four runs to a baseline, one after the other, when told to begin."""


def requests(count: int, hours: int = 0) -> Requests:
    """Return requests a second apart with TTFT 10, 20, 30 ... ms; what is not set here is not known."""
    numbers: dict[str, Any] = {one.name: np.full(count, np.nan) for one in fields(Requests)}
    numbers |= {
        "ids": np.array([*(f"{hours}-{number}" for number in range(count)), None], dtype=object)[:-1],
        "start_ns": START_NS + hours * HOUR_NS + np.arange(count, dtype=np.int64) * 1_000_000_000,
        "model": np.zeros(count, np.int64),
        "models": ("Qwen",),
        "visual_tokens": np.full(count, 100.0),
        "ttft_ms": 10.0 * np.arange(1, count + 1),
        "weight": np.ones(count),
    }
    return Requests(**numbers)


def a_run(hours: int) -> Run:
    """Return a run of three requests of one and the same deployment."""
    return Run(
        f"traces/{hours}",
        requests(3, hours),
        "vllm 0.33.0",
        "1 x NVIDIA H200",
        "TP 1",
        {"aborted": 1},
        ("odd",),
    )
