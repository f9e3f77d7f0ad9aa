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
from vtprof_analyzer.report.model_requests import ModelRow
from vtprof_schemas import names

HEADS = ("phase", "share", "energy", "interval", "a request", "label")
_COUNTERS = {"energy": "energy", "dram": "DRAM bandwidth", "tensor": "tensor activity"}
NOT_DETERMINED = "not determined"
_VAGUE = 10.0
_MOST_NAMED = 4
_ALL = 0.995
"""Known for so much of a phase's time is known: the rest is its beginning and end."""


def title(told: Energy) -> str:
    """Return the heading: whose energy it is, and how it was got."""
    whose = f"Energy of {_requests(told.requests, told)}" if told.requests else "Energy"
    return f"{whose} ({label(told.quality, told.estimated_share, 'of it ')})" if told.quality else whose


def _requests(number: int, told: Energy) -> str:
    kept = " kept" if told.sampled else ""
    return counted(number, f"request{kept}", f"requests{kept}")


def label(quality: str | None, estimated_share: float | None, whole: str = "") -> str:
    """Return how an energy was got; where a part of the ``whole`` is estimated, how large that is."""
    if quality == "estimated" and estimated_share is not None and estimated_share < _ALL:
        return f"{percent(estimated_share)} {whole}estimated"
    return known(quality, lambda word: safe(word, 12), DASH)


def cells(row: EnergyRow, told: Energy) -> tuple[str, ...]:
    """Return the cells of one phase, in the order of ``HEADS``."""
    determined = not vague(row.low_j, row.high_j)
    return (
        safe(row.phase, 12),
        known(share(row, told), percent, DASH),
        energy(row.energy_j) if determined else NOT_DETERMINED,
        interval(row.low_j, row.high_j) or DASH,
        energy(row.per_request_j) if determined else DASH,
        label(row.quality, row.estimated_share),
    )


def share(row: EnergyRow, told: Energy) -> float | None:
    """Return a phase's share of the energy of all; None where one of both is not determined."""
    return None if vague(row.low_j, row.high_j) or vague(told.low_j, told.high_j) else row.share


def of_phase(told: Energy | None, phase: str) -> str:
    """Return the energy of one phase in one cell."""
    found = [row for row in told.phases if row.phase == phase] if told else []
    return cells(found[0], told)[2] if told and found else DASH


def of_model(row: ModelRow) -> str:
    """Return the energy of a request of one model in one cell."""
    if row.energy_j is None or not row.energy_requests:
        return DASH
    determined = not vague(row.energy_low_j, row.energy_high_j)
    return energy(row.energy_j / row.energy_requests) if determined else NOT_DETERMINED


def vague(low_j: float | None, high_j: float | None) -> bool:
    """Tell whether an interval is too wide for a number: its ends are more than a factor of ten apart."""
    return low_j is not None and high_j is not None and high_j > _VAGUE * low_j


def interval(low_j: float | None, high_j: float | None) -> str:
    """Return the ends of an interval: ``83,100 to 92,900 J``; empty where one is not known."""
    if low_j is None or high_j is None:
        return ""
    low, high = energy(low_j), energy(high_j)
    unit = high.rsplit(" ", 1)[1]
    return f"{low.removesuffix(unit).strip()} to {high}" if low.endswith(f" {unit}") else f"{low} to {high}"


def lines(told: Energy, counters: list[CounterCoverage]) -> list[str]:
    """Return what stands below the phases: a request, a token, the GPUs, and what is known in part."""
    return [line for line in (_each(told), _gpus(told), _others(told), _part(told, counters)) if line]


def _each(told: Energy) -> str:
    if told.per_request_j is None:
        nothing = "Of no request is all of it known: no energy per request or token"
        return nothing if told.requests_in_part else ""
    low_j, high_j = told.per_request_low_j, told.per_request_high_j
    kept = " kept" if told.sampled else ""
    text = f"Per request{kept} {_amount(told.per_request_j, low_j, high_j)}"
    if not vague(low_j, high_j):
        text += f", p50 {known(told.per_request_p50_j, energy)}, p95 {known(told.per_request_p95_j, energy)}"
    if told.per_output_token_j is not None:
        amount = _amount(told.per_output_token_j, told.per_output_token_low_j, told.per_output_token_high_j)
        text += f"; per output token{' of these' if told.sampled else ''} {amount}"
    decode = next((row for row in told.phases if row.phase == names.DECODE), None)
    if told.decode_per_token_j is not None and not (decode and vague(decode.low_j, decode.high_j)):
        text += f", decode alone {energy(told.decode_per_token_j)}"
    return text


def _amount(value_j: float, low_j: float | None, high_j: float | None) -> str:
    ends = interval(low_j, high_j)
    return (NOT_DETERMINED if vague(low_j, high_j) else energy(value_j)) + (f" ({ends})" if ends else "")


def _gpus(told: Energy) -> str:
    if told.gpu_energy_j is None or not told.gpus:
        if told.other_gpus:
            return "What the GPUs of these servers took is not recorded: no agent watched them"
        return "Energy without a phase is not recorded: no metric of the agent's was read beside the spans"
    watched = "" if told.gpu_observed_s is None else f" in {duration(1e3 * told.gpu_observed_s)}"
    text = f"{counted(told.gpus, 'GPU')} took {energy(told.gpu_energy_j)}{watched}"
    if told.sampled:
        return (
            f"{text} for all requests, also those left out by sampling: not to be compared with the kept ones"
        )
    if told.unattributed_share is not None:
        why = "idle power, neighbours, what the fit cannot explain"
        text += f"; {percent(told.unattributed_share)} of that belongs to no phase ({why})"
    return text


def _others(told: Energy) -> str:
    others = told.other_gpus
    if others is None:
        unknown = "Which GPUs the servers used is not recorded: these are all that agents watched"
        return unknown if told.gpus else ""
    if not others:
        return ""
    named = [f"{safe(gpu.hw_id, 48)} {energy(gpu.energy_j)}" for gpu in others[:_MOST_NAMED]]
    rest = others[_MOST_NAMED:]
    if rest:
        named.append(f"{len(rest)} more {energy(sum(gpu.energy_j for gpu in rest))}")
    return f"Not counted, as no server of these requests names them: {', '.join(named)}"


def _part(told: Energy, counters: list[CounterCoverage]) -> str:
    partly = coverage([row for row in counters if row.counter == "energy"])
    partly = partly[:1].upper() + partly[1:]
    if told.requests_in_part:
        some = "" if told.in_part_j is None else f" ({energy(told.in_part_j)})"
        more = f"{_requests(told.requests_in_part, told)} known in part{some}, in none of these figures"
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
