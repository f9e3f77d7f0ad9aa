"""NVIDIA GPUs of Hopper and later through NVML's performance metrics (GPM): DRAM bandwidth, tensor and SM activity.

A value is the mean between two samples of the device's counters, at least 100 ms apart, as the driver renews them no
sooner. Two samples are kept for each device; the older one stays until a window is read from it, so nothing is lost.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from vtprof_agent.samplers.nvml import gpm_offered
from vtprof_agent.samplers.nvml_session import SHARED, Gpu, NvmlSession
from vtprof_agent.samplers.refusals import Refusals
from vtprof_agent.samplers.sampler import QUIET_S, Device, Sample
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

SOURCE: Final = "gpm"
METRICS: Final = (
    ("DRAM_BW_UTIL", names.GPU_DRAM_BANDWIDTH_RATIO, 0.01),
    ("ANY_TENSOR_UTIL", names.GPU_TENSOR_ACTIVE_RATIO, 0.01),
    ("SM_UTIL", names.GPU_SM_ACTIVE_RATIO, 0.01),
    ("SM_OCCUPANCY", names.GPU_SM_OCCUPANCY_RATIO, 0.01),
    ("PCIE_TX_PER_SEC", names.GPU_PCIE_TX_BYTES_PER_S, 1 << 20),
    ("PCIE_RX_PER_SEC", names.GPU_PCIE_RX_BYTES_PER_S, 1 << 20),
)
"""Name behind ``NVML_GPM_METRIC_``, our key, and what the value is multiplied by (percent, MiB/s)."""
_PERCENT: Final = 0.01
_MOST_PERCENT, _MOST_RATE = 110.0, 1e7
"""Beyond these it is no value but a mark, such as DCGM's blank 2**47; a little above 100 % is rounding."""
LEAST_WINDOW_NS: Final = 99_000_000
"""100 ms less what a clock and the calls jitter."""
NOT_OFFERED: Final = "no GPM (from Hopper on)"
OF_INSTANCES: Final = "GPM tells it of the MIG instances alone"
NO_VALUE: Final = "GPM: no value (not a number)"
PATIENCE_NS: Final = NS_PER_S
"""A window waits so long for metrics that have no new sample; then it is closed without them."""


class _Window:
    """The samples of one device: since when its window is open, and space for the next."""

    def __init__(self, gpu: Gpu, older: Any, newer: Any) -> None:
        self.gpu = gpu
        self.older, self.newer = older, newer
        self.start_ns: int | None = None


class GpmSampler:
    """Reads each device that offers the metrics, MIG devices too."""

    period_s = 0.1
    quiet_s = QUIET_S

    def __init__(
        self, session: NvmlSession = SHARED, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Prepare; nothing is opened."""
        self._session = session
        self._clock_ns = clock_ns
        self._refusals = Refusals()
        self._open = False
        self._windows: dict[str, _Window] = {}
        self._denied: dict[str, str] = {}
        """By device what the driver answers to a sample, though it says that it offers them."""
        self._missing: dict[str, dict[str, str]] = {}
        self._listed: tuple[Gpu, ...] = ()
        self._get: Any = None
        self._asked: tuple[tuple[str, float, Any], ...] = ()
        """Key, factor, and the metric's place in the struct."""

    def why_not(self) -> str | None:
        """Return why there are no such metrics here: no NVML, or only older GPUs."""
        reason = self._session.why_not()
        if reason is not None:
            return reason
        self._session.open()
        try:
            if any(gpm_offered(self._session, gpu) for gpu in self._session.gpus):
                return None
        finally:
            self._session.close()
        return "no GPU here offers GPM (Hopper or later); give the page of a dcgm-exporter for DRAM and tensor counters"

    def open(self) -> None:
        """Connect to the driver; raises BackendError."""
        if self._open:
            return
        self._session.open()
        self._open = True
        nvml = self._session.nvml
        # The struct has room for as many metrics as this binding knows, at one version: made once, filled once.
        self._get = nvml.c_nvmlGpmMetricsGet_t()
        self._get.version = nvml.NVML_GPM_METRICS_GET_VERSION
        found = [(getattr(nvml, f"NVML_GPM_METRIC_{name}", None), key, scale) for name, key, scale in METRICS]
        known = [(metric, key, scale) for metric, key, scale in found if metric is not None]
        self._get.numMetrics = len(known)
        for index, (metric, _, _) in enumerate(known):
            self._get.metrics[index].metricId = metric
        self._asked = tuple((known[i][1], known[i][2], self._get.metrics[i]) for i in range(len(known)))

    def devices(self) -> list[Device]:
        """Return none: they are those of the sampler "nvml"."""
        return []

    def sample(self, pids: frozenset[int]) -> list[Sample]:  # noqa: ARG002  # the protocol's
        """Close the window of each device that is long enough and tells something new."""
        samples: list[Sample] = []
        gpus = self._session.gpus
        if gpus is not self._listed:
            self._relisted(gpus)
        for gpu in gpus:
            if gpu.mig:
                self._missing.setdefault(gpu.uuid, self._all(OF_INSTANCES))
                continue
            if not self._refusals.asks(gpu.uuid, "gpm", self._clock_ns() / NS_PER_S):
                continue
            window = self._windows.get(gpu.uuid)
            try:
                if window is None or window.gpu is not gpu:
                    self._begin(gpu, window)
                else:
                    self._read(window, samples)
            except self._session.nvml.NVMLError as error:
                self._failed(gpu, error)
        return samples

    def lost(self) -> Mapping[str, str]:
        """Return which GPUs fell off the bus, or why the driver does not answer."""
        return self._session.lost()

    def refused(self) -> Mapping[str, str]:
        """Return what the driver answers where it says that it offers the metrics, and gives no sample."""
        return self._denied.copy()

    def missing(self) -> Mapping[str, Mapping[str, str]]:
        """Return why metrics are not told: GPM is not offered, refused, or these alone have no value."""
        return self._missing.copy()

    def close(self) -> None:
        """Free the samples and disconnect from the driver."""
        if self._open:
            self._open = False
            self._drop(set(self._windows))
            self._session.close()

    def _relisted(self, gpus: tuple[Gpu, ...]) -> None:
        """Forget devices that are gone, and what those that are new refused when they were others."""
        for gpu in gpus:
            if gpu not in self._listed:
                self._refusals.forget(gpu.uuid)
                self._missing.pop(gpu.uuid, None)
        here = {gpu.uuid for gpu in gpus}
        self._drop(self._windows.keys() - here)
        for told in (self._denied, self._missing):
            for uuid in told.keys() - here:
                del told[uuid]
        self._listed = gpus

    def _begin(self, gpu: Gpu, window: _Window | None) -> None:
        """Take the first sample of a device that is new, or back."""
        if window is None:
            if not gpm_offered(self._session, gpu):
                self._refusals.refused(gpu.uuid, "gpm", self._clock_ns() / NS_PER_S, lasting=True)
                self._missing[gpu.uuid] = self._all(NOT_OFFERED)
                return
            nvml = self._session.nvml
            window = self._windows[gpu.uuid] = _Window(
                gpu, nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()
            )
        window.gpu, window.start_ns = gpu, None
        window.start_ns = self._take(gpu, window.older)
        self._denied.pop(gpu.uuid, None)

    def _read(self, window: _Window, samples: list[Sample]) -> None:
        gpu, start_ns = window.gpu, window.start_ns
        if not self._session.same(gpu):
            # Another instance under the same id: its counters are not to be set against those of the former.
            window.start_ns = None
            self._session.relist()
            return
        if start_ns is None:
            window.start_ns = self._take(gpu, window.older)
            return
        end_ns = self._take(gpu, window.newer)
        if end_ns - start_ns < LEAST_WINDOW_NS:
            return
        get = self._get
        get.sample1, get.sample2 = window.older, window.newer
        self._session.nvml.nvmlGpmMetricsGet(get)
        told, late, missing = self._values(gpu, end_ns)
        if late and end_ns - start_ns < PATIENCE_NS:
            return
        for key in late:
            self._refusals.refused(gpu.uuid, key, end_ns / NS_PER_S, lasting=False)
        samples += [
            Sample(key, value, False, None, gpu.uuid, start_ns, end_ns, SOURCE) for key, value in told
        ]
        self._missing[gpu.uuid] = missing
        window.older, window.newer, window.start_ns = window.newer, window.older, end_ns

    def _values(self, gpu: Gpu, now_ns: int) -> tuple[list[tuple[str, float]], list[str], dict[str, str]]:
        """Return what the metrics say, the keys of those that have no new sample yet, and why others say nothing."""
        told: list[tuple[str, float]] = []
        late: list[str] = []
        missing: dict[str, str] = {}
        for key, scale, metric in self._asked:
            if metric.nvmlReturn != 0:
                missing[key] = f"GPM: {self._session.nvml.NVMLError(metric.nvmlReturn)}"
                continue
            value = metric.value
            if math.isnan(value):
                missing[key] = NO_VALUE
                if self._refusals.asks(gpu.uuid, key, now_ns / NS_PER_S):
                    late.append(key)
            elif scale == _PERCENT and 0.0 <= value <= _MOST_PERCENT:
                told.append((key, min(value / 100.0, 1.0)))
            elif scale != _PERCENT and 0.0 <= value <= _MOST_RATE:
                told.append((key, value * scale))
            else:
                missing[key] = f"GPM: {value:g} is no value of it"
        return told, late, missing

    def _all(self, reason: str) -> dict[str, str]:
        return dict.fromkeys((key for key, _, _ in self._asked), reason)

    def _take(self, gpu: Gpu, sample: Any) -> int:
        """Sample a device's counters; return when, monotonic ns: the middle of the call."""
        nvml = self._session.nvml
        before_ns = self._clock_ns()
        if gpu.parent is None:
            nvml.nvmlGpmSampleGet(gpu.handle, sample)
        else:
            nvml.nvmlGpmMigSampleGet(gpu.parent.handle, gpu.instance, sample)
        return (before_ns + self._clock_ns()) // 2

    def _failed(self, gpu: Gpu, error: Exception) -> None:
        """Begin anew with a device that failed: now when it was lost and is back, else after a while."""
        lasting = self._session.refused(gpu, error)
        self._drop({gpu.uuid})
        if lasting is not None:
            self._denied[gpu.uuid] = f"GPM: {error}"
            self._missing[gpu.uuid] = self._all(self._denied[gpu.uuid])
            self._refusals.refused(gpu.uuid, "gpm", self._clock_ns() / NS_PER_S, lasting=lasting)

    def _drop(self, uuids: "set[str]") -> None:
        nvml = self._session.nvml
        for uuid in uuids:
            window = self._windows.pop(uuid, None)
            if window is None:
                continue
            for sample in (window.older, window.newer):
                try:
                    nvml.nvmlGpmSampleFree(sample)
                except nvml.NVMLError:
                    continue  # the driver is gone, and its memory with it
