"""One engine iteration while it is held: its parts, who decoded in it, its GPU time, and the fact made of it."""

from collections.abc import Sequence
from typing import Any

from vtprof_agent.attribution import split_step
from vtprof_agent.facts import RequestRef, StepFact
from vtprof_agent.request_state import Piece, RequestState
from vtprof_schemas import names, records

_FIELDS = {name: position for position, name in enumerate(records.STEP.field_names)}
_SUMS = (
    (names.STEP_PREFILL_TOKENS, _FIELDS["prefill_tokens"]),
    (names.STEP_DECODE_REQUESTS, _FIELDS["decode_requests"]),
    (names.STEP_DECODE_CONTEXT_TOKENS, _FIELDS["decode_context_tokens"]),
    (names.STEP_DECODE_VISUAL_TOKENS, _FIELDS["decode_visual_tokens"]),
    (names.STEP_ENCODE_NS, _FIELDS["encode_ns"]),
    (names.STEP_PREEMPTIONS, _FIELDS["preemptions"]),
)
_LEVELS = (
    (names.STEP_KV_USED_TOKENS, _FIELDS["kv_used_tokens"]),
    (names.STEP_KV_VISUAL_TOKENS, _FIELDS["kv_visual_tokens"]),
    (names.STEP_KV_USED_BLOCKS, _FIELDS["kv_used_blocks"]),
    (names.STEP_RUNNING, _FIELDS["running"]),
    (names.STEP_WAITING, _FIELDS["waiting"]),
)


class EncodePart:
    """The encoder's work for one request within a step."""

    __slots__ = ("pairs", "patches", "piece", "state")

    def __init__(self, state: RequestState, piece: Piece, patches: int, pairs: int) -> None:
        """Keep the piece that the step's GPU time will be shared to."""
        self.state, self.piece, self.patches, self.pairs = state, piece, patches, pairs


class PrefillPart:
    """One chunk of a prompt within a step; its piece exists once the step's times are known."""

    __slots__ = ("counts", "last", "pairs", "piece", "state", "visual_pairs")

    def __init__(
        self, state: RequestState, counts: dict[str, int], pairs: int, visual_pairs: int, last: int
    ) -> None:
        """Keep the counts until the step's record comes."""
        self.state, self.counts = state, counts
        self.pairs, self.visual_pairs, self.last = pairs, visual_pairs, last
        self.piece: Piece | None = None

    def completes(self) -> bool:
        """Tell whether the prompt is complete after this chunk; the first token answers where the engine does not."""
        return self.last == 1 or (self.last == records.UNKNOWN and self.state.first_token_ns is not None)


class StepParts:
    """The encode and prefill records of a step, which come before its own."""

    __slots__ = ("encodes", "prefills", "sequence")

    def __init__(self, sequence: int) -> None:
        """Begin with the ring sequence of the first record of the step."""
        self.sequence = sequence
        self.encodes: list[EncodePart] = []
        self.prefills: list[PrefillPart] = []

    def encode_end_ns(self, state: RequestState, start_ns: int, end_ns: int) -> int:
        """Return where a request's prefill begins in a step: behind its last encode, else at the step's start."""
        ends = [
            e.piece.end_ns for e in self.encodes if e.state is state and start_ns <= e.piece.end_ns <= end_ns
        ]
        return max(ends, default=start_ns)


class OpenStep:
    """A step whose GPU time may still come."""

    __slots__ = (
        "decode_pieces", "decode_requests", "decoders", "encode_gpu_ns", "end_ns", "gpu_ns", "index", "parts",
        "seen_ns", "sequence", "start_ns", "values",
    )  # fmt: skip

    def __init__(
        self,
        sequence: int,
        values: Sequence[Any],
        end_ns: int,
        parts: StepParts,
        decoders: tuple[RequestState, ...],
        seen_ns: int,
    ) -> None:
        """Begin from the payload of the STEP record; ``end_ns`` is its end, made sane; ``seen_ns`` is the agent's time."""
        self.index: int = values[0]
        self.start_ns: int = values[1]
        self.end_ns = end_ns
        self.sequence = sequence
        self.values = values
        self.parts = parts
        self.decoders = decoders
        self.decode_requests: int = values[_FIELDS["decode_requests"]]
        self.decode_pieces = [state.decode_step(self.start_ns, end_ns) for state in decoders]
        self.seen_ns = seen_ns
        self.gpu_ns: int | None = None
        self.encode_gpu_ns: int | None = None

    def states(self) -> list[RequestState]:
        """Return the requests in the step, each once."""
        found = {id(state): state for state in self.decoders}
        found.update((id(part.state), part.state) for part in self.parts.prefills)
        found.update((id(part.state), part.state) for part in self.parts.encodes)
        return list(found.values())

    def share_gpu_time(self) -> None:
        """Add to every piece in the step its share of the GPU time; without one, mark that it is missing."""
        encodes, prefills = self.parts.encodes, self.parts.prefills
        holders = [part.piece for part in prefills if part.piece is not None] + self.decode_pieces
        if self.gpu_ns is None:
            for piece in [*holders, *(part.piece for part in encodes)]:
                piece.miss_gpu_time()
            return
        # Requests that decoded unknown to us (their records are lost) keep their share, in one sum.
        strangers = max(0, self.decode_requests - len(self.decode_pieces))
        tokens = [part.counts[names.PREFILL_TOKENS] for part in prefills if part.piece is not None]
        tokens += [1] * len(self.decode_pieces) + [strangers] * (strangers > 0)
        wall_ns, encode_ns = self.end_ns - self.start_ns, self.values[_FIELDS["encode_ns"]]
        shares = split_step(
            self.gpu_ns,
            self.encode_gpu_ns,
            encode_ns / wall_ns if wall_ns > 0 and encode_ns >= 0 else None,
            [part.patches for part in encodes],
            tokens,
            len(self.states()) + strangers,
        )
        for part, share in zip(encodes, shares.encode_ns, strict=True):
            part.piece.add_gpu_time(share, shares.quality)
        for piece, share in zip(holders, shares.token_ns[: len(holders)], strict=True):
            piece.add_gpu_time(share, shares.quality)

    def fact(self, decoding: tuple[RequestRef, ...]) -> StepFact:
        """Make the finished fact; ``decoding`` names the known decoders."""
        encodes, prefills = self.parts.encodes, self.parts.prefills
        sums = {key: self.values[position] for key, position in _SUMS if self.values[position] >= 0}
        mixed = bool(encodes or prefills) or sums.get(names.STEP_PREFILL_TOKENS, 0) > 0
        mixed = mixed or sums.get(names.STEP_ENCODE_NS, 0) > 0
        requests = decoding
        if mixed:
            _add_known(
                sums,
                names.STEP_PREFILL_VISUAL_TOKENS,
                [p.counts[names.PREFILL_VISUAL_TOKENS] for p in prefills],
            )
            _add_known(sums, names.STEP_PREFILL_ATTENTION_PAIRS, [p.pairs for p in prefills])
            _add_known(sums, names.STEP_PREFILL_VISUAL_ATTENTION_PAIRS, [p.visual_pairs for p in prefills])
            _add_known(sums, names.STEP_ENCODE_ITEMS, [e.piece.counts[names.ENCODE_ITEMS] for e in encodes])
            _add_known(sums, names.STEP_ENCODE_PATCHES, [e.patches for e in encodes])
            _add_known(sums, names.STEP_ENCODE_ATTENTION_PAIRS, [e.pairs for e in encodes])
            sums[names.STEP_PREFILL_REQUESTS] = len({id(part.state) for part in prefills})
            at_work = [part.state for part in encodes] + [part.state for part in prefills]
            refs = [state.ref for state in at_work if state.arrival_ns is not None]
            requests = tuple(dict.fromkeys([*refs, *decoding]))
        if self.gpu_ns is not None:
            sums[names.GPU_TIME_NS] = self.gpu_ns
            if self.encode_gpu_ns is not None:
                sums[names.STEP_ENCODE_GPU_TIME_NS] = self.encode_gpu_ns
        return StepFact(
            sequence=self.sequence,
            index=self.index,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            mixed=mixed,
            requests=requests,
            decode_requests=self.decode_requests,
            sums=sums,
            levels={key: self.values[position] for key, position in _LEVELS if self.values[position] >= 0},
        )


def _add_known(sums: dict[str, int], key: str, counts: list[int]) -> None:
    known = [count for count in counts if count >= 0]
    if known:
        sums[key] = sum(known)
