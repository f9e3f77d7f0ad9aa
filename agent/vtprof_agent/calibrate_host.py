"""Measures what this machine's CPU attains in numpy: float32 GEMM FLOP/s and copy bandwidth. Runs as its own process.

It is one machine's numpy (its BLAS, its threads), not a datasheet peak: a model whose kernels are better than numpy's
can exceed it, another data type has another peak. Numbers of the kind are honest as a roof for a CPU demo and as
nothing else.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from vtprof_schemas import names
from vtprof_schemas.errors import BackendError

GEMM_SIZE = 1024
COPY_BYTES = 256 * 1024 * 1024
BUDGET_S = 0.4
"""For each of the two; at least three runs."""


def main() -> None:
    """Measure and print the resource attributes as JSON."""
    import numpy as np

    left = np.ones((GEMM_SIZE, GEMM_SIZE), dtype=np.float32)
    product = np.empty_like(left)
    gemm_s = _median_s(lambda: np.matmul(left, left, out=product))
    source = np.ones(COPY_BYTES // 4, dtype=np.float32)
    target = np.empty_like(source)
    copy_s = _median_s(lambda: np.copyto(target, source))
    threads = os.environ.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0)))
    attributes = {
        names.DEVICE_PEAK_FLOPS: 2.0 * GEMM_SIZE**3 / gemm_s,
        names.DEVICE_BANDWIDTH: 2.0 * COPY_BYTES / copy_s,
        names.DEVICE_PEAK_SOURCE: f"numpy {np.__version__} float32 GEMM {GEMM_SIZE} and copy, {threads} threads",
    }
    sys.stdout.write(json.dumps(attributes) + "\n")


def measure() -> dict[str, float | str]:
    """Run the measurement in a process of its own, so that its memory and threads end with it; raises BackendError."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__], check=True, capture_output=True, text=True, timeout=60
        )
        attributes: dict[str, float | str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise BackendError(
            f"--calibrate-host: the measurement failed ({error}); leave the flag out"
        ) from error
    return attributes


def _median_s(work: Callable[[], object]) -> float:
    work()  # pages touched, threads up
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < BUDGET_S:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
