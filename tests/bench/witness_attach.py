"""Holds the stop that attach reports against two witnesses: another process that looks, and the host's own threads.

usage: python tests/bench/witness_attach.py [CYCLES]

The looker reads the borrowed thread's state in /proc without a pause: between the first and the last look that saw it
traced it stood still, so the stop is at least that long. Of the host's two threads one sleeps 1 ms at a time (it is the
one that is borrowed), the other works; each notes its longest gap. Their gaps hold all that attach costs them: the
stop, the start of a thread, and the GIL while the probe is imported; also what other programs on the machine take,
therefore the gaps of an equally long time without attach stand beside. Half of the cycles go without ``hurried``.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from attach_programs import running

from vtprof_agent.attach import injector
from vtprof_agent.attach.attaching import Options, attach
from vtprof_agent.attach.detaching import detach
from vtprof_agent.attach.outcome import ATTACHED, DETACHED
from vtprof_agent.attach.scheduling import hurried

HOST = """
import sys, threading, time
longest = {}
def note(name, pause):
    last = time.monotonic_ns()
    while True:
        pause()
        now = time.monotonic_ns()
        longest[name] = max(longest.get(name, 0), now - last)
        last = now
threading.Thread(target=note, args=("sleeper", lambda: time.sleep(0.001)), daemon=True).start()
threading.Thread(target=note, args=("worker", int), daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    print(longest.pop("sleeper", 0), longest.pop("worker", 0), flush=True)
"""
NS_PER_MS = 1e6
TRACED = b"t"


@dataclass
class Seen:
    """Times in ms of one way to attach."""

    reported: list[float] = field(default_factory=list)
    looked: list[float] = field(default_factory=list)
    sleeper: list[float] = field(default_factory=list)
    worker: list[float] = field(default_factory=list)
    sleeper_without: list[float] = field(default_factory=list)
    worker_without: list[float] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return median, 90th percentile and longest of each."""
        found = []
        for name, values in vars(self).items():
            ordered = sorted(values)
            middle, high = ordered[len(ordered) // 2], ordered[len(ordered) * 9 // 10]
            found.append(f"  {name:16} median {middle:7.3f}  90 % {high:7.3f}  longest {ordered[-1]:7.3f}")
        return found


def look(pid: int, line: Connection) -> None:
    """Look at the threads of a process until told to stop, then send the longest stop that was seen, in ns."""
    tasks = [path / "stat" for path in Path(f"/proc/{pid}/task").iterdir()]
    files = [os.open(path, os.O_RDONLY) for path in tasks]
    since: dict[int, int] = {}
    longest = 0
    line.send(None)
    with hurried() if len(os.sched_getaffinity(0)) > 1 else nullcontext():
        while not line.poll():
            for file in files:
                now = time.monotonic_ns()
                if os.pread(file, 64, 0).rpartition(b") ")[2][:1] == TRACED:
                    longest = max(longest, now - since.setdefault(file, now))
                else:
                    since.pop(file, None)
    line.send(longest)


def cycle(pid: int, options: Options, gaps: Callable[[], list[float]], seen: Seen) -> None:
    """Attach and detach once and note what all say of the attach."""
    ours, theirs = multiprocessing.Pipe()
    looker = multiprocessing.get_context("fork").Process(target=look, args=(pid, theirs))
    looker.start()
    ours.recv()
    gaps()
    started = time.monotonic()
    (attached,) = attach(pid, options)
    seconds = time.monotonic() - started
    sleeper, worker = gaps()
    ours.send(None)
    seen.looked.append(ours.recv() / NS_PER_MS)
    looker.join()
    (detached,) = detach(pid, options)
    assert (attached.result, detached.result) == (ATTACHED, DETACHED), (attached, detached)
    assert attached.stopped_ms is not None
    seen.reported.append(attached.stopped_ms)
    seen.sleeper.append(sleeper)
    seen.worker.append(worker)
    gaps()
    time.sleep(seconds)
    sleeper, worker = gaps()
    seen.sleeper_without.append(sleeper)
    seen.worker_without.append(worker)


def main() -> None:
    """Run all cycles and print what was seen; fails when a looker saw a longer stop than was reported."""
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    ways: dict[str, tuple[Callable[[], AbstractContextManager[None]], Seen]] = {
        "with SCHED_FIFO, where allowed": (hurried, Seen()),
        "at ordinary priority": (nullcontext, Seen()),
    }
    with tempfile.TemporaryDirectory() as folder, running(HOST) as host:
        assert host.stdin and host.stdout

        def gaps() -> list[float]:
            assert host.stdin and host.stdout
            host.stdin.write("\n")
            host.stdin.flush()
            return [int(word) / NS_PER_MS for word in host.stdout.readline().split()]

        options = Options(Path(folder) / "rings", timeout_s=30.0)
        for _ in range(cycles):
            for priority, seen in ways.values():
                injector.hurried = priority  # type: ignore[assignment]
                cycle(host.pid, options, gaps, seen)
    for name, (_, seen) in ways.items():
        print(f"{name}: {cycles} times, ms, load of the machine {os.getloadavg()[0]:.1f}")
        print("\n".join(seen.lines()))
        assert all(looked <= said for looked, said in zip(seen.looked, seen.reported, strict=True)), seen


if __name__ == "__main__":
    main()
