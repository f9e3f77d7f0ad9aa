"""What was seen of one GPU: plain data between the looking and the judging."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from counter_series import Reading, Window, Work, amount_in

from vtprof_agent.samplers.sampler import Sample
from vtprof_analyzer.devices.device import Device

WAVE: Final = "wave"
REASONS: Final = {74: 0x4, 76: 0x10, 269: 0x20, 270: 0x40, 271: 0x80}
"""Field of time with lowered clocks, ns, and the bit of nvmlClocksEventReasons that is set in the same time."""
SAMPLE_GET, METRICS_GET, PCIE_GET = "nvmlGpmSampleGet", "nvmlGpmMetricsGet", "nvmlDeviceGetPcieThroughput"


@dataclass(frozen=True)
class Watched:
    """What samplers told in a stretch of time, and what ran in it."""

    begin_ns: int
    end_ns: int
    readings: int
    samples: Sequence[Sample]
    work: Sequence[Work] = ()
    reasons: Sequence[int] = ()
    """Bits of nvmlClocksEventReasons, at each reading."""
    lowered: Mapping[int, float] = field(default_factory=dict)
    """By field: its advance over the time."""

    def values(self, key: str, source: str | None = None) -> list[float]:
        """Return all values of a quantity."""
        return [float(one.value) for one in self.samples if one.key == key and source in (None, one.source)]

    def rate(self) -> float:
        """Return the work for each second."""
        return amount_in(self.work, self.begin_ns, self.end_ns) / ((self.end_ns - self.begin_ns) / 1e9)

    def windows(self, key: str) -> list[Window]:
        """Return the means of a quantity; of a running total those between its readings."""
        told = [
            (s.start_ns, s.end_ns or 0, float(s.value), s.cumulative) for s in self.samples if s.key == key
        ]
        means = [(start, end, value) for start, end, value, _ in told if start is not None]
        totals = [(end, value) for _, end, value, cumulative in told if cumulative]
        return means + [
            (a, b, (after - before) / (b - a)) for (a, before), (b, after) in pairwise(totals) if b > a
        ]


@dataclass(frozen=True)
class Observed:
    """All that was seen of one GPU."""

    device: Device | None
    most_memory_mhz: float | None
    bf16_per_cycle: float | None
    watched: Mapping[str, Watched]
    """By load; "" is at rest."""
    gpm_looks: Sequence[Reading]
    """SM activity since the first look."""
    energy_looks: Sequence[Reading]
    calls_ms: Mapping[str, Sequence[float]]
    reading_cpu_ms: Sequence[float]
    """CPU time for one GPU of a reading by the GPM and the NVML sampler."""
    other_user: Mapping[str, int]
    """What a user without rights was told: how many values by key."""
    refusal: str = ""
    """Why the driver refused a GPM sample."""
