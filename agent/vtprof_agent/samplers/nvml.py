"""NVIDIA GPUs through NVML: busy time, memory, power, energy and clock. No DRAM or tensor counters: NVML has none.

NVML's "utilization" is the share of time in which any kernel ran. It is reported as that and never as bandwidth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from vtprof_agent.samplers.sampler import Device, Sample
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError

_MEANINGS = {
    "NVML_ERROR_LIBRARY_NOT_FOUND": "no NVIDIA driver library (libnvidia-ml.so.1) on this machine",
    "NVML_ERROR_DRIVER_NOT_LOADED": "the NVIDIA driver is not loaded",
    "NVML_ERROR_NO_PERMISSION": "no permission for the GPU devices; add /dev/nvidia* to the container",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "driver and library versions differ; reboot, or match the container's driver",
    "NVML_ERROR_GPU_IS_LOST": "a GPU fell off the bus",
}
"""What the user reads for each vendor error; the others show NVML's own text."""


@dataclass(frozen=True)
class _Gpu:
    uuid: str
    name: str
    handle: Any


class NvmlSampler:
    """Reads every GPU that the driver shows; handles are keyed by UUID, so that an order of indexes cannot mislead."""

    def __init__(self, nvml: Any = None) -> None:
        """Prepare; the binding is imported when opened. ``nvml`` stands in for it."""
        self._nvml = nvml
        self._gpus: list[_Gpu] = []
        self._open = False

    def why_not(self) -> str | None:
        """Return why there is no NVML here: no binding, no driver, no GPU, no permission."""
        if self._nvml is None and find_spec("pynvml") is None:
            return "the package nvidia-ml-py is not installed"
        try:
            self.open()
        except BackendError as error:
            return str(error)
        return None if self._gpus else "the NVIDIA driver shows no GPU"

    def open(self) -> None:
        """Connect to the driver and find the GPUs; raises BackendError in the user's words."""
        if self._open:
            return
        if self._nvml is None:
            import pynvml

            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
            self._open = True
            for index in range(self._nvml.nvmlDeviceGetCount()):
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                uuid, name = self._nvml.nvmlDeviceGetUUID(handle), self._nvml.nvmlDeviceGetName(handle)
                self._gpus.append(_Gpu(_text(uuid), _text(name), handle))
        except self._nvml.NVMLError as error:
            self.close()
            raise BackendError(f"NVML: {self._explain(error)}") from error

    def devices(self) -> list[Device]:
        """Return the GPUs. ``gpm`` tells whether the driver offers performance metrics for the device."""
        return [Device(gpu.uuid, gpu.name, {"gpm": self._gpm(gpu)}) for gpu in self._gpus]

    def sample(self, pids: frozenset[int]) -> list[Sample]:  # noqa: ARG002  # the protocol's
        """Read each GPU once; a quantity that a device does not offer is left out."""
        nvml = self._nvml
        samples = []
        for gpu in self._gpus:
            readings = (
                (names.GPU_BUSY_RATIO, lambda h: nvml.nvmlDeviceGetUtilizationRates(h).gpu / 100, False),
                (names.GPU_MEMORY_USED_BYTES, lambda h: int(nvml.nvmlDeviceGetMemoryInfo(h).used), False),
                (names.GPU_POWER_MW, lambda h: int(nvml.nvmlDeviceGetPowerUsage(h)), False),
                (names.GPU_ENERGY_MJ, lambda h: float(nvml.nvmlDeviceGetTotalEnergyConsumption(h)), True),
                (
                    names.GPU_SM_CLOCK_MHZ,
                    lambda h: int(nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_SM)),
                    False,
                ),
            )
            for key, read, cumulative in readings:
                value = self._read(read, gpu.handle)
                if value is not None:
                    samples.append(Sample(key, value, cumulative, hw_id=gpu.uuid))
        return samples

    def close(self) -> None:
        """Disconnect from the driver."""
        self._gpus = []
        if self._open:
            self._open = False
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError:
                return  # the driver went away first

    def _read(self, read: Callable[[Any], int | float], handle: Any) -> int | float | None:
        try:
            return read(handle)
        except self._nvml.NVMLError:
            return None

    def _gpm(self, gpu: _Gpu) -> bool:
        try:
            return bool(self._nvml.nvmlGpmQueryDeviceSupport(gpu.handle).isSupportedDevice)
        except (self._nvml.NVMLError, AttributeError):
            return False

    def _explain(self, error: Exception) -> str:
        for code, meaning in _MEANINGS.items():
            if getattr(error, "value", None) == getattr(self._nvml, code, None):
                return meaning
        return str(error)


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
