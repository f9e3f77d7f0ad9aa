"""Hand-made records for the agent's tests: each function gives (code, values), times in plain small integers."""

from collections.abc import Iterable
from typing import Any

from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.facts import FinishedRequest, PhaseSpan, StepFact
from vtprof_schemas import names, records

Row = tuple[int, tuple[Any, ...]]


def make(kind: records.RecordKind, **fields: Any) -> Row:
    """Make a record; fields not named are UNKNOWN (or 0 where the field has no sign)."""
    values = []
    for name, fmt, _ in kind.fields:
        default: Any = records.UNKNOWN if fmt in ("q", "i") else 0
        values.append(fields.pop(name, default))
    assert not fields, fields
    return kind.code, tuple(values)


def arrived(request: int, at: int) -> Row:
    return make(records.REQUEST_ARRIVED, request=request, time_ns=at)


def prompt(request: int, text: int, image: int = 0) -> Row:
    return make(
        records.REQUEST_INPUT, request=request, input_tokens=text + image, text_tokens=text, image_tokens=image,
        video_tokens=0, audio_tokens=0, cached_tokens=0, image_items=1 if image else 0, video_items=0, audio_items=0,
    )  # fmt: skip


def preprocess(request: int, start: int, end: int) -> Row:
    return make(
        records.PREPROCESS, request=request, start_ns=start, end_ns=end, cpu_ns=end - start, pixels=100
    )


def queue(request: int, start: int, end: int) -> Row:
    return make(records.QUEUE, request=request, start_ns=start, end_ns=end)


def encode(step: int, request: int, start: int, end: int, patches: int = 16) -> Row:
    return make(
        records.ENCODE, step=step, request=request, start_ns=start, end_ns=end, items=1, patches=patches,
        attention_pairs=patches * patches, cache_hits=0,
    )  # fmt: skip


def prefill(step: int, request: int, tokens: int, last: int = 1, visual: int = 0) -> Row:
    return make(
        records.PREFILL, step=step, request=request, tokens=tokens, visual_tokens=visual, context_tokens=0,
        cached_tokens=0, attention_pairs=tokens * (tokens + 1) // 2, visual_attention_pairs=0, last=last,
    )  # fmt: skip


def step(index: int, start: int, end: int, decoders: int = 0, prefill_tokens: int = 0, **more: int) -> Row:
    fields = {"encode_ns": 0, "decode_context_tokens": 0, "decode_visual_tokens": 0, "preemptions": 0, **more}
    return make(
        records.STEP,
        step=index,
        start_ns=start,
        end_ns=end,
        prefill_tokens=prefill_tokens,
        decode_requests=decoders,
        **fields,
    )


def gpu_time(index: int, total: int, encoder: int = -1) -> Row:
    return make(records.GPU_TIME, step=index, gpu_time_ns=total, encode_gpu_time_ns=encoder)


def first_token(request: int, at: int) -> Row:
    return make(records.FIRST_TOKEN, request=request, time_ns=at)


def preempted(request: int, index: int, at: int) -> Row:
    return make(records.PREEMPTED, request=request, step=index, time_ns=at)


def sequence(child: int, request: int) -> Row:
    return make(records.SEQUENCE, sequence=child, request=request)


def left(request: int, index: int, at: int, output: int = -1) -> Row:
    return make(records.LEFT, request=request, step=index, time_ns=at, output_tokens=output)


def finished(request: int, at: int, output: int, status: str = names.STATUS_OK) -> Row:
    return make(
        records.REQUEST_FINISHED,
        request=request,
        time_ns=at,
        status=names.STATUSES.index(status),
        output_tokens=output,
    )


def step_facts(assembly: Assembly) -> list[StepFact]:
    """Take the steps that were settled, each by itself."""
    return [run.fact(i, i + 1) for run in assembly.take_runs() for i in range(len(run.steps))]


def assemble(
    rows: Iterable[Row], *, expects_gpu_time: bool = False, assembly: Assembly | None = None
) -> tuple[dict[str, FinishedRequest], list[StepFact], Assembly]:
    """Feed records at agent time 0, let 10 s pass, and return finished requests by id and the steps."""
    machine = assembly or Assembly(AssemblySettings(), expects_gpu_time=expects_gpu_time)
    for sequence, (code, values) in enumerate(rows, start=1):
        machine.feed(code, sequence, values, 0)
    machine.advance(10_000_000_000)
    return (
        {str(r.attributes[names.REQUEST_ID]): r for r in machine.take_requests()},
        step_facts(machine),
        machine,
    )


def needed(assembly: Assembly, next_sequence: int) -> int:
    """Return from which record of its one ring on an assembly must be fed again."""
    return min((needs[0] for needs in assembly.needed() if 0 in needs), default=next_sequence)


def shape(request: FinishedRequest) -> list[tuple[str, int, int]]:
    """Return the phases as (name, start, end)."""
    return [(phase.phase, phase.start_ns, phase.end_ns) for phase in request.phases]


def only(request: FinishedRequest, phase: str) -> PhaseSpan:
    """Return the one span of a phase."""
    (found,) = [span for span in request.phases if span.phase == phase]
    return found


SINGLE: tuple[Row, ...] = (
    arrived(1, 100),
    prompt(1, text=10, image=20),
    preprocess(1, 100, 150),
    queue(1, 150, 160),
    encode(1, 1, 165, 180, patches=80),
    prefill(1, 1, tokens=30, visual=20),
    step(1, 160, 200, prefill_tokens=30, encode_ns=15, kv_used_tokens=30, kv_visual_tokens=20),
    first_token(1, 201),
    step(2, 202, 210, decoders=1, decode_context_tokens=30, kv_used_tokens=31, kv_visual_tokens=20),
    step(3, 212, 220, decoders=1, decode_context_tokens=31, kv_used_tokens=32, kv_visual_tokens=20),
    finished(1, 225, output=3),
)
"""One request with an image: preprocess 50, queue 10, encode 15, prefill 20, decode 20; 3 tokens."""
