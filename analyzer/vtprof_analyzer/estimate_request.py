"""From what the user typed to what the cost model is asked: files read, tokens counted, data types and device resolved."""

from dataclasses import dataclass

from vtprof_analyzer.cost.estimate import Workload, sequence_tokens, square_item
from vtprof_analyzer.cost.parallel import Parallel
from vtprof_analyzer.cost.steps import ONE_DEVICE
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.devices.typed import typed_device
from vtprof_analyzer.estimate import Question
from vtprof_analyzer.models.find import find_model
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.models.tokens.count import Counts, Item, count_items
from vtprof_analyzer.models.weights import DTYPE_BYTES, canonical_dtype
from vtprof_schemas.errors import ConfigError, DataError

ASSUMED_DTYPE = "bfloat16"
ASSUMED_TEXT_TOKENS = 100
ASSUMED_IMAGE = (1024, 1024)


@dataclass(frozen=True)
class Asked:
    """The command line."""

    model: str
    items: tuple[Item, ...] = ()
    text_tokens: int | None = None
    visual_tokens: int | None = None
    context_tokens: int | None = None
    cached_tokens: int = 0
    batch: int = 1
    device: str | None = None
    dtype: str | None = None
    kv_dtype: str | None = None
    parallel: Parallel = ONE_DEVICE
    full_attention: bool = False
    memory_ratio: float = 0.9
    block_tokens: int = 16
    output_tokens: int = 0
    text_only: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Request:
    """What was resolved."""

    name: str
    spec: ModelSpec
    question: Question
    counts: Counts
    dtype: str
    """Of the weights, as the answer calls it."""
    kv_dtype: str
    notes: tuple[str, ...]


def request(asked: Asked) -> Request:
    """Resolve a question; raise ConfigError for a flag, DataError for a file at fault."""
    files = find_model(asked.model)
    if files.config is None:
        raise DataError(f"{files.name}: config.json is missing, which says the model's sizes; put it there")
    try:
        spec = load_spec(files.config)
    except DataError as error:
        raise DataError(f"{files.name}: {error}") from error
    if spec.vision is None and spec.audio is None and not asked.text_only:
        raise ConfigError(
            f"{files.name}: {spec.model_type} is a text-only model, without a vision or audio tower; give a"
            " vision-language model, or --text-only to estimate it all the same"
        )
    notes: list[str] = []
    items, text = list(asked.items), asked.text_tokens
    if not items and text is None and asked.visual_tokens is None:
        text = ASSUMED_TEXT_TOKENS
        shown = f"{text} text tokens"
        if spec.vision is not None:
            items = [Item("image", *ASSUMED_IMAGE)]
            shown += f" and one image of {ASSUMED_IMAGE[0]}x{ASSUMED_IMAGE[1]}"
        notes.append(f"no workload given: {shown} assumed; see --text, --image, --visual")
    if asked.visual_tokens is not None and any(item.kind != "audio" for item in items):
        raise ConfigError("--visual beside --image or --video: give either the tokens or what they come from")
    if asked.visual_tokens and spec.vision is None:
        raise ConfigError(f"--visual: {files.name} has no vision tower; leave it out")
    counts = count_items(files, items) if items else Counts((), ())
    visual = counts.of("image", "video")
    if asked.visual_tokens:
        visual = (square_item(spec, asked.visual_tokens),)
        notes.append(
            f"--visual {asked.visual_tokens}: encoded as if one image, as square as its patches allow"
        )
    workload = Workload(
        text_tokens=text or 0,
        visual_items=visual,
        audio_items=counts.of("audio"),
        context_tokens=asked.context_tokens,
        cached_tokens=asked.cached_tokens,
        batch=asked.batch,
    )
    _check(asked, workload, spec)
    precision, dtype = _precision(asked, spec, notes)
    device = typed_device(asked.device) if asked.device is not None else None
    if device is not None and device.note:
        notes.append(device.note)
    assumed = (*files.notes, *counts.notes, *notes, *spec.notes)
    if asked.strict and assumed:
        raise DataError(f"--strict: {files.name}: {'; '.join(assumed)}")
    question = Question(
        workload=workload,
        precision=precision,
        compute_dtype=_compute_dtype(spec, asked, dtype),
        encode_dtype=_activations(dtype)
        if spec.quantization is not None and "vision" in spec.quantization.kept
        else _compute_dtype(spec, asked, dtype),
        device=device,
        parallel=asked.parallel,
        full_attention=asked.full_attention,
        memory_ratio=asked.memory_ratio,
        block_tokens=asked.block_tokens,
        output_tokens=asked.output_tokens,
    )
    kv_dtype = canonical_dtype(asked.kv_dtype) or _activations(dtype)
    return Request(files.name, spec, question, counts, dtype, kv_dtype, (*files.notes, *counts.notes, *notes))


def _check(asked: Asked, workload: Workload, spec: ModelSpec) -> None:
    if not 0 < asked.memory_ratio <= 1:
        raise ConfigError(f"--memory-ratio {asked.memory_ratio:g}: must be over 0 and at most 1")
    sequence = sequence_tokens(spec, workload)
    if asked.cached_tokens and asked.cached_tokens >= max(1, sequence):
        raise ConfigError(
            f"--cached {asked.cached_tokens}: the prompt has {sequence:,} tokens, and at least one is computed"
        )


def _precision(asked: Asked, spec: ModelSpec, notes: list[str]) -> tuple[Precision, str]:
    for flag, name in (("--dtype", asked.dtype), ("--kv-dtype", asked.kv_dtype)):
        if name is not None and name != "auto" and canonical_dtype(name) is None:
            raise ConfigError(f"{flag} {name[:60]!r}: unknown data type; known are {', '.join(DTYPE_BYTES)}")
    typed = None if asked.dtype == "auto" else canonical_dtype(asked.dtype)
    dtype = typed or spec.dtype
    if dtype is None:
        dtype = ASSUMED_DTYPE
        notes.append(f"the config names no data type: {dtype} assumed; see --dtype")
    # A type that the user names is that of all weights, whatever the checkpoint's quantisation.
    quantization = None if typed else spec.quantization
    precision = Precision.of(dtype, asked.kv_dtype, quantization)
    assert precision is not None
    return precision, dtype


def _activations(dtype: str) -> str:
    """Return the data type of activations: that of the weights, 16 bit for narrower ones."""
    return dtype if DTYPE_BYTES[dtype] >= DTYPE_BYTES["bfloat16"] else ASSUMED_DTYPE


def _compute_dtype(spec: ModelSpec, asked: Asked, dtype: str) -> str:
    """Return the data type of the arithmetic: of weights that are only stored narrow it is the activations'."""
    if spec.quantization is not None and asked.dtype in (None, "auto"):
        return spec.quantization.compute_dtype or _activations(dtype)
    return dtype if dtype in ("float8", "int8", "float4") else _activations(dtype)
