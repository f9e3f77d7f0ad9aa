"""Parts of the report that every format shows alike: a heading, sentences, and a table where there is one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from vtprof_analyzer.report.details_kv import caches, headroom, kv_over_time
from vtprof_analyzer.report.details_parts import Detail
from vtprof_analyzer.report.details_requests import (
    by_model,
    interference,
    percentiles,
    preprocess,
    queue,
    slow_requests,
)
from vtprof_analyzer.report.details_service import clocks, faults, groups, scaling
from vtprof_analyzer.report.details_steps import bounds, instances, mixed
from vtprof_analyzer.report.model import Report

Part = Callable[[Report], Detail | None]

AFTER_TTFT: Sequence[Part] = (by_model, queue, preprocess, percentiles, interference)
AFTER_ROOFLINE: Sequence[Part] = (mixed, bounds, instances)
AFTER_KV: Sequence[Part] = (kv_over_time, headroom, caches)
AFTER_STRATA: Sequence[Part] = (slow_requests, groups, scaling)
IN_TRUST: Sequence[Part] = (faults, clocks)


def details(report: Report, parts: Sequence[Part]) -> list[Detail]:
    """Return the parts that have something to say."""
    return [detail for part in parts if (detail := part(report)) is not None]


def brief_details(report: Report, parts: Sequence[Part]) -> list[Detail]:
    """Return them for a format with little room: cut to their first rows; how many are left out is said."""
    shown = []
    for detail in details(report, parts):
        rows = detail.rows[: detail.brief_rows]
        left = len(detail.rows) - len(rows)
        more = [f"{left} more in HTML and JSON"] if left and rows else []
        if rows or detail.lines:
            cut = [row[: detail.brief_columns] for row in rows]
            heads = detail.heads[: detail.brief_columns]
            shown.append(
                replace(detail, heads=heads, rows=cut, lines=[*detail.lines, *detail.brief_lines, *more])
            )
    return shown
