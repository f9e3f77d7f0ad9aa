"""What `vtprof estimate` answers: parameters, KV cache, and the cost, bound and floor time of each phase of a request."""

import os
from dataclasses import dataclass, replace

from vtprof_analyzer.cost.capacity import (
    DEFAULT_BLOCK_TOKENS,
    DEFAULT_MEMORY_RATIO,
    Capacity,
    capacity,
    context_share,
    items_that_fit,
)
from vtprof_analyzer.cost.estimate import Workload, estimate, has_cross_attention, sequence_tokens
from vtprof_analyzer.cost.kv import cross_bytes_per_token, kv_bytes_per_token, kv_fixed_bytes, request_cache
from vtprof_analyzer.cost.parallel import Parallel, check_parallel
from vtprof_analyzer.cost.parts import PartCost
from vtprof_analyzer.cost.steps import ONE_DEVICE
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.devices.device import CPU, Device
from vtprof_analyzer.devices.measured import read_calibrations
from vtprof_analyzer.devices.roofs import Roof, choose_roof
from vtprof_analyzer.models.spec import ModelSpec, Params
from vtprof_analyzer.verdict import COMM_BOUND, COMPUTE_BOUND, HYBRID, MEMORY_BOUND, Thresholds


@dataclass(frozen=True)
class Question:
    """What is asked of a model."""

    workload: Workload
    precision: Precision
    compute_dtype: str
    """Data type of the arithmetic, by which the compute peak is chosen."""
    device: Device | None = None
    parallel: Parallel = ONE_DEVICE
    full_attention: bool = False
    memory_ratio: float = DEFAULT_MEMORY_RATIO
    block_tokens: int = DEFAULT_BLOCK_TOKENS


@dataclass(frozen=True)
class Phase:
    """One phase; None where there is no work, no roof, or no formula for an encoder's convolutions."""

    flops: float | None
    flops_attention: float | None
    bytes: float | None
    bytes_weights: float
    bytes_kv: float
    bytes_kv_visual: float
    bytes_activations: float | None
    bytes_communication: float
    intensity: float | None
    ridge: float | None
    bound: str | None
    floor_seconds: float | None


@dataclass(frozen=True)
class Answer:
    """The whole answer; field names are those of the JSON document."""

    params: Params
    kv_bytes_per_token: float
    """Of one cached token in the full-attention layers, over all ranks."""
    kv_fixed_bytes: float
    """Of one sequence: windows once full, and states."""
    kv_bytes_per_visual_token: float
    """What one visual position adds: the same, or that of the cross-attention layers."""
    kv_bytes_per_request: float
    kv_visual_bytes_per_request: float
    phases: dict[str, Phase]
    capacity: Capacity | None
    """None without a device, or with one whose memory is not known."""
    context_tokens: int | None
    """The model's context window."""
    context_share: float | None
    """Of the visual tokens in that window."""
    images_in_context: int | None
    """Images of the (mean) size asked for that fit the window beside the text."""
    roof: Roof | None
    notes: tuple[str, ...]


def answer(spec: ModelSpec, question: Question) -> Answer:
    """Work the answer out; raise ConfigError for parallel sizes that contradict the model."""
    check_parallel(question.parallel, spec)
    workload, precision, parallel = question.workload, question.precision, question.parallel
    roof, notes = _roof(question)
    costs = estimate(spec, precision, workload, parallel=parallel, full_attention=question.full_attention)
    encode = _phase(costs.encode, roof)
    if not spec.encoder_flops_known and encode.flops:
        encode = replace(
            encode, flops=None, flops_attention=None, bytes=None, bytes_activations=None, intensity=None,
            bound=None, floor_seconds=None,
        )  # fmt: skip
        notes.append(
            "the encoder's layers are convolutions without a formula: its FLOPs and floor are not known"
        )
    cross = has_cross_attention(spec)
    # Of cross-attention the cache holds every position beside the text, whatever it stands for.
    visual = workload.visual_tokens + (workload.audio_tokens if cross else 0)
    cached = max(sequence_tokens(spec, workload), workload.context_tokens or 0)
    language, ranks = spec.language, parallel.tensor
    cache = request_cache(language, precision.kv_bytes, cached, visual, question.block_tokens, ranks)
    per_token = kv_bytes_per_token(language, precision.kv_bytes, ranks)
    held = None
    if question.device is not None and question.device.memory_bytes is not None:
        held = capacity(
            spec,
            precision,
            question.device.memory_bytes,
            cached,
            visual,
            parallel=parallel,
            memory_ratio=question.memory_ratio,
            block_tokens=question.block_tokens,
        )
        if held.kv_budget_bytes <= 0:
            notes.append("the weights alone do not fit into the device's memory: no request does")
    window = language.context_tokens
    items = [item.tokens for item in workload.visual_items if item.tokens]
    mean = round(sum(items) / len(items)) if items else 0
    fits_window = window is not None and not cross
    if fits_window and window is not None and cached > window:
        notes.append(f"{cached:,} tokens are more than the model's context window of {window:,}")
    return Answer(
        params=spec.params,
        kv_bytes_per_token=per_token,
        kv_fixed_bytes=kv_fixed_bytes(language, precision.kv_bytes, ranks),
        kv_bytes_per_visual_token=cross_bytes_per_token(language, precision.kv_bytes, ranks)
        if cross
        else per_token,
        kv_bytes_per_request=cache.bytes,
        kv_visual_bytes_per_request=cache.visual_bytes,
        phases={
            "encode": encode,
            "prefill": _phase(costs.prefill, roof),
            "decode": _phase(costs.decode, roof),
        },
        capacity=held,
        context_tokens=window,
        context_share=context_share(visual, 1, window) if fits_window and window else None,
        images_in_context=items_that_fit(mean, window, workload.text_tokens)
        if mean and fits_window and window
        else None,
        roof=roof,
        notes=(*spec.notes, *notes),
    )


def _roof(question: Question) -> tuple[Roof | None, list[str]]:
    if question.device is None:
        return None, []
    # Stages of a pipeline follow one another: only the tensor ranks work on a step at the same time.
    device, dtype, calibrations = question.device, question.compute_dtype, read_calibrations()
    cores = len(os.sched_getaffinity(0)) if device.kind == CPU else None
    choice = choose_roof(
        device.name,
        dtype,
        devices=question.parallel.tensor,
        device_kind=device.kind,
        measured=calibrations.roof(device.name, dtype, cores),
        cores=cores,
    )
    return choice.roof, [*choice.notes, *([calibrations.note] if calibrations.note else [])]


def _phase(part: PartCost, roof: Roof | None) -> Phase:
    flops, moved = float(part.flops[0]), float(part.bytes[0])
    worked = flops > 0 and moved > 0
    intensity = flops / moved if worked else None
    return Phase(
        flops=flops,
        flops_attention=float(part.flops_attention[0]),
        bytes=moved,
        bytes_weights=float(part.bytes_weights[0]),
        bytes_kv=float(part.bytes_kv[0]),
        bytes_kv_visual=float(part.bytes_kv_visual[0] + part.bytes_kv_visual_written[0]),
        bytes_activations=float(part.bytes_activations[0]),
        bytes_communication=float(part.bytes_communication[0]),
        intensity=intensity,
        ridge=roof.ridge if roof else None,
        bound=_bound(part, intensity, roof) if roof and intensity is not None else None,
        floor_seconds=float(part.floor_seconds(roof)[0]) if roof and worked else None,
    )


def _bound(part: PartCost, intensity: float, roof: Roof) -> str:
    """Return which roof the work meets first (F13), or that its communication takes longer than either."""
    sent = float(part.communication_seconds(roof)[0])
    if sent > float(part.floor_seconds(roof)[0]) - sent:
        return COMM_BOUND
    band = Thresholds().ridge_band_ratio
    if intensity > roof.ridge * (1 + band):
        return COMPUTE_BOUND
    return MEMORY_BOUND if intensity < roof.ridge * (1 - band) else HYBRID
