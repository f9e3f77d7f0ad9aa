"""The agent's budget of its own: decides how much detail it can afford, before a limit is exceeded.

CPU and probe time are limited as means over a minute, memory at every moment. Each is projected ahead from a short
and a long moving average; on the way over its limit a level of detail is shed (a jump that spends the minute's share
within seconds is met late). It is taken up again slowly: when all has been well below the limits for a while, which
grows each time that the level could not be held.

Level 3 is everything. At 2 single steps are not exported, only windows (folded steps); at 1 neither: requests and
their phases remain, as do all metrics.
"""

import ctypes
import gc
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from vtprof_schemas.units import NS_PER_S

MOST, LEAST = 3, 1
LEVELS: Final[Mapping[int, str]] = {
    3: "everything",
    2: "windows, no single steps",
    1: "requests and phases only",
}
SHORT_S: Final = 5.0
LONG_S: Final = 60.0
AHEAD_S: Final = 10.0
"""How far it is projected."""
EFFECT_S: Final = 5.0
"""After a change, until the averages tell what it did."""
RISE_S: Final = 60.0
MOST_RISE_S: Final = 3600.0
ROOMY: Final = 0.6
"""Of a limit on time: below it a level more is tried."""
ROOMY_MEMORY: Final = 0.9
"""The same of memory, which seldom shrinks much."""
STRAINED: Final = 0.7
"""Of the limit on CPU time: beyond it the spans of others are refused, at once, so that no detail need be shed for them."""
_GAIN: Final = 1 - math.exp(-AHEAD_S / LONG_S)
"""How far the long average moves towards the short one within that time."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One thing that is limited, in its unit."""

    name: str
    now: float
    projected: float
    limit: float
    roomy: bool

    @property
    def over(self) -> bool:
        """Tell whether it is on the way over its limit and not already on the way back."""
        return (
            min(self.projected, self.now) >= self.limit
            if self.name != MEMORY
            else self.projected >= self.limit
        )

    def told(self) -> str:
        """Return the cost in words."""
        if self.name == MEMORY:
            return f"{self.name} {self.now / 1e6:.1f} MB, {self.projected / 1e6:.1f} MB soon, of {self.limit / 1e6:.1f} MB"
        unit = " cores" if self.name == CPU else ""
        return f"{self.name} {self.now:.4f}{unit}, limit {self.limit:g}"


CPU, MEMORY, PROBE = "the agent's CPU time", "the agent's memory", "the probe's share of a process's time"
_SETTINGS: Final = {CPU: "budget_cpu_ratio", MEMORY: "budget_rss_bytes", PROBE: "budget_probe_ratio"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at the costs led to."""

    level: int
    said: str | None = None
    """A line to log: the level changed, or cannot be lowered though a limit is exceeded."""
    drop_caches: bool = False
    """Memory is short: the caller is to drop what it can make again."""


class Budget:
    """The level of detail as a function of what was measured; a limit of 0 is none."""

    def __init__(self, cpu_ratio: float, rss_bytes: float, probe_ratio: float) -> None:
        """Start at the full detail, with limits in cores, bytes and a share of a process's time."""
        self._limits = {CPU: cpu_ratio, MEMORY: rss_bytes, PROBE: probe_ratio}
        self.level = MOST
        self.reason: str | None = None
        """Why the level is not the highest."""
        self.strained = False
        """Whether CPU time is on the way to its limit."""
        self.seconds: dict[int, float] = dict.fromkeys(LEVELS, 0.0)
        """How long each level was in force."""
        self._seen_ns: int | None = None
        self._changed_s = -math.inf
        self._rose_s = -math.inf
        self._roomy_from_s: float | None = None
        self._wait_s = RISE_S
        self._at_end = False
        self._cpu = _Rate()
        self._memory = _Average()
        self._probes: dict[str, _Rate] = {}

    @property
    def cpu_ratio(self) -> float:
        """Return the agent's CPU time in cores, mean over about a minute."""
        return self._cpu.average.long

    @property
    def probe_ratio(self) -> float:
        """Return the probe's share of the time of the process where it is most, mean over about a minute."""
        return max((rate.average.long for rate in self._probes.values()), default=0.0)

    def look(self, now_ns: int, cpu_s: float, rss_bytes: float, probe_ns: Mapping[str, int]) -> Verdict:
        """Take the agent's CPU seconds so far, its memory, and by ring the probe's running total; about once a second.

        The first look sets the marks: what was spent before, as on imports, does not count.
        """
        passed_s = 0.0 if self._seen_ns is None else max(0.0, (now_ns - self._seen_ns) / NS_PER_S)
        self._seen_ns = now_ns
        self.seconds[self.level] += passed_s
        self._cpu.add(cpu_s, passed_s)
        self._memory.add(rss_bytes, passed_s, fresh=self._memory.short == 0.0)
        self._probes = {ring: self._probes.get(ring) or _Rate() for ring in probe_ns}
        for ring, total_ns in probe_ns.items():
            self._probes[ring].add(total_ns / NS_PER_S, passed_s)
        costs = self._costs(rss_bytes)
        self.strained = any(
            cost.name == CPU and min(cost.projected, cost.now) >= STRAINED * cost.limit for cost in costs
        )
        return self._judge(now_ns / NS_PER_S, costs)

    @property
    def _held_s(self) -> float:
        """Return after what time a level that was taken up counts as held: the long average has come to it."""
        return 2 * self._wait_s + 4 * LONG_S

    def _costs(self, rss_bytes: float) -> list[Cost]:
        costs = [self._cpu.cost(CPU, self._limits[CPU])]
        costs += [rate.cost(PROBE, self._limits[PROBE]) for rate in self._probes.values()]
        limit = self._limits[MEMORY]
        # A ramp leaves the averages behind by their time constants: their distance tells the slope.
        slope = (self._memory.short - self._memory.long) / (LONG_S - SHORT_S)
        projected = rss_bytes + max(0.0, slope) * AHEAD_S
        costs.append(Cost(MEMORY, rss_bytes, projected, limit, projected <= ROOMY_MEMORY * limit))
        return [cost for cost in costs if cost.limit]

    def _judge(self, now_s: float, costs: list[Cost]) -> Verdict:
        worst = max((cost for cost in costs if cost.over), key=lambda c: c.projected / c.limit, default=None)
        if worst is None:
            self._at_end = False
            return self._rise(now_s, costs)
        self._roomy_from_s = None
        if now_s - self._changed_s < EFFECT_S:
            return Verdict(self.level)
        memory = worst.name == MEMORY
        if self.level == LEAST:
            said = (
                None
                if self._at_end
                else f"at the lowest detail and still {worst.told()}: raise {_SETTINGS[worst.name]}"
            )
            drop = memory and not self._at_end
            self._at_end = True
            return Verdict(self.level, said, drop)
        if now_s - self._rose_s < self._held_s:
            self._wait_s = min(2 * self._wait_s, MOST_RISE_S)  # the rise was too early
        self.level -= 1
        self._changed_s = now_s
        self.reason = worst.told()
        return Verdict(
            self.level, f"detail lowered to {self.level} ({LEVELS[self.level]}): {self.reason}", memory
        )

    def _rise(self, now_s: float, costs: list[Cost]) -> Verdict:
        if self.level == MOST:
            if now_s - self._rose_s >= self._held_s:
                self._wait_s = RISE_S
            return Verdict(self.level)
        if not all(cost.roomy for cost in costs):
            self._roomy_from_s = None
            return Verdict(self.level)
        if self._roomy_from_s is None:
            self._roomy_from_s = now_s
        if now_s - self._roomy_from_s < self._wait_s:
            return Verdict(self.level)
        self.level += 1
        self._changed_s = self._rose_s = now_s
        self._roomy_from_s = None
        if self.level == MOST:
            self.reason = None
        return Verdict(
            self.level, f"detail raised to {self.level} ({LEVELS[self.level]}): the costs are low again"
        )


class _Average:
    """A short and a long exponential moving average."""

    def __init__(self) -> None:
        self.short = self.long = 0.0

    def add(self, value: float, passed_s: float, fresh: bool = False) -> None:
        if fresh:
            self.short = self.long = value
        self.short += (value - self.short) * (1 - math.exp(-passed_s / SHORT_S))
        self.long += (value - self.long) * (1 - math.exp(-passed_s / LONG_S))


class _Rate:
    """How fast a running total grows. Its averages begin at 0, so that a burst at the begin is not taken for a habit."""

    def __init__(self) -> None:
        self.average = _Average()
        self._total: float | None = None

    def add(self, total: float, passed_s: float) -> None:
        if self._total is not None and passed_s > 0:
            self.average.add(max(0.0, total - self._total) / passed_s, passed_s)
        self._total = total

    def cost(self, name: str, limit: float) -> Cost:
        short, long = self.average.short, self.average.long
        return Cost(name, short, long + (short - long) * _GAIN, limit, max(short, long) <= ROOMY * limit)


def release_memory() -> None:
    """Collect garbage and give freed memory back to the system, where the C library can."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
