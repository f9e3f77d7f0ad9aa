"""NVIDIA GPUs through NVML: busy time, memory, power, energy, clocks, throttling. No DRAM or tensor counters.

NVML's "utilization" is the share of time in which any kernel ran, or memory was used at all: never a bandwidth.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from vtprof_agent.samplers.nvml_session import SHARED, Gpu, NvmlSession
from vtprof_agent.samplers.refusals import Refusals
from vtprof_agent.samplers.sampler import QUIET_S, Device, Sample
from vtprof_schemas import names
from vtprof_schemas.units import NS_PER_S

SOURCE: Final = "nvml"
ENERGY_LAG_NS: Final = 50_000_000
"""The driver renews the energy counter every 100 ms or so: what it shows is half of that old on average."""
_POWER_INSTANT, _POWER_AVERAGE = 186, 185
_POWER_CAP, _POWER_BRAKE, _THERMAL, _THERMAL_SOFTWARE, _THERMAL_HARDWARE = 74, 271, 75, 269, 270
FIELDS: Final = (
    (_POWER_INSTANT, 0), (_POWER_AVERAGE, 0),
    _POWER_CAP, _POWER_BRAKE, _THERMAL, _THERMAL_SOFTWARE, _THERMAL_HARDWARE,
)  # fmt: skip
"""Field ids of ``nvml.h``, power with the scope "GPU" (mW); the others are times with lowered clocks (ns)."""
_VALUE: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Members of nvmlValue_t, by nvmlValueType_t."""
_MEMORY_V2: Final = 0x02000028
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "energy": (names.GPU_ENERGY_MJ,),
    "power": (names.GPU_POWER_MW,),
    "utilization": (names.GPU_BUSY_RATIO, names.GPU_MEMORY_BUSY_RATIO),
    "memory_v1": (names.GPU_MEMORY_USED_BYTES, names.GPU_MEMORY_TOTAL_BYTES),
    "sm_clock": (names.GPU_SM_CLOCK_MHZ,),
    "memory_clock": (names.GPU_MEMORY_CLOCK_MHZ,),
}
"""What a device does not tell where a reading fails; none where another reading tells it too."""
OF_THE_WHOLE: Final = "NVML tells it of the whole GPU alone"
_OF_WHOLE_GPU: Final = frozenset(("energy", "fields", "power"))
"""Readings that drivers answer for a MIG device, if at all, with what its whole GPU takes, which is read of that GPU."""

Values = list[tuple[str, int | float]]


class NvmlSampler:
    """Reads every GPU that the driver shows; handles are keyed by UUID, so that an order of indexes cannot mislead."""

    period_s = 1.0
    """The driver itself averages over up to a second, and renews energy at times unknown: oftener tells no more."""
    quiet_s = QUIET_S

    def __init__(
        self, session: NvmlSession = SHARED, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Prepare; nothing is opened."""
        self._session = session
        self._clock_ns = clock_ns
        self._refusals = Refusals()
        self._open = False
        self._seen: dict[str, Gpu] = {}
        self._missing: dict[str, dict[str, str]] = {}
        self._readings: tuple[tuple[str, Callable[[Any], Values], str], ...] = (
            ("energy", self._energy, ""),
            ("fields", self._fields, ""),
            ("power", self._power, names.GPU_POWER_MW),
            ("utilization", self._utilization, ""),
            ("memory", self._memory, ""),
            ("memory_v1", self._memory_v1, names.GPU_MEMORY_USED_BYTES),
            ("sm_clock", self._sm_clock, ""),
            ("memory_clock", self._memory_clock, ""),
        )
        """What is read, how, and of which quantity it is the lesser source, read only where the better told none."""

    def why_not(self) -> str | None:
        """Return why there is no NVML here: no binding, no driver, no GPU, no permission."""
        return self._session.why_not()

    def open(self) -> None:
        """Connect to the driver and find the GPUs; raises BackendError in the user's words."""
        if not self._open:
            self._session.open()
            self._open = True

    def devices(self) -> list[Device]:
        """Return the GPUs and MIG devices. ``gpm`` tells whether the driver offers performance metrics for the device."""
        return [
            Device(
                gpu.uuid,
                gpu.name,
                {
                    "gpm": gpm_offered(self._session, gpu),
                    **({"mig_of": gpu.parent.uuid} if gpu.parent else {}),
                },
                power_limit(self._session, gpu),
            )
            for gpu in self._session.gpus
        ]

    def sample(self, pids: frozenset[int]) -> list[Sample]:  # noqa: ARG002  # the protocol's
        """Read each GPU once; a quantity that a device does not offer is left out."""
        now_s = self._clock_ns() / NS_PER_S
        samples: list[Sample] = []
        gpus = self._session.gpus
        for gpu in gpus:
            if self._seen.get(gpu.uuid) is not gpu:
                self._seen[gpu.uuid] = gpu
                self._refusals.forget(gpu.uuid)
                here = {one.uuid for one in gpus} - {gpu.uuid}
                self._missing = {uuid: keys for uuid, keys in self._missing.items() if uuid in here}
                if gpu.parent:
                    self._missing[gpu.uuid] = {
                        key: OF_THE_WHOLE for what in _OF_WHOLE_GPU for key in KEYS.get(what, ())
                    }
            self._read(gpu, now_s, samples)
        return samples

    def lost(self) -> Mapping[str, str]:
        """Return which GPUs fell off the bus, or why the driver does not answer."""
        return self._session.lost()

    def refused(self) -> Mapping[str, str]:
        """Return nothing: what a device does not offer is left out."""
        return {}

    def missing(self) -> Mapping[str, Mapping[str, str]]:
        """Return what the driver answered where it does not tell a quantity."""
        return self._missing.copy()

    def close(self) -> None:
        """Disconnect from the driver."""
        if self._open:
            self._open = False
            self._session.close()

    def _read(self, gpu: Gpu, now_s: float, samples: list[Sample]) -> None:
        had: set[str] = set()
        for what, read, wanted in self._readings:
            if wanted in had or (gpu.parent and what in _OF_WHOLE_GPU):
                continue
            if not self._refusals.asks(gpu.uuid, what, now_s):
                continue
            try:
                values = read(gpu.handle)
            except self._session.nvml.NVMLError as error:
                lasting = self._session.refused(gpu, error)
                if lasting is None:
                    return  # lost, and found again later
                self._refusals.refused(gpu.uuid, what, now_s, lasting=lasting)
                untold = dict.fromkeys(KEYS.get(what, ()), f"NVML: {error}")
                self._missing[gpu.uuid] = self._missing.get(gpu.uuid, {}) | untold
                continue
            had.update(key for key, _ in values)
            missing = self._missing.get(gpu.uuid)
            if missing and not had.isdisjoint(missing):
                self._missing[gpu.uuid] = {key: why for key, why in missing.items() if key not in had}
            for key, value in values:
                read_ns = self._clock_ns() - ENERGY_LAG_NS if key == names.GPU_ENERGY_MJ else None
                samples.append(Sample(key, value, key in _CUMULATIVE, None, gpu.uuid, None, read_ns, SOURCE))

    # --- Reading; each may raise the binding's error -------------------------------------------------------

    def _energy(self, handle: Any) -> Values:
        return [(names.GPU_ENERGY_MJ, self._session.nvml.nvmlDeviceGetTotalEnergyConsumption(handle))]

    def _fields(self, handle: Any) -> Values:
        told = {
            field.fieldId: int(getattr(field.value, _VALUE[field.valueType]))
            for field in self._session.nvml.nvmlDeviceGetFieldValues(handle, FIELDS)
            if field.nvmlReturn == 0 and 0 <= field.valueType < len(_VALUE)
        }
        return field_values(told)

    def _power(self, handle: Any) -> Values:
        return [(names.GPU_POWER_MW, int(self._session.nvml.nvmlDeviceGetPowerUsage(handle)))]

    def _utilization(self, handle: Any) -> Values:
        rates = self._session.nvml.nvmlDeviceGetUtilizationRates(handle)
        return [(names.GPU_BUSY_RATIO, rates.gpu / 100), (names.GPU_MEMORY_BUSY_RATIO, rates.memory / 100)]

    def _memory(self, handle: Any) -> Values:
        return _memory_values(self._session.nvml.nvmlDeviceGetMemoryInfo(handle, version=_MEMORY_V2))

    def _memory_v1(self, handle: Any) -> Values:
        return _memory_values(self._session.nvml.nvmlDeviceGetMemoryInfo(handle))

    def _sm_clock(self, handle: Any) -> Values:
        nvml = self._session.nvml
        return [(names.GPU_SM_CLOCK_MHZ, int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)))]

    def _memory_clock(self, handle: Any) -> Values:
        nvml = self._session.nvml
        return [(names.GPU_MEMORY_CLOCK_MHZ, int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)))]


_CUMULATIVE: Final = frozenset(
    (names.GPU_ENERGY_MJ, names.GPU_THROTTLE_POWER_NS, names.GPU_THROTTLE_THERMAL_NS)
)


def field_values(told: Mapping[int, int]) -> Values:
    """Return our values of the fields that a device answered: power, and times with lowered clocks by cause."""
    values: Values = []
    power = told.get(_POWER_INSTANT) or told.get(_POWER_AVERAGE)
    if power is not None:
        values.append((names.GPU_POWER_MW, power))
    limited = [told[field] for field in (_POWER_CAP, _POWER_BRAKE) if field in told]
    if limited:
        values.append((names.GPU_THROTTLE_POWER_NS, sum(limited)))
    hot = [told[field] for field in (_THERMAL_SOFTWARE, _THERMAL_HARDWARE) if field in told]
    hot = hot or [told[field] for field in (_THERMAL,) if field in told]
    if hot:
        values.append((names.GPU_THROTTLE_THERMAL_NS, sum(hot)))
    return values


def gpm_offered(session: NvmlSession, gpu: Gpu) -> bool:
    """Tell whether the driver offers performance metrics for a GPU; a GPU cut into instances has them by instance."""
    whole = gpu.parent or gpu
    try:
        return not gpu.mig and bool(session.nvml.nvmlGpmQueryDeviceSupport(whole.handle).isSupportedDevice)
    except (session.nvml.NVMLError, AttributeError):
        return False


def power_limit(session: NvmlSession, gpu: Gpu) -> int | None:
    """Return the power limit in mW that a GPU was made for, else the one in force; None where neither is offered.

    Not the one in force first: that one is lowered takes nothing off its idle power.
    """
    for call in ("nvmlDeviceGetPowerManagementDefaultLimit", "nvmlDeviceGetEnforcedPowerLimit"):
        try:
            limit_mw = int(getattr(session.nvml, call)(gpu.handle))
        except (session.nvml.NVMLError, AttributeError):
            continue
        if limit_mw > 0:
            return limit_mw
    return None


def _memory_values(memory: Any) -> Values:
    return [
        (names.GPU_MEMORY_USED_BYTES, int(memory.used)),
        (names.GPU_MEMORY_TOTAL_BYTES, int(memory.total)),
    ]
