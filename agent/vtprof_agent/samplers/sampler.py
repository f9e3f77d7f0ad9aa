"""What a sampler is, the samples it yields, and the registry of those there are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Final, NamedTuple, Protocol, cast


class Sample(NamedTuple):
    """One reading of one quantity."""

    key: str
    """Attribute key of ``names``: the metric's name; its unit and type stand in the vocabulary."""
    value: int | float
    cumulative: bool = False
    """True for a running total."""
    pid: int | None = None
    """The inference process it belongs to; None: to the device."""
    hw_id: str | None = None
    start_ns: int | None = None
    """Monotonic begin of the window of which ``value`` is the mean; None: an instant, or a running total."""
    end_ns: int | None = None
    """Monotonic end of that window, or when it was read; None: when the caller asked."""
    source: str = ""
    """The name of the sampler, where more than one may tell of the same quantity."""
    interval_ns: int | None = None
    """Over how long the source itself makes a mean, where it says so or that was seen."""
    exact_edges: bool = True
    """False where the source renews the value by a clock of its own: the window's edges are estimates."""


@dataclass(frozen=True)
class Device:
    """A device that a sampler found."""

    uuid: str
    name: str
    details: Mapping[str, str | int | bool | None] = field(default_factory=dict)
    power_limit_mw: int | None = None
    """The power that it was made for; None where that is not told."""


ALL: Final = ""
"""Stands for all devices of a source."""
QUIET_S: Final = 10.0
"""The least that is made of a silence: drivers stall for seconds while a GPU is reset or a MIG device made."""


class Sampler(Protocol):
    """One source of numbers. What a device does not offer is left out, neither zero nor an error."""

    period_s: float
    """The shortest useful time between two readings."""
    quiet_s: float
    """How long it may tell nothing of a device that it told of, though all is well."""

    def why_not(self) -> str | None:
        """Return why this source is not here, cheaply, or None when it is."""

    def open(self) -> None:
        """Connect; raises BackendError when it fails though ``why_not`` said nothing."""

    def devices(self) -> list[Device]:
        """Return the devices read."""

    def sample(self, pids: frozenset[int]) -> list[Sample]:
        """Read once, for the devices and for the inference processes given; raises nothing."""

    def lost(self) -> Mapping[str, str]:
        """Return why devices that were here cannot be read now, by UUID; under ``ALL`` why none can. Cheap."""

    def refused(self) -> Mapping[str, str]:
        """Return why devices that are here tell this source nothing, though they should, by UUID. Cheap."""

    def missing(self) -> Mapping[str, Mapping[str, str]]:
        """Return by UUID why quantities of a device that is here are not told by this source, by key. Cheap."""

    def close(self) -> None:
        """Disconnect."""


SAMPLERS: Final[dict[str, str]] = {
    "host": "vtprof_agent.samplers.host:HostSampler",
    "gpm": "vtprof_agent.samplers.gpm:GpmSampler",
    "nvml": "vtprof_agent.samplers.nvml:NvmlSampler",
    "pcie": "vtprof_agent.samplers.pcie:PcieSampler",
    "amd": "vtprof_agent.samplers.amd:AmdSampler",
    "dcgm": "vtprof_agent.samplers.dcgm:DcgmSampler",
}
"""Name to ``module:class``, imported when chosen. Where two tell the same of one GPU, the one that stands first is used."""


def load(name: str, dcgm_url: str | None = None) -> Sampler:
    """Import and make the sampler of a name in ``SAMPLERS``; ``dcgm_url`` is the page of a dcgm-exporter."""
    module, _, attribute = SAMPLERS[name].partition(":")
    kind = getattr(import_module(module), attribute)
    return cast(Sampler, kind(dcgm_url) if name == "dcgm" else kind())
