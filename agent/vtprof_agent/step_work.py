"""The work of a step as its records tell it, and the counters that the step is given for it, shared over its requests."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from vtprof_agent.counters.meter import Meter, StepCounters, Work
from vtprof_agent.counters.work_curve import only_decodes
from vtprof_agent.request_state import Piece, RequestState
from vtprof_agent.step_counters import Counted, DecodeAccount, share_by_weight
from vtprof_agent.steps import FIELDS, PREFILL_TOKENS, OpenStep
from vtprof_schemas import names

_ENCODE, _PREFILL = 0, 1
_CONTEXT_TOKENS = FIELDS["decode_context_tokens"]
RUN_NS = 2_000_000_000
"""Over so much time what steps are given is not told apart."""


class StepTimes(Protocol):
    """Learns what classes of work cost in GPU time."""

    def add(self, work: Work, gpu_ns: int) -> None:
        """Take a step and its GPU time."""

    def parts(self, work: Work) -> tuple[float, float, float] | None:
        """Return the fractions of encode, prefill and decode; None while they cannot be told apart."""


@dataclass(frozen=True)
class Measures:
    """What steps are measured by; either may be absent."""

    meter: Meter | None = None
    step_times: Callable[[], StepTimes] | None = None
    """Makes a fit of GPU times, one for each scheduler."""


def work_of(step: OpenStep) -> Work:
    """Return the work of a step; what is not told counts nothing."""
    values, parts = step.values, step.parts
    start_ns, end_ns, encode_ns = step.start_ns, step.end_ns, step.encoder_ns
    decoding = step.decode_requests if step.decode_requests >= 0 else len(step.decoders)
    context, decode_tokens = max(values[_CONTEXT_TOKENS], 0), max(step.decode_tokens, 0)
    if not parts.encodes and not parts.prefills and values[PREFILL_TOKENS] <= 0:
        return Work(start_ns, end_ns, 0, 0, 0, 0, decoding, context, encode_ns, decode_tokens)
    encodes = [part for part in parts.encodes if not part.only_hits]
    prefill_tokens = values[PREFILL_TOKENS]
    if prefill_tokens < 0:
        prefill_tokens = sum(max(part.counts[names.PREFILL_TOKENS], 0) for part in parts.prefills)
    return Work(
        start_ns,
        end_ns,
        patches=sum(max(part.patches, 0) for part in encodes),
        encode_pairs=sum(max(part.pairs, 0) for part in encodes),
        prefill_tokens=prefill_tokens,
        prefill_pairs=sum(max(part.pairs, 0) for part in parts.prefills),
        decode_requests=decoding,
        decode_context_tokens=context,
        encode_ns=encode_ns,
        decode_tokens=decode_tokens,
    )


def mixed(work: Work) -> bool:
    """Tell whether a step holds work of several classes."""
    encodes = work.patches > 0 or work.encode_ns > 0
    return encodes + (work.prefill_tokens > 0) + (work.decode_requests > 0) > 1


def give_counters(run: Sequence[OpenStep], meter: Meter, account: DecodeAccount, line: int) -> None:
    """Give a run of steps of one scheduler, which the meter knows by its ``line``, counters, and their requests shares."""
    step = run[0]
    if step.work is None:
        return
    if len(run) > 1:
        works = [one.work for one in run if one.work is not None]
        counters = meter.of_run(step.gpus, works, line)
        for one in run:
            one.counters = counters
        shared = max(len(step.decode_pieces), works[0].decode_requests) > 1
        _share_decoding(step, works, counters, account, shared=shared)
    else:
        step.counters = meter.of(step.gpus, step.work, line)
        share_counters(step, step.work, step.counters, account)


def runs(steps: Sequence[OpenStep]) -> Iterator[Sequence[OpenStep]]:
    """Take steps of decoding alone with the same requests together, any other by itself.

    Most are such, and a run costs little more than a step. The meter must have been told of the steps.
    """
    place = 0
    while place < len(steps):
        first, end = steps[place], place + 1
        if _decodes_alone(first):
            while end < len(steps) and _alike(steps[end], first):
                end += 1
        yield steps[place:end]
        place = end


def _alike(step: OpenStep, first: OpenStep) -> bool:
    """Tell whether a step belongs into the run that a first one begins."""
    return (
        step.decode_requests == first.decode_requests
        and _decodes_alone(step)
        and step.gpus == first.gpus
        and step.decode_pieces == first.decode_pieces
        and 0 <= step.start_ns - first.start_ns <= RUN_NS
    )


def _decodes_alone(step: OpenStep) -> bool:
    if step.mixed or step.encode_gpu_ns:
        return False
    work = step.work
    if work is None:
        return 0 < step.decode_requests >= step.decode_tokens
    return work.decode_requests > 0 and only_decodes(work)


def share_counters(step: OpenStep, work: Work, counters: StepCounters | None, account: DecodeAccount) -> None:
    """Give the requests in a step their shares of its counters; None: it has none, which their phases remember.

    Of energy each has a share by work, of a ratio all that its class of work is given, over its part of the step: the
    encoder's, or what is beside it, which prompts and decoding share.
    """
    encodes = [part for part in step.parts.encodes if not part.only_hits]
    prefills = [(part.piece, part) for part in step.parts.prefills if part.piece is not None]
    gpus = counters.gpus if counters is not None else 0
    beside_ns = float((work.end_ns - work.start_ns - work.encode_ns) * gpus)
    alone = len(encodes) + len(prefills) + max(len(step.decode_pieces), work.decode_requests) == 1
    if encodes:
        patches = [part.patches for part in encodes]
        pieces: list[Counted] = [part.piece for part in encodes]
        share_by_weight(pieces, patches, _ENCODE, counters, float(work.encode_ns * gpus), not alone)
    if prefills:
        tokens = [part.counts[names.PREFILL_TOKENS] for _, part in prefills]
        share_by_weight([piece for piece, _ in prefills], tokens, _PREFILL, counters, beside_ns, not alone)
    _share_decoding(step, [work], counters, account, shared=not alone)


def _share_decoding(
    step: OpenStep,
    works: Sequence[Work],
    counters: StepCounters | None,
    account: DecodeAccount,
    *,
    shared: bool,
) -> None:
    """Give those who decode in a step, or in steps that are alike, their shares; ``shared``: others had a part."""
    decoding = step.decode_pieces
    if not decoding:
        return

    def contexts() -> dict[Counted, int | None]:
        pairs = zip(step.decoders, decoding, strict=True)
        return {piece: _cached_tokens(state, piece) for state, piece in pairs}

    strangers = max(0, works[0].decode_requests - len(decoding))
    gpus = counters.gpus if counters is not None else 0
    beside_ns = float(sum(work.end_ns - work.start_ns - work.encode_ns for work in works) * gpus)
    account.add(decoding, contexts, strangers, counters, beside_ns, shared, len(works))


def _cached_tokens(state: RequestState, piece: Piece) -> int | None:
    """Return how many tokens a request had cached before a step of this stretch of decoding, as far as it is known."""
    if state.input_tokens < 0:
        return None
    earlier = sum(
        max(other.counts.get(names.DECODE_STEPS, 0), 0)
        for other in state.pieces
        if other.phase == names.DECODE and other.start_ns < piece.start_ns
    )
    return state.input_tokens + earlier + (piece.tally.steps if piece.tally is not None else 0)
