"""What requests took in energy, in words and cells that every renderer shows alike."""

from vtprof_analyzer.report.energy_model import CounterCoverage, Energy, EnergyRow
from vtprof_analyzer.report.format import (
    DASH,
    counted,
    duration,
    energy,
    known,
    percent,
    safe,
)

HEADS = ("phase", "share", "energy", "interval", "a request", "label")
_COUNTERS = {"energy": "energy", "dram": "DRAM bandwidth", "tensor": "tensor activity"}
_ALL = 0.995
"""Known for so much of a phase's time is known: the rest is its beginning and end."""


def title(told: Energy) -> str:
    """Return the heading: whose energy it is, and how it was got."""
    whose = f"Energy of {counted(told.requests, 'request')}" if told.requests else "Energy"
    return f"{whose} ({label(told.quality, told.estimated_share, 'of it ')})" if told.quality else whose


def label(quality: str | None, estimated_share: float | None, whole: str = "") -> str:
    """Return how an energy was got; where a part of the ``whole`` is estimated, how large that is."""
    if quality == "estimated" and estimated_share is not None and estimated_share < _ALL:
        return f"{percent(estimated_share)} {whole}estimated"
    return known(quality, lambda word: safe(word, 12), DASH)


def cells(row: EnergyRow) -> tuple[str, ...]:
    """Return the cells of one phase, in the order of ``HEADS``."""
    return (
        safe(row.phase, 12),
        known(row.share, percent, DASH),
        energy(row.energy_j),
        interval(row.low_j, row.high_j) or DASH,
        energy(row.per_request_j),
        label(row.quality, row.estimated_share),
    )


def interval(low_j: float | None, high_j: float | None) -> str:
    """Return the ends of an interval: ``83,100 to 92,900 J``; empty where one is not known."""
    if low_j is None or high_j is None:
        return ""
    low, high = energy(low_j), energy(high_j)
    unit = high.rsplit(" ", 1)[1]
    return f"{low.removesuffix(unit).strip()} to {high}" if low.endswith(f" {unit}") else f"{low} to {high}"


def lines(told: Energy, counters: list[CounterCoverage]) -> list[str]:
    """Return what stands below the phases: a request, a token, the GPUs, and what is known in part."""
    return [line for line in (_each(told), _gpus(told), _part(told, counters)) if line]


def _each(told: Energy) -> str:
    if told.per_request_j is None:
        return (
            ""
            if told.energy_j is None
            else "Of no request is all of it known: no energy per request or token"
        )
    halves = f", p50 {known(told.per_request_p50_j, energy)}, p95 {known(told.per_request_p95_j, energy)}"
    text = f"Per request {energy(told.per_request_j)}{_ends(told.per_request_low_j, told.per_request_high_j)}{halves}"
    if told.per_output_token_j is not None:
        ends = _ends(told.per_output_token_low_j, told.per_output_token_high_j)
        text += f"; per output token {energy(told.per_output_token_j)}{ends}"
    if told.decode_per_token_j is not None:
        text += f", decode alone {energy(told.decode_per_token_j)}"
    return text


def _ends(low_j: float | None, high_j: float | None) -> str:
    ends = interval(low_j, high_j)
    return f" ({ends})" if ends else ""


def _gpus(told: Energy) -> str:
    if told.gpu_energy_j is None or not told.gpus:
        return "Energy without a phase is not recorded: no metric of the agent's was read beside the spans"
    watched = "" if told.gpu_observed_s is None else f" in {duration(1e3 * told.gpu_observed_s)}"
    text = f"{counted(told.gpus, 'GPU')} took {energy(told.gpu_energy_j)}{watched}"
    if told.unattributed_share is None:
        return text
    why = "idle power, neighbours, what the fit cannot explain"
    return f"{text}; {percent(told.unattributed_share)} of that belongs to no phase ({why})"


def _part(told: Energy, counters: list[CounterCoverage]) -> str:
    partly = coverage([row for row in counters if row.counter == "energy"])
    partly = partly[:1].upper() + partly[1:]
    if told.requests_in_part:
        more = f"{counted(told.requests_in_part, 'request')} known in part, in the sums by phase alone"
        return f"{partly}; {more}" if partly else more
    return partly


def coverage(counters: list[CounterCoverage]) -> str:
    """Return which counter is known for a part of a phase's time alone; empty where all are for all of it."""
    phases: dict[tuple[str, str], list[str]] = {}
    for row in counters:
        if row.known_share is not None and row.known_share < _ALL:
            name = _COUNTERS.get(row.counter, safe(row.counter, 16))
            phases.setdefault((name, percent(row.known_share)), []).append(safe(row.phase, 12))
    return ", ".join(
        f"{name} known for {share} of {_and(found)} time" for (name, share), found in phases.items()
    )


def trust(counters: list[CounterCoverage]) -> str:
    """Return how much of the work the GPU counters speak for; empty where there are none."""
    if not counters:
        return ""
    phases = [safe(phase, 12) for phase in dict.fromkeys(row.phase for row in counters)]
    return coverage(counters) or f"GPU counters for all of {_and(phases)}"


def _and(words: list[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)
