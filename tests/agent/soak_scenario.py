"""A soak of the real agent: rings under load, a Collector that goes away, kills, a full disk, and what came out in the end.

Everything that happens waits for progress, not for time, so that a slow machine only takes longer.
"""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ring_load
import soak_account
from nvml_standin import standin
from soak_processes import GRPC, HTTP, Agent, Collector, Writer, compile_preload

PHASES = 8
"""In so many shares the load comes."""
FULL_DISK = "disk/out: cannot deliver"
"""What the agent says when files cannot be written."""


@dataclass(frozen=True)
class SoakSize:
    """How much load, and how long one waits in vain."""

    writers: int = 3
    cycles: int = 8
    """Of each writer in each phase."""
    records_per_s: float = 3000.0
    """Of each writer, if the agent keeps up."""
    capacity: int = 4096
    patience_s: float = 240.0


@dataclass
class SoakResult:
    """What a soak showed."""

    implied: Counter[str]
    received: soak_account.Account
    files: soak_account.Account
    lives: list[dict[str, float]]
    """Of each life of the agent what its page last said; the records read with those of the lives before."""
    records: int
    """Written to the rings that nothing may be lost from."""
    overrun: dict[str, float]
    """Of the ring that was overrun while no agent ran: records written, and told as read and lost."""
    rss_bytes: list[list[int]]
    """Of each life, once a second."""
    spooled_bytes: list[int]
    """In the spool when the Collector had been away for a phase."""
    seconds: float = 0.0
    log: str = ""


@contextmanager
def _noting(agent: Agent) -> Iterator[None]:
    """Note the agent's page and memory once a second."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(1.0):
            agent.note()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Soak:
    """Runs the phases one after the other, each with its share of the load."""

    def __init__(self, folder: Path, size: SoakSize, gpus: int = 0) -> None:
        """Build what is needed in a folder; writers run on so many GPUs of the stand-in."""
        self._folder, self._size, self._gpus = folder, size, gpus
        (folder / "disk").mkdir(parents=True)
        compile_preload(folder / "full_disk.so")
        library = standin.build(folder / "lib") if gpus else folder
        control = standin.Control(folder / "control", gpus=gpus) if gpus else None
        for index in range(gpus):
            busy = standin.Activity(dram=0.5, tensor=0.3, sm=0.8, occupancy=0.4, power_mw=400_000)
            control and control.script(index, [(0.7, busy), (0.3, standin.Activity())], repeat=True)
        self.collector = Collector(folder)
        self.agent = Agent(folder, self.collector, control, library)
        self._writers: list[Writer] = []
        self._others: list[Writer] = []
        self._told = 0
        """Cycles that each writer was told to write."""
        self._spooled: list[int] = []
        self._overrun: dict[str, float] = {}

    def run(self, report: Callable[[str], None] = lambda _: None) -> SoakResult:
        """Run it; everything is ended in any case."""
        begin = time.monotonic()
        try:
            with _noting(self.agent):
                for phase in self._phases():
                    report(phase)
            return self._result(time.monotonic() - begin)
        finally:
            if self.agent.process is not None:
                self.agent.process.kill()
                self.agent.process.wait()
            for writer in (*self._writers, *self._others):
                writer.kill()
            self.collector.kill()

    def _phases(self) -> Iterator[str]:
        agent, collector, size = self.agent, self.collector, self._size
        collector.start()
        agent.start(HTTP)
        self._writers = [self._writer(number) for number in range(size.writers)]
        yield "load"
        self._load_and_store()
        collector.kill()
        yield "load without a Collector"
        self._load_and_store()
        self._look_for_spool()
        collector.start()
        self._wait(self._all_there)
        yield "load with a Collector that is back and hangs, and a kill in the midst of it"
        collector.hang()
        self._load_and_kill()
        collector.wake()
        self._overrun_a_ring()
        agent.start(GRPC)
        self._written()
        self._stored()
        yield "load without a Collector, over gRPC, and a kill in the midst of it"
        collector.kill()
        self._load_and_store()
        self._look_for_spool()
        self._load_and_kill()
        agent.start(GRPC)
        collector.start()
        self._written()
        self._stored()
        yield "load while the disk is full"
        agent.flag.touch()
        # No more than the rings hold: nothing may be dropped for want of room.
        self._load(min(size.cycles, size.capacity // 2 // ring_load.RECORDS))
        self._wait(lambda: FULL_DISK in self._log())
        agent.flag.unlink()
        self._stored()
        yield "the agent is asked to end in the midst of a load"
        self._load(wait=False)
        agent.end(signal.SIGTERM)
        agent.start(HTTP)
        yield "load at the end"
        self._written()
        self._load_and_store()
        self._wait(self._all_there)
        agent.end(signal.SIGTERM)

    def _writer(self, number: int) -> Writer:
        size = self._size
        device = standin.uuid(number % self._gpus) if self._gpus else ""
        return Writer(self._folder / "rings", size.capacity, size.records_per_s, "near", device)

    def _load(self, cycles: int | None = None, *, wait: bool = True) -> None:
        """Let each writer write its share of a phase, or so many cycles."""
        self._told += cycles or self._size.cycles
        for writer in self._writers:
            writer.write(cycles or self._size.cycles)
        if wait:
            self._written()

    def _written(self) -> None:
        for writer in self._writers:
            assert writer.written() == self._told * ring_load.RECORDS

    def _load_and_store(self) -> None:
        self._load()
        self._stored()

    def _load_and_kill(self) -> None:
        """Kill the agent when a part of the load is in the files: what is not settled elsewhere too comes again."""
        before = self._exported_bytes()
        self._load(wait=False)
        self._wait(lambda: self._exported_bytes() > before)
        self.agent.end(signal.SIGKILL)

    def _exported_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self._folder / "disk" / "out").glob("*.traces.jsonl"))

    def _behind(self) -> int:
        return ring_load.stored(self._folder / "rings", self._pids)

    def _stored(self) -> None:
        """Wait until the agent has stored that all of the load is behind it."""
        goal = self._told * ring_load.RECORDS * len(self._writers)
        self._wait(lambda: self._behind() >= goal)

    def _all_there(self) -> bool:
        """Tell whether the Collector has as many requests as there were: a span is a line, and there are repeats."""
        account = soak_account.received(self.collector.log, self._pids)
        return account.spans["vtprof.request"] >= self._told * len(self._writers) * ring_load.REQUESTS

    @property
    def _pids(self) -> list[int]:
        return [writer.pid for writer in self._writers]

    def _look_for_spool(self) -> None:
        spool = self._folder / "disk" / "spool"
        self._spooled.append(sum(path.stat().st_size for path in spool.rglob("*") if path.is_file()))

    def _overrun_a_ring(self) -> None:
        """Write more than a ring holds while no agent runs."""
        cycles, capacity = 8, 512
        writer = Writer(self._folder / "rings", capacity, 1e6, "free", "")
        self._others.append(writer)
        writer.write(cycles)
        self._overrun = {"written": float(writer.written()), "capacity": capacity}

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self._size.patience_s
        while not _took(condition):
            assert time.monotonic() < deadline, f"waited in vain; {self._log()[-2000:]}"
            process = self.agent.process
            assert process is None or process.poll() is None, f"agent ended; {self._log()[-2000:]}"

    def _log(self) -> str:
        return (self._folder / "agent.log").read_text()

    def _result(self, seconds: float) -> SoakResult:
        cycles = self._told * len(self._writers)
        return SoakResult(
            implied=ring_load.implied(cycles),
            received=soak_account.received(self.collector.log, self._pids),
            files=soak_account.written(self._folder / "disk" / "out", self._pids),
            lives=self.agent.lives,
            records=cycles * ring_load.RECORDS,
            overrun=self._overrun,
            rss_bytes=self.agent.rss_bytes,
            spooled_bytes=self._spooled,
            seconds=seconds,
            log=self._log(),
        )


def _took(condition: Callable[[], bool]) -> bool:
    """Ask, and when it does not hold let twice the time pass that the asking took."""
    begin = time.monotonic()
    holds = condition()
    if not holds:
        time.sleep(max(0.03, 2 * (time.monotonic() - begin)))
    return holds
