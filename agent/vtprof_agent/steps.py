"""One engine iteration while it is held: its parts, who decoded in it, and its GPU time."""

from collections.abc import Sequence
from typing import Any

from vtprof_agent.attribution import split_step
from vtprof_agent.counters.meter import StepCounters, Work
from vtprof_agent.decoding import Decoding
from vtprof_agent.intervals import union_ns
from vtprof_agent.request_state import Piece, RequestState, decode_step
from vtprof_schemas import names, records

FIELDS = {name: position for position, name in enumerate(records.STEP.field_names)}
"""Places in the payload of a STEP record."""
PREFILL_TOKENS = FIELDS["prefill_tokens"]
DECODE_REQUESTS = FIELDS["decode_requests"]
ENCODE_NS = FIELDS["encode_ns"]
_DECODE_TOKENS = FIELDS["decode_tokens"]


class EncodePart:
    """The encoder's work for one request within a step."""

    __slots__ = ("number", "pairs", "patches", "piece", "rank", "rings", "run", "state")

    def __init__(
        self, number: int, state: RequestState, piece: Piece, patches: int, pairs: int, ring: int, rank: int
    ) -> None:
        """Keep the piece that the step's GPU time will be shared to; ``rank`` is that of the ring that told."""
        self.number, self.state, self.piece, self.patches, self.pairs = number, state, piece, patches, pairs
        self.rings, self.rank = [ring], rank
        self.run = (piece.start_ns, piece.end_ns)
        """The encoder's own time; the piece is the encoder's part of the step."""

    @property
    def only_hits(self) -> bool:
        """Tell whether nothing ran: all was in the encoder cache."""
        counts = self.piece.counts
        return counts[names.ENCODE_ITEMS] == 0 and counts[names.ENCODE_CACHE_HITS] > 0

    def join(self, other: "EncodePart") -> None:
        """Take another rank's word on the same work: all of its time, the counts of the lowest rank."""
        self.run = (min(self.run[0], other.run[0]), max(self.run[1], other.run[1]))
        self.piece.start_ns, self.piece.end_ns = self.run
        self.rings += other.rings
        if other.rank < self.rank:
            self.rank, self.patches, self.pairs = other.rank, other.patches, other.pairs
            self.piece.counts = other.piece.counts


class PrefillPart:
    """One chunk of a prompt within a step; its piece exists once the step's times are known."""

    __slots__ = ("counts", "last", "number", "pairs", "piece", "state", "visual_pairs")

    def __init__(
        self,
        number: int,
        state: RequestState,
        counts: dict[str, int],
        pairs: int,
        visual_pairs: int,
        last: int,
    ) -> None:
        """Keep the counts until the step's record comes; ``number`` is that of the sequence."""
        self.number, self.state, self.counts = number, state, counts
        self.pairs, self.visual_pairs, self.last = pairs, visual_pairs, last
        self.piece: Piece | None = None

    def completes(self) -> bool:
        """Tell whether the prompt is complete after this chunk; the first token answers where the engine does not."""
        return self.last == 1 or (self.last == records.UNKNOWN and self.state.first_token_ns is not None)


class StepParts:
    """The encode and prefill records of a step, which come before its own, and GPU time that came as early."""

    __slots__ = ("encodes", "gpu", "needs", "prefills", "ring")

    def __init__(self, ring: int, sequence: int) -> None:
        """Begin with ring and sequence of the first record of the step."""
        self.ring = ring
        self.needs = {ring: sequence}
        """By ring the lowest sequence of the step's records."""
        self.encodes: tuple[EncodePart, ...] = ()
        self.prefills: tuple[PrefillPart, ...] = ()
        """Tuples, as most steps have neither, and an empty one costs nothing."""
        self.gpu: tuple[int, int, int, bool] | None = None
        """GPU time, the encoder's, whose word that is (a rank), and whether no lower rank will tell."""

    def twin(self, part: EncodePart) -> EncodePart | None:
        """Return what another rank told of the same work."""
        for known in self.encodes:
            if (
                known.number == part.number
                and known.only_hits == part.only_hits
                and part.rings[0] not in known.rings
            ):
                return known
        return None

    def fold_hits(self) -> None:
        """Count hits of the encoder cache with what the same step encoded for the request."""
        for part in [part for part in self.encodes if part.only_hits]:
            worked = [other for other in self.encodes if other.state is part.state and not other.only_hits]
            if worked:
                counts, hits = worked[0].piece.counts, max(part.piece.counts[names.ENCODE_CACHE_HITS], 0)
                counts[names.ENCODE_CACHE_HITS] = max(counts[names.ENCODE_CACHE_HITS], 0) + hits
                self.encodes = tuple(other for other in self.encodes if other is not part)
                if part.piece in part.state.pieces:
                    part.state.pieces.remove(part.piece)

    def encode_end_ns(self, state: RequestState, start_ns: int, end_ns: int) -> int:
        """Return where a request's prefill begins in a step: behind its last encode, else at the step's start."""
        ends = [
            e.piece.end_ns for e in self.encodes if e.state is state and start_ns <= e.piece.end_ns <= end_ns
        ]
        return max(ends, default=start_ns)


class OpenStep:
    """A step whose GPU time may still come."""

    __slots__ = (
        "counters", "decode_pieces", "decode_requests", "decoders", "decoding", "encode_gpu_ns", "end_ns", "gpu_ns",
        "gpu_rank", "gpus", "index", "parts", "ring", "seen_ns", "sequence", "start_ns", "timed", "values", "work",
    )  # fmt: skip

    def __init__(
        self,
        ring: int,
        sequence: int,
        values: Sequence[Any],
        end_ns: int,
        parts: StepParts,
        decoding: Decoding,
        decoders: tuple[RequestState, ...],
        seen_ns: int,
    ) -> None:
        """Begin from the payload of the STEP record; ``end_ns`` is its end, made sane; ``seen_ns`` is the agent's time."""
        self.index: int = values[0]
        self.start_ns: int = values[1]
        self.end_ns = end_ns
        self.ring = ring
        self.sequence = sequence
        self.values = values
        self.parts = parts
        self.decoding = decoding
        self.decode_requests: int = values[DECODE_REQUESTS]
        self.decoders = decoders
        self.decode_pieces = decode_step(decoders, self.start_ns, end_ns)
        self.seen_ns = seen_ns
        self.gpu_ns: int | None = None
        self.encode_gpu_ns: int | None = None
        self.gpu_rank = 0
        self.timed = False
        """True once its GPU time is there for good."""
        self.gpus: tuple[str, ...] = ()
        """Whose counters it is given; empty: none."""
        self.work: Work | None = None
        """Set once it was told to the meter."""
        self.counters: StepCounters | None = None

    def take_gpu_time(self, gpu_ns: int, encode_gpu_ns: int, rank: int, *, last_word: bool) -> None:
        """Take a rank's GPU time; of several the lowest rank's stands. ``last_word``: no lower rank will tell."""
        if gpu_ns >= 0 and (self.gpu_ns is None or rank <= self.gpu_rank):
            self.gpu_ns, self.gpu_rank, self.timed = gpu_ns, rank, last_word
            self.encode_gpu_ns = encode_gpu_ns if encode_gpu_ns >= 0 else None

    @property
    def mixed(self) -> bool:
        """Tell whether it held prefill or encode work."""
        parts, values = self.parts, self.values
        return bool(parts.encodes or parts.prefills) or values[PREFILL_TOKENS] > 0 or values[ENCODE_NS] > 0

    @property
    def decode_tokens(self) -> int:
        """Return the tokens that the decoding requests computed, one each at least; -1 unknown, as in an older ring."""
        requests = self.decode_requests
        if requests == 0:
            return 0
        told: int = self.values[_DECODE_TOKENS]
        return told if told >= requests and told > 0 else records.UNKNOWN

    @property
    def encode_ns(self) -> int:
        """Return the encoder's wall time: what the record says, else what its parts cover; -1 unknown."""
        told: int = self.values[ENCODE_NS]
        if told >= 0 or not self.parts.encodes:
            return told
        worked = [part.run for part in self.parts.encodes if not part.only_hits]
        return union_ns(worked, self.start_ns, self.end_ns) if worked else told

    @property
    def encoder_ns(self) -> int:
        """Return the encoder's time within the step: the GPU's if known, else the wall's, 0 where neither is."""
        told = self.encode_ns if self.encode_gpu_ns is None else self.encode_gpu_ns
        return min(told, self.end_ns - self.start_ns) if told > 0 else 0

    def states(self) -> Sequence[RequestState]:
        """Return the requests in the step, each once."""
        parts = self.parts
        if not parts.prefills and not parts.encodes and not self.decoding.by_left:
            return self.decoders
        found = {id(state): state for state in self.decoders}
        found.update((id(part.state), part.state) for part in self.parts.prefills)
        found.update((id(part.state), part.state) for part in self.parts.encodes)
        return list(found.values())

    def place_encodes(self) -> None:
        """Give the encodes the device's time in the step: on a GPU the host's call returns before the work is done.

        With async scheduling the call may even come before the step before it has ended.
        """
        if not self.encode_gpu_ns:
            return
        worked = [part for part in self.parts.encodes if not part.only_hits]
        if not worked:
            return
        called_ns = min(part.run[0] for part in worked)
        returned_ns = max(part.run[1] for part in worked)
        start_ns = min(max(called_ns, self.start_ns), self.end_ns)
        # Where the host is the slower one, nothing follows on the device before the call returns.
        end_ns = min(max(start_ns + self.encode_gpu_ns, returned_ns), self.end_ns)
        for part in worked:
            part.run = part.piece.start_ns, part.piece.end_ns = start_ns, end_ns
        encoded = {id(part.state) for part in worked}
        for prefill in self.parts.prefills:
            if prefill.piece is not None and id(prefill.state) in encoded:
                prefill.piece.start_ns = end_ns

    def begin_with_encodes(self) -> None:
        """Let the first encode of each request begin with the step: what comes before it is the way of its pixels.

        They travel to the worker with the step, which computes nothing else meanwhile.
        """
        first: dict[int, EncodePart] = {}
        for part in self.parts.encodes:
            if not part.only_hits and self.start_ns <= part.run[0] <= self.end_ns:
                known = first.get(id(part.state))
                if known is None or part.run[0] < known.run[0]:
                    first[id(part.state)] = part
        for part in first.values():
            part.piece.start_ns = self.start_ns

    def share_gpu_time(self, fractions: tuple[float, float, float] | None = None) -> None:
        """Add to every piece in the step its share of the GPU time; without one, mark that it is missing.

        ``fractions`` are what a fit on work says of encode, prefill and decode.
        """
        encodes = [part for part in self.parts.encodes if not part.only_hits]
        prefills = self.parts.prefills
        holders = [part.piece for part in prefills if part.piece is not None] + self.decode_pieces
        if self.gpu_ns is None:
            for piece in [*holders, *(part.piece for part in encodes)]:
                piece.miss_gpu_time()
            return
        # Requests that decoded unknown to us (their records are lost) keep their share, in one sum.
        strangers = max(0, self.decode_requests - len(self.decode_pieces))
        tokens = [part.counts[names.PREFILL_TOKENS] for part in prefills if part.piece is not None]
        decoding = [1] * len(self.decode_pieces) + [strangers] * (strangers > 0)
        if self.decode_tokens > self.decode_requests > 0:  # so many each, without a fraction
            tokens = [count * self.decode_requests for count in tokens]
            decoding = [count * self.decode_tokens for count in decoding]
        wall_ns, encode_ns = self.end_ns - self.start_ns, self.encode_ns
        shares = split_step(
            self.gpu_ns,
            self.encode_gpu_ns,
            encode_ns / wall_ns if wall_ns > 0 and encode_ns >= 0 else None,
            [part.patches for part in encodes],
            tokens,
            decoding,
            len(self.states()) + strangers,
            fractions,
        )
        for part, share in zip(encodes, shares.encode_ns, strict=True):
            part.piece.add_gpu_time(share, shares.quality)
        for piece, share in zip(holders, shares.token_ns[: len(holders)], strict=True):
            piece.add_gpu_time(share, shares.quality)


def share_run(steps: Sequence[OpenStep]) -> bool:
    """Share the GPU times of a run of steps of decoding alone: as ``split_step`` does, at a fraction of the cost.

    False, and nothing is done, when they are not that: the first does more, others decode, too, or a time is missing.
    """
    first = steps[0]
    pieces, parts = first.decode_pieces, first.parts
    times = [step.gpu_ns for step in steps if step.gpu_ns is not None]
    if len(times) < len(steps) or parts.encodes or parts.prefills or first.decode_requests > len(pieces):
        return False
    whole, ends = 0, [0] * len(pieces)
    for gpu_ns in times if pieces else ():
        share, left = divmod(gpu_ns, len(pieces))
        whole += share
        if left:
            ends[left - 1] += 1  # what is left over goes to the first ones, 1 ns each
    quality = names.QUALITY_MEASURED if len(first.states()) == 1 else names.QUALITY_ATTRIBUTED
    for piece, end in zip(reversed(pieces), reversed(ends), strict=True):
        whole += end
        piece.add_gpu_time(whole, quality)
    return True
