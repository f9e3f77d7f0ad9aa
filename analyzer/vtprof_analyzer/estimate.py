"""What `vtprof estimate` answers: parameters, KV cache, and the cost, bound and floor time of each phase of a request."""

from dataclasses import dataclass, replace

from vtprof_analyzer.cost.capacity import (
    DEFAULT_BLOCK_TOKENS,
    DEFAULT_MEMORY_RATIO,
    Capacity,
    capacity,
    context_share,
    items_that_fit,
    weights_bytes,
)
from vtprof_analyzer.cost.estimate import Workload, estimate, has_cross_attention, sequence_tokens
from vtprof_analyzer.cost.kv import cross_bytes_per_token, kv_bytes_per_token, kv_fixed_bytes, request_cache
from vtprof_analyzer.cost.parallel import Parallel, check_parallel, is_possible, kv_replication
from vtprof_analyzer.cost.parts import PartCost
from vtprof_analyzer.cost.steps import ONE_DEVICE
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.devices.measured import read_calibrations
from vtprof_analyzer.devices.roofs import ATTAINABLE, Roof
from vtprof_analyzer.devices.typed import Typed
from vtprof_analyzer.models.spec import ModelSpec, Params
from vtprof_analyzer.verdict import COMM_BOUND, COMPUTE_BOUND, HYBRID, LOW, MEMORY_BOUND, Thresholds


@dataclass(frozen=True)
class Question:
    """What is asked of a model."""

    workload: Workload
    precision: Precision
    compute_dtype: str
    """Data type of the language model's arithmetic, by which the compute peak is chosen."""
    encode_dtype: str
    """Likewise of the encoders, which quantisation may leave alone."""
    device: Typed | None = None
    parallel: Parallel = ONE_DEVICE
    full_attention: bool = False
    memory_ratio: float = DEFAULT_MEMORY_RATIO
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    output_tokens: int = 0
    """Tokens to be generated, for which a request keeps cache besides its prompt."""


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
    """Items like the ones asked for, if these are alike, that fit the window beside text and output."""
    ttft_floor_seconds: float | None
    """Encode and prefill one after the other, of the whole batch."""
    tpot_floor_seconds: float | None
    """One decode step of the whole batch."""
    roof: Roof | None
    notes: tuple[str, ...]


def answer(spec: ModelSpec, question: Question) -> Answer:
    """Work the answer out; raise ConfigError for parallel sizes that contradict the model."""
    check_parallel(question.parallel, spec)
    workload, language = question.workload, spec.language
    kv_bytes, ranks = question.precision.kv_bytes, question.parallel.tensor
    roof, notes = _roof(question, question.compute_dtype)
    encoders, more = (
        (roof, [])
        if question.encode_dtype == question.compute_dtype
        else _roof(question, question.encode_dtype)
    )
    notes += [note for note in more if note not in notes]
    costs = estimate(
        spec,
        question.precision,
        workload,
        parallel=question.parallel,
        full_attention=question.full_attention,
    )
    phases = {
        "encode": _encode(spec, costs.encode, encoders),
        "prefill": _phase(costs.prefill, roof),
        "decode": _phase(costs.decode, roof),
    }
    kept = _kept(spec, question)
    cache = request_cache(language, kv_bytes, kept.tokens, kept.visual_tokens, question.block_tokens, ranks)
    held = _held(spec, question, kept)
    per_token = kv_bytes_per_token(language, kv_bytes, ranks)
    beside = cross_bytes_per_token(language, kv_bytes, ranks)
    sizes = {item.tokens + item.extra_tokens for item in workload.visual_items}
    alike = sizes.pop() if len(sizes) == 1 else 0
    return Answer(
        params=spec.params,
        kv_bytes_per_token=per_token,
        kv_fixed_bytes=kv_fixed_bytes(language, kv_bytes, ranks),
        kv_bytes_per_visual_token=beside or per_token,
        kv_bytes_per_request=cache.bytes,
        kv_visual_bytes_per_request=cache.visual_bytes,
        phases=phases,
        capacity=held,
        context_tokens=language.context_tokens,
        context_share=context_share(kept.visual_tokens, 1, kept.window) if kept.window else None,
        images_in_context=items_that_fit(alike, kept.window, workload.text_tokens, question.output_tokens)
        if alike and kept.window
        else None,
        ttft_floor_seconds=_sum(phases["encode"], phases["prefill"]),
        tpot_floor_seconds=phases["decode"].floor_seconds,
        roof=roof,
        notes=(*spec.notes, *notes, *_notes(spec, question, kept, held, phases["encode"])),
    )


@dataclass(frozen=True)
class _Kept:
    """What the cache of one request holds at its fullest."""

    prompt_tokens: int
    tokens: int
    """Positions of the sequence."""
    visual_tokens: int
    """Of them, or beside them where the model has cross-attention."""
    window: int | None
    """Context window that the visual tokens share; None where it is not known or they stand beside it."""


def _kept(spec: ModelSpec, question: Question) -> _Kept:
    workload, cross = question.workload, has_cross_attention(spec)
    prompt = sequence_tokens(spec, workload)
    return _Kept(
        prompt,
        # The last token that is generated is never read.
        max(prompt + max(0, question.output_tokens - 1), workload.context_tokens or 0),
        # Of cross-attention the cache holds every position beside the text, whatever it stands for.
        workload.visual_tokens + (workload.audio_tokens if cross else 0),
        None if cross else spec.language.context_tokens,
    )


def _notes(
    spec: ModelSpec, question: Question, kept: _Kept, held: Capacity | None, encode: Phase
) -> list[str]:
    """Say what a reader would stumble over: what does not fit, is not known, or contradicts itself."""
    notes, given = [], question.workload.context_tokens
    if encode.flops is None:
        notes.append(
            "the encoder's layers are convolutions without a formula: its FLOPs and floor are not known"
        )
    if given is not None and given < kept.prompt_tokens:
        notes.append(
            f"--context {given:,} is less than the prompt of {kept.prompt_tokens:,} tokens: the decode step is that of a"
            " shorter request, the KV cache this one's"
        )
    if held is not None:
        notes += _memory_notes(spec, question, held)
    groups = spec.language.groups
    copies = max((kv_replication(group.attention, question.parallel.tensor) for group in groups), default=1.0)
    if copies > 1:
        notes.append(
            f"more ranks than KV heads: each KV value is kept in {copies:g} copies, counted in the KV bytes"
        )
    if kept.window is not None and kept.tokens > kept.window:
        notes.append(f"{kept.tokens:,} tokens are more than the model's context window of {kept.window:,}")
    if has_cross_attention(spec) and kept.visual_tokens:
        notes.append(
            "media stand beside the text, in cross-attention: they take no part of the context window"
        )
    return notes


def _encode(spec: ModelSpec, part: PartCost, roof: Roof | None) -> Phase:
    """Return the encoder's phase; of convolutions without a formula what is counted would look like all of it."""
    phase = _phase(part, roof)
    if spec.encoder_flops_known or not phase.flops:
        return phase
    return replace(
        phase, flops=None, flops_attention=None, bytes=None, bytes_activations=None, intensity=None, bound=None,
        floor_seconds=None,
    )  # fmt: skip


def _sum(encode: Phase, prefill: Phase) -> float | None:
    """Return the floors of both, of prefill alone where nothing is encoded; None where one is not known."""
    parts = [prefill.floor_seconds] if encode.flops == 0 else [encode.floor_seconds, prefill.floor_seconds]
    known = [seconds for seconds in parts if seconds is not None]
    return sum(known) if len(known) == len(parts) else None


def _held(spec: ModelSpec, question: Question, kept: _Kept) -> Capacity | None:
    """Return what fits into the device; None where its memory is not known or nothing is kept."""
    memory = question.device.device.memory_bytes if question.device else None
    if memory is None or not kept.tokens + kept.visual_tokens:
        return None
    return capacity(
        spec,
        question.precision,
        memory,
        kept.tokens,
        kept.visual_tokens,
        parallel=question.parallel,
        memory_ratio=question.memory_ratio,
        block_tokens=question.block_tokens,
    )


def _memory_notes(spec: ModelSpec, question: Question, held: Capacity) -> list[str]:
    """Say what does not fit, and with how many ranks the weights do."""
    parallel, batch = question.parallel, question.workload.batch
    if held.kv_budget_bytes <= 0:
        memory = held.memory_bytes / parallel.replica_devices * question.memory_ratio
        for ranks in range(2, _MOST_RANKS_TRIED + 1):
            wider = replace(parallel, tensor=ranks)
            needed = weights_bytes(spec, question.precision, wider)
            if is_possible(wider, spec) and needed < memory * wider.replica_devices:
                return [
                    f"the weights alone do not fit into the device's memory; they do from --tp {ranks} on"
                ]
        return ["the weights alone do not fit into the device's memory: no request does"]
    if batch > held.requests // parallel.data:
        return [f"--batch {batch}: more than fit at a time; the phases are computed all the same"]
    return []


_MOST_RANKS_TRIED = 64


def _roof(question: Question, dtype: str) -> tuple[Roof | None, list[str]]:
    if question.device is None:
        return None, []
    # Stages of a pipeline follow one another: only the tensor ranks work on a step at the same time.
    stored = read_calibrations()
    choice = question.device.roofs(dtype, question.parallel.tensor, stored)
    notes = [*choice.notes, *([stored.note] if stored.note else [])]
    if choice.roof is not None and choice.roof.kind == ATTAINABLE and choice.roof.confidence == LOW:
        notes.append(choice.roof.doubt)
    return choice.roof, notes


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
