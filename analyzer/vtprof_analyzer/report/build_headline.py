"""The verdict in one or two sentences: do visual tokens dominate, and what would the run be without them."""

from vtprof_analyzer.report.format import duration, percent, whole_percent, whole_percents
from vtprof_analyzer.report.model import Summary, TtftBudget, VisualDominance

_MEASURES = {
    "prompt_tokens": "of prompt tokens",
    "kv_token_seconds": "of KV held over time",
    "prefill_flops": "of prefill FLOPs",
    "decode_bytes": "of bytes read in decode",
    "ttft": "of TTFT",
}


def build_headline(summary: Summary, dominance: VisualDominance, budget: TtftBudget, orphans: int = 0) -> str:
    """Return the first thing a reader should know; ``orphans`` are phases whose request is absent."""
    if not summary.requests:
        others = summary.spans - orphans
        there = [f"{others:,} spans of engine steps"] if others > 0 else []
        there += [f"{orphans:,} phases whose request is absent"] if orphans else []
        return f"No requests in these traces: there are only {' and '.join(there) or 'other spans'}."
    known = [(getattr(dominance, name), of) for name, of in _MEASURES.items()]
    shares = [(d.dominant, f"{percent(d.share)} {of}") for d, of in known if d and d.share is not None]
    dominant, lesser = (
        [text for is_dominant, text in shares if bool(is_dominant) == side] for side in (True, False)
    )
    if not shares:
        why = "the traces do not record them" + (
            "" if summary.visual_tokens is None else " for most requests"
        )
        return f"What visual tokens cost is not known: {why}. {_largest_part(budget)}".strip()
    if summary.visual_tokens == 0:
        return f"No visual tokens in these requests. {_largest_part(budget)}".strip()
    effect = _without(summary, dominance) or _largest_part(budget)
    if not dominant:
        return f"Visual tokens do not dominate: {', '.join(lesser)}. {effect}".strip()
    rest = f"Not dominant: {', '.join(lesser)}." if lesser else ""
    return " ".join(
        part for part in (f"Visual tokens dominate: {', '.join(dominant)}.", effect, rest) if part
    )


def _without(summary: Summary, dominance: VisualDominance) -> str:
    for quantile in ("p95", "p50"):
        now = getattr(summary.ttft_ms, quantile)
        then = getattr(dominance.ttft_without_visual_ms, quantile)
        if now and then is not None:
            change = f"{duration(then)} instead of {duration(now)} ({_change(now, then)})"
            return f"Without them TTFT {quantile} would be about {change}."
    return ""


def _largest_part(budget: TtftBudget) -> str:
    # Rounded as in the table, where the parts have to add up to 100 %.
    wholes = whole_percents([row.share for row in budget.phases])
    parts = [
        (row.share, row.phase, whole)
        for row, whole in zip(budget.phases, wholes, strict=True)
        if row.share is not None and whole is not None
    ]
    if not parts:
        return ""
    _, phase, whole = max(parts, key=lambda part: part[0])
    return f"The largest part of TTFT is {phase}, {whole_percent(whole)}."


def _change(now: float, then: float) -> str:
    percent = round(100 * (then - now) / now)
    return "unchanged" if percent == 0 else f"{percent:+d} %".replace("-", "−")
