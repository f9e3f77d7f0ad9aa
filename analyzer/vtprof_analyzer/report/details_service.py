"""Service and trust in detail: objectives by group, what nodes brought, and how far each area can be believed."""

from collections import Counter

from vtprof_analyzer.report import phrases
from vtprof_analyzer.report.details_parts import Detail
from vtprof_analyzer.report.format import DASH, count, duration, known, percent, plain, safe
from vtprof_analyzer.report.model import Report
from vtprof_analyzer.report.model_slo import SloRow

_GROUPS = 8
_OBJECTIVES = (("ttft", "TTFT met"), ("tpot", "TPOT met"))


def groups(report: Report) -> Detail | None:
    """Return what each group of requests reached; None where nothing was asked for and nothing differs."""
    asked = report.slo.ttft_ms is not None or report.slo.tpot_ms is not None
    priced = any(row.usd_per_ok_request is not None for row in report.slo_rows)
    if not report.slo_rows or not (asked or priced):
        return None
    scopes = Counter(scope for scope, _ in {(row.scope, row.name) for row in report.slo_rows})
    shown = [
        row
        for row in {(row.scope, row.name): row for row in report.slo_rows}.values()
        if row.name is None or scopes[row.scope] > 1  # one model, or one node, is all
    ]
    reached = {(row.scope, row.name, row.objective): row.attainment for row in report.slo_rows}
    objectives = {row.objective for row in report.slo_rows}

    def met(objective: str) -> list[str]:
        return [known(reached.get((row.scope, row.name, objective)), percent, DASH) for row in shown]

    columns = [
        ("requests", _groups(shown)),
        *((name, met(objective)) for objective, name in _OBJECTIVES if objective in objectives),
        ("good", [known(row.goodput_share, percent, DASH) for row in shown]),
        ("price", [known(row.usd_per_ok_request, lambda usd: f"${plain(usd)}", DASH) for row in shown]),
        ("good/s", [known(row.goodput_per_s, plain, DASH) for row in shown]),
        ("completed", met("completed")),
        ("energy", [known(row.j_per_ok_request, lambda joules: f"{plain(joules)} J", DASH) for row in shown]),
    ]
    columns = [column for column in columns if set(column[1]) != {DASH}]
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    heads = tuple(name for name, _ in columns)
    lines = []
    if asked:
        bad = phrases.unfinished(report)
        missed = (
            f"; counted as missing each, however quick, as nobody got a whole answer: {bad}" if bad else ""
        )
        lines.append(f"Good: met every objective{missed}")
    if priced:
        lines.append(_price("good" if asked else "completed", {row.scope for row in shown}))
    return Detail(
        "objectives", "Objectives by group", lines, heads, rows, brief_rows=_GROUPS,
        caption="Price and energy are of one request that was good (completed, without objectives), those of all others"
        " included",
    )  # fmt: skip


def _price(good: str, scopes: set[str]) -> str:
    """Return what the prices of the groups that are shown divide by what."""
    parts = [f"Price: of all, the cost of all nodes / all {good} requests"]
    if "node" in scopes:
        parts.append(f"of a node, its own cost / the {good} requests that it took in")
    if scopes & {"model", "visual_stratum"}:
        parts.append(
            f"of other groups, the cost of all nodes × their share of GPU time / their {good} requests"
        )
    return "; ".join(parts)


def _groups(shown: list[SloRow]) -> list[str]:
    """Return the groups' names; of models without the owner, unless that makes two alike."""
    short = [_group(row.scope, row.name and row.name.rpartition("/")[2]) for row in shown]
    return short if len(set(short)) == len(short) else [_group(row.scope, row.name) for row in shown]


def _group(scope: str, name: str | None) -> str:
    if name is None:
        return "all"
    if scope == "visual_stratum":
        return f"visual: {phrases.stratum(name)}"
    return f"{safe(scope, 16)} {safe(name, 32)}"


def scaling(report: Report) -> Detail | None:
    """Return what more nodes brought; None where one number of nodes served all along."""
    if len(report.scaling) < 2:
        return None
    rows = [
        (
            count(row.nodes),
            duration(1e3 * row.seconds),
            f"{plain(row.rate_per_s)}/s",
            known(row.attainment, percent, DASH),
            known(row.goodput_per_s, lambda rate: f"{plain(rate)}/s", DASH),
            known(row.efficiency, percent, DASH),
        )
        for row in report.scaling
    ]
    heads = ("nodes", "for", "arrived", "met", "goodput", "efficiency")
    caption = "Efficiency: goodput of a node over that of a node at the smallest number; 100 % is linear"
    return Detail("scaling", "What more nodes brought", heads=heads, rows=rows, words=0, caption=caption)


def faults(report: Report) -> Detail | None:
    """Return the kinds of faults in the spans."""
    rows = [
        (safe(row.kind, 40).replace("_", " "), count(row.count), known(row.time_share, percent, DASH))
        for row in report.span_faults
    ]
    heads = ("fault", "number", "share of time")
    return Detail("faults", "Faults in the spans", heads=heads, rows=rows, brief_rows=0) if rows else None


def clocks(report: Report) -> Detail | None:
    """Return which clocks were found to differ, and by how much."""
    rows = [
        (
            safe(row.host_name, 40),
            safe(row.against, 40),
            known(row.offset_ms, duration, DASH),
            f"{known(row.low_ms, duration, DASH)} to {known(row.high_ms, duration, DASH)}",
            count(row.pairs),
        )
        for row in report.clock_offsets
    ]
    heads = ("host", "against", "ahead by", "bounds", "spans")
    caption = "By what must come before what; the offset was taken off"
    return (
        Detail("clocks", "Clocks", heads=heads, rows=rows, words=2, caption=caption, brief_rows=0)
        if rows
        else None
    )
