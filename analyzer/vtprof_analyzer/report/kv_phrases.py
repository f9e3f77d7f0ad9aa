"""What terminal, HTML and Markdown say of the KV cache, in the same words."""

from collections.abc import Mapping

from vtprof_analyzer.report.format import (
    NOT_RECORDED,
    count,
    counted,
    known,
    percent,
    safe,
    size,
    tokens,
)
from vtprof_analyzer.report.model import KvByModality, Report
from vtprof_analyzer.report.phrases import kept


def kv_peak(report: Report) -> str:
    """Return the largest KV footprint, of what capacity, and what it led to; a mean of a step is only a lower bound."""
    kv = report.kv
    at_least = "at least " if kv.peak_kind == "mean" else ""
    if kv.peak_held_bytes is None and kv.peak_usage_ratio is None:
        text = f"peak {NOT_RECORDED}"
    elif kv.capacity_bytes is None or kv.peak_usage_ratio is None:
        held = known(kv.peak_held_bytes, size, percent(kv.peak_usage_ratio or 0.0))
        text = f"peak {at_least}{held} (capacity {known(kv.capacity_bytes, size)})"
    else:
        text = f"peak {at_least}{percent(kv.peak_usage_ratio)} of {size(kv.capacity_bytes)}"
    if kv.preemptions is None:
        text += f", preemptions {NOT_RECORDED}"
    else:
        text += f", {counted(kv.preemptions, 'preemption')}"
    if kv.fullest is not None:
        fullest = f"{at_least}{percent(kv.fullest.peak_usage_ratio)}"
        text += f"; fullest process {safe(kv.fullest.instance, 32)} {fullest}"
    return text


PEAKS: Mapping[str, str] = {
    "max": "peak: the most tokens of any iteration, without batch padding",
    "mean": "peak: the largest time mean of a step or window, so it may have been more; tokens, without batch padding",
    "requests": "peak: from prompt and output tokens of the requests held at once, without batch padding",
}


def kv_peak_how(report: Report) -> str:
    """Return how the peak was got; nothing where there is none."""
    return PEAKS.get(report.kv.peak_kind or "", "")


def kv_title(report: Report) -> str:
    """Return the heading of the KV by modality: whose it is."""
    return f"KV of the requests{kept(report)}, by modality"


def kv_per_token(report: Report) -> str:
    """Return the KV bytes of a token; their range where processes differ in it."""
    kv = report.kv
    least, most = kv.bytes_per_token_min, kv.bytes_per_token_max
    if kv.bytes_per_token is None and least is not None and most is not None and least < most:
        return f"bytes per token differ by process ({count(least)} to {count(most)} B)"
    return known(kv.bytes_per_token, lambda number: f"{count(number)} B per token")


def kv_reused(report: Report) -> str:
    """Return how much of the requests' KV was not written anew; empty where nothing tells of any."""
    cached = report.summary.cached_tokens
    return f"{tokens(cached)} of it came from the prefix cache, not written again" if cached else ""


def kv_facts(report: Report) -> str:
    """Return the sizes of the KV of a token and of a request, and what of it was reused."""
    sizes = report.kv.bytes_per_request
    parts = [
        kv_per_token(report),
        f"per request p50 {known(sizes.p50, size)}, p95 {known(sizes.p95, size)}",
        kv_reused(report),
    ]
    return "; ".join(part for part in parts if part)


def kv_rows(report: Report) -> list[KvByModality]:
    """Return the KV by modality, without video and audio where no request had any."""
    rare = ("video", "audio")
    return [row for row in report.kv.by_modality if row.modality not in rare or row.tokens or row.bytes]
