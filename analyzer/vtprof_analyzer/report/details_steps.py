"""Engine steps in detail: those that mix phases, and processes whose verdicts differ."""

from collections import Counter

from vtprof_analyzer.report.details_parts import Detail
from vtprof_analyzer.report.format import count, counted, dots, percent, safe
from vtprof_analyzer.report.model import Report
from vtprof_analyzer.report.phrases import NOT_JUDGED, verdict

_LEAST_SHARE = 0.02
"""Verdicts of less of a phase's time are no second verdict."""


def mixed(report: Report) -> Detail | None:
    """Return the verdict of steps that mix prefill and decode, and how their time was apportioned."""
    told = report.step_verdicts
    if told is None or (told.mixed is None and told.split is None):
        return None
    lines = []
    if told.mixed is not None:
        one = told.mixed
        sure = "" if one.bound == NOT_JUDGED else f" {dots(one.confidence)}"
        lines.append(
            f"{counted(one.steps, 'step')} with prefill and decode{_of_time(one.time_share)}: {verdict(one.bound)}{sure};"
            f" {safe(one.explanation.removeprefix(f'mixed is {verdict(one.bound)}: '))}"
        )
    if told.split is not None:
        split = told.split
        lines.append(
            f"{counted(split.steps, 'step')} with several phases{_of_time(split.time_share)}: {safe(split.how)}"
        )
        pairs = [
            f"{safe(row.phase, 12)} {percent(row.rule_share)} ({percent(row.agent_share)})"
            for row in split.phases
            if row.agent_share is not None
        ]
        if pairs and split.agent is not None:
            lines.append(f"By that rule, and by the agent ({safe(split.agent, 12)}): {', '.join(pairs)}")
    return Detail("mixed", "Steps with several phases", lines)


def _of_time(share: float | None) -> str:
    return "" if share is None else f", {percent(share)} of the time of steps"


def bounds(report: Report) -> Detail | None:
    """Return the verdicts of single steps by time, where those of a phase differ."""
    told = report.step_verdicts.bounds if report.step_verdicts else []
    many = Counter(row.phase for row in told if row.share >= _LEAST_SHARE)
    rows = [
        (safe(row.phase, 12), verdict(row.bound), percent(row.share), count(row.steps))
        for row in told
        if many[row.phase] > 1
    ]
    heads = ("phase", "verdict of single steps", "share of its time", "steps")
    return (
        Detail("bounds", "Verdicts by time", heads=heads, rows=rows, words=2, brief_rows=0) if rows else None
    )


def instances(report: Report) -> Detail | None:
    """Return the processes whose verdicts differ."""
    rows = [
        (
            safe(row.phase, 12),
            safe(row.model or row.instance, 32),
            safe(row.host or row.device or "", 24),
            verdict(row.bound),
            percent(row.share),
            percent(row.time_share),
            count(row.steps),
        )
        for row in (report.step_verdicts.instances if report.step_verdicts else [])
    ]
    heads = ("phase", "process", "on", "verdict", "of its time", "of all", "steps")
    return Detail("instances", "Processes differ", heads=heads, rows=rows, words=4) if rows else None
