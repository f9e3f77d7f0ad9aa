"""Processes that write rings for the tests: ``ring_driver.py paced|free|kill …``. Stands alone, run by a subprocess.

Every record's payload is a function of its sequence number, so that a reader can verify each one.
"""

import mmap
import os
import random
import signal
import struct
import sys
import threading

from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import records

COUNT = struct.Struct("<Q")


def write_numbers(writer: RingWriter, first: int, end: int) -> None:
    """Write records first..end-1; their fields are n, 3n, -n, n + 7 and n again to the end of PREFILL's nine."""
    write, kind = writer.write, records.PREFILL
    for n in range(first, end):
        write(kind, n, 3 * n, -n, n + 7, n, n, n, n, n)


def paced(directory: str, capacity: int, total: int) -> None:
    """Write bursts of half a ring, each only after the reader has said by a byte on stdin that it has the last."""
    writer = RingWriter.create(directory, capacity, "all", 0, {})
    print(writer.path, flush=True)
    burst = capacity // 2
    for first in range(1, total + 1, burst):
        if not os.read(0, 1):
            return
        end = min(first + burst, total + 1)
        write_numbers(writer, first, end)
        print(end - 1, flush=True)
    writer.close()


def free(directory: str, capacity: int, total: int) -> None:
    """Write without regard for any reader, in bursts of a thousand, and say when it is done."""
    writer = RingWriter.create(directory, capacity, "all", 0, {})
    print(writer.path, flush=True)
    write_numbers(writer, 1, total + 1)
    writer.close()
    print(total, flush=True)


def kill(directory: str, capacity: int, runs: int, seed: int) -> None:
    """Fork writers and kill each when its own counts reach a random point; print ring path and counts of each.

    Every second writer has two threads. A count is raised after the record's write has returned.
    """
    rng = random.Random(seed)
    counts = mmap.mmap(-1, 2 * COUNT.size)
    for run in range(runs):
        threads = 1 + run % 2
        goal = rng.randrange(1, capacity // 2)
        counts[:] = bytes(len(counts))
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            _write_until_killed(directory, capacity, threads, counts, tell)
        os.close(tell)
        path = os.read(ready, 4096).decode()
        os.close(ready)
        while COUNT.unpack_from(counts, 0)[0] < goal // threads:
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done = sum(COUNT.unpack_from(counts, 8 * thread)[0] for thread in range(threads))
        print(path, done, threads, flush=True)


def _write_until_killed(directory: str, capacity: int, threads: int, counts: mmap.mmap, tell: int) -> None:
    writer = RingWriter.create(directory, capacity, "all", 0, {})
    sys.setswitchinterval(1e-5)

    def work(thread: int) -> None:
        for n in range(1, capacity // threads + 1):
            # The second field says which thread wrote it, the first how far that thread was.
            writer.write(records.PREFILL, n, thread, -n, n + 7, n, n, n, n, n)
            counts[8 * thread : 8 * thread + 8] = COUNT.pack(n)

    others = [threading.Thread(target=work, args=(place,)) for place in range(1, threads)]
    for other in others:
        other.start()
    os.write(tell, writer.path.encode())
    work(0)
    while True:
        signal.pause()


if __name__ == "__main__":
    mode, folder, *numbers = sys.argv[1:]
    {"paced": paced, "free": free, "kill": kill}[mode](folder, *map(int, numbers))
