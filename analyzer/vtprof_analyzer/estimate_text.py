"""The answer of `vtprof estimate` as a JSON document and as text for a terminal."""

from dataclasses import asdict
from typing import Any

from vtprof_analyzer.estimate import Answer, Phase
from vtprof_analyzer.estimate_request import Request
from vtprof_analyzer.verdict import COMM_BOUND, COMPUTE_BOUND, HYBRID, MEMORY_BOUND

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
        "extra_tokens": request.counts.extra_tokens,
        "batch": workload.batch,
        "parallel": asdict(question.parallel),
        "attention": "full" if question.full_attention else "causal",
        "context_window_tokens": answer.context_tokens,
        "context_share": answer.context_share,
        "images_in_context": answer.images_in_context,
        "device": question.device.name if question.device else None,
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
        "phases": {name: asdict(phase) for name, phase in answer.phases.items()},
        "max_batch": held.requests if held else None,
        "capacity": asdict(held) if held else None,
        "notes": [*request.notes, *answer.notes],
    }


def as_text(request: Request, answer: Answer) -> str:
    """Return the answer for a terminal."""
    workload, params = request.question.workload, answer.params
    lines = [
        f"{request.name}  ({request.spec.model_type}, weights {request.dtype}{_packed(request)}, KV {request.kv_dtype})",
        "",
        f"parameters   {_count(params.total)} total: vision {_count(params.vision)} (adapter included), language"
        f" {_count(params.language)}"
        + (f", audio {_count(params.audio)}" if params.audio else "")
        + (f"; {_count(params.active)} active per token" if params.active != params.total else ""),
        f"prompt       {workload.text_tokens:,} text + {workload.visual_tokens:,} visual"
        + (f" + {workload.audio_tokens:,} audio" if workload.audio_tokens else "")
        + f" tokens{_batched(workload.batch)}",
        f"KV cache     {_kv(answer)}",
    ]
    if answer.context_tokens:
        lines.append(f"context      {answer.context_tokens:,} tokens{_window(answer)}")
    device = request.question.device
    if device is not None:
        lines.append(f"device       {_device(request, answer)}")
    lines += ["", *_table(answer)]
    return "\n".join(lines)


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


def _device(request: Request, answer: Answer) -> str:
    device, roof, held = request.question.device, answer.roof, answer.capacity
    assert device is not None
    ranks = request.question.parallel.devices
    shown = f"{ranks} x {device.name}" if ranks > 1 else device.name
    if roof is not None:
        shown += (
            f": {_round(roof.peak_flops_per_s / 1e12)} TFLOP/s {roof.dtype}, {_round(roof.bandwidth_bytes_per_s / 1e9)} GB/s"
            f" ({roof.kind}), ridge {roof.ridge:,.0f} FLOP/B"
        )
    if held is not None:
        shown += (
            f"\nmax batch    {held.requests:,} such requests: {_bytes(held.memory_bytes)} memory,"
            f" {_bytes(held.weights_bytes)} weights, {_bytes(max(0.0, held.kv_budget_bytes))} left for KV"
        )
    return shown


def _table(answer: Answer) -> list[str]:
    header = (
        f"{'phase':<8} {'FLOPs':>10} {'attention':>10} {'bytes':>10} {'weights':>10} {'KV':>10} {'FLOP/B':>8}"
    )
    roofed = answer.roof is not None
    rows = [header + (f" {'floor':>10}  bound" if roofed else "")]
    for name, phase in answer.phases.items():
        if phase.flops != 0:
            rows.append(_row(name, phase, roofed))
    return rows


def _row(name: str, phase: Phase, roofed: bool) -> str:
    row = (
        f"{name:<8} {_flops(phase.flops):>10} {_flops(phase.flops_attention):>10} {_bytes(phase.bytes):>10}"
        f" {_bytes(phase.bytes_weights):>10} {_bytes(phase.bytes_kv):>10} {_intensity(phase):>8}"
    )
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
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(value: float | None) -> str:
    return _UNKNOWN if value is None else _scaled(value, ("B", "kB", "MB", "GB", "TB", "PB"))


def _flops(value: float | None) -> str:
    return _UNKNOWN if value is None else _scaled(value, ("F", "kF", "MF", "GF", "TF", "PF", "EF"))


def _count(value: float) -> str:
    return _scaled(value, ("", "k", "M", "B", "T")).strip()


def _seconds(value: float | None) -> str:
    return _UNKNOWN if value is None else _scaled(value * 1e6, ("µs", "ms", "s"))
