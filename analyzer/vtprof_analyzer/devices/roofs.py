"""Ceilings of a device: what it attained when it was measured, or what its datasheet says, for one data type."""

from dataclasses import dataclass, replace

from vtprof_analyzer.devices.catalogue import look_up
from vtprof_analyzer.devices.device import CPU, Device
from vtprof_analyzer.devices.host import host_device, of_cores
from vtprof_analyzer.models.weights import canonical_dtype

__all__ = [
    "ATTAINABLE",
    "CPU",
    "DATASHEET",
    "Roof",
    "RoofChoice",
    "choose_roof",
    "datasheet_roof",
    "plausible",
    "recorded_roof",
]

ATTAINABLE = "attainable"
DATASHEET = "datasheet"


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

    link_bytes_per_s: float | None = None
    """What the devices send one another, each way and all of them together; None where it is not known."""

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
            link_bytes_per_s=None if self.link_bytes_per_s is None else self.link_bytes_per_s * devices,
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
    if device.bandwidth_bytes_per_s is None:
        return (
            f"{device.name}: {_flops_per_s(peak)} in {canonical} ({device.source}), but its memory bandwidth is not"
            f" known: no roof; {_MEASURE}"
        )
    return Roof(DATASHEET, peak, device.bandwidth_bytes_per_s, canonical, device.source, device.confidence)


def _flops_per_s(peak: float) -> str:
    """Show a peak; a CPU's may be far below a TFLOP/s."""
    return f"{peak / 1e12:.3g} TFLOP/s" if peak >= 1e12 else f"{peak / 1e9:.3g} GFLOP/s"


LEAST, LARGEST = 1e6, 1e21
"""Ceilings [FLOP/s, B/s] outside are no measurement of any device."""
_MEASURE = "`vtprof calibrate` measures it there"


def plausible(ceiling: float | None) -> bool:
    """Tell whether a ceiling [FLOP/s, B/s] can be that of a device; None, a ceiling that is not known, can."""
    return ceiling is None or LEAST <= ceiling <= LARGEST


def choose_roof(
    device_name: str | None,
    dtype: str | None,
    recorded_peak_flops_per_s: float | None = None,
    recorded_bandwidth_bytes_per_s: float | None = None,
    recorded_source: str | None = None,
    devices: int = 1,
    device_kind: str | None = None,
    measured: Roof | None = None,
    cores: int | None = None,
) -> RoofChoice:
    """Collect the roofs of a run, the best first: recorded in the trace, ``measured`` before, the datasheet's.

    ``measured`` is what a stored calibration says of this device and data type (`Calibrations.roof`). An unknown device
    that nobody measured has no roof (C14). ``devices`` is the number of ranks that share the work of a step (tensor
    parallelism); ``device_kind`` (cuda or cpu) decides what would make an unknown roof known; ``cores`` are those that
    the process could use, of which a CPU of the table may have more.
    """
    roofs: list[Roof] = []
    notes: list[str] = []
    if not (plausible(recorded_peak_flops_per_s) and plausible(recorded_bandwidth_bytes_per_s)):
        notes.append(
            f"recorded ceilings are out of range ({recorded_peak_flops_per_s} FLOP/s,"
            f" {recorded_bandwidth_bytes_per_s} B/s): left out"
        )
        recorded_peak_flops_per_s = recorded_bandwidth_bytes_per_s = None
    recorded = recorded_roof(
        recorded_peak_flops_per_s, recorded_bandwidth_bytes_per_s, recorded_source, dtype
    )
    roofs += [roof for roof in (recorded, measured) if roof is not None]
    found = _find(device_name, device_kind, cores)
    device = found if isinstance(found, Device) else None
    sheet = (
        datasheet_roof(device, dtype)
        if device is not None
        else f"{found}: no roofline; {_remedy(device_kind)}"
    )
    if isinstance(sheet, Roof):
        roofs.append(sheet)
    elif not roofs:
        notes.append(sheet)
    link = device.link_bytes_per_s if device is not None else None
    scaled = [replace(roof, link_bytes_per_s=link).times(max(1, devices)) for roof in roofs]
    return RoofChoice(scaled, scaled[0] if scaled else None, device, notes)


def _find(name: str | None, kind: str | None, cores: int | None) -> Device | str:
    if not name:
        return "device not recorded"
    if kind == CPU:
        return host_device(name, cores)
    found = look_up(name)
    return of_cores(found, cores) if isinstance(found, Device) else found


def _remedy(device_kind: str | None) -> str:
    if device_kind == CPU:
        return "record with `vtprof-agent exec --calibrate-host`, or run `vtprof calibrate` on that machine"
    return "name one with --device, or run `vtprof calibrate` on that machine"
