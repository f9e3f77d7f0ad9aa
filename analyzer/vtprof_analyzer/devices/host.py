"""The host's CPU as a device: its name and cores, a row of the table cut to the cores in use, or an estimate.

An estimate is cores x FLOP a cycle x clock, of the vector or matrix units that the CPU's generation has. The bandwidth
of the memory depends on what is installed, which no name tells: it stays unknown until `vtprof calibrate` measures it.
"""

import math
import os
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path

from vtprof_analyzer.devices.catalogue import look_up
from vtprof_analyzer.devices.device import CPU, Device

CPUINFO = Path("/proc/cpuinfo")
HOST_NAMES = ("host", "cpu")
"""What users call this machine's CPU."""
_UNITS = "FLOP a cycle and core"


@dataclass(frozen=True)
class _Generation:
    """CPUs whose cores do the same work in a cycle."""

    pattern: re.Pattern[str]
    flop_per_cycle: dict[str, int]
    """Of one core, by data type, multiply-add counted as 2."""
    units: str


def _generation(pattern: str, units: str, **flop_per_cycle: int) -> _Generation:
    return _Generation(re.compile(pattern), flop_per_cycle, units)


_GENERATIONS = (
    _generation(r"EPYC 7\d\d1\b", "2 FMA units of 128 bits (Zen)", float32=16),
    _generation(r"EPYC 7\w\w[23]\b", "2 FMA units of 256 bits (Zen 2, Zen 3)", float32=32),
    _generation(
        r"EPYC (9\d\d4|8\d\d4)\w?\b", "2 FMA units of 256 bits, AVX512_BF16 (Zen 4)", float32=32, bfloat16=64
    ),
    _generation(
        r"EPYC 9\d\d5\w?\b", "2 FMA units of 512 bits, AVX512_BF16 (Zen 5)", float32=64, bfloat16=128
    ),
    _generation(
        r"Xeon\(R\) (Platinum 81\d\d|Platinum 82\d\d|Gold 6[12]\d\d)\w?\b",
        "2 FMA units of 512 bits (Skylake, Cascade Lake)",
        float32=64,
    ),
    _generation(
        r"Xeon\(R\) (Platinum 83\d\d|Gold [56]3\d\d)\w*\b", "2 FMA units of 512 bits (Ice Lake)", float32=64
    ),
    _generation(
        r"Xeon\(R\) ((Platinum 8|Gold [56])[45]\d\d\w*|6[79]\d\dP)",
        "2 FMA units of 512 bits, AMX-BF16 (Sapphire Rapids and later)",
        float32=64,
        bfloat16=1024,
    ),
    _generation(r"Neoverse-N1\b", "2 vector units of 128 bits", float32=16),
    _generation(r"Neoverse-V1\b", "2 vector units of 256 bits, BFMMLA", float32=32, bfloat16=128),
    _generation(r"Neoverse-V2\b", "4 vector units of 128 bits, BFMMLA", float32=32, bfloat16=128),
)
_CLOCK_IN_NAME = re.compile(r"@ (\d{1,2}(?:\.\d{1,3})?) ?GHz", re.IGNORECASE)
_CORES_OF_ROW = re.compile(r"\b(\d+)c\b")
_MOST_CORES = 4096
_FASTEST_MHZ = 10_000


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """Return the CPU's model name as Linux tells it, else the architecture: the name that the probe records."""
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(("model name", "Model")) and ":" in line:
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def cpu_clock_mhz(cpuinfo: Path = CPUINFO) -> float | None:
    """Return the highest clock that Linux reports of any core at this moment, or None."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    clocks = [
        float(found) for found in re.findall(r"^cpu MHz\s*:\s*(\d{1,6}(?:\.\d+)?)\s*$", text, re.MULTILINE)
    ]
    return max((clock for clock in clocks if 0 < clock <= _FASTEST_MHZ), default=None)


def host_device(name: str, cores: int | None, clock_mhz: float | None = None) -> Device | str:
    """Return the CPU of this name with so many cores in use, or one line that says what is missing.

    A row of the table comes first, cut to the cores; without one the peaks are estimated, with low confidence and
    without a bandwidth (C14). ``clock_mhz`` is used where the name holds no clock.
    """
    found = look_up(name)
    if isinstance(found, Device):
        return of_cores(found, cores) if found.kind == CPU else f"{found.name} is no CPU"
    generation = next((g for g in _GENERATIONS if g.pattern.search(name[:200])), None)
    if generation is None:
        return found
    in_name = _CLOCK_IN_NAME.search(name[:200])
    mhz = float(in_name[1]) * 1000 if in_name else clock_mhz
    if cores is None or not 1 <= cores <= _MOST_CORES:
        return f"{name}: the number of cores is not known, so its peak is not either"
    if mhz is None or not (math.isfinite(mhz) and 0 < mhz <= _FASTEST_MHZ):
        return f"{name}: the clock is not known, so its peak is not either"
    return Device(
        name=name,
        kind=CPU,
        name_pattern=re.compile(re.escape(name)),
        peak_flops_per_s={
            dtype: cores * flop * mhz * 1e6 for dtype, flop in generation.flop_per_cycle.items()
        },
        bandwidth_bytes_per_s=None,
        memory_bytes=None,
        power_mw=None,
        source=f"estimated: {cores} cores x "
        + "/".join(f"{flop} ({dtype})" for dtype, flop in generation.flop_per_cycle.items())
        + f" {_UNITS} x {mhz / 1000:g} GHz; {generation.units}",
        confidence="low",
    )


def is_host(name: str) -> bool:
    """Tell whether a user means this machine's CPU."""
    return name.strip().lower() in HOST_NAMES


def host_cores() -> int:
    """Return how many of this machine's CPUs this process may use, two threads of a core being two."""
    return len(os.sched_getaffinity(0))


def this_host() -> Device:
    """Return this machine's CPU, on the cores that this process may use; without peaks where its name tells none."""
    name = cpu_name()
    found = host_device(name, host_cores(), cpu_clock_mhz())
    if not isinstance(found, Device):
        found = Device(name, CPU, re.compile(re.escape(name)), {}, None, None, None, found, "low")
    return replace(found, name=name, memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def of_cores(device: Device, cores: int | None) -> Device:
    """Return a CPU of the table with the share of its compute that so many cores are.

    Its bandwidth stays whole, for few cores can draw most of it. More cores than the row has (two sockets, or two
    threads a core) leave it as it is.
    """
    of_row = _CORES_OF_ROW.search(device.name)
    if device.kind != CPU or of_row is None or cores is None or not 1 <= cores < int(of_row[1]):
        return device
    share = cores / int(of_row[1])
    return replace(
        device,
        name=f"{device.name} on {cores} cores",
        peak_flops_per_s={dtype: peak * share for dtype, peak in device.peak_flops_per_s.items()},
        source=f"{cores} of {of_row[1]} cores: {device.source}",
    )
