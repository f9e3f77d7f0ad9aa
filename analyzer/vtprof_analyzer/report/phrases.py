"""The sentences that terminal, HTML and Markdown share, so that the same thing is said in the same words."""

from collections.abc import Mapping, Sequence

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
    tokens,
)
from vtprof_analyzer.report.model import (
    BudgetRow,
    Deployment,
    Dominance,
    PhaseRow,
    Report,
    Roof,
    TtftBudget,
)
from vtprof_schemas import names

NOT_JUDGED = "insufficient_data"
VERDICTS: Mapping[str, str] = {NOT_JUDGED: "not judged"}
DIALECTS: Mapping[str, str] = {
    "vtprof": "vtprof's own spans",
    "vllm": "vLLM's own spans",
    "sglang": "SGLang's own spans",
}

_ALL = 0.995
"""Known of so much is known of all."""
_DEVICE_KINDS = 3
"""Kinds of devices that the heading names."""
_MODELS = 3
"""Models likewise."""
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
    """Return what ran on what: ``Qwen2.5-VL-7B on 1 × NVIDIA H200``; of several models how many."""
    name = deployment.model if deployment.model is not None else deployment.model_type
    model = known(name, lambda text: safe(text, 60), "Model not recorded")
    if len(deployment.models) > 1:
        named = [safe(one.rpartition("/")[2], 32) for one in deployment.models[:_MODELS]]
        more = len(deployment.models) - len(named)
        model = f"{len(deployment.models)} models ({', '.join(named)}{f' and {more} more' if more else ''})"
    unnamed = deployment.devices_unnamed
    each = [f"{kind.count} × {safe(kind.name, 48)}" for kind in deployment.devices[:_DEVICE_KINDS]]
    if unnamed and (each or deployment.device is None):
        # First what most of it ran on.
        place = len(each) if deployment.device else 0
        each.insert(
            place, counted(unnamed, "device without a recorded name", "devices without a recorded name")
        )
    if len(deployment.devices) > 1 or len(each) > len(deployment.devices):
        more = len(deployment.devices) - _DEVICE_KINDS
        return f"{model} on {', '.join(each)}{f' and {more} kinds more' if more > 0 else ''}"
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
        whose = f"{_kept_requests(budget.tail_requests, report)} at or above p95"
    else:
        whose = f"all {_kept_requests(budget.requests, report)} with a first token"
    return whose + (", weighted" if is_sampled(report) else "")


def _kept_requests(number: int, report: Report) -> str:
    return counted(number, f"request{kept(report)}", f"requests{kept(report)}")


def setting(deployment: Deployment) -> str:
    """Return data type, parallel sizes and engine: ``bfloat16, TP 2, PP 2, vllm 0.33``; the unknown is left out.

    Of pipeline, data and expert parallelism those that there are: a size of one is none.
    """
    parts = []
    if deployment.weights_dtype is not None:
        parts.append(safe(deployment.weights_dtype, 20))
    if deployment.kv_dtype is not None and deployment.kv_dtype != deployment.weights_dtype:
        parts.append(f"KV {safe(deployment.kv_dtype, 20)}")
    if deployment.tensor_parallel is not None:
        parts.append(f"TP {deployment.tensor_parallel}")
    more = {
        "PP": deployment.pipeline_parallel,
        "DP": deployment.data_parallel,
        "EP": deployment.expert_parallel,
    }
    parts.extend(f"{name} {ranks}" for name, ranks in more.items() if ranks is not None and ranks > 1)
    if deployment.engine is not None:
        parts.append(f"{safe(deployment.engine, 24)} {safe(deployment.engine_version or '', 24)}".strip())
    return ", ".join(parts)


def volume(report: Report) -> str:
    """Return how much was read: ``18,204 requests · 3 workers · 30.0 min``; of sampled requests, how many there were."""
    integrity = report.integrity
    requests = counted(report.summary.requests, "request")
    if integrity.sampled_requests and integrity.estimated_requests is not None:
        requests += f" (of about {count(integrity.estimated_requests)})"
    parts = [requests, counted(report.deployment.workers, "worker")]
    if report.summary.duration_s is not None:
        parts.append(duration(report.summary.duration_s * 1_000))
    return " · ".join(parts)


def is_sampled(report: Report) -> bool:
    """Tell whether the requests are those that sampling kept."""
    return report.summary.weighted and report.integrity.estimated_requests is not None


def kept(report: Report) -> str:
    """Return the word that tells requests that were kept from all: `` kept``, or nothing."""
    return " kept" if is_sampled(report) else ""


def sampling(report: Report) -> str:
    """Return which numbers are estimates for all requests, and which are of the kept ones; empty where all were kept."""
    if not is_sampled(report):
        return ""
    whole = count(report.integrity.estimated_requests or 0)
    return (
        f"{count(report.summary.requests)} of about {whole} requests kept, the slow ones over-represented; TTFT, TPOT, end"
        " to end, goodput and findings are estimated for all, each kept request counting for those it stands for; tokens,"
        " KV of requests, energy and times of phases are of the kept ones"
    )


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
    whole = f"about {count(report.integrity.estimated_requests or 0)} " if is_sampled(report) else ""
    return f"{percent(slo.goodput_share)} of {whole}requests{rate} ({', '.join(objectives)})"


def price(report: Report) -> str:
    """Return what a request that met the objectives cost; empty where no price was given."""
    whole = next((row for row in report.slo_rows if row.name is None), None)
    if whole is None or whole.usd_per_ok_request is None:
        return ""
    asked = report.slo.ttft_ms is not None or report.slo.tpot_ms is not None
    which = "request that met the objectives" if asked else "completed request"
    return f"${plain(whole.usd_per_ok_request)} a {which}, all others' cost in it"


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
    whose = ", of the requests kept" if is_sampled(report) else ""
    text = f"prompt {prompt} ({parts}), output {output}" if parts else f"prompt {prompt}, output {output}"
    return text + whose


def outcomes(report: Report) -> str:
    """Return how the requests ended: ``18,190 ok, 12 aborted``."""
    return f"{count(report.summary.requests_ok)} ok{', ' if (bad := unfinished(report)) else ''}{bad}"


def unfinished(report: Report) -> str:
    """Return how many requests did not end well: ``12 aborted, 2 failed``; empty where all did."""
    summary = report.summary
    ends = (
        (summary.requests_aborted, "aborted"),
        (summary.requests_rejected, "rejected"),
        (summary.requests_error, "failed"),
    )
    return ", ".join(f"{count(number)} {word}" for number, word in ends if number)


def dominance_rows(report: Report) -> list[tuple[str, Dominance]]:
    """Return the visual-token shares with what each is a share of; those of times where they are known."""
    shares = report.dominance
    times = (("TTFT", shares.ttft), ("TPOT", shares.tpot))
    return [
        ("prompt tokens", shares.prompt_tokens),
        ("KV held over time", shares.kv_token_seconds),
        ("prefill FLOPs", shares.prefill_flops),
        ("bytes read in decode", shares.decode_bytes),
        *((name, share) for name, share in times if share is not None),
    ]


def visual_shares(report: Report) -> str:
    """Return the shares and the counterfactual in one sentence, for where there is no room for a table."""
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


def roof_line(roof: Roof, roofs: Sequence[Roof] = ()) -> str:
    """Return one pair of ceilings: ``791 TFLOP/s, 4.3 TB/s attainable (bfloat16), ridge 184 FLOP/B``.

    Of ``roofs`` of several devices it says that it is the first one's; a roof that knows its device begins with its name.
    """
    name = f"{safe(roof.device, 48)}: " if roof.device else ""
    names = list(dict.fromkeys(one.device for one in roofs if one.device))
    whose = f"; {safe(names[0], 48)}, the first of {len(names)} roofs" if len(names) > 1 else ""
    return (
        f"{name}{scaled(roof.peak_flops_per_s, 'FLOP/s')}, {scaled(roof.bandwidth_bytes_per_s, 'B/s')} "
        f"{safe(roof.kind, 20)} ({safe(roof.dtype, 20)}), ridge {plain(roof.ridge)} FLOP/B{whose}"
    )


_BOUNDS: tuple[tuple[str, str], ...] = (
    ("latency_bound", "latency-bound: busy, yet far from both roofs (small or badly shaped work)"),
    ("overhead_bound", "overhead-bound: launches and gaps take longer than the work"),
)


def footnotes(report: Report) -> list[str]:
    """Return what the phase table's columns and words mean, only of those that occur in it."""
    rows = report.phases
    notes = [f"time: share of all phases' time, summed over requests{kept(report)}"]
    partly = [
        f"{percent(row.work_share)} of {safe(row.phase, 12)}"
        for row in rows
        if row.work_share is not None and row.intensity is not None and row.work_share < _ALL
    ]
    if partly:
        notes.append(f"FLOP/B: of the steps whose work is known, {', '.join(partly)}")
    if any(row.floor_ratio is not None for row in rows):
        notes.append("floor: the roofline's time for the work / measured time")
    notes += [meaning for bound, meaning in _BOUNDS if any(row.bound == bound for row in rows)]
    judged = [row for row in rows if row.flops_per_s is not None]
    if judged and all(row.gpu_time_share is None for row in judged):
        notes.append("no GPU time was recorded: wall time stands for device time")
    notes.append(f"{DASH}: {NOT_RECORDED}{_untold(report)}")
    if any(row.bound != NOT_JUDGED for row in rows):
        notes.append(WITNESSES)
    return notes


def _untold(report: Report) -> str:
    """Return which counters have no figure though some were recorded: known for too little time, or vague estimates."""
    shown = {(row.phase, "dram"): row.dram_bw_ratio for row in report.phases}
    shown |= {(row.phase, "tensor"): row.tensor_ratio for row in report.phases}
    parts = []
    for row in report.counters:
        if row.tells or not row.known_share or shown.get((row.phase, row.counter), 0.0) is not None:
            continue
        name = {"dram": "DRAM", "tensor": "tensor"}.get(row.counter, safe(row.counter, 16))
        why = f"known for {percent(row.known_share)} of its time"
        if 2 * row.known_share >= 1:
            why = f"estimated, from {known(row.low, percent)} to {known(row.high, percent)}"
        parts.append(f"{name} of {safe(row.phase, 12)} ({why})")
    return ", or too little to show: " + ", ".join(parts) if parts else ""


def phase_reason(row: PhaseRow) -> str:
    """Return the sentence behind a phase's verdict."""
    return safe(row.explanation, 400)


def stratum(label: str) -> str:
    """Return a visual stratum in words: ``none``, ``up to 256``, ``257 to 1,024``, ``more than 16,384``."""
    lower = -1
    for name, upper in names.VISUAL_STRATA:
        if name == label:
            return "none" if upper == 0 else f"{count(lower + 1)} to {count(upper)}"
        lower = upper
    return f"more than {count(lower)}" if label == names.VISUAL_STRATUM_MORE else safe(label, 16)
