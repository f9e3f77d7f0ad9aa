"""The verdict in one or two sentences: do visual tokens dominate, and what would the run be without them."""

from vtprof_analyzer.report.model import Summary, TtftBudget, VisualDominance

_MEASURES = {
    "prompt_tokens": "of prompt tokens",
    "kv_token_seconds": "of KV held",
    "prefill_flops": "of prefill FLOPs",
    "decode_bytes": "of bytes read in decode",
}


def build_headline(summary: Summary, dominance: VisualDominance, budget: TtftBudget) -> str:
    """Return the first thing a reader should know."""
    if not summary.requests:
        return "No requests in these traces: there are spans of engine steps only."
    known = {name: getattr(dominance, name) for name in _MEASURES}
    shares = [f"{100 * d.share:.0f} % {_MEASURES[name]}" for name, d in known.items() if d.share is not None]
    dominated = [name for name, d in known.items() if d.dominant]
    if not shares:
        return f"What visual tokens cost is not known: the traces do not record them. {_largest_part(budget)}".strip()
    if summary.visual_tokens == 0:
        return f"No visual tokens in these requests. {_largest_part(budget)}".strip()
    listed = ", ".join(shares)
    verb = "dominate" if dominated else "do not dominate"
    return f"Visual tokens {verb}: {listed}. {_without(summary, dominance) or _largest_part(budget)}".strip()


def _without(summary: Summary, dominance: VisualDominance) -> str:
    for quantile in ("p95", "p50"):
        now = getattr(summary.ttft_ms, quantile)
        then = getattr(dominance.ttft_without_visual_ms, quantile)
        if now and then is not None:
            change = f"{_time(then)} instead of {_time(now)} ({_change(now, then)})"
            return f"Without them TTFT {quantile} would be about {change}."
    return ""


def _largest_part(budget: TtftBudget) -> str:
    parts = [row for row in budget.phases if row.share is not None]
    if not parts:
        return ""
    largest = max(parts, key=lambda row: row.share or 0.0)
    return f"The largest part of TTFT is {largest.phase}, {100 * (largest.share or 0.0):.0f} %."


def _change(now: float, then: float) -> str:
    percent = round(100 * (then - now) / now)
    return "unchanged" if percent == 0 else f"{percent:+d} %".replace("-", "−")


def _time(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.2f} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"
