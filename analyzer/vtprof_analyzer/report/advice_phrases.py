"""What to do, in words that every format shares: the gain as an interval, the line to paste, how the rules ended."""

from collections import Counter
from collections.abc import Mapping

from vtprof_analyzer.report.format import MINUS, count, counted, duration, energy, percent, plain, safe, size
from vtprof_analyzer.report.model import Advice, Finding, Report, RuleCounts, Saving
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
        for end in _ends(saving)
    ]
    if not ends:
        return f"{metric}: gain not known ({basis})"
    shares = _shares(saving)
    if len(ends) == 2:
        return f"{metric} {ends[0]}{f' to {ends[1]}' if ends[1] != ends[0] else ''}{shares} ({basis})"
    return f"{metric} {'at most' if saving.low is None else 'at least'} {ends[0]}{shares} ({basis})"


def _ends(saving: Saving) -> list[float]:
    """Return the ends that are known; of a ratio what it gains: 1.14 times is 14 % more."""
    ends = [end for end in (saving.low, saving.high) if end is not None]
    return [end - 1 for end in ends] if saving.metric in _GAINS else ends


_OF: Mapping[str, str] = {
    "p50": "the median",
    "mean": "the mean",
    "p95": "p95",
    "p99": "p99",
    "peak": "its peak",
}


def _shares(saving: Saving) -> str:
    """Return the gain as shares of its metric: ``, −4 % to −32 % of the median``."""
    ends = [end for end in (saving.low_share, saving.high_share) if end is not None]
    if not ends or saving.metric in _GAINS:
        return ""
    words = dict.fromkeys(f"{MINUS}{percent(end)}" for end in ends)
    whole = _OF.get((saving.relative_to or "").rpartition("_")[2])
    return f", {' to '.join(words)}" + (f" of {whole}" if whole else "")


def interval(saving: Saving | None) -> str | None:
    """Return the 90 % interval of the gain, where it is known: ``−3.80 ms to −35.0 ms had other such requests come``."""
    if saving is None or saving.interval_low is None or saving.interval_high is None:
        return None
    less = 1.0 if saving.metric in _GAINS else 0.0
    ends = (_amount(max(0.0, end - less), saving.unit) for end in (saving.interval_low, saving.interval_high))
    low, high = (f"{'+' if saving.metric in _GAINS else MINUS}{end}" for end in ends)
    return f"90 % interval over requests: {low} to {high}"


ACCURACY = "It may change what the model answers: measure accuracy on your own requests before and after."


def reading(finding: Finding) -> str | None:
    """Say that requests which look like reading have most to lose; ``None`` where they do not matter to the finding."""
    share = finding.ocr_like_share
    if share is None:
        return None
    part = f"{'Up to ' if len(finding.subjects) > 1 else ''}{percent(share)}"  # the largest of the subjects'
    return (
        f"{part} of the requests with images look like reading (documents, OCR), which loses most from fewer visual"
        " tokens: measure those by themselves."
    )


def same_saving(finding: Finding) -> str | None:
    """Say that the gain of a finding is another's too."""
    other = finding.same_saving_as
    return f"Acts on the same as {safe(other, 16)}: the gains do not add up." if other else None


def combined(report: Report) -> str | None:
    """Return what the findings save together, by phase; ``None`` for fewer than two that count."""
    rows = report.combined_savings
    if len({rule for row in rows for rule in row.rules}) < 2:
        return None
    parts = []
    for row in rows:
        low, high = (f"{MINUS}{percent(end / row.time_ms)}" for end in (row.low_ms, row.high_ms))
        parts.append(f"{safe(row.phase, 16)} {low}" + (f" to {high}" if high != low else ""))
    return f"Together, overlap counted once and heuristics left out: {', '.join(parts)}"


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
    "error": "failed",
    "suppressed": "suppressed",
    "insufficient_data": "not judged",
    "not_applicable": "not applicable",
}
NOT_FIRED_LIMIT = 6
"""Reasons shown; rules that share one are named together."""
MISSING_LIMIT = 6
"""Facts named, those first for want of which most rules were not judged."""


def not_fired(report: Report) -> str:
    """Return one line that names the rules that said nothing, with their reasons; those that passed are left out."""
    by_reason: dict[tuple[int, str], list[str]] = {}
    order = list(NOT_FIRED_SHOWN)
    for rule in report.not_fired:
        if rule.status in NOT_FIRED_SHOWN and not rule.missing:
            reason = safe(rule.reason, 160).removeprefix("not judged: ")
            by_reason.setdefault((order.index(rule.status), reason), []).append(safe(rule.rule, 16))
    shown = sorted(by_reason.items(), key=lambda item: item[0][0])
    named = [
        f"{_listed(rules)} {NOT_FIRED_SHOWN[order[status]]}: {reason}"
        for (status, reason), rules in shown[:NOT_FIRED_LIMIT]
    ]
    rest = sum(len(rules) for _, rules in shown[NOT_FIRED_LIMIT:])
    return "; ".join(
        [*named, *_for_want_of(report), *([f"{count(rest)} more in the JSON report"] if rest else [])]
    )


def _listed(rules: list[str]) -> str:
    return ", ".join(rules) if len(rules) <= MISSING_LIMIT else f"{counted(len(rules), 'rule')}"


def _for_want_of(report: Report) -> list[str]:
    """Say how many rules could not be judged, and which facts would let most of them."""
    rules = [rule for rule in report.not_fired if rule.missing]
    if not rules:
        return []
    wanted = Counter(safe(name, 48) for rule in rules for name in rule.missing)
    first = [name for name, _ in wanted.most_common(MISSING_LIMIT)]
    more = f" and {count(len(wanted) - len(first))} more" if len(wanted) > len(first) else ""
    names = _listed([safe(rule.rule, 16) for rule in rules])
    return [f"{names} not judged for want of {', '.join(first)}{more}"]
