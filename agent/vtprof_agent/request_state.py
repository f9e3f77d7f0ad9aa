"""One open request: what its records said so far, and the finished object made of it at its end."""

from dataclasses import dataclass

from vtprof_agent.facts import Caller, FinishedRequest, PhaseSpan, RequestRef, Value
from vtprof_agent.intervals import Timeline
from vtprof_schemas import names
from vtprof_schemas.records import UNKNOWN

MAX_PIECES = 4096
"""Phase pieces kept of one request; further ones are dropped and counted (a ring is untrusted input)."""
INT64_MAX = 2**63 - 1
_RANK = {quality: rank for rank, quality in enumerate((names.QUALITY_MEASURED, names.QUALITY_ATTRIBUTED))}
_PHASE_ORDER = {phase: order for order, phase in enumerate(names.PHASES)}


@dataclass(frozen=True)
class KvCosts:
    """KV bytes of a token and of a sequence as the engine allocated them; None when the probe could not tell."""

    bytes_per_token: int | None = None
    fixed_bytes: int = 0


class Piece:
    """A stretch of one phase: its time, its counts, and the GPU time attributed to it so far."""

    __slots__ = ("counts", "end_ns", "gpu_ns", "phase", "quality", "start_ns", "text")

    def __init__(self, phase: str, start_ns: int, end_ns: int, counts: dict[str, int]) -> None:
        """Begin a piece; counts that the engine does not tell are negative and become no attribute."""
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


def _worse(left: str, right: str) -> str:
    return left if _RANK.get(left, 2) >= _RANK.get(right, 2) else right


class RequestState:
    """What is known of one request between its first record and its export."""

    __slots__ = (
        "arrival_ns", "caller", "counts", "decode", "decode_from_ns", "finished_ns", "finished_seen_ns",
        "first_token_ns", "held", "input_tokens", "label", "model", "number", "output_tokens", "pieces", "preemptions",
        "sequence", "status", "unsettled_steps", "visual_tokens",
    )  # fmt: skip

    def __init__(self, number: int, sequence: int, arrival_ns: int | None) -> None:
        """Open a request; without an arrival it only counts as a member of batches and is never exported."""
        self.number = number
        self.sequence = sequence
        self.arrival_ns = arrival_ns
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
        return RequestRef(self.sequence, self.caller)

    def add(self, piece: Piece) -> bool:
        """Keep a piece; False when the request has too many."""
        if len(self.pieces) >= MAX_PIECES:
            return False
        self.pieces.append(piece)
        return True

    def decode_step(self, start_ns: int, end_ns: int) -> Piece:
        """Count one decode iteration and return the stretch it belongs to."""
        if self.decode is None:
            begin = start_ns if self.decode_from_ns is None else min(self.decode_from_ns, start_ns)
            counts = {names.DECODE_STEPS: 0, names.DECODE_PREEMPTIONS: self.preemptions}
            self.decode = Piece(names.DECODE, begin, max(begin, end_ns), counts)
            self.preemptions = 0
            self.add(self.decode)
        self.decode.counts[names.DECODE_STEPS] += 1
        self.decode.end_ns = max(self.decode.end_ns, end_ns)
        return self.decode

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
        self.pause_decode(None)

    def infer_decode(self, end_ns: int) -> None:
        """Say that it decoded to its end where no step says so: low detail, or their records were lost."""
        began_ns = self.first_token_ns if self.decode_from_ns is None else self.decode_from_ns
        decoded = any(piece.phase == names.DECODE for piece in self.pieces)
        if began_ns is not None and not decoded and self.output_tokens > 1 and end_ns > began_ns:
            self.add(Piece(names.DECODE, began_ns, end_ns, {names.DECODE_PREEMPTIONS: self.preemptions}))


def finish(state: RequestState, end_ns: int, status: str, kv: KvCosts, model: str | None) -> FinishedRequest:
    """Make the finished object: phases cut to the request and to each other in the order of TTFT.

    ``state.arrival_ns`` must be known. A piece that is covered whole stays as a span without length, so that its
    counts and GPU time are in the sums.
    """
    assert state.arrival_ns is not None
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
        phases=_phases(state.pieces, start_ns, end_ns),
    )


def _phases(pieces: list[Piece], start_ns: int, end_ns: int) -> tuple[PhaseSpan, ...]:
    line = Timeline(start_ns, end_ns)
    spans: list[PhaseSpan] = []
    for phase in names.PHASES:
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
    if state.output_tokens >= 0:
        values[names.OUTPUT_TOKENS] = state.output_tokens
    if first_token_ns is not None:
        values[names.TTFT_NS] = first_token_ns - start_ns
    values.update(_kv_attributes(state, kv))
    return values


def _kv_attributes(state: RequestState, kv: KvCosts) -> dict[str, Value]:
    """Return the request's KV bytes: from its own cache, or by the process's layout; nothing where neither is known."""
    if state.held is not None:
        tokens, visual, per_token, fixed = state.held
    elif kv.bytes_per_token is not None and state.input_tokens >= 0 and state.output_tokens >= 1:
        # The last generated token is never fed back: its keys and values are never computed.
        tokens, visual = state.input_tokens + state.output_tokens - 1, state.visual_tokens
        per_token, fixed = kv.bytes_per_token, kv.fixed_bytes
    else:
        return {}
    if min(tokens, per_token, fixed) < 0:
        return {}
    values: dict[str, Value] = {names.KV_BYTES: min(tokens * per_token + fixed, INT64_MAX)}
    if visual >= 0:
        values[names.KV_VISUAL_BYTES] = min(visual * per_token, INT64_MAX)
    return values
