"""Ceilings of a device: what it attained when it was measured, or what its datasheet says, for one data type."""

from dataclasses import dataclass, replace

from vtprof_analyzer.devices.catalogue import Device, find_device
from vtprof_analyzer.models.spec import canonical_dtype

ATTAINABLE = "attainable"
DATASHEET = "datasheet"
CPU = "cpu"


@dataclass(frozen=True)
class Roof:
    """One pair of ceilings: compute and bandwidth."""

    kind: str
    """`ATTAINABLE` (measured on that machine) or `DATASHEET` (an upper bound)."""
    peak_flops_per_s: float
    bandwidth_bytes_per_s: float
    dtype: str
    source: str
    confidence: str = "high"
    """Of the two values: high, medium or low."""
    doubt: str = "the device's peaks are uncertain"
    """Why the confidence is low, where it is."""

    @property
    def ridge(self) -> float:
        """Return the intensity [FLOP/B] at which both ceilings meet (F29)."""
        return self.peak_flops_per_s / self.bandwidth_bytes_per_s

    def times(self, devices: int) -> "Roof":
        """Return the roof of several devices together; the ridge does not change (F19)."""
        return replace(
            self,
            peak_flops_per_s=self.peak_flops_per_s * devices,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s * devices,
        )


@dataclass(frozen=True)
class RoofChoice:
    """All roofs known, the one that verdicts use, and one line for everything that is unknown."""

    roofs: list[Roof]
    roof: Roof | None
    device: Device | None
    notes: list[str]


def recorded_roof(
    peak_flops_per_s: float | None, bandwidth_bytes_per_s: float | None, source: str | None, dtype: str | None
) -> Roof | None:
    """Return the roof that was measured beside the run, or None when it was not (or is no positive number)."""
    if not peak_flops_per_s or not bandwidth_bytes_per_s or peak_flops_per_s < 0 or bandwidth_bytes_per_s < 0:
        return None
    return Roof(
        ATTAINABLE,
        peak_flops_per_s,
        bandwidth_bytes_per_s,
        dtype or "unknown",
        source or "recorded in the trace",
    )


def datasheet_roof(device: Device, dtype: str | None) -> Roof | str:
    """Return the dense datasheet roof of a device for a data type, or one line that says why there is none."""
    canonical = canonical_dtype(dtype)
    if canonical is None:
        return f"data type {dtype or 'not recorded'}: no roof of {device.name} without one"
    peak = device.peak_flops_per_s.get(canonical)
    if peak is None:
        known = ", ".join(device.peak_flops_per_s) or "none"
        return f"{device.name} has no {canonical} roof in the device table (it has: {known})"
    return Roof(DATASHEET, peak, device.bandwidth_bytes_per_s, canonical, device.source, device.confidence)


LEAST, LARGEST = 1e6, 1e21
"""Ceilings [FLOP/s, B/s] outside are no measurement of any device."""


def _plausible(ceiling: float | None) -> bool:
    return ceiling is None or LEAST <= ceiling <= LARGEST


def choose_roof(
    device_name: str | None,
    dtype: str | None,
    recorded_peak_flops_per_s: float | None = None,
    recorded_bandwidth_bytes_per_s: float | None = None,
    recorded_source: str | None = None,
    devices: int = 1,
    device_kind: str | None = None,
) -> RoofChoice:
    """Collect the roofs of a run; a measured one goes before the datasheet's. An unknown device has none (C14).

    ``devices`` is the number of ranks that share the work of a step (tensor parallelism); ``device_kind`` (cuda or
    cpu) decides what would make an unknown roof known.
    """
    roofs: list[Roof] = []
    notes: list[str] = []
    if not (_plausible(recorded_peak_flops_per_s) and _plausible(recorded_bandwidth_bytes_per_s)):
        notes.append(
            f"recorded ceilings are out of range ({recorded_peak_flops_per_s} FLOP/s,"
            f" {recorded_bandwidth_bytes_per_s} B/s): left out"
        )
        recorded_peak_flops_per_s = recorded_bandwidth_bytes_per_s = None
    recorded = recorded_roof(
        recorded_peak_flops_per_s, recorded_bandwidth_bytes_per_s, recorded_source, dtype
    )
    if recorded is not None:
        roofs.append(recorded)
    device = find_device(device_name) if device_name else None
    if device is not None:
        sheet = datasheet_roof(device, dtype)
        if isinstance(sheet, Roof):
            roofs.append(sheet)
        elif recorded is None:
            notes.append(sheet)
    elif recorded is None:
        what = f"device {device_name!r} is not in the device table" if device_name else "device not recorded"
        remedy = (
            "record with `vtprof-agent exec --calibrate-host`"
            if device_kind == CPU
            else "name one with --device"
        )
        notes.append(f"{what}: no roofline; {remedy}")
    scaled = [roof.times(max(1, devices)) for roof in roofs]
    return RoofChoice(scaled, scaled[0] if scaled else None, device, notes)
