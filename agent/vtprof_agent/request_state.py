"""One open request: what its records said so far, and the finished object made of it at its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from vtprof_agent.facts import Caller, FinishedRequest, PhaseSpan, RequestRef, Value
from vtprof_agent.intervals import Timeline
from vtprof_agent.step_counters import Counted
from vtprof_schemas import names
from vtprof_schemas.records import UNKNOWN

MAX_PIECES = 4096
"""Phase pieces kept of one request; further ones are dropped and counted (a ring is untrusted input)."""
INT64_MAX = 2**63 - 1
_RANK = {quality: rank for rank, quality in enumerate((names.QUALITY_MEASURED, names.QUALITY_ATTRIBUTED))}
_PHASE_ORDER = {phase: order for order, phase in enumerate(names.PHASES)}
_SERVED_FIRST = (*(phase for phase in names.PHASES if phase != names.QUEUE), names.QUEUE)
"""Precedence for a request of several sequences: it waits only while none of them is served."""


@dataclass(frozen=True)
class KvCosts:
    """KV bytes of a token and of a sequence as the engine allocated them; None when the probe could not tell."""

    bytes_per_token: int | None = None
    fixed_bytes: int = 0


class Piece(Counted):
    """A stretch of one phase: its time, its counts, and the GPU time and counters attributed to it so far."""

    __slots__ = ("counts", "end_ns", "gpu_ns", "phase", "quality", "start_ns", "text")

    def __init__(self, phase: str, start_ns: int, end_ns: int, counts: dict[str, int]) -> None:
        """Begin a piece; counts that the engine does not tell are negative and become no attribute."""
        self.tally, self.accounts = None, ()
        self.phase = phase
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.counts = counts
        self.text: dict[str, str] = {}
        self.gpu_ns: int | None = None
        self.quality = names.QUALITY_MEASURED

    def add_gpu_time(self, gpu_ns: int, quality: str) -> None:
        """Add a share of a step's GPU time; of several qualities the worst one stands."""
        self.gpu_ns = gpu_ns + (self.gpu_ns or 0)
        self.quality = _worse(self.quality, quality)

    def miss_gpu_time(self) -> None:
        """Note that a step's GPU time never came: what there is understates the piece."""
        self.quality = names.QUALITY_ESTIMATED

    def attributes(self) -> dict[str, Value]:
        """Return the span attributes of the piece."""
        values: dict[str, Value] = {names.PHASE: self.phase, **self.text}
        values.update((key, min(count, INT64_MAX)) for key, count in self.counts.items() if count >= 0)
        if self.gpu_ns is not None:
            values[names.GPU_TIME_NS] = min(self.gpu_ns, INT64_MAX)
            values[names.GPU_TIME_QUALITY] = self.quality
        if self.tally is not None:
            values.update(self.tally.attributes())
        return values

    def absorb(self, other: "Piece") -> None:
        """Append the piece that follows without a gap."""
        self.end_ns = other.end_ns
        for key, count in other.counts.items():
            known = self.counts.get(key, UNKNOWN)
            self.counts[key] = max(known, 0) + max(count, 0) if known >= 0 or count >= 0 else UNKNOWN
        if other.gpu_ns is not None:
            self.gpu_ns = other.gpu_ns + (self.gpu_ns or 0)
        self.quality = _worse(self.quality, other.quality)
        if other.tally is not None:
            self.gather(other.tally)


def _worse(left: str, right: str) -> str:
    return left if _RANK.get(left, 2) >= _RANK.get(right, 2) else right


class RequestState:
    """What is known of one request between its first record and its export."""

    __slots__ = (
        "arrival_ns", "caller", "children", "counts", "decode", "decode_from_ns", "decoding", "finished_ns",
        "finished_round", "finished_seen_ns", "first_token_ns", "gone", "held", "input_tokens", "label", "left",
        "left_tokens", "live", "model", "needs", "number", "output_tokens", "pieces", "preemptions", "ring", "sequence",
        "served_by", "status", "unsettled_steps", "visual_tokens",
    )  # fmt: skip

    def __init__(self, number: int, sequence: int, arrival_ns: int | None, ring: int = 0) -> None:
        """Open a request; without an arrival it only counts as a member of batches and is never exported."""
        self.number = number
        self.sequence = sequence
        self.arrival_ns = arrival_ns
        self.ring = ring
        self.needs: dict[int, int] = {ring: sequence}
        """By ring the lowest sequence of a record of its own."""
        self.children: list[int] = []
        """Numbers of its sequences, where it runs as several."""
        self.live: set[int] = set()
        """Its sequences that the scheduler has seen and not let go of; only where the scheduler says so."""
        self.decoding = 0
        """How many of its sequences decode."""
        self.served_by: int | None = None
        """Ring of the engine that served it."""
        self.gone: int | None = None
        """The ring whose end cut the request short."""
        self.left = 0
        """How many of its sequences the scheduler let go of."""
        self.left_tokens: dict[int, int] = {}
        """Output tokens of each of its sequences that the scheduler let go of, where it told."""
        self.finished_round = 0
        self.caller: Caller | None = None
        self.label: str | None = None
        self.model: str | None = None
        self.held: tuple[int, int, int, int] | None = None
        """KV tokens, their visual part, bytes per token, fixed bytes: the request's own, where the probe says them."""
        self.counts: dict[str, int] = {}
        self.input_tokens = UNKNOWN
        self.visual_tokens = UNKNOWN
        self.output_tokens = UNKNOWN
        self.first_token_ns: int | None = None
        self.finished_ns: int | None = None
        self.finished_seen_ns = 0
        self.status = names.STATUS_ABORTED
        self.pieces: list[Piece] = []
        self.decode: Piece | None = None
        self.decode_from_ns: int | None = None
        self.preemptions = 0
        self.unsettled_steps = 0

    @property
    def ref(self) -> RequestRef:
        """Return the name by which spans link to this request."""
        return RequestRef(self.sequence, self.caller, self.ring)

    def need(self, ring: int, sequence: int) -> None:
        """Note a record of the request: it must be read again for as long as the request is not exported."""
        known = self.needs.get(ring)
        if known is None or sequence < known:
            self.needs[ring] = sequence

    def arrive(self, number: int, sequence: int, arrival_ns: int | None, ring: int) -> None:
        """Take over the arrival, which came after records of the engine."""
        self.number, self.sequence, self.arrival_ns, self.ring = number, sequence, arrival_ns, ring
        self.need(ring, sequence)

    def add(self, piece: Piece) -> bool:
        """Keep a piece; False when the request has too many."""
        if len(self.pieces) >= MAX_PIECES:
            return False
        self.pieces.append(piece)
        return True

    def begin_decode(self, start_ns: int) -> Piece:
        """Begin a stretch of decoding, of no step yet, with the step that began then."""
        begin = start_ns if self.decode_from_ns is None else min(self.decode_from_ns, start_ns)
        counts = {names.DECODE_STEPS: 0, names.DECODE_PREEMPTIONS: self.preemptions}
        self.decode = Piece(names.DECODE, begin, begin, counts)
        self.preemptions = 0
        self.add(self.decode)
        return self.decode

    def decode_untold(self, end_ns: int) -> None:
        """Let it have decoded until a time in steps that were not recorded: how many they were is not known."""
        if self.decode is None and (self.decode_from_ns is None or end_ns <= self.decode_from_ns):
            return
        decode_step((self,), end_ns, end_ns)[0].counts[names.DECODE_STEPS] = UNKNOWN

    def pause_decode(self, resume_ns: int | None) -> None:
        """End the stretch of decoding: the request waits, or starts over; a new one begins at ``resume_ns``."""
        self.decode = None
        self.decode_from_ns = resume_ns

    def preempt(self) -> None:
        """Note that the request lost its KV; the count stands on the decode span that was cut short."""
        if self.decode is not None:
            self.decode.counts[names.DECODE_PREEMPTIONS] += 1
        else:
            self.preemptions += 1
        if self.decoding == 0:
            self.pause_decode(None)

    def absorb(self, other: "RequestState") -> None:
        """Take over what the engine said of a sequence of ours before we knew that it was."""
        self.pieces += other.pieces
        self.live |= other.live
        self.left += other.left
        self.left_tokens |= other.left_tokens
        self.preemptions += other.preemptions
        self.unsettled_steps += other.unsettled_steps
        self.decode = self.decode or other.decode
        self.decode_from_ns = other.decode_from_ns if self.decode_from_ns is None else self.decode_from_ns
        self.served_by = other.served_by if self.served_by is None else self.served_by
        for ring, sequence in other.needs.items():
            self.need(ring, sequence)

    @property
    def has_left(self) -> bool:
        """Tell whether the scheduler let go of all of it: everything that it says of the request was read."""
        return not self.live and self.left >= max(1, len(self.children))

    @property
    def told_output(self) -> int:
        """Return the tokens generated for it, over all its sequences; negative when nobody told."""
        if self.output_tokens >= 0 or not self.left_tokens:
            return self.output_tokens
        return sum(self.left_tokens.values())

    def cached_sequences(self) -> tuple[int, int]:
        """Return how many sequences had their prompt cached, and the output tokens that they cached beside it.

        The last token of a sequence is never fed back: its keys and values are never computed.
        """
        outputs = [self.left_tokens.get(child, UNKNOWN) for child in self.children]
        if outputs and min(outputs) >= 0:
            begun = sum(tokens >= 1 for tokens in outputs)
            return begun, sum(outputs) - begun
        output = max(self.told_output, 0)
        begun = min(max(1, len(self.children)), output)
        return begun, output - begun

    def wait_from_hand_over(self) -> None:
        """Let the first queue piece begin where the request was handed over: the scheduler saw it later."""
        assert self.arrival_ns is not None
        queues = [piece for piece in self.pieces if piece.phase == names.QUEUE]
        if not queues:
            return
        first = min(queues, key=attrgetter("start_ns"))
        preprocessed = [piece.end_ns for piece in self.pieces if piece.phase == names.PREPROCESS]
        hand_over_ns = max([self.arrival_ns, *preprocessed])
        served = any(
            piece.start_ns < first.start_ns
            for piece in self.pieces
            if piece.phase not in (names.PREPROCESS, names.QUEUE)
        )
        if not served:  # else the piece that was the first is lost
            first.start_ns = min(first.start_ns, hand_over_ns)

    def infer_decode(self, end_ns: int) -> None:
        """Say that it decoded to its end where no step says so: low detail, or their records were lost."""
        began_ns = self.first_token_ns if self.decode_from_ns is None else self.decode_from_ns
        decoded = any(piece.phase == names.DECODE for piece in self.pieces)
        if began_ns is not None and not decoded and self.output_tokens > 1 and end_ns > began_ns:
            self.add(Piece(names.DECODE, began_ns, end_ns, {names.DECODE_PREEMPTIONS: self.preemptions}))
        last = self.decode
        if last is not None and not self.left and self._counted_steps() < self.output_tokens - 1:
            # Longer than two of its steps: not the way of its last token to us.
            steps = last.counts[names.DECODE_STEPS]
            if (end_ns - last.end_ns) * max(steps, 1) > 2 * (last.end_ns - last.start_ns):
                self.decode_untold(end_ns)

    def _counted_steps(self) -> int:
        return sum(
            max(p.counts.get(names.DECODE_STEPS, 0), 0) for p in self.pieces if p.phase == names.DECODE
        )


def decode_step(states: Sequence[RequestState], start_ns: int, end_ns: int) -> list[Piece]:
    """Count a decode iteration of requests, one of several sequences once; return the stretch that each is in."""
    pieces = [state.decode or state.begin_decode(start_ns) for state in states]
    for piece in set(pieces):
        counts = piece.counts
        if (steps := counts[names.DECODE_STEPS]) >= 0:
            counts[names.DECODE_STEPS] = steps + 1
        if end_ns > piece.end_ns:
            piece.end_ns = end_ns
    return pieces


def finish(state: RequestState, end_ns: int, status: str, kv: KvCosts, model: str | None) -> FinishedRequest:
    """Make the finished object: phases cut to the request and to each other in the order of TTFT.

    ``state.arrival_ns`` must be known. A piece that is covered whole stays as a span without length, so that its
    counts and GPU time are in the sums.
    """
    assert state.arrival_ns is not None
    for piece in state.pieces:
        piece.close_account()
    start_ns, end_ns = state.arrival_ns, max(state.arrival_ns, end_ns)
    first_token_ns = state.first_token_ns
    if first_token_ns is not None:
        first_token_ns = min(max(first_token_ns, start_ns), end_ns)
    return FinishedRequest(
        ref=state.ref,
        start_ns=start_ns,
        end_ns=end_ns,
        first_token_ns=first_token_ns,
        attributes=_request_attributes(state, start_ns, first_token_ns, status, kv, model),
        phases=_phases(state.pieces, start_ns, end_ns, _SERVED_FIRST if state.children else names.PHASES),
        served_by=state.ring if state.served_by is None else state.served_by,
    )


def _phases(pieces: list[Piece], start_ns: int, end_ns: int, order: Sequence[str]) -> tuple[PhaseSpan, ...]:
    line = Timeline(start_ns, end_ns)
    spans: list[PhaseSpan] = []
    for phase in order:
        kept: list[Piece] = []
        for piece in sorted((p for p in pieces if p.phase == phase), key=lambda p: (p.start_ns, p.end_ns)):
            fragments = line.take(piece.start_ns, piece.end_ns)
            if not fragments:
                at = line.clamp(piece.end_ns)
                fragments = [(at, at)]
            # Counts and GPU time stay whole: they stand on the first fragment.
            piece.start_ns, piece.end_ns = fragments[0]
            if phase == names.PREFILL and kept and kept[-1].end_ns == piece.start_ns:
                kept[-1].absorb(piece)
            else:
                kept.append(piece)
            for fragment_start, fragment_end in fragments[1:]:
                kept.append(Piece(phase, fragment_start, fragment_end, {}))
        spans.extend(PhaseSpan(phase, p.start_ns, p.end_ns, p.attributes()) for p in kept)
    # One without length, which another covers, comes before the other that begins with it.
    spans.sort(key=lambda span: (span.start_ns, span.end_ns, _PHASE_ORDER[span.phase]))
    return tuple(spans)


def _request_attributes(
    state: RequestState,
    start_ns: int,
    first_token_ns: int | None,
    status: str,
    kv: KvCosts,
    model: str | None,
) -> dict[str, Value]:
    values: dict[str, Value] = {
        names.REQUEST_ID: state.label or str(state.number),
        names.REQUEST_STATUS: status,
        names.SAMPLING_RATIO: 1.0,
    }
    if state.model or model:
        values[names.REQUEST_MODEL] = state.model or model or ""
    values.update((key, count) for key, count in state.counts.items() if count >= 0)
    if state.told_output >= 0:
        values[names.OUTPUT_TOKENS] = state.told_output
    if first_token_ns is not None:
        values[names.TTFT_NS] = first_token_ns - start_ns
    values.update(_kv_attributes(state, kv))
    return values


def _kv_attributes(state: RequestState, kv: KvCosts) -> dict[str, Value]:
    """Return the request's KV bytes: from its own cache, or by the process's layout; nothing where neither is known."""
    if state.held is not None:
        tokens, visual, per_token, fixed = state.held
    elif kv.bytes_per_token is not None and state.input_tokens >= 0:
        sequences, output = state.cached_sequences()
        if sequences == 0:
            return {}
        # Each sequence counts the prompt, also where the engine lets them share its blocks.
        tokens, visual = sequences * state.input_tokens + output, sequences * state.visual_tokens
        per_token, fixed = kv.bytes_per_token, sequences * kv.fixed_bytes
    else:
        return {}
    if min(tokens, per_token, fixed) < 0:
        return {}
    values: dict[str, Value] = {names.KV_BYTES: min(tokens * per_token + fixed, INT64_MAX)}
    if visual >= 0:
        values[names.KV_VISUAL_BYTES] = min(visual * per_token, INT64_MAX)
    return values
