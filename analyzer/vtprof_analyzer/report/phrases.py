"""The sentences that terminal, HTML and Markdown share, so that the same thing is said in the same words."""

from collections.abc import Mapping
from typing import Any

from vtprof_analyzer.report.format import (
    DASH,
    NOT_RECORDED,
    count,
    counted,
    dots,
    duration,
    known,
    percent,
    plain,
    safe,
    scaled,
    size,
    tokens,
)
from vtprof_analyzer.report.model import (
    BudgetRow,
    Deployment,
    Dominance,
    Integrity,
    PhaseRow,
    Report,
    Roof,
    TtftBudget,
)
from vtprof_schemas import names

NOT_JUDGED = "insufficient_data"
VERDICTS: Mapping[str, str] = {NOT_JUDGED: "not judged"}
DIALECTS: Mapping[str, str] = {"vtprof": "vtprof's own spans", "vllm": "vLLM's own spans"}

TAIL_REQUESTS = 10
"""Slow requests from which their own budget says more than that of all requests."""
WITNESSES = "●●● both witnesses agree, ●●○ one witness, ●○○ they disagree or there is little data"


def verdict(bound: str) -> str:
    """Return the verdict as it is printed: ``compute-bound``."""
    return VERDICTS.get(bound, safe(bound, 24).replace("_", "-"))


def sure_verdict(row: PhaseRow) -> str:
    """Return the verdict with its confidence as dots: ``compute-bound ●●●``; no dots where nothing was judged."""
    return verdict(row.bound) if row.bound == NOT_JUDGED else f"{verdict(row.bound)} {dots(row.confidence)}"


def subject(deployment: Deployment) -> str:
    """Return what ran on what: ``Qwen2.5-VL-7B on 1 × NVIDIA H200``."""
    model = known(deployment.model, lambda text: safe(text, 60), "Model not recorded")
    device = known(deployment.device, lambda text: safe(text, 48), "a device that was not recorded")
    number = (
        f"{deployment.device_count} × " if deployment.device_count is not None and deployment.device else ""
    )
    return f"{model} on {number}{device}"


def _tail_tells(budget: TtftBudget) -> bool:
    return bool(budget.tail_phases) and budget.tail_requests >= TAIL_REQUESTS


def budget_rows(budget: TtftBudget) -> list[BudgetRow]:
    """Return the rows the bars show: of the slowest requests, or of all while those are too few to mean anything."""
    return budget.tail_phases if _tail_tells(budget) else budget.phases


def population(report: Report) -> str:
    """Return whose TTFT the bars show."""
    budget = report.ttft_budget
    if _tail_tells(budget):
        return f"{counted(budget.tail_requests, 'request')} at or above p95"
    return f"all {counted(budget.requests, 'request')} with a first token"


def setting(deployment: Deployment) -> str:
    """Return data type, parallel size and engine: ``bfloat16, TP 1, vllm 0.33``; the unknown is left out."""
    parts = []
    if deployment.weights_dtype is not None:
        parts.append(safe(deployment.weights_dtype, 20))
    if deployment.kv_dtype is not None and deployment.kv_dtype != deployment.weights_dtype:
        parts.append(f"KV {safe(deployment.kv_dtype, 20)}")
    if deployment.tensor_parallel is not None:
        parts.append(f"TP {deployment.tensor_parallel}")
    if deployment.engine is not None:
        parts.append(f"{safe(deployment.engine, 24)} {safe(deployment.engine_version or '', 24)}".strip())
    return ", ".join(parts)


def volume(report: Report) -> str:
    """Return how much was read: ``18,204 requests · 3 workers · 30.0 min``."""
    parts = [counted(report.summary.requests, "request"), counted(report.deployment.workers, "worker")]
    if report.summary.duration_s is not None:
        parts.append(duration(report.summary.duration_s * 1_000))
    return " · ".join(parts)


def headline(text: str) -> tuple[str, str]:
    """Split the verdict into its lead and the rest, at the first colon or full stop that ends a short phrase."""
    text = safe(text, 600)
    ends = [text.find(mark) for mark in (": ", ". ") if 0 < text.find(mark) <= 80]
    end = min(ends) + 1 if ends else (len(text) if len(text) <= 80 else 0)
    return text[:end], text[end:].strip()


def goodput(report: Report) -> str:
    """Return what share of requests met the objectives, and which these were."""
    slo = report.slo
    objectives = [
        f"{name} ≤ {duration(limit)}"
        for name, limit in (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms))
        if limit is not None
    ]
    if not objectives:
        return "no objective given: --slo-ttft-ms, --slo-tpot-ms"
    if slo.goodput_share is None:
        return f"{NOT_RECORDED} ({', '.join(objectives)})"
    rate = f", {plain(slo.goodput_per_s)} requests/s" if slo.goodput_per_s is not None else ""
    return f"{percent(slo.goodput_share)} of requests{rate} ({', '.join(objectives)})"


def kv_peak(report: Report) -> str:
    """Return the largest KV footprint, of what capacity, and what it led to."""
    kv = report.kv
    if kv.peak_held_bytes is None and kv.peak_usage_ratio is None:
        text = f"peak {NOT_RECORDED}"
    elif kv.capacity_bytes is None or kv.peak_usage_ratio is None:
        held = known(kv.peak_held_bytes, size, percent(kv.peak_usage_ratio or 0.0))
        text = f"peak {held} (capacity {known(kv.capacity_bytes, size)})"
    else:
        text = f"peak {percent(kv.peak_usage_ratio)} of {size(kv.capacity_bytes)}"
    return (
        f"{text}, preemptions {NOT_RECORDED}"
        if kv.preemptions is None
        else f"{text}, {counted(kv.preemptions, 'preemption')}"
    )


def modalities(report: Report) -> str:
    """Return the prompt tokens by modality; what is known to be zero is left out."""
    summary = report.summary
    if summary.text_tokens is None and summary.visual_tokens is None:
        return f"by modality {NOT_RECORDED}"
    kinds = (
        ("text", summary.text_tokens),
        ("visual", summary.visual_tokens),
        ("audio", summary.audio_tokens),
        ("cached", summary.cached_tokens),
    )
    return ", ".join(
        f"{kind} {known(number, lambda n: scaled(n, ''))}" for kind, number in kinds if number != 0
    )


def input_tokens(report: Report) -> str:
    """Return the prompt tokens by modality and the output tokens."""
    prompt = known(report.summary.input_tokens, tokens, f"tokens {NOT_RECORDED}")
    output = known(report.summary.output_tokens, tokens, f"tokens {NOT_RECORDED}")
    parts = modalities(report)
    return f"prompt {prompt} ({parts}), output {output}" if parts else f"prompt {prompt}, output {output}"


def outcomes(report: Report) -> str:
    """Return how the requests ended: ``18,190 ok, 12 aborted``."""
    summary = report.summary
    ends = (
        (summary.requests_ok, "ok"),
        (summary.requests_aborted, "aborted"),
        (summary.requests_rejected, "rejected"),
        (summary.requests_error, "failed"),
    )
    return ", ".join(f"{count(number)} {word}" for number, word in ends if number or word == "ok")


def dominance_rows(report: Report) -> list[tuple[str, Dominance]]:
    """Return the four visual-token shares with what each is a share of."""
    shares = report.dominance
    return [
        ("prompt tokens", shares.prompt_tokens),
        ("KV held over time", shares.kv_token_seconds),
        ("prefill FLOPs", shares.prefill_flops),
        ("bytes read in decode", shares.decode_bytes),
    ]


def visual_shares(report: Report) -> str:
    """Return the four shares and the counterfactual in one sentence, for where there is no room for a table."""
    rows = dominance_rows(report)
    if all(row.share is None for _, row in rows):
        shares = f"shares of tokens, KV, FLOPs and bytes {NOT_RECORDED}"
    else:
        shares = ", ".join(f"{known(row.share, percent)} of {name}" for name, row in rows)
    without = report.dominance.ttft_without_visual_ms
    ends = [
        f"{name} {duration(ms)}"
        for name, ms in (("p50", without.p50), ("p95", without.p95))
        if ms is not None
    ]
    return f"{shares}; TTFT without them {'about ' + ', '.join(ends) if ends else NOT_RECORDED}"


def without_visual(report: Report) -> str:
    """Return the counterfactual: TTFT if the requests had no visual tokens."""
    without = report.dominance.ttft_without_visual_ms
    if without.p50 is None and without.p95 is None:
        return f"TTFT without visual tokens: {NOT_RECORDED} ({safe(without.how)})."
    return (
        f"Without visual tokens TTFT would be p50 {known(without.p50, duration, DASH)}, "
        f"p95 {known(without.p95, duration, DASH)} ({safe(without.how)})."
    )


def roof_line(roof: Roof) -> str:
    """Return one pair of ceilings: ``791 TFLOP/s, 4.3 TB/s attainable (bfloat16), ridge 184 FLOP/B``."""
    return (
        f"{scaled(roof.peak_flops_per_s, 'FLOP/s')}, {scaled(roof.bandwidth_bytes_per_s, 'B/s')} "
        f"{safe(roof.kind, 20)} ({safe(roof.dtype, 20)}), ridge {plain(roof.ridge)} FLOP/B"
    )


def no_roofline(report: Report) -> str:
    """Say why there is no roofline, and what would give one."""
    if report.deployment.dialect != "vtprof":
        return (
            f"Not recorded: {DIALECTS.get(report.deployment.dialect, 'these spans')} tell nothing of engine steps, "
            f"which it needs ({names.SPAN_STEP} spans)."
        )
    return (
        f"Not recorded: it needs {names.SPAN_STEP} and {names.SPAN_WINDOW} spans and the model's config "
        f"({names.MODEL_CONFIG}, or --model)."
    )


def no_roof() -> str:
    """Say that no ceilings are known, and what would give them."""
    return f"The device's ceilings are {NOT_RECORDED}: name it with --device ({names.HW_NAME} in the traces)."


def no_ttft(report: Report) -> str:
    """Say why there is no TTFT budget, and what would give one."""
    if report.ttft_budget.requests == 0:
        return f"Not recorded: no request has a first token ({names.TTFT_NS})."
    spans = ", ".join(names.PHASE_SPANS[phase] for phase in names.TTFT_PHASES if phase != names.TRANSFER)
    return f"Not recorded: the requests have no phase spans ({spans})."


def no_kv() -> str:
    """Say why there is no KV footprint, and what would give one."""
    return (
        f"Not recorded: KV by modality needs {names.TOKENS_TEXT} and {names.TOKENS_IMAGE} on requests, and "
        f"{names.KV_BYTES_PER_TOKEN} on the resource (or --model)."
    )


def phase_reason(row: PhaseRow) -> str:
    """Return the sentence behind a phase's verdict."""
    return safe(row.explanation, 400)


REPAIRS: tuple[tuple[str, str, str], ...] = (
    ("files_skipped", "Files skipped", "not a trace, or unreadable"),
    ("malformed_lines", "Malformed lines", "left out"),
    ("truncated_lines", "Truncated lines", "left out: the writer ended in the middle"),
    ("duplicates", "Duplicate spans", "counted once"),
    ("orphans", "Phases whose request is absent", "in no request"),
    ("end_missing", "Spans without an end", "repaired"),
    ("negative_duration", "Spans that end before they start", "repaired"),
    ("unknown_attributes", "Attributes of an unknown name", "ignored"),
    ("ignored_spans", "Spans of other tools", "ignored"),
    ("ignored_signals", "Logs and other signals", "ignored"),
    ("requests_without_tokens", "Requests without token counts", "not in the token sums"),
    ("requests_without_phases", "Requests without phases", "not in the TTFT budget"),
)
"""Counters of ``Integrity``: field, name, what was done with them."""


def repairs(integrity: Integrity) -> list[tuple[str, int, str]]:
    """Return what was repaired or left out: name, how many, what was done; counts of zero are left out."""
    document: dict[str, Any] = vars(integrity)
    return [(name, document[field], done) for field, name, done in REPAIRS if document[field]]


def trust(report: Report) -> str:
    """Return in one paragraph whether the numbers can be believed."""
    integrity = report.integrity
    lost = {None: f"records lost {NOT_RECORDED}", 0: "no record lost"}.get(
        integrity.records_lost, f"{counted(integrity.records_lost or 0, 'record')} lost (counted)"
    )
    parts = [
        known(
            integrity.complete_spans_share,
            lambda share: f"{percent(share)} of spans complete",
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
    summary = report.summary
    if summary.requests_aborted + summary.requests_rejected + summary.requests_error:
        parts.append(f"requests: {outcomes(report)}")
    return " · ".join(parts)


def stratum(label: str) -> str:
    """Return a visual stratum in words: ``none``, ``up to 256``, ``257 to 1,024``, ``more than 16,384``."""
    lower = -1
    for name, upper in names.VISUAL_STRATA:
        if name == label:
            return "none" if upper == 0 else f"{count(lower + 1)} to {count(upper)}"
        lower = upper
    return f"more than {count(lower)}" if label == names.VISUAL_STRATUM_MORE else safe(label, 16)
