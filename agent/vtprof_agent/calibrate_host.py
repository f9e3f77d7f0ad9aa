"""Measures what this machine's CPU attains in numpy: float32 GEMM FLOP/s and copy bandwidth. Runs as its own process.

It is one machine's numpy (its BLAS, its threads), not a datasheet peak: a model whose kernels are better than numpy's
can exceed it, another data type has another peak. Numbers of the kind are honest as a roof for a CPU demo and as
nothing else. What is attainable is a maximum: other load on the machine makes bursts slower and never faster, so the
best of many short ones counts.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vtprof_schemas import names
from vtprof_schemas.errors import BackendError

GEMM_SIZES = (512, 1024, 2048)
"""Short bursts fit between the turns of other processes, long ones fill many cores."""
COPY_ARRAY_BYTES = 256 * 1024 * 1024
COPY_BURST_BYTES = 64 * 1024 * 1024
"""Copied in turn from one place of the array after the other, so that caches do not hold them."""
MOST_COPY_THREADS = 16
BUDGET_S = 1.5


@dataclass(frozen=True)
class Burst:
    """A short piece of work and how much of it there is, FLOP or bytes."""

    amount: float
    work: Callable[[], object]


def main() -> None:
    """Measure and print the resource attributes as JSON."""
    cores = len(os.sched_getaffinity(0))
    copy_threads = min(cores, MOST_COPY_THREADS)
    with ThreadPoolExecutor(copy_threads) as pool:
        gemms = [_gemm(size) for size in GEMM_SIZES]
        copies = _copies(pool, sorted({1, copy_threads}))
        rates = best_rates([*gemms, *copies], BUDGET_S)
    import numpy as np

    sizes = "/".join(map(str, GEMM_SIZES))
    gemm_threads = os.environ.get("OMP_NUM_THREADS") or str(cores)
    source = (
        f"numpy {np.__version__}, best burst in {BUDGET_S} s: float32 GEMM {sizes} on {gemm_threads} threads, "
        f"copy of {COPY_BURST_BYTES >> 20} MiB on up to {copy_threads} threads"
    )
    attributes = {
        names.DEVICE_PEAK_FLOPS: max(rates[: len(gemms)]),
        names.DEVICE_BANDWIDTH: max(rates[len(gemms) :]),
        names.DEVICE_PEAK_SOURCE: source,
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


def best_rates(
    bursts: Sequence[Burst], budget_s: float, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the highest rate of each burst, per second; each runs at least once, then they share the time alike."""
    spent_s = [0.0] * len(bursts)
    rates = [0.0] * len(bursts)
    end = clock() + budget_s
    while 0.0 in rates or clock() < end:
        place = min(range(len(bursts)), key=spent_s.__getitem__)
        start = clock()
        bursts[place].work()
        took_s = max(clock() - start, 1e-9)
        spent_s[place] += took_s
        rates[place] = max(rates[place], bursts[place].amount / took_s)
    return rates


def _gemm(size: int) -> Burst:
    import numpy as np

    left = np.ones((size, size), dtype=np.float32)
    product = np.empty_like(left)
    return Burst(2.0 * size**3, lambda: np.matmul(left, left, out=product))


def _copies(pool: ThreadPoolExecutor, thread_counts: Sequence[int]) -> list[Burst]:
    import numpy as np

    source = np.ones(COPY_ARRAY_BYTES // 4, dtype=np.float32)
    target = np.ones_like(source)  # not np.empty: its pages would be made while the clock runs

    def copy(start: int, end: int) -> None:
        np.copyto(target[start:end], source[start:end])

    def burst_of(threads: int) -> Burst:
        length = COPY_BURST_BYTES // 4 // threads
        starts = itertools.cycle(range(0, len(source) - threads * length + 1, threads * length))

        def burst() -> None:
            begins = [next(starts)]
            begins += [begins[0] + part * length for part in range(1, threads)]
            for _ in pool.map(copy, begins, [begin + length for begin in begins]):
                pass

        # Read and written.
        return Burst(2.0 * 4 * threads * length, burst)

    return [burst_of(threads) for threads in thread_counts]


if __name__ == "__main__":
    main()
