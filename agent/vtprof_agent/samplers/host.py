"""CPU time and memory of the inference processes, from the kernel (psutil)."""

import time
from collections.abc import Callable, Mapping

import psutil

from vtprof_agent.samplers.sampler import QUIET_S, Device, Sample
from vtprof_schemas import names


class HostSampler:
    """Reads each process given; CPU is cores busy since the previous reading."""

    period_s = 0.0
    quiet_s = QUIET_S

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without a previous reading."""
        self._clock = clock
        self._processes: dict[int, psutil.Process] = {}
        self._previous: dict[int, tuple[float, float]] = {}

    def why_not(self) -> str | None:
        """Return None: every host has processes."""
        return None

    def open(self) -> None:
        """Do nothing; processes are opened as they come."""

    def devices(self) -> list[Device]:
        """Return none."""
        return []

    def sample(self, pids: frozenset[int]) -> list[Sample]:
        """Read CPU and resident memory of each process; one that is gone yields nothing."""
        for gone in self._processes.keys() - pids:
            self._forget(gone)
        samples = []
        for pid in sorted(pids):
            try:
                process = self._processes.get(pid)
                if process is None:
                    process = self._processes[pid] = psutil.Process(pid)
                with process.oneshot():
                    times = process.cpu_times()
                    rss_bytes = process.memory_info().rss
            except psutil.Error:
                self._forget(pid)
                continue
            now, cpu_s = self._clock(), times.user + times.system
            before = self._previous.get(pid)
            self._previous[pid] = (now, cpu_s)
            if before is not None and now > before[0]:
                cores = max(0.0, cpu_s - before[1]) / (now - before[0])
                samples.append(Sample(names.HOST_PROCESS_CPU_RATIO, cores, pid=pid))
            samples.append(Sample(names.HOST_PROCESS_RSS_BYTES, rss_bytes, pid=pid))
        return samples

    def lost(self) -> Mapping[str, str]:
        """Return nothing: it reads no devices."""
        return {}

    def refused(self) -> Mapping[str, str]:
        """Return nothing: what a device does not offer is left out."""
        return {}

    def missing(self) -> Mapping[str, Mapping[str, str]]:
        """Return nothing: it reads no devices."""
        return {}

    def close(self) -> None:
        """Forget all processes."""
        self._processes.clear()
        self._previous.clear()

    def _forget(self, pid: int) -> None:
        self._processes.pop(pid, None)
        self._previous.pop(pid, None)
