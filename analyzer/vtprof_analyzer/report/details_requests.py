"""Requests in detail: what the queue waited for, what percentiles consist of, interference, the slowest explained."""

from vtprof_analyzer.report import energy_phrases
from vtprof_analyzer.report.details_parts import Detail
from vtprof_analyzer.report.format import DASH, count, counted, duration, known, percent, plain, safe
from vtprof_analyzer.report.model import Report
from vtprof_analyzer.report.model_interference import Interference
from vtprof_analyzer.report.phrases import stratum
from vtprof_schemas import names

CAUSES = {
    "own_chunks": "own earlier chunks",
    "text_prefill": "prefill of others' text",
    "image_prefill": "prefill of others' visual tokens",
    "image_encode": "encoding of others' images",
    "decode_batch": "decode of others",
    "capacity": "room: KV full, or too many running",
    "unexplained": "unexplained",
}
"""What a request waited for, as the stage `queue_blame` names it."""
_LEAST_QUEUE = 0.01
"""Where the queue is less of TTFT, which is also where it is not judged, it does not matter what it waited for."""
_SLOWEST = 3
_MODELS = 8
_MODEL_NAME = 24
_LONG = 600
_LEAST_SHARE = 0.0005
"""Parts of less are in no table."""
_TIMES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT"}


def by_model(report: Report) -> Detail | None:
    """Return the times and the energy of each model's requests; None where there is one model."""
    rows = [
        (
            safe(row.model, _MODEL_NAME),
            count(row.requests),
            known(row.ttft_ms_p50, duration, DASH),
            known(row.ttft_ms_p95, duration, DASH),
            known(row.tpot_ms_p50, duration, DASH),
            known(row.tpot_ms_p95, duration, DASH),
            energy_phrases.of_model(row),
        )
        for row in report.by_model
    ]
    if not rows:
        return None
    heads = ("model", "requests", "TTFT p50", "p95", "TPOT p50", "p95", "energy each")
    together = "All other figures are of these models together"
    caption = "Energy is the mean of the requests whose energy is known in full"
    return Detail("models", "By model", [together], heads, rows, brief_rows=_MODELS, caption=caption)


def queue(report: Report) -> Detail | None:
    """Return what ran while requests waited."""
    told = report.ttft_detail.queue if report.ttft_detail else None
    budget = {row.phase: row.share for row in report.ttft_budget.phases}
    if told is None or not told.causes or (budget.get(names.QUEUE) or 0.0) < _LEAST_QUEUE:
        return None
    rows = [
        (
            CAUSES.get(row.cause, safe(row.cause, 40)),
            known(row.share, percent, DASH),
            known(row.mean_ms, duration, DASH),
            known(row.p95_ms, duration, DASH),
        )
        for row in told.causes
        if row.share is None or row.share >= _LEAST_SHARE
    ]
    whole = known(told.queue_ms_mean, lambda ms: f"; {duration(ms)} in the mean", "")
    return Detail(
        "queue",
        f"What the queue waited for ({counted(told.queued, 'request')} of {count(told.requests)} queued{whole})",
        heads=("waited for", "share", "mean", "p95"),
        rows=rows,
        caption="Time in the queue before the first token, by what the engine did meanwhile",
    )


def preprocess(report: Report) -> Detail | None:
    """Return what preprocessing consisted of."""
    parts = report.ttft_detail.preprocess if report.ttft_detail else []
    rows = [
        (
            safe(row.part, 24),
            known(row.share, percent, DASH),
            known(row.p50_ms, duration, DASH),
            known(row.p95_ms, duration, DASH),
            count(row.requests),
        )
        for row in parts
    ]
    if not rows:
        return None
    heads = ("part", "share", "p50", "p95", "requests")
    return Detail("preprocess", "What preprocessing did", heads=heads, rows=rows, brief_rows=0)


def percentiles(report: Report) -> Detail | None:
    """Return what each percentile of TTFT consists of, by visual tokens."""
    strata = report.ttft_detail.strata if report.ttft_detail else []
    if not strata:
        return None
    phases = list(dict.fromkeys(part.phase for row in strata for part in row.phases))
    rows = []
    for row in strata:
        shares = {part.phase: part.ms for part in row.phases}
        label = "all" if row.visual_stratum == "all" else stratum(row.visual_stratum)
        parts = [known(shares.get(phase), duration, DASH) for phase in phases]
        rows.append((label, safe(row.percentile, 8), count(row.requests), duration(row.ttft_ms), *parts))
    return Detail(
        "percentiles", "What TTFT consists of, by percentile and visual tokens",
        heads=("visual tokens", "", "requests", "TTFT", *(safe(phase, 16) for phase in phases)), rows=rows, words=2,
        caption="Each percentile of TTFT split as that of the requests around it; the parts add up to it", brief_rows=0,
    )  # fmt: skip


def interference(report: Report) -> Detail | None:
    """Return what image requests cost text requests."""
    if not report.interference:
        return None
    lines = [_cost(row) for row in report.interference]
    return Detail("interference", "What image requests cost text requests", lines)


def _cost(row: Interference) -> str:
    name = _TIMES.get(row.what, safe(row.what, 16))
    who = counted(row.requests, "text-only request")
    if row.effect_ms is None:
        return f"{name} of {who}: not determined ({safe(row.why_not or 'no reason recorded', 160)})"
    ends = ""
    if row.low_ms is not None and row.high_ms is not None:
        ends = f" ({_signed(row.low_ms)} to {_signed(row.high_ms)}, 95 %)"
    of = "" if row.share is None else f", {percent(row.share)} of it"
    how = {
        "matched_steps": f"{counted(row.n_matched, 'step')} with image work against like steps without",
        "request_regression": f"a regression over {counted(row.n_matched, 'request')} on the work beside them",
    }.get(row.method or "", "")
    without = "" if row.excludes is None else f", {safe(row.excludes, 40)} not counted"
    text = f"{name} of {who}: {_signed(row.effect_ms)}{ends}{of}{without}; {how}"
    if row.agrees is False:
        text += "; a regression disagrees, and the interval holds both"
    return text


def _signed(ms: float) -> str:
    shown = duration(ms)
    return f"+{shown}" if shown[0].isdigit() and ms > 0 else shown


def slow_requests(report: Report) -> Detail | None:
    """Return the slowest requests, each with what made it slow."""
    told = report.anomalies
    if told is None or not told.requests:
        return None
    rows = [
        (
            str(row.rank),
            safe(row.request_id if row.request_id is not None else row.trace_id, 40),
            duration(row.excess_ms),
            safe(row.phase, 16),
            safe(row.cause, 24).replace("_", " "),
            safe(row.evidence, _LONG),
        )
        for row in told.requests
    ]
    return Detail(
        "slow", f"Slow requests explained ({count(told.slow)} of {count(told.judged)} took {plain(told.times_normal)}"
        " times what is normal)",
        heads=("", "request", "over normal", "phase", "cause", "evidence"), rows=rows, words=0,
        more_words=frozenset({1, 3, 4, 5}), brief_rows=_SLOWEST,
        caption="Normal is the median of the requests with as many visual tokens; of decode, the median TPOT of all"
        " requests × the tokens after the first", brief_columns=5,
        brief_lines=[f"The first: {safe(told.requests[0].evidence, _LONG)}"],
    )  # fmt: skip
