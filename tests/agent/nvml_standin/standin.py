"""Builds the stand-in for libnvidia-ml.so.1 and scripts it: ``build`` compiles it, ``Control`` is its control file.

A process sees it when it is started with ``environment(folder, control)``; what is set later takes effect at once.
"""

import ctypes
import mmap
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("standin.c")
VARIABLE: Final = "VTPROF_NVML_STANDIN"
MAGIC: Final = 0x56544D4C
NS_PER_S: Final = 1_000_000_000
SERIES: Final = ("dram", "tensor", "sm", "occupancy", "power_mw")
CALLS: Final = (
    "uuid", "name", "memory", "utilization", "power_usage", "energy", "clock", "pcie", "field_values", "mig_mode",
    "gpm_support", "gpm_sample", "gpm_metrics", "handle", "power_default_limit", "power_enforced_limit",
)  # fmt: skip
"""What can fail and is counted, in the order of the C enum."""
NOT_SUPPORTED, NO_PERMISSION, GPU_IS_LOST, VERSION_MISMATCH = 3, 4, 15, 18
_GPUS, _INSTANCES, _SEGMENTS, _METRICS, _FIELDS, _CALLS = 16, 8, 256, 8, 16, 24
_U32, _I32, _U64, _I64, _F64 = (
    ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64, ctypes.c_int64, ctypes.c_double,
)  # fmt: skip


class _Segment(ctypes.Structure):
    _fields_ = (("until_ns", _I64), ("level", _F64 * len(SERIES)))


class _Script(ctypes.Structure):
    _fields_ = (("segments", _U32), ("pad", _U32), ("period_ns", _I64), ("segment", _Segment * _SEGMENTS))


class _Fault(ctypes.Structure):
    _fields_ = (("id", _U32), ("result", _I32))


class _Instance(ctypes.Structure):
    _fields_ = (
        ("uuid", ctypes.c_char * 96), ("gi", _U32), ("ci", _U32), ("present", _U32), ("pad", _U32), ("share", _F64),
    )  # fmt: skip


class _Gpu(ctypes.Structure):
    _fields_ = (
        ("uuid", ctypes.c_char * 96), ("name", ctypes.c_char * 96), ("lost", _I32), ("generation", _U32),
        ("gpm", _U32), ("busy_percent", _U32), ("memory_busy_percent", _U32), ("sm_clock_mhz", _U32),
        ("memory_clock_mhz", _U32), ("pcie_kb_per_s", _U32 * 2), ("mig", _U32), ("instances", _U32),
        ("power_default_limit_mw", _U32), ("power_enforced_limit_mw", _U32), ("pad", _U32), ("memory_total", _U64),
        ("memory_used", _U64), ("energy_base_mj", _U64), ("energy_from_ns", _I64),
        ("throttle_power", _F64), ("throttle_thermal", _F64), ("result", _I32 * _CALLS),
        ("metric", _Fault * _METRICS), ("metric_value", _F64 * _METRICS), ("field", _Fault * _FIELDS),
        ("instance", _Instance * _INSTANCES), ("script", _Script),
    )  # fmt: skip


class _Control(ctypes.Structure):
    _fields_ = (
        ("magic", _U32), ("gpus", _U32), ("init_result", _I32), ("virtual_clock", _U32), ("driver", _U32),
        ("delay_us", _U32), ("virtual_ns", _I64), ("origin_ns", _I64), ("gpm_refresh_ns", _I64),
        ("energy_refresh_ns", _I64), ("calls", _U64 * _CALLS), ("gpu", _Gpu * _GPUS),
    )  # fmt: skip


@dataclass(frozen=True)
class Activity:
    """What a GPU does for a while; ratios are 0 to 1."""

    dram: float = 0.0
    tensor: float = 0.0
    sm: float = 0.0
    occupancy: float = 0.0
    power_mw: float = 100_000.0


def build(folder: Path, without: Sequence[str] = ()) -> Path:
    """Compile libnvidia-ml.so.1 into a folder and return the folder; ``without`` leaves symbols out, as old drivers do."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libnvidia-ml.so.1"
    renamed = [f"-D{symbol}=absent_{symbol}" for symbol in without]
    command = [
        "gcc",
        "-O2",
        "-shared",
        "-fPIC",
        "-Wl,-soname,libnvidia-ml.so.1",
        *renamed,
        "-o",
        str(library),
    ]
    subprocess.run([*command, str(SOURCE), "-lm"], check=True, capture_output=True, text=True)
    return folder


def environment(folder: Path, control: "Control") -> dict[str, str]:
    """Return the environment for a process that is to load the stand-in in place of the driver's library."""
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), VARIABLE: str(control.path)}


class Control:
    """The control file; what is set is seen by the library at once. GPU ``i`` has the UUID ``GPU-standin-<i>``."""

    def __init__(
        self,
        path: Path,
        gpus: int = 2,
        *,
        gpm: bool = True,
        virtual: bool = False,
        gpm_refresh_s: float = 0.0,
        energy_refresh_s: float = 0.1,
    ) -> None:
        """Write a new control file: idle GPUs at 100 W; the clock is the machine's, or virtual and begins at 1 s."""
        self.path = path
        path.write_bytes(bytes(ctypes.sizeof(_Control)))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._raw = _Control.from_buffer(self._map)
        self._raw.gpus = gpus
        self._raw.virtual_clock = int(virtual)
        self._raw.virtual_ns = NS_PER_S
        self._raw.origin_ns = 0 if virtual else time.monotonic_ns()
        self._raw.gpm_refresh_ns = int(gpm_refresh_s * NS_PER_S)
        self._raw.energy_refresh_ns = int(energy_refresh_s * NS_PER_S)
        for index in range(gpus):
            gpu = self._raw.gpu[index]
            gpu.uuid, gpu.name = uuid(index).encode(), b"NVIDIA Stand-in"
            gpu.gpm, gpu.sm_clock_mhz, gpu.memory_clock_mhz = int(gpm), 1980, 2619
            gpu.power_default_limit_mw, gpu.power_enforced_limit_mw = 700_000, 700_000
            gpu.memory_total, gpu.memory_used = 150 << 30, 70 << 30
            self.activity(index, Activity())
        self._raw.magic = MAGIC

    @property
    def origin_ns(self) -> int:
        """Return when the scripts begin: monotonic ns of this machine, 0 on the virtual clock."""
        return int(self._raw.origin_ns)

    @origin_ns.setter
    def origin_ns(self, at_ns: int) -> None:
        self._raw.origin_ns = at_ns

    def activity(self, gpu: int, now: Activity) -> None:
        """Let a GPU do the same all the time, from the origin on: what ``script`` says is void."""
        self.script(gpu, [(1.0, now)])

    def script(self, gpu: int, parts: Sequence[tuple[float, Activity]], *, repeat: bool = False) -> None:
        """Let a GPU do each part for its seconds, from the origin on; then the last one, or all over again."""
        assert 0 < len(parts) <= _SEGMENTS
        script = self._raw.gpu[gpu].script
        until_ns = 0
        for index, (seconds, what) in enumerate(parts):
            until_ns += int(seconds * NS_PER_S)
            segment = script.segment[index]
            segment.until_ns = until_ns
            for series, name in enumerate(SERIES):
                segment.level[series] = getattr(what, name)
        script.segments, script.period_ns = len(parts), until_ns if repeat else 0

    @property
    def virtual_ns(self) -> int:
        """Return the time of the virtual clock."""
        return int(self._raw.virtual_ns)

    def advance(self, seconds: float) -> None:
        """Move the virtual clock."""
        self._raw.virtual_ns += int(seconds * NS_PER_S)

    def set(self, gpu: int, **values: float) -> None:
        """Set plain values of a GPU by their names in ``standin.c``: ``busy_percent``, ``memory_used``, ``mig``, ..."""
        raw = self._raw.gpu[gpu]
        for name, value in values.items():
            assert hasattr(raw, name), name
            setattr(raw, name, value)

    def pcie(self, gpu: int, tx_kb_per_s: int, rx_kb_per_s: int) -> None:
        """Set the PCIe throughput."""
        self._raw.gpu[gpu].pcie_kb_per_s[:] = (tx_kb_per_s, rx_kb_per_s)

    def init_result(self, result: int) -> None:
        """Let nvmlInit fail with this error from now on; 0: succeed."""
        self._raw.init_result = result

    def fail(self, gpu: int, call: str, result: int) -> None:
        """Let a call (one of ``CALLS``) on a GPU answer with this error; 0: succeed."""
        self._raw.gpu[gpu].result[CALLS.index(call)] = result

    def fail_field(self, gpu: int, field: int, result: int) -> None:
        """Let one field of FieldValues answer with this error; 0: succeed."""
        self._slot(self._raw.gpu[gpu].field, field)[1].result = result

    def metric(self, gpu: int, metric: int, result: int = 0, value: float = float("nan")) -> None:
        """Let one GPM metric answer with an error, or with this value when the result is 0."""
        index, fault = self._slot(self._raw.gpu[gpu].metric, metric)
        fault.result = result
        self._raw.gpu[gpu].metric_value[index] = value

    def heal(self, gpu: int) -> None:
        """Let all GPM metrics of a GPU tell the truth again."""
        for fault in self._raw.gpu[gpu].metric:
            fault.id = 0

    def lose(self, gpu: int, result: int = GPU_IS_LOST) -> None:
        """Let a GPU fall off the bus."""
        self._raw.gpu[gpu].lost = result

    def find(self, gpu: int) -> None:
        """Let a lost GPU come back: new handles work, older ones stay lost."""
        self._raw.gpu[gpu].generation += 1
        self._raw.gpu[gpu].lost = 0

    def reload_driver(self) -> None:
        """Reload the driver: the library must be shut down and opened anew, and energy counts from zero."""
        now_ns = int(self._raw.virtual_ns) if self._raw.virtual_clock else time.monotonic_ns()
        for gpu in self._raw.gpu[: self._raw.gpus]:
            gpu.energy_base_mj, gpu.energy_from_ns = 0, now_ns
        self._raw.driver += 1

    def delay(self, seconds: float) -> None:
        """Let every call on a device take so long; some 100 s is a driver that hangs."""
        self._raw.delay_us = int(seconds * 1e6)

    def instances(self, gpu: int, many: Sequence[tuple[str, int, bool, float]]) -> None:
        """Put a GPU into MIG mode with instances: (UUID, GPU instance id, whether it has a compute instance, share)."""
        raw = self._raw.gpu[gpu]
        for index, (name, instance, present, share) in enumerate(many):
            one = raw.instance[index]
            one.uuid, one.gi, one.present, one.share = name.encode(), instance, int(present), share
        raw.instances, raw.mig = len(many), 1

    def calls(self) -> Mapping[str, int]:
        """Return how often each call was made, over all GPUs."""
        return {name: int(self._raw.calls[index]) for index, name in enumerate(CALLS)}

    @staticmethod
    def _slot(faults: "ctypes.Array[_Fault]", number: int) -> tuple[int, _Fault]:
        """Return the place of an id, a free one when it has none yet."""
        for index, fault in enumerate(faults):
            if fault.id in (0, number):
                fault.id = number
                return index, fault
        raise ValueError("no place for another fault")


def uuid(gpu: int) -> str:
    """Return the UUID of a GPU of the stand-in."""
    return f"GPU-standin-{gpu}"
