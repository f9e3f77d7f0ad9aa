"""How much slower a core runs for who wakes it now and then than for who keeps it busy: the same work done both ways.

``python tests/bench/core_pace.py SECONDS [PERIOD_S]`` prints the ratio of the two CPU times. A core that was idle runs
slower at first, by 1.5 times and more on virtual machines, and whoever sleeps most of the time is charged CPU time for
it. Divided by the ratio, CPU time says which part of a busy core's work that is, the same from one machine to another.
"""

import statistics
import sys
import time

import numpy as np

PERIOD_S = 0.5
BURST_ROUNDS = 8
BUSY_ROUNDS = 400


def measure(seconds: float, period_s: float = PERIOD_S) -> float:
    """Return CPU time in bursts, one each ``period_s``, over CPU time without a pause."""
    matrix, table = np.random.default_rng(0).random((20, 14)), {}

    def work_s() -> float:
        begin = time.process_time()
        for number in range(200):
            (matrix.T @ matrix).sum()
            np.cumsum(matrix, axis=0)
            for other in range(25):
                table[(number + other) % 997] = (number, other, str(other))
        return time.process_time() - begin

    busy_s = statistics.median(work_s() for _ in range(BUSY_ROUNDS))
    bursts, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(period_s)
        bursts += [work_s() for _ in range(BURST_ROUNDS)]
    return statistics.fmean(bursts) / busy_s


if __name__ == "__main__":
    print(f"{measure(*map(float, sys.argv[1:3])):.3f}")
