"""The device that a user names with ``--device``: a row of the table, a slice of one, or this machine's CPU."""

from dataclasses import dataclass, replace

from vtprof_analyzer.devices import mig
from vtprof_analyzer.devices.catalogue import catalogue, find_typed, look_up, suggest
from vtprof_analyzer.devices.device import CPU, Device
from vtprof_analyzer.devices.host import host_cores, is_host, this_host
from vtprof_analyzer.devices.measured import Calibrations
from vtprof_analyzer.devices.roofs import RoofChoice, choose_roof
from vtprof_schemas.errors import ConfigError

NAMED_EXAMPLES = ("NVIDIA H100 SXM 80GB", "NVIDIA H200 SXM", "AMD Instinct MI300X")
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Typed:
    """A device that a user named."""

    device: Device
    note: str | None = None
    """What the name was taken as, where that is not plain."""
    cores: int | None = None
    """Of this machine's CPU, those that this process may use; None for any other device."""

    def roofs(self, dtype: str | None, ranks: int, stored: Calibrations) -> RoofChoice:
        """Return its roofs for a data type: what was measured on it here, then its datasheet's."""
        name = self.device.name
        if self.cores is None:
            return choose_roof(name, dtype, devices=ranks, measured=stored.roof(name, dtype))
        measured = stored.host_roof(name, dtype, self.cores)
        choice = choose_roof(name, dtype, devices=ranks, device_kind=CPU, measured=measured, cores=self.cores)
        others = stored.dtypes(name)
        if choice.roof is None and others and dtype is not None:
            remedy = f"`vtprof calibrate --dtype {dtype}`, or --dtype {others[0]}"
            note = f"{name} was measured in {', '.join(others)} and not in {dtype}: no roofline; {remedy}"
            return replace(choice, notes=[note])
        return choice


def typed_device(name: str) -> Typed:
    """Return the device that a flag names; raise ConfigError, with what may have been meant, where there is none."""
    if is_host(name):
        device, cores = this_host(), host_cores()
        note = f"--device {name.strip()}: this machine's CPU, {device.name} on {cores} cores"
        return Typed(device, note, cores)
    found, taken = find_typed(name)
    if found is None:
        raise ConfigError(_unknown(name))
    return Typed(found, taken)


def _unknown(name: str) -> str:
    shown = name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "…"
    slice_ = mig.split(name)
    if slice_ is not None and not slice_.parent:
        return f"--{look_up(name)}"
    whole = find_typed(slice_.parent)[0] if slice_ is not None else None
    if slice_ is not None and whole is not None:
        return f"--device {shown}: {mig.cut(whole, slice_)}"
    close = suggest(name)
    others = len(catalogue()) - len(NAMED_EXAMPLES)
    meant = (
        f"did you mean {', '.join(close)}?"
        if close
        else f"it has {', '.join(NAMED_EXAMPLES)} and {others} more;"
    )
    return f"--device {shown}: not one device of the table; {meant} --list-devices names all"
