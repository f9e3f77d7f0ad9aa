"""KV in detail: held over time by modality, what would still fit, and the three caches."""

from vtprof_analyzer.report.details_parts import Detail
from vtprof_analyzer.report.format import DASH, count, duration, known, percent, safe, scaled, size, tokens
from vtprof_analyzer.report.model import Report

_DIFFERS = 0.02
_PROCESSES = 8
_SOURCES = {"spans": "requests", "engine_page": "engine"}


def kv_over_time(report: Report) -> Detail | None:
    """Return the integral of KV held over time, by modality."""
    kv = report.kv
    rows = [
        (
            safe(row.modality, 16),
            known(row.share, percent, DASH),
            known(row.byte_seconds, lambda amount: f"{size(amount)} s", DASH),
            scaled(row.token_seconds, "token s"),
            known(row.peak_bytes, size, DASH),
        )
        for row in kv.over_time
        if row.token_seconds
    ]
    if not rows:
        return None
    lines = []
    if kv.over_time_difference is not None and abs(kv.over_time_difference) > _DIFFERS:
        less = "more" if kv.over_time_difference > 0 else "less"
        lines.append(f"That is {percent(abs(kv.over_time_difference))} {less} than the engines' steps count")
    return Detail(
        "kv-time", "KV held over time", lines, ("tokens of", "share", "bytes × time", "tokens × time", "peak"), rows,
        caption="By when requests wrote and freed it",
    )  # fmt: skip


def headroom(report: Report) -> Detail | None:
    """Return what the KV caches still had room for."""
    rows = [
        (
            safe(row.instance, 32),
            size(row.capacity_bytes),
            size(row.free_p05_bytes),
            known(row.requests_fit_p50, count, DASH),
            known(row.requests_fit_p95, count, DASH),
            known(row.fragmentation, percent, DASH),
        )
        for row in report.kv.headroom
    ]
    if not rows:
        return None
    return Detail(
        "headroom", "What would still fit into the KV caches, by KV alone",
        heads=("process", "capacity", "free (p5)", "median requests", "p95 requests", "fragmented"), rows=rows,
        brief_rows=_PROCESSES,
        caption="Free for all but a twentieth of the time, and how many more requests of this workload that holds;"
        " the engine's limit of running requests may be lower",
    )  # fmt: skip


def caches(report: Report) -> Detail | None:
    """Return the hit rates of the caches that told of themselves."""
    rows = [
        (
            safe(row.cache, 24),
            _SOURCES.get(row.source, safe(row.source, 24)),
            known(row.ratio, percent, DASH),
            f"{count(row.hits)} of {count(row.lookups)} {safe(row.unit, 12)}",
            known(row.saved_tokens, lambda number: tokens(round(number)), DASH),
        )
        for row in report.caches
    ]
    heads = ("cache", "told by", "hit rate", "hits", "saved")
    caption = "Of preprocessed items, of the encoder's outputs, and of the KV of prompts"
    return Detail("caches", "Caches", heads=heads, rows=rows, words=2, caption=caption) if rows else None


def more_dominance(report: Report, how: bool = False) -> list[str]:
    """Return what visual tokens do beyond the shares: to TPOT, to the context window, by preemptions.

    ``how``: with how what is not measured was got.
    """
    if report.summary.visual_tokens == 0:
        return []
    dominance, lines = report.dominance, []
    tpot = dominance.tpot_without_visual_ms
    if tpot is not None and tpot.p50 is not None and tpot.recorded_p50 is not None:
        lines.append(
            f"Without visual tokens TPOT p50 would be about {duration(tpot.p50)} instead of {duration(tpot.recorded_p50)}"
            + (
                f", p95 {duration(tpot.p95)} instead of {duration(tpot.recorded_p95)}"
                if tpot.p95 is not None and tpot.recorded_p95 is not None
                else ""
            )
            + (f" ({safe(tpot.how)})" if how else "")
        )
    window = dominance.context_window
    if window is not None and window.visual_p95 is not None:
        length = "" if window.tokens is None else f" of {tokens(window.tokens)}"
        filled = known(
            window.filled_p95, lambda share: f"; prompt and output together {percent(share)} at p95", ""
        )
        lines.append(
            f"Visual tokens take {known(window.visual_p50, percent)} of the context window{length} at p50,"
            f" {percent(window.visual_p95)} at p95{filled}"
        )
    preempted = dominance.preemptions
    if preempted is not None and preempted.count and preempted.share is not None:
        lines.append(
            f"Visual KV answers for {percent(preempted.share)} of {count(preempted.count)} preemptions, by its part of"
            " the KV held meanwhile"
        )
    return lines
