"""What to do, in words that every format shares: the gain as an interval, the line to paste, how the rules ended."""

from collections.abc import Mapping

from vtprof_analyzer.report.format import MINUS, count, counted, duration, energy, percent, plain, safe, size
from vtprof_analyzer.report.model import Advice, Report, RuleCounts, Saving
from vtprof_rules.command_line import command_line

SEVERITIES = ("high", "medium", "low", "info")
NO_FINDING = "No rule fired."
COMMAND_LIMIT = 1_000
METRICS: Mapping[str, str] = {
    "ttft_ms": "TTFT",
    "tpot_ms": "TPOT",
    "kv_bytes": "KV",
    "throughput_ratio": "throughput",
    "gpu_seconds": "GPU time",
    "energy_j": "energy",
    "host_bytes": "host memory",
}
_GAINS = frozenset({"throughput_ratio"})
"""Metrics where more is better; all others are savings and carry a minus."""


def _amount(value: float, unit: str) -> str:
    if unit == "ms":
        return duration(value)
    if unit == "s":
        return duration(value * 1_000)
    if unit == "bytes":
        return size(value)
    if unit == "ratio":
        return percent(value)
    if unit == "J":
        return energy(value)
    return f"{plain(value)} {safe(unit, 16)}".strip()


def saving_line(saving: Saving | None) -> str:
    """Return the expected gain as an interval with its basis: ``TTFT −4.00 ms to −32.0 ms (bound)``."""
    if saving is None:
        return "Gain not estimated."
    metric = METRICS.get(saving.metric, safe(saving.metric, 32))
    basis = safe(saving.basis, 24)
    ends = [
        f"{'+' if (saving.metric in _GAINS) == (end >= 0) else MINUS}{_amount(abs(end), saving.unit)}"
        for end in (saving.low, saving.high)
        if end is not None
    ]
    if not ends:
        return f"{metric}: gain not known ({basis})"
    if len(ends) == 2:
        return f"{metric} {ends[0]}" + (f" to {ends[1]}" if ends[1] != ends[0] else "") + f" ({basis})"
    return f"{metric} {'at most' if saving.low is None else 'at least'} {ends[0]} ({basis})"


def command(advice: Advice) -> str | None:
    """Return the line to paste; ``None`` without settings."""
    line = command_line(advice.set, advice.engine)
    return None if line is None else safe(line, COMMAND_LIMIT)


def rule_counts(rules: RuleCounts) -> str:
    """Return how the rules ended, all outcomes, zero only where it says something."""
    parts = [f"{counted(rules.fired, 'rule')} fired", f"{count(rules.passed)} passed"]
    parts += [
        f"{count(number)} {words}"
        for number, words in (
            (rules.not_applicable, "not applicable"),
            (rules.insufficient_data, "not judged for lack of data"),
            (rules.suppressed, "suppressed"),
            (rules.error, "failed"),
        )
        if number
    ]
    return " · ".join(parts)


NOT_FIRED_SHOWN: Mapping[str, str] = {
    "suppressed": "suppressed",
    "not_applicable": "not applicable",
    "insufficient_data": "not judged",
    "error": "failed",
}
NOT_FIRED_LIMIT = 6
"""Reasons shown; rules that share one are named together."""


def not_fired(report: Report) -> str:
    """Return one line that names the rules that said nothing, with their reasons; those that passed are left out."""
    by_reason: dict[tuple[int, str], list[str]] = {}
    order = list(NOT_FIRED_SHOWN)
    for rule in report.not_fired:
        if rule.status in NOT_FIRED_SHOWN:
            reason = safe(rule.reason, 160).removeprefix("not judged: ")
            by_reason.setdefault((order.index(rule.status), reason), []).append(safe(rule.rule, 16))
    shown = sorted(by_reason.items(), key=lambda item: item[0][0])
    named = [
        f"{', '.join(rules)} {NOT_FIRED_SHOWN[order[status]]}: {reason}"
        for (status, reason), rules in shown[:NOT_FIRED_LIMIT]
    ]
    rest = sum(len(rules) for _, rules in shown[NOT_FIRED_LIMIT:])
    return "; ".join([*named, *([f"{count(rest)} more in the JSON report"] if rest else [])])
