"""What of samplers and GPUs is missing, since when and why: as their readers tell it, and as it is shown."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from vtprof_agent.samplers.sampler import Device
from vtprof_schemas.units import NS_PER_S

SILENT: Final = "it tells nothing more"
UNREAD: Final = "no sampler that told of it is on"


@dataclass(frozen=True, slots=True)
class Absence:
    """Why something is not read."""

    reason: str
    since_s: float
    """Monotonic."""
    missed: bool = True
    """False for what was never here, as the samplers of another vendor's GPUs."""
    alone: bool = False
    """True where it is this source alone that does not read a device."""


class Source(Protocol):
    """A sampler that is read by somebody."""

    @property
    def name(self) -> str:
        """The sampler's, as in ``SAMPLERS``."""

    @property
    def devices(self) -> list[Device]:
        """Return the devices that it lists, those that are lost included."""

    @property
    def missing(self) -> Mapping[str, Mapping[str, str]]:
        """Return by UUID why quantities of a device are not told, by key."""

    def absence(self, now_s: float) -> Absence | None:
        """Return why nothing is read; None: something is."""

    def told_of(self, now_s: float) -> Mapping[str, Absence | None]:
        """Return by UUID of the devices that it told of, or lists, why one is not read; None: it is."""


@dataclass(frozen=True)
class SamplerState:
    """A source of counters."""

    name: str
    reason: str | None = None
    """Why it is off; None: it is on."""
    since_unix_ns: int | None = None
    """When it was last on, or when the agent began to look for it."""
    missed: bool = False
    """Whether that is a loss: it was on, or it was asked for."""


@dataclass(frozen=True)
class GpuState:
    """A GPU, and what is not read of it though other things of that kind are."""

    uuid: str
    name: str
    details: Mapping[str, str | int | bool | None] = field(default_factory=dict)
    reason: str | None = None
    """Why nothing of it is read; None: something is."""
    since_unix_ns: int | None = None
    silent: Mapping[str, int] = field(default_factory=dict)
    """By sampler that told of it, or should, and does not: since when, Unix ns."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Of those the ones that know why."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """By quantity, as its attribute key, why no source tells it of this GPU."""


@dataclass(frozen=True)
class Health:
    """All samplers and GPUs at one moment."""

    samplers: tuple[SamplerState, ...] = ()
    gpus: tuple[GpuState, ...] = ()

    def missing(self) -> dict[tuple[str, str], str]:
        """Return why something is not read that was: by sampler and GPU, "" where all of them are meant."""
        found = {
            ("", gpu.uuid): gpu.reason for gpu in self.gpus if gpu.reason is not None and gpu.reason != UNREAD
        }
        found |= {
            (one.name, ""): one.reason for one in self.samplers if one.reason is not None and one.missed
        }
        found |= {(name, gpu.uuid): gpu.refused.get(name, SILENT) for gpu in self.gpus for name in gpu.silent}
        return found


def judge(
    sources: Sequence[Source],
    own: Iterable[SamplerState],
    now_s: float,
    unix_ns: int,
    told: Container[tuple[str, str]] = (),
) -> Health:
    """Return what is missing; ``own``: states of samplers that nobody reads on their own, ``told``: UUIDs and keys that are.

    A GPU is gone when a source knows that it lost it, or all that told of it are silent; of some it is told which.
    """

    def unix(absence: Absence) -> int:
        return unix_ns - int((now_s - absence.since_s) * NS_PER_S)

    def state(name: str, absence: Absence | None) -> SamplerState:
        if absence is None:
            return SamplerState(name)
        return SamplerState(name, absence.reason, unix(absence), absence.missed)

    off = {source.name: source.absence(now_s) for source in sources}
    states = {source.name: source.told_of(now_s) for source in sources}
    devices: dict[str, Device] = {}
    for source in sources:
        for device in source.devices:
            devices.setdefault(device.uuid, device)
    # Of a GPU that was cut into instances some things are told of the instances alone from then on.
    cut = {device.details.get("mig_of") for device in devices.values()}
    gpus = []
    for uuid, device in devices.items():
        of_it = {name: found[uuid] for name, found in states.items() if uuid in found}
        if any(one is None or one.missed for one in of_it.values()):
            of_it = {name: one for name, one in of_it.items() if one is None or one.missed}
        absent = {name: absence for name, absence in of_it.items() if absence is not None}
        missing: dict[str, str] = {}
        for source in sources:
            missing |= {key: why for key, why in source.missing.get(uuid, {}).items() if key not in missing}
        missing = {key: why for key, why in missing.items() if (uuid, key) not in told}
        gpu = GpuState(uuid, device.name, device.details, missing=missing)
        if of_it and all(off[name] is not None for name in of_it):
            gpu = replace(gpu, reason=UNREAD)
        elif absent and (len(absent) == len(of_it) or any(_gone(one) for one in absent.values())):
            first = min(absent.values(), key=lambda one: (not _gone(one), one.reason == SILENT, one.since_s))
            gpu = replace(gpu, reason=first.reason, since_unix_ns=unix(first))
        elif uuid not in cut:
            silent = {name: absence for name, absence in absent.items() if off[name] is None}
            gpu = replace(
                gpu,
                silent={name: unix(absence) for name, absence in silent.items()},
                refused={name: one.reason for name, one in silent.items() if one.reason != SILENT},
            )
        gpus.append(gpu)
    return Health((*own, *(state(name, absence) for name, absence in off.items())), tuple(gpus))


def _gone(absence: Absence) -> bool:
    """Tell whether a source knows that the device is gone for all."""
    return absence.reason != SILENT and not absence.alone
