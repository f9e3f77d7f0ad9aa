"""The answer of `vtprof estimate` as a JSON document and as text for a terminal."""

from dataclasses import asdict
from typing import Any

from vtprof_analyzer.cost.estimate import sequence_tokens
from vtprof_analyzer.estimate import Answer, Phase
from vtprof_analyzer.estimate_request import Request
from vtprof_analyzer.verdict import COMM_BOUND, COMPUTE_BOUND, HYBRID, MEMORY_BOUND
from vtprof_schemas.printable import one_line

SCHEMA_VERSION = 1
_BOUNDS = {
    COMPUTE_BOUND: "compute bound",
    MEMORY_BOUND: "memory bound",
    HYBRID: "near the ridge",
    COMM_BOUND: "communication bound",
    None: "",
}


def as_document(request: Request, answer: Answer) -> dict[str, Any]:
    """Return the JSON document; its schema is estimate.schema.json. What is unknown is null."""
    workload, question = request.question.workload, request.question
    held = answer.capacity
    return {
        "schema_version": SCHEMA_VERSION,
        "model": request.name,
        "model_type": request.spec.model_type,
        "params": asdict(answer.params),
        "dtype": request.dtype,
        "kv_dtype": request.kv_dtype,
        "quantization": request.spec.quantization.method if request.spec.quantization else None,
        "kv_bytes_per_token": answer.kv_bytes_per_token,
        "kv_bytes_per_visual_token": answer.kv_bytes_per_visual_token,
        "kv_fixed_bytes": answer.kv_fixed_bytes,
        "kv_bytes_per_request": answer.kv_bytes_per_request,
        "kv_visual_bytes_per_request": answer.kv_visual_bytes_per_request,
        "text_tokens": workload.text_tokens,
        "visual_tokens": workload.visual_tokens,
        "audio_tokens": workload.audio_tokens,
        "extra_tokens": workload.tag_tokens,
        "prompt_tokens": sequence_tokens(request.spec, workload),
        "output_tokens": question.output_tokens,
        "batch": workload.batch,
        "parallel": asdict(question.parallel),
        "attention": "full" if question.full_attention else "causal",
        "context_window_tokens": answer.context_tokens,
        "context_share": answer.context_share,
        "images_in_context": answer.images_in_context,
        "device": question.device.device.name if question.device else None,
        "roof": None
        if answer.roof is None
        else {
            "kind": answer.roof.kind,
            "dtype": answer.roof.dtype,
            "peak_flops_per_s": answer.roof.peak_flops_per_s,
            "bandwidth_bytes_per_s": answer.roof.bandwidth_bytes_per_s,
            "source": answer.roof.source,
            "confidence": answer.roof.confidence,
        },
        "ttft_floor_seconds": answer.ttft_floor_seconds,
        "tpot_floor_seconds": answer.tpot_floor_seconds,
        "phases": {name: asdict(phase) for name, phase in answer.phases.items()},
        "max_batch": held.requests if held else None,
        "memory_ratio": question.memory_ratio,
        "capacity": asdict(held) if held else None,
        "notes": [*request.notes, *answer.notes],
    }


def as_text(request: Request, answer: Answer) -> str:
    """Return the answer for a terminal."""
    params = answer.params
    parts = [f"vision {_count(params.vision)} (adapter included)"] if params.vision else []
    parts += [f"audio {_count(params.audio)} (adapter included)"] if params.audio else []
    parts.append(f"language {_count(params.language)}")
    active = f"; {_count(params.active)} active per token" if params.active != params.total else ""
    lines = [
        _title(request),
        "",
        f"parameters   {_count(params.total)} total: {', '.join(parts)}{active}",
        f"prompt       {_prompt(request)}",
        f"KV cache     {_kv(answer)}",
    ]
    if answer.context_tokens:
        lines.append(f"context      {answer.context_tokens:,} tokens{_window(answer)}")
    if request.question.device is not None:
        lines += _device(request, answer)
    lines += ["", *_table(answer)]
    if answer.ttft_floor_seconds is not None and answer.tpot_floor_seconds is not None:
        lines.append(
            f"at best      TTFT {_seconds(answer.ttft_floor_seconds)} (encode + prefill), TPOT"
            f" {_seconds(answer.tpot_floor_seconds)} (one decode step)"
        )
    return "\n".join(lines)


def _title(request: Request) -> str:
    kind, packed = one_line(request.spec.model_type), _packed(request)
    return f"{one_line(request.name)}  ({kind}, weights {request.dtype}{packed}, KV {request.kv_dtype})"


def _prompt(request: Request) -> str:
    workload, output = request.question.workload, request.question.output_tokens
    counts = {
        "text": workload.text_tokens,
        "visual": workload.visual_tokens,
        "audio": workload.audio_tokens,
        "tag": workload.tag_tokens,
    }
    listed = " + ".join(f"{count:,} {kind}" for kind, count in counts.items() if count) or "0"
    return listed + " tokens" + (f", {output:,} to generate" if output else "") + _batched(workload.batch)


def _packed(request: Request) -> str:
    quantization = request.spec.quantization
    return f" packed by {quantization.method} at {quantization.bits:g} bit" if quantization else ""


def _batched(batch: int) -> str:
    return f", {batch:,} requests at a time" if batch > 1 else ""


def _kv(answer: Answer) -> str:
    shown = f"{answer.kv_bytes_per_token:,.0f} B a token"
    if answer.kv_bytes_per_visual_token != answer.kv_bytes_per_token:
        shown += f", {answer.kv_bytes_per_visual_token:,.0f} B a visual position (cross-attention)"
    if answer.kv_fixed_bytes:
        shown += f", up to {_bytes(answer.kv_fixed_bytes)} a sequence in windows and states"
    return shown + f"; {_bytes(answer.kv_bytes_per_request)} a request"


def _window(answer: Answer) -> str:
    if not answer.context_share:
        return ""
    shown = f", {answer.context_share:.1%} of it visual"
    return shown + (f"; {answer.images_in_context:,} such items fit" if answer.images_in_context else "")


def _device(request: Request, answer: Answer) -> list[str]:
    typed, roof, held, parallel = (
        request.question.device,
        answer.roof,
        answer.capacity,
        request.question.parallel,
    )
    assert typed is not None
    device = typed.device
    shown = f"{parallel.devices} x {device.name}" if parallel.devices > 1 else device.name
    if roof is not None:
        ranks = f" on {parallel.tensor} ranks" if parallel.tensor > 1 else ""
        shown += f": {_rate(roof.peak_flops_per_s, 'FLOP/s')} {roof.dtype}, {_rate(roof.bandwidth_bytes_per_s, 'B/s')}"
        shown += f"{ranks} ({roof.kind}), ridge {_round(roof.ridge)} FLOP/B"
    lines = [f"device       {shown}"]
    if held is not None:
        each = " each replica" if parallel.data > 1 else ""
        lines.append(
            f"max batch    {held.requests:,} such requests; of {_bytes(held.memory_bytes)} memory{each}"
            f" {request.question.memory_ratio:.0%} to use, {_bytes(held.weights_bytes)} weights,"
            f" {_bytes(max(0.0, held.kv_budget_bytes))} for KV"
        )
    return lines


def _rate(value: float, unit: str) -> str:
    scale, prefix = (1e12, "T") if unit == "FLOP/s" and value >= 1e12 else (1e9, "G")
    return f"{_round(value / scale)} {prefix}{unit}"


def _table(answer: Answer) -> list[str]:
    header = (
        f"{'phase':<8} {'FLOPs':>10} {'attention':>10} {'bytes':>10} {'weights':>10} {'KV':>10} {'FLOP/B':>8}"
    )
    roofed = answer.roof is not None
    sent = any(phase.bytes_communication for phase in answer.phases.values())
    rows = [header + (f" {'sent':>9}" if sent else "") + (f" {'floor':>10}  bound" if roofed else "")]
    for name, phase in answer.phases.items():
        if phase.flops != 0:
            rows.append(_row(name, phase, roofed, sent))
    return rows


def _row(name: str, phase: Phase, roofed: bool, sent: bool) -> str:
    row = (
        f"{name:<8} {_flops(phase.flops):>10} {_flops(phase.flops_attention):>10} {_bytes(phase.bytes):>10}"
        f" {_bytes(phase.bytes_weights):>10} {_bytes(phase.bytes_kv):>10} {_intensity(phase):>8}"
    )
    if sent:
        row += f" {_bytes(phase.bytes_communication):>9}"
    if not roofed:
        return row
    return (row + f" {_seconds(phase.floor_seconds):>10}  {_BOUNDS[phase.bound]}").rstrip()


_UNKNOWN = "–"


def _intensity(phase: Phase) -> str:
    return _UNKNOWN if phase.intensity is None else f"{phase.intensity:,.4g}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} {units[-1]}"


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def _bytes(value: float | None) -> str:
    return _UNKNOWN if value is None else _scaled(value, ("B", "kB", "MB", "GB", "TB", "PB"))


def _flops(value: float | None) -> str:
    return _UNKNOWN if value is None else _scaled(value, ("F", "kF", "MF", "GF", "TF", "PF", "EF"))


def _count(value: float) -> str:
    return _scaled(value, ("", "k", "M", "B", "T")).strip()


def _seconds(value: float | None) -> str:
    return _UNKNOWN if value is None else _scaled(value * 1e9, ("ns", "µs", "ms", "s"))
