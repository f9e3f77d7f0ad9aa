# ruff: noqa: N802  (the double has the binding's names)
"""NVML against a double of the binding's surface, the host against this very process."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from vtprof_agent.samplers.host import HostSampler
from vtprof_agent.samplers.nvml import NvmlSampler
from vtprof_agent.samplers.nvml_session import NvmlSession
from vtprof_agent.samplers.sampler import SAMPLERS, load
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError


class _NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


class _Nvml:
    """The functions of pynvml that the sampler calls, with two GPUs; the second offers neither energy nor power."""

    NVMLError = _NvmlError
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NO_PERMISSION = 4
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    def __init__(self, fails: int | None = None) -> None:
        self.fails = fails
        self.shut_down = 0

    def nvmlInit(self) -> None:
        if self.fails is not None:
            raise _NvmlError(self.fails)

    def nvmlShutdown(self) -> None:
        self.shut_down += 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> bytes | str:
        return b"GPU-a" if handle == 0 else "GPU-b"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "Test GPU"

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:
        raise _NvmlError(self.NVML_ERROR_NOT_SUPPORTED)

    def nvmlDeviceGetFieldValues(self, handle: int, fields: Any) -> Any:
        raise _NvmlError(self.NVML_ERROR_NOT_SUPPORTED)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=75, memory=50)

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int | None = None) -> Any:
        return SimpleNamespace(used=1024, total=4096)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return self._offered(handle, 400_000)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return self._offered(handle, 123_456)

    def nvmlDeviceGetClockInfo(self, handle: int, clock: int) -> int:
        return 1980

    def nvmlGpmQueryDeviceSupport(self, handle: int) -> Any:
        return SimpleNamespace(isSupportedDevice=1 - handle)

    def _offered(self, handle: int, value: int) -> int:
        if handle == 1:
            raise _NvmlError(self.NVML_ERROR_NOT_SUPPORTED)
        return value


def _opened() -> NvmlSampler:
    sampler = NvmlSampler(NvmlSession(_Nvml()))
    assert sampler.why_not() is None
    sampler.open()
    return sampler


def test_each_gpu_is_read_under_its_uuid() -> None:
    samples = {(s.hw_id, s.key): s.value for s in _opened().sample(frozenset())}
    assert samples["GPU-a", names.GPU_POWER_MW] == 400_000
    assert samples["GPU-a", names.GPU_ENERGY_MJ] == 123_456
    assert samples["GPU-b", names.GPU_MEMORY_USED_BYTES] == 1024
    assert samples["GPU-b", names.GPU_SM_CLOCK_MHZ] == 1980


def test_what_a_gpu_does_not_offer_is_left_out_and_not_zero() -> None:
    keys = {s.key for s in _opened().sample(frozenset()) if s.hw_id == "GPU-b"}
    assert keys == {
        names.GPU_BUSY_RATIO,
        names.GPU_MEMORY_BUSY_RATIO,
        names.GPU_MEMORY_USED_BYTES,
        names.GPU_MEMORY_TOTAL_BYTES,
        names.GPU_SM_CLOCK_MHZ,
        names.GPU_MEMORY_CLOCK_MHZ,
    }


def test_time_share_utilization_is_never_called_bandwidth_or_activity() -> None:
    samples = {s.key: s.value for s in _opened().sample(frozenset())}
    assert samples[names.GPU_BUSY_RATIO] == 0.75
    assert samples[names.GPU_MEMORY_BUSY_RATIO] == 0.5
    assert not samples.keys() & {
        names.GPU_DRAM_BANDWIDTH_RATIO,
        names.GPU_SM_ACTIVE_RATIO,
        names.GPU_TENSOR_ACTIVE_RATIO,
    }


def test_devices_say_whether_they_have_performance_metrics() -> None:
    assert [(d.uuid, d.details["gpm"]) for d in _opened().devices()] == [("GPU-a", True), ("GPU-b", False)]


@pytest.mark.parametrize(
    ("code", "text"), [(12, "no NVIDIA driver library"), (4, "no permission"), (999, "NVML error 999")]
)
def test_vendor_errors_are_told_in_the_users_words(code: int, text: str) -> None:
    sampler = NvmlSampler(NvmlSession(_Nvml(fails=code)))
    assert text in str(sampler.why_not())
    with pytest.raises(BackendError, match=text):
        sampler.open()


def test_closing_disconnects_once_when_the_last_user_is_gone() -> None:
    nvml = _Nvml()
    session = NvmlSession(nvml)
    sampler, other = NvmlSampler(session), NvmlSampler(session)
    for one in (sampler, other, other):
        one.open()
    sampler.close()
    assert nvml.shut_down == 0
    assert other.sample(frozenset())
    for one in (other, other):
        one.close()
    assert nvml.shut_down == 1


def test_the_host_sampler_reads_this_process_and_passes_over_one_that_is_gone() -> None:
    now = iter([0.0, 10.0])
    sampler = HostSampler(clock=lambda: next(now))
    gone = 2**22 + 1
    first = {s.key: s for s in sampler.sample(frozenset((os.getpid(), gone)))}
    assert set(first) == {names.HOST_PROCESS_RSS_BYTES}
    assert first[names.HOST_PROCESS_RSS_BYTES].value > 1_000_000
    second = {s.key: s.value for s in sampler.sample(frozenset((os.getpid(),)))}
    assert 0 <= second[names.HOST_PROCESS_CPU_RATIO] < os.cpu_count() * 100  # type: ignore[operator]


def test_every_sampler_in_the_registry_can_be_loaded_and_says_why_not() -> None:
    for name in SAMPLERS:
        reason = load(name).why_not()
        assert reason is None or reason
