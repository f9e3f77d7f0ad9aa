"""AMD GPUs through AMD SMI, each die of its own: activity, memory, power and energy. No DRAM bandwidth, no matrix cores.

The activity of the memory controller is a share of time, as in NVML: it is reported as that and never as bandwidth.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from vtprof_agent.samplers.refusals import Refusals
from vtprof_agent.samplers.sampler import QUIET_S, Device, Sample
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError
from vtprof_schemas.units import NS_PER_S

SOURCE: Final = "amd"
_MIB: Final = 1 << 20
_NOT_SUPPORTED, _NO_PERMISSION = 2, 10
"""amdsmi_status_t."""
_BLANK: Final = 0xFFFFFFFF
"""What the library tells of an activity counter that a GPU does not have."""
_PERCENT_MS_NS: Final = 10_000
"""The activity counters advance by the percentage each ms of the firmware: by 1 for 10 us of full activity."""
_ACTIVITIES: Final = (
    ("COARSE_GRAIN_GFX_ACTIVITY", names.GPU_BUSY_RATIO, "gfx_activity"),
    ("COARSE_GRAIN_MEM_ACTIVITY", names.GPU_MEMORY_BUSY_RATIO, "umc_activity"),
)
"""Member of AmdSmiUtilizationCounterType, our key, and where the present percentage stands."""


@dataclass(frozen=True)
class _Die:
    uuid: str
    name: str
    handle: Any


class AmdSampler:
    """Reads every die that the driver shows."""

    period_s = 1.0
    quiet_s = QUIET_S

    def __init__(self, amdsmi: Any = None, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """Prepare; the binding is imported when opened. ``amdsmi`` stands in for it."""
        self._smi = amdsmi
        self._clock_ns = clock_ns
        self._refusals = Refusals()
        self._dies: list[_Die] = []
        self._counted: dict[tuple[str, str], tuple[int, int]] = {}
        """By die and key: when an activity counter was read, and what it said."""
        self._lost: dict[str, str] = {}
        """By die why nothing of it can be read."""
        self._open = False

    def why_not(self) -> str | None:
        """Return why there are no AMD GPUs here: no binding, no library, no driver, no GPU."""
        if self._smi is None and find_spec("amdsmi") is None:
            return "the package amdsmi is not installed; for AMD GPUs install the one of the host's ROCm"
        try:
            self.open()
        except BackendError as error:
            return str(error)
        return None if self._dies else "the amdgpu driver shows no GPU"

    def open(self) -> None:
        """Load the library and find the dies; raises BackendError in the user's words."""
        if self._open:
            return
        if self._smi is None:
            try:
                self._smi = import_module("amdsmi")
            except Exception as error:  # what the binding raises without its library differs by version
                raise BackendError(
                    "AMD SMI: the library libamd_smi.so cannot be loaded; mount the host's /opt/rocm"
                ) from error
        smi = self._smi
        try:
            smi.amdsmi_init()
            self._open = True
            for handle in smi.amdsmi_get_processor_handles():
                uuid = str(smi.amdsmi_get_gpu_device_uuid(handle))
                self._dies.append(_Die(uuid, self._name(handle), handle))
        except smi.AmdSmiException as error:
            self.close()
            raise BackendError(
                f"AMD SMI: {error}; is the amdgpu driver loaded, and are /dev/kfd and /dev/dri here?"
            ) from error

    def devices(self) -> list[Device]:
        """Return the dies."""
        return [Device(die.uuid, die.name, {"gpm": False}) for die in self._dies]

    def sample(self, pids: frozenset[int]) -> list[Sample]:  # noqa: ARG002  # the protocol's
        """Read each die once; a quantity that it does not offer is left out."""
        samples: list[Sample] = []
        readings = (
            ("energy", self._energy),
            ("activity", self._activity),
            ("power", self._power),
            ("memory", self._memory),
        )
        for die in self._dies:
            before, failure = len(samples), ""
            for what, read in readings:
                now_s = self._clock_ns() / NS_PER_S
                if not self._refusals.asks(die.uuid, what, now_s):
                    continue
                try:
                    samples += read(die)
                except self._smi.AmdSmiException as error:
                    lasting = _code(error) in (_NOT_SUPPORTED, _NO_PERMISSION)
                    self._refusals.refused(die.uuid, what, now_s, lasting=lasting)
                    failure = str(error)
            if len(samples) > before:
                self._lost.pop(die.uuid, None)
            elif failure:
                self._lost.setdefault(die.uuid, failure)
        return samples

    def lost(self) -> Mapping[str, str]:
        """Return the dies of which every reading failed."""
        return self._lost.copy()

    def refused(self) -> Mapping[str, str]:
        """Return nothing: what a device does not offer is left out."""
        return {}

    def missing(self) -> Mapping[str, Mapping[str, str]]:
        """Return nothing: what a die does not have is left out."""
        return {}

    def close(self) -> None:
        """Disconnect."""
        self._dies = []
        self._counted.clear()
        self._lost.clear()
        if self._open:
            self._open = False
            try:
                self._smi.amdsmi_shut_down()
            except self._smi.AmdSmiException:
                return  # the driver went away first

    def _name(self, handle: Any) -> str:
        try:
            return str(self._smi.amdsmi_get_gpu_asic_info(handle)["market_name"])
        except (self._smi.AmdSmiException, KeyError):
            return "AMD GPU"

    def _energy(self, die: _Die) -> list[Sample]:
        told = self._smi.amdsmi_get_energy_count(die.handle)
        ticks = _number(told, "energy_accumulator", "power")  # called "power" before ROCm 6.1
        resolution_uj = _number(told, "counter_resolution")
        if ticks is None or not resolution_uj:
            return []
        total_mj = ticks * resolution_uj / 1000.0
        return [Sample(names.GPU_ENERGY_MJ, total_mj, True, None, die.uuid, None, self._clock_ns(), SOURCE)]

    def _activity(self, die: _Die) -> list[Sample]:
        """Return means since the last reading from the counters; the present percentages where there are none."""
        counted = self._count(die)
        if counted:
            return [one for key, value in counted.items() for one in self._mean(die, key, value)]
        told = self._smi.amdsmi_get_gpu_activity(die.handle)
        return [
            Sample(key, percent / 100.0, hw_id=die.uuid, source=SOURCE)
            for _, key, name in _ACTIVITIES
            if (percent := _number(told, name)) is not None and percent <= 100
        ]

    def _count(self, die: _Die) -> dict[str, int]:
        now_s = self._clock_ns() / NS_PER_S
        if not self._refusals.asks(die.uuid, "counters", now_s):
            return {}
        kinds = self._smi.AmdSmiUtilizationCounterType
        asked = [(getattr(kinds, name), key) for name, key, _ in _ACTIVITIES]
        try:
            told = self._smi.amdsmi_get_utilization_count(die.handle, [kind for kind, _ in asked])
        except self._smi.AmdSmiException as error:
            lasting = _code(error) in (None, _NOT_SUPPORTED)
            self._refusals.refused(die.uuid, "counters", now_s, lasting=lasting)
            return {}
        values = [_number(counter, "value") for counter in told[1:]]  # the timestamp comes first
        return {
            key: int(value)
            for (_, key), value in zip(asked, values, strict=False)
            if value is not None and value < _BLANK
        }

    def _mean(self, die: _Die, key: str, value: int) -> list[Sample]:
        now_ns = self._clock_ns()
        before_ns, before = self._counted.get((die.uuid, key), (now_ns, value))
        self._counted[die.uuid, key] = now_ns, value
        if now_ns <= before_ns or value < before:
            return []
        ratio = min(1.0, (value - before) * _PERCENT_MS_NS / (now_ns - before_ns))
        return [Sample(key, ratio, False, None, die.uuid, before_ns, now_ns, SOURCE)]

    def _power(self, die: _Die) -> list[Sample]:
        told = self._smi.amdsmi_get_power_info(die.handle)
        watts = _number(told, "current_socket_power", "socket_power", "average_socket_power")
        return (
            []
            if not watts
            else [Sample(names.GPU_POWER_MW, int(watts * 1000), hw_id=die.uuid, source=SOURCE)]
        )

    def _memory(self, die: _Die) -> list[Sample]:
        told = self._smi.amdsmi_get_gpu_vram_usage(die.handle)
        keys = (("vram_used", names.GPU_MEMORY_USED_BYTES), ("vram_total", names.GPU_MEMORY_TOTAL_BYTES))
        return [
            Sample(key, int(mib) * _MIB, hw_id=die.uuid, source=SOURCE)
            for name, key in keys
            if (mib := _number(told, name)) is not None
        ]


def _number(told: Mapping[str, Any], *keys: str) -> float | None:
    """Return the first of these that is a number: what a die does not have is "N/A", or a mark of all ones."""
    for key in keys:
        value = told.get(key)
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and value >= 0
            and value not in _MARKS
        ):
            return value
    return None


_MARKS: Final = (0xFFFF, 0xFFFFFFFFFFFFFFFF)


def _code(error: Exception) -> int | None:
    """Return the status that the library answered, if it was the library."""
    code = getattr(error, "err_code", None)
    return code if isinstance(code, int) else None
