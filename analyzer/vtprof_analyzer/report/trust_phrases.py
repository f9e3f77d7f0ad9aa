"""Can this be trusted: what was repaired, left out or lost, in words that every format shares."""

from typing import Any

from vtprof_analyzer.report import energy_phrases
from vtprof_analyzer.report.format import NOT_RECORDED, count, counted, duration, known, percent, safe
from vtprof_analyzer.report.model import Integrity, Report
from vtprof_analyzer.report.model_trust import TrustRow
from vtprof_analyzer.report.phrases import outcomes

REPAIRS: tuple[tuple[str, str, str], ...] = (
    ("files_skipped", "Files skipped", "not a trace, or unreadable"),
    ("damaged_files", "Damaged files", "used up to the fault"),
    ("hook_errors", "Faults of the probe's hooks", "a request may be missing for each"),
    ("malformed_lines", "Malformed lines", "left out"),
    ("truncated_lines", "Truncated lines", "left out: the writer ended in the middle"),
    ("dropped_messages", "Messages that could not be read", "left out, with the spans in them"),
    ("dropped_spans", "Spans left out", "no valid id, name or time, or of a newer version"),
    ("duplicates", "Duplicate spans", "counted once"),
    ("orphans", "Phases whose request is absent", "in no request"),
    ("conflicting_ids", "Ids that different spans share", "all of them kept"),
    ("end_missing", "Spans without an end", "repaired"),
    ("negative_duration", "Spans that end before they start", "repaired"),
    ("values_out_of_range", "Values nothing real has", "taken as unknown: out of range, or of another type"),
    ("unknown_attributes", "Attributes of an unknown name", "ignored"),
    ("ignored_spans", "Spans of other tools", "ignored"),
    ("ignored_signals", "Logs and other signals", "ignored"),
    ("requests_without_tokens", "Requests without token counts", "not in the token sums"),
    ("requests_without_phases", "Requests without phases", "not in the TTFT budget"),
    ("folded_iterations", "Iterations folded into mixed windows", "not judged: the agent had shed detail"),
)
"""Counters of ``Integrity``: field, name, what was done with them."""
_SAID = {"weak": "weak", "refused": "not to be trusted"}


def repairs(integrity: Integrity) -> list[tuple[str, int, str]]:
    """Return what was repaired or left out: name, how many, what was done; counts of zero are left out."""
    document: dict[str, Any] = vars(integrity)
    return [(name, document[field], done) for field, name, done in REPAIRS if document[field]]


def doubts(rows: list[TrustRow]) -> list[str]:
    """Return what makes an area weak, or no ground for a verdict at all, but for counters of part of the time."""
    return [
        f"{safe(row.area, 16)} {_SAID[row.state]}: {safe(row.reason)}"
        for row in rows
        if row.state in _SAID and row.counter is None
    ]


def trust(report: Report) -> str:
    """Return in one paragraph whether the numbers can be believed."""
    integrity = report.integrity
    lost = {None: f"records lost {NOT_RECORDED}", 0: "no record lost"}.get(
        integrity.records_lost, f"{counted(integrity.records_lost or 0, 'record')} lost (counted)"
    )
    unread = "malformed_lines", "truncated_lines", "damaged_files", "dropped_messages"
    beside = (
        ", beside input that could not be read" if any(vars(integrity)[field] for field in unread) else ""
    )
    parts = [
        known(
            integrity.complete_spans_share,
            lambda share: f"{percent(share)} of the spans read are complete{beside}",
            f"complete spans {NOT_RECORDED}",
        ),
        lost,
        known(
            integrity.clock_offset_ms,
            lambda ms: f"clocks within {duration(ms)}",
            f"clock offset {NOT_RECORDED}",
        ),
        f"{counted(integrity.files_read, 'file')} read",
    ]
    parts += [f"{name.lower()}: {count(number)}, {done}" for name, number, done in repairs(integrity)]
    parts += doubts(report.trust)
    if covered := energy_phrases.trust(report.counters):
        # Said once, phase by phase, where the rows of `trust` name the worst phase alone.
        doubt = next((row.state for row in report.trust if row.counter and row.state in _SAID), None)
        parts.append(f"counters {_SAID[doubt]}: {covered}" if doubt else covered)
    summary = report.summary
    if integrity.sampled_requests and integrity.estimated_requests is not None:
        parts.append(
            f"sampled: {count(summary.requests)} of about {counted(integrity.estimated_requests, 'request')} kept, all"
            " slow and failed ones among them; TTFT, TPOT, end to end, objectives, parts of TTFT, the share of prompt"
            " tokens and findings are weighted to stand for all, everything else is of the kept ones"
        )
    if summary.requests_aborted + summary.requests_rejected + summary.requests_error:
        parts.append(f"requests: {outcomes(report)}")
    return " · ".join(parts)
