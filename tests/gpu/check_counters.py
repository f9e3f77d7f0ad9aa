"""Checks on a real GPU what vtprof assumes of its counters, with its own samplers and loads of known size.

Prints a Markdown table for the docs. Exit code 0: nothing differs, 1: something does, 2: there is no GPU to look at.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from counter_series import Reading
from findings import DIFFERS, table
from judging import judge_all
from loads import COPY, GEMM, TRICKLE, UPLOAD, Loads, TorchLoads
from observed import METRICS_GET, PCIE_GET, REASONS, SAMPLE_GET, WAVE, Observed, Watched

from vtprof_agent.samplers.gpm import GpmSampler
from vtprof_agent.samplers.nvml import NvmlSampler
from vtprof_agent.samplers.nvml_session import Gpu, NvmlSession
from vtprof_agent.samplers.pcie import PcieSampler
from vtprof_agent.samplers.sampler import Sample
from vtprof_analyzer.devices.catalogue import find_device
from vtprof_schemas.errors import BackendError

SETTLE_S, EVERY_S, LOOK_S = 1.0, 0.1, 0.005
WAVE_ON_S, WAVE_OFF_S, WAVE_EVERY_S = 0.23, 0.17, 0.117
"""No multiples of each other or of 100 ms: readings and edges meet at all phases."""
NOBODY: Final = 65534
_SM_UTIL: Final = 2
"""nvmlGpmMetricId_t."""


@dataclass(frozen=True)
class Clock:
    """Time, monotonic ns."""

    now_ns: Callable[[], int] = time.monotonic_ns
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Timed:
    """The binding, its calls of some names timed."""

    nvml: Any
    clock: Clock
    calls_ms: dict[str, list[float]] = field(default_factory=dict)
    refusal: str = ""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.nvml, name)
        told_as = name.replace("Mig", "")  # a MIG device has its own SampleGet
        return self._timed(told_as, found) if told_as in (SAMPLE_GET, METRICS_GET, PCIE_GET) else found

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            begin_ns = self.clock.now_ns()
            try:
                answer = call(*args)
            except self.nvml.NVMLError as error:
                self.refusal = str(error) if name == SAMPLE_GET else self.refusal
                raise
            self.calls_ms.setdefault(name, []).append((self.clock.now_ns() - begin_ns) / 1e6)
            return answer

        return timed


class Bench:
    """The samplers on one GPU."""

    def __init__(self, index: int, clock: Clock) -> None:
        """Open them; raises BackendError when there is no such GPU."""
        nvml = import_module("pynvml")
        self.timed, self.clock = Timed(nvml, clock), clock
        self.session = NvmlSession(self.timed, lambda: clock.now_ns() / 1e9)
        self.gpm, self.nvml = GpmSampler(self.session, clock.now_ns), NvmlSampler(self.session, clock.now_ns)
        self.pcie = PcieSampler(self.session, lambda: clock.now_ns() / 1e9)
        self.cpu_ms: list[float] = []
        for sampler in (self.gpm, self.nvml, self.pcie):
            sampler.open()
        gpus = [gpu for gpu in self.session.gpus if not gpu.mig]
        if index >= len(gpus):
            raise BackendError(
                f"--gpu {index}: there are {len(gpus)} GPUs and MIG devices; give one from 0 on"
            )
        self.gpu: Gpu = gpus[index]

    def close(self) -> None:
        """Disconnect."""
        for sampler in (self.gpm, self.nvml, self.pcie):
            sampler.close()

    def watch(self, seconds: float, loads: Loads | None = None, kind: str = "") -> Watched:
        """Read as the agent does while a load runs, after it has settled."""
        if loads and kind == WAVE:
            loads.start(GEMM, WAVE_ON_S, WAVE_OFF_S)
        elif loads:
            loads.start(kind)
        self.clock.sleep(SETTLE_S)
        begin_ns, before = self.clock.now_ns(), self.lowered()
        self.read()  # closes the windows that began before
        samples: list[Sample] = []
        reasons: list[int] = []
        readings = 0
        while self.clock.now_ns() < begin_ns + seconds * 1e9:
            self.clock.sleep(WAVE_EVERY_S if kind == WAVE else EVERY_S)
            samples += self.read()
            if kind == UPLOAD:
                samples += self._own(self.pcie.sample(frozenset()))
            reasons += self.ask("nvmlDeviceGetCurrentClocksEventReasons")
            readings += 1
        end_ns, after = self.clock.now_ns(), self.lowered()
        lowered = {number: after[number] - before[number] for number in after.keys() & before.keys()}
        work = loads.stop() if loads else []
        told = [one for one in samples if one.start_ns is None or one.start_ns >= begin_ns]
        return Watched(begin_ns, end_ns, readings, told, work, reasons, dict(sorted(lowered.items())))

    def read(self) -> list[Sample]:
        """Read both samplers once."""
        begin_ns = time.thread_time_ns()
        samples = self.gpm.sample(frozenset()) + self.nvml.sample(frozenset())
        self.cpu_ms.append((time.thread_time_ns() - begin_ns) / 1e6 / max(1, len(self.session.gpus)))
        return self._own(samples)

    def _own(self, samples: Sequence[Sample]) -> list[Sample]:
        return [one for one in samples if one.hw_id == self.gpu.uuid]

    def ask(self, call: str, *args: Any) -> list[Any]:
        """Return the binding's answer about this GPU; nothing where it is not offered."""
        try:
            return [getattr(self.timed.nvml, call)(self.gpu.handle, *args)]
        except (self.timed.nvml.NVMLError, AttributeError):
            return []

    def lowered(self) -> dict[int, int]:
        """Return the times with lowered clocks by field."""
        fields = [one for told in self.ask("nvmlDeviceGetFieldValues", list(REASONS)) for one in told]
        return {one.fieldId: int(one.value.ullVal) for one in fields if one.nvmlReturn == 0}

    def look(self, seconds: float, read: Callable[[], list[float]]) -> list[Reading]:
        """Read a counter much more often than the agent does."""
        looks: list[Reading] = []
        until_ns = self.clock.now_ns() + seconds * 1e9
        while self.clock.now_ns() < until_ns:
            looks += [(self.clock.now_ns(), value) for value in read()]
            self.clock.sleep(LOOK_S)
        return looks

    def energy_looks(self, seconds: float) -> list[Reading]:
        """Look at the energy counter, mJ."""
        return self.look(seconds, lambda: self.ask("nvmlDeviceGetTotalEnergyConsumption"))

    def gpm_looks(self, seconds: float) -> list[Reading]:
        """Look at the SM activity since the first look: it is another number only after a refresh."""
        nvml, gpu = self.timed.nvml, self.gpu
        get = nvml.c_nvmlGpmMetricsGet_t()
        get.version, get.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, 1
        get.metrics[0].metricId = _SM_UTIL

        def take(sample: Any) -> None:
            if gpu.parent is None:
                nvml.nvmlGpmSampleGet(gpu.handle, sample)
            else:
                nvml.nvmlGpmMigSampleGet(gpu.parent.handle, gpu.instance, sample)

        def read() -> list[float]:
            take(get.sample2)
            nvml.nvmlGpmMetricsGet(get)
            return [get.metrics[0].value if get.metrics[0].nvmlReturn == 0 else math.nan]

        allocated: list[Any] = []
        try:
            for _ in range(2):
                allocated.append(nvml.nvmlGpmSampleAlloc())
            get.sample1, get.sample2 = allocated
            take(get.sample1)
            return self.look(seconds, read)
        except nvml.NVMLError as error:
            self.timed.refusal = self.timed.refusal or str(error)
            return []
        finally:
            for sample in allocated:
                with suppress(nvml.NVMLError):
                    nvml.nvmlGpmSampleFree(sample)


def as_nobody(index: int, clock: Clock, told: Connection) -> None:
    """Give up root, read for a second, and tell how many values of each key came; for a process of its own."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    counts: dict[str, int] = {}
    with suppress(BackendError, ImportError):
        for one in Bench(index, clock).watch(1.0).samples:
            counts[one.key] = counts.get(one.key, 0) + 1
    told.send(counts)


def without_root(index: int, clock: Clock) -> dict[str, int] | None:
    """Return what a user without rights is told; None when this is one. Nothing of the driver may be open yet."""
    if os.geteuid() != 0:
        return None
    with suppress(ImportError):
        import_module("pynvml")  # while its files can be read
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=as_nobody, args=(index, clock, send))
    child.start()
    send.close()
    try:
        counts: dict[str, int] = receive.recv()
    except EOFError:
        counts = {}
    child.join()
    return counts


def observe(bench: Bench, loads: Loads | None, seconds: float, other_user: dict[str, int] | None) -> Observed:
    """Look at the GPU at rest and under each load."""
    watched = {"": bench.watch(seconds)}
    # Later the load's thread may hold up the calls.
    undisturbed_ms, cpu_ms = (
        {name: tuple(ms) for name, ms in bench.timed.calls_ms.items()},
        tuple(bench.cpu_ms),
    )
    if loads:
        for kind, longer in ((COPY, 1), (TRICKLE, 1), (GEMM, 1), (UPLOAD, 1), (WAVE, 3)):
            watched[kind] = bench.watch(longer * seconds, loads, kind)
        loads.start(GEMM, WAVE_ON_S, WAVE_OFF_S)
    bench.clock.sleep(SETTLE_S)
    gpm_looks, energy_looks = bench.gpm_looks(seconds), bench.energy_looks(seconds)
    if loads:
        loads.stop()
    if other_user is None:
        other_user = {key: len(watched[""].values(key)) for key in {one.key for one in watched[""].samples}}
    most_mhz = bench.ask("nvmlDeviceGetMaxClockInfo", bench.timed.nvml.NVML_CLOCK_MEM)
    return Observed(
        find_device(bench.gpu.name), most_mhz[0] if most_mhz else None, loads.bf16_per_cycle if loads else None,
        watched, gpm_looks, energy_looks, {**bench.timed.calls_ms, **undisturbed_ms}, cpu_ms, other_user,
        bench.timed.refusal,
    )  # fmt: skip


def main(
    arguments: Sequence[str] | None = None,
    make_loads: Callable[[str], Loads] = TorchLoads,
    clock: Clock | None = None,
) -> int:
    """Run all checks that can run here; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", type=int, default=0, help="which GPU, in the driver's order")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to look at each load")
    parser.add_argument("--json", type=Path, help="write the findings here too")
    asked, clock = parser.parse_args(arguments), clock or Clock()
    if asked.gpu < 0 or not 1.0 <= asked.seconds <= 600.0:
        parser.error("--gpu is 0 or more, --seconds 1 to 600")
    loads: Loads | None = None
    try:
        other_user = without_root(asked.gpu, clock)
        reason = NvmlSession().why_not()
        if reason is not None:
            raise BackendError(reason)
        bench = Bench(asked.gpu, clock)
        try:
            loads = make_loads(bench.gpu.uuid)
        except BackendError as error:
            print(f"no loads, so only what shows at rest is checked: {error}", file=sys.stderr)
        findings = judge_all(observe(bench, loads, asked.seconds, other_user))
        driver = bench.timed.nvml.nvmlSystemGetDriverVersion()
        bench.close()
    except BackendError as error:
        print(f"check-gpu: {error}", file=sys.stderr)
        return 2
    told = {"gpu": bench.gpu.name, "driver": driver, "uid": os.geteuid(), "loads": loads is not None}
    print(
        f"{bench.gpu.name}, driver {driver}, uid {os.geteuid()}, {asked.seconds:g} s a load\n\n{table(findings)}"
    )
    if asked.json:
        document = {**told, "findings": [asdict(one) for one in findings]}
        asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return int(any(one.verdict == DIFFERS for one in findings))


if __name__ == "__main__":
    sys.exit(main())
