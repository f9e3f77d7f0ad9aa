"""One device: its dense peaks by data type, its bandwidths and its memory, and the same at other clocks."""

import math
import re
from dataclasses import dataclass, replace

GPU, ACCELERATOR, CPU = "gpu", "accelerator", "cpu"


@dataclass(frozen=True)
class Device:
    """One row of the table, or what was derived from one; peaks are dense, not sparse."""

    name: str
    kind: str
    """``gpu``, ``accelerator`` or ``cpu``."""
    name_pattern: re.Pattern[str]
    """Matches the name that NVML (or the operating system, for a CPU) reports."""
    peak_flops_per_s: dict[str, float]
    """By data type; a type that is missing is unknown. ``float32`` is that of the ordinary units, not of TF32."""
    bandwidth_bytes_per_s: float | None
    """Of the device's memory; None where only the compute peak is known (an estimated CPU)."""
    memory_bytes: int | None
    power_mw: int | None
    """Power limit the peaks assume, as shipped; a lower cap lowers the clocks, and those say by how much."""
    source: str
    confidence: str
    tf32_flops_per_s: float | None = None
    """float32 matrices rounded to TF32 on tensor cores: reached only where the program allows it."""
    link_bytes_per_s: float | None = None
    """From this device to others of its kind, in one direction, all links of the device together."""
    link_source: str | None = None
    """What the links are, in words."""

    def peak_ratio(self, dtype: str) -> float | None:
        """Return the peak in a data type over that in 16 bits; None where either is not known.

        0 where the device does not compute in it: the table has float8 and float4 of every device that does.
        """
        peaks = self.peak_flops_per_s
        wide = max(peaks.get("bfloat16", 0.0), peaks.get("float16", 0.0))
        narrow = peaks.get(dtype, 0.0 if dtype in _WHERE_NOT_TOLD_NOT_THERE else None)
        return narrow / wide if wide and narrow is not None else None


_WHERE_NOT_TOLD_NOT_THERE = frozenset({"float8", "float4"})


def scaled(
    device: Device,
    sm_clock_mhz: float | None = None,
    peak_clock_mhz: float | None = None,
    memory_clock_mhz: float | None = None,
    peak_memory_clock_mhz: float | None = None,
) -> Device:
    """Return the device at the clocks it ran at: compute goes with the SM clock, bandwidth with the memory clock (C13).

    ``peak_clock_mhz`` is the clock at which the table's peak holds: the datasheet's boost clock, which may lie below
    what NVML calls the maximum (H100 SXM: 989 TFLOP/s are 132 SMs x 4096 FLOP a cycle at 1830 MHz, NVML says 1980).
    A pair of clocks that is not known, or no clock of any device, leaves its peak as it was. A power cap shows in
    the SM clock and is not counted a second time.
    """
    compute = _clock_ratio(sm_clock_mhz, peak_clock_mhz)
    memory = _clock_ratio(memory_clock_mhz, peak_memory_clock_mhz)
    if compute is None and memory is None:
        return device
    said = [
        f"{what} at {now:g} of {full:g} MHz"
        for what, now, full, ratio in (
            ("compute", sm_clock_mhz, peak_clock_mhz, compute),
            ("memory", memory_clock_mhz, peak_memory_clock_mhz, memory),
        )
        if ratio is not None
    ]
    compute, memory = compute or 1.0, memory or 1.0
    return replace(
        device,
        peak_flops_per_s={dtype: peak * compute for dtype, peak in device.peak_flops_per_s.items()},
        tf32_flops_per_s=_times(device.tf32_flops_per_s, compute),
        bandwidth_bytes_per_s=_times(device.bandwidth_bytes_per_s, memory),
        source=f"{device.source}; {', '.join(said)}",
    )


_MOST_CLOCK_RATIO = 2.0
"""No device boosts to twice the clock of its datasheet: the two are not of one device, or one is wrong."""


def _clock_ratio(now_mhz: float | None, full_mhz: float | None) -> float | None:
    if now_mhz is None or full_mhz is None or not full_mhz > 0 or not now_mhz > 0:
        return None
    ratio = now_mhz / full_mhz
    return ratio if math.isfinite(ratio) and 0 < ratio <= _MOST_CLOCK_RATIO else None


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
