"""Spans of a day as the agent writes them: requests with their phases, steps and windows with links."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from synthetic.asks import ABORTED, IMAGE, OK, TEXT, VIDEO, Ask
from synthetic.counters import RATIOS, amounts
from synthetic.folding import Folded
from synthetic.kernels import Part
from synthetic.life import Iteration, Life, Piece
from synthetic.preprocess import Preprocessed
from synthetic.scenarios import BASE_NS, EngineSetup
from vtprof_schemas import names

Value = int | float | str
_MOST_LINKS = 64
_SERVER, _INTERNAL = 2, 1
_MASK = 2**64 - 1
_RATIO_DOUBT = 0.02
_LEAST_WAY_NS, _WAY_NS = 200_000, 1_800_000
"""From the gateway to the engine, and back."""
_REQUEST, _STEP, _GATEWAY = 1, 2, 3


class Ids(NamedTuple):
    """Trace id in two halves, and span id."""

    high: int
    low: int
    span: int


@dataclass
class Span:
    """One span; times in Unix time by its host's clock."""

    resource: int
    name: str
    ids: Ids
    parent: int | None
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    links: list[Ids] = field(default_factory=list)
    kind: int = _INTERNAL
    remote_parent: bool = False
    failed: bool = False


def request_ids(seed: int, ask: Ask) -> Ids:
    """Return the ids of a request's root span."""
    return _ids(seed, ask.engine, _REQUEST, ask.number)


def gateway_span(seed: int, ask: Ask, end_ns: int, resource: int) -> Span:
    """Return the span of the gateway that sent a request on: longer by the way there and back; ``end_ns`` is true."""
    ids = request_ids(seed, ask)._replace(span=_mix(seed, ask.engine, _GATEWAY, ask.number))
    there_ns, back_ns = (
        _LEAST_WAY_NS + _mix(seed, ask.engine, _GATEWAY, ask.number, part) % _WAY_NS for part in (1, 2)
    )
    start_ns, end_ns = BASE_NS + ask.arrival_ns - there_ns, end_ns + back_ns
    attributes: dict[str, Value] = {"http.request.method": "POST", "url.path": "/v1/chat/completions"}
    return Span(resource, "POST /v1/chat/completions", ids, None, start_ns, end_ns, attributes, [], 3)


class EngineSpans:
    """Makes the spans of one engine."""

    def __init__(
        self, seed: int, resource: int, setup: EngineSetup, *, gateway: bool, counters: bool
    ) -> None:
        """Start; ``gateway``: requests are children of its spans."""
        self._seed, self._resource, self._setup = seed, resource, setup
        self._gateway, self._counters = gateway, counters
        self._base_ns = BASE_NS + setup.clock_offset_ns

    def request(
        self, ask: Ask, before: Preprocessed, life: Life | None, sampling_ratio: float
    ) -> Iterator[Span]:
        """Yield the root of a request and its phases; ``life`` None: the engine refused it."""
        ids = request_ids(self._seed, ask)
        parent = _mix(self._seed, ask.engine, _GATEWAY, ask.number) if self._gateway else None
        end_ns = before.hand_over_ns if life is None or life.end_ns is None else life.end_ns
        yield Span(
            self._resource,
            names.SPAN_REQUEST,
            ids,
            parent,
            self._base_ns + ask.arrival_ns,
            self._base_ns + end_ns,
            self._request_attributes(ask, life, sampling_ratio),
            kind=_SERVER,
            remote_parent=self._gateway,
            failed=ask.status not in (OK, ABORTED),
        )
        pieces = [_preprocess_piece(ask, before), *(life.pieces if life is not None else ())]
        for part, piece in enumerate(pieces, start=1):
            yield Span(
                self._resource,
                names.PHASE_SPANS[piece.phase],
                ids._replace(span=_mix(self._seed, ask.engine, _REQUEST, ask.number, part)),
                ids.span,
                self._base_ns + piece.start_ns,
                self._base_ns + piece.end_ns,
                _phase_attributes(piece),
            )

    def step(self, folded: Folded, asks: Sequence[Ask]) -> Iterator[Span]:
        """Yield a step or window, and its continuations where it links more requests than a span may."""
        first = folded.first
        ids = _ids(self._seed, self._resource, _STEP, first.index)
        name = names.SPAN_STEP if first.mixed else names.SPAN_WINDOW
        links = [request_ids(self._seed, asks[number]) for number in folded.links]
        start_ns, end_ns = self._base_ns + first.start_ns, self._base_ns + folded.end_ns
        attributes = self._step_attributes(folded)
        yield Span(self._resource, name, ids, None, start_ns, end_ns, attributes, links[:_MOST_LINKS])
        for part, begin in enumerate(range(_MOST_LINKS, len(links), _MOST_LINKS), start=1):
            more: dict[str, Value] = {names.STEP_INDEX: first.index, names.STEP_COUNT: 0}
            own = ids._replace(span=_mix(ids.span, part, _STEP, 0))
            yield Span(
                self._resource, name, own, ids.span, end_ns, end_ns, more, links[begin : begin + _MOST_LINKS]
            )

    def _request_attributes(self, ask: Ask, life: Life | None, sampling_ratio: float) -> dict[str, Value]:
        visual = ask.tokens(IMAGE) + ask.tokens(VIDEO)
        values: dict[str, Value] = {
            names.REQUEST_ID: f"chatcmpl-{ask.number}",
            names.REQUEST_STATUS: ask.status,
            names.SAMPLING_RATIO: sampling_ratio,
            names.REQUEST_MODEL: self._setup.model.name,
            names.INPUT_TOKENS: ask.prompt,
            names.TOKENS_TEXT: ask.tokens(TEXT),
            names.TOKENS_IMAGE: ask.tokens(IMAGE),
            names.TOKENS_VIDEO: ask.tokens(VIDEO),
            names.TOKENS_AUDIO: 0,
            names.TOKENS_CACHED: cached_tokens(life),
            names.ITEMS_IMAGE: sum(segment.kind == IMAGE for segment in ask.items),
            names.ITEMS_VIDEO: sum(segment.kind == VIDEO for segment in ask.items),
            names.ITEMS_AUDIO: 0,
        }
        if life is not None and life.first_token_ns is not None:
            each = self._setup.model.kv_bytes_per_token
            values[names.OUTPUT_TOKENS] = life.generated
            values[names.TTFT_NS] = life.first_token_ns - ask.arrival_ns
            values[names.KV_BYTES] = (ask.prompt + life.generated - 1) * each
            values[names.KV_VISUAL_BYTES] = visual * each
        return values

    def _step_attributes(self, folded: Folded) -> dict[str, Value]:
        its, first = folded.iterations, folded.first
        values: dict[str, Value] = {names.STEP_INDEX: first.index, names.STEP_COUNT: len(its)}
        values[names.STEP_PREFILL_TOKENS] = sum(chunk.end - chunk.begin for chunk in first.chunks)
        decode_requests = sum(it.decode_requests for it in its)
        values[names.STEP_DECODE_REQUESTS] = decode_requests
        values[names.STEP_DECODE_CONTEXT_TOKENS] = sum(it.decode_context for it in its)
        values[names.STEP_DECODE_VISUAL_TOKENS] = sum(it.decode_visual for it in its)
        values[names.STEP_PREEMPTIONS] = sum(it.preemptions for it in its)
        values[names.STEP_DECODE_TOKENS] = decode_requests
        if first.mixed:
            values.update(_work_attributes(first))
        values[names.GPU_TIME_NS] = sum(it.gpu_ns for it in its)
        if first.encode_ns:
            values[names.STEP_ENCODE_GPU_TIME_NS] = first.encode_ns
        values[names.GPU_TIME_QUALITY] = names.QUALITY_MEASURED
        values.update(_levels(its))
        if self._counters:
            whole = Part()
            for part in folded.parts():
                whole.add(part)
            wall_s = (folded.end_ns - first.start_ns) / 1e9
            *ratios, joules = amounts(self._setup.device, whole, wall_s)
            told = [(key, ratio / wall_s, _RATIO_DOUBT) for key, ratio in zip(RATIOS, ratios, strict=True)]
            values.update(_counters([*told, (names.GPU_ENERGY_MJ, joules * 1e3, joules * 50)]))
        return values


def _counters(told: Iterable[tuple[str, float, float]]) -> dict[str, Value]:
    """Return values with the ends of their intervals: so far from them, but ratios at most 1 unless they are."""
    values: dict[str, Value] = {}
    for key, value, doubt in told:
        most = value + doubt if key == names.GPU_ENERGY_MJ else max(value, min(1.0, value + doubt))
        values[key], values[key + ".low"], values[key + ".high"] = value, max(0.0, value - doubt), most
        values[key + ".quality"] = names.QUALITY_ATTRIBUTED
    return values


def cached_tokens(life: Life | None) -> int:
    """Return the prompt's tokens that came from the prefix cache."""
    return life.cached if life is not None else 0


def _work_attributes(first: Iteration) -> dict[str, Value]:
    values: dict[str, Value] = {}
    if any(encode.items for encode in first.encodes):
        values[names.STEP_ENCODE_NS] = first.encode_ns
    values[names.STEP_PREFILL_VISUAL_TOKENS] = sum(chunk.held[1] + chunk.held[2] for chunk in first.chunks)
    values[names.STEP_PREFILL_ATTENTION_PAIRS] = sum(chunk.pairs for chunk in first.chunks)
    values[names.STEP_PREFILL_VISUAL_ATTENTION_PAIRS] = sum(chunk.visual_pairs for chunk in first.chunks)
    if first.encodes:
        values[names.STEP_ENCODE_ITEMS] = sum(encode.items for encode in first.encodes)
        values[names.STEP_ENCODE_PATCHES] = sum(encode.patches for encode in first.encodes)
        values[names.STEP_ENCODE_ATTENTION_PAIRS] = sum(encode.pairs for encode in first.encodes)
    values[names.STEP_PREFILL_REQUESTS] = len(first.chunks)
    return values


def _levels(its: list[Iteration]) -> dict[str, Value]:
    """Return the time means of what is held and of who runs, and the iteration that held most."""
    weights = [it.end_ns - it.start_ns for it in its]
    total = sum(weights)

    def mean(levels: list[int]) -> float:
        return sum(level * weight for level, weight in zip(levels, weights, strict=True)) / total

    most = max(its, key=lambda it: (sum(it.kv), it.kv[1] + it.kv[2]))
    return {
        names.STEP_KV_USED_TOKENS: round(mean([sum(it.kv) for it in its])),
        names.STEP_KV_VISUAL_TOKENS: round(mean([it.kv[1] + it.kv[2] for it in its])),
        names.STEP_KV_USED_BLOCKS: round(mean([it.kv_blocks for it in its])),
        names.STEP_RUNNING: mean([it.running for it in its]),
        names.STEP_WAITING: mean([it.waiting for it in its]),
        names.STEP_KV_USED_TOKENS_MAX: sum(most.kv),
        names.STEP_KV_VISUAL_TOKENS_MAX: most.kv[1] + most.kv[2],
    }


def _preprocess_piece(ask: Ask, before: Preprocessed) -> Piece:
    counts = {
        "cpu_ns": before.cpu_ns,
        "fetch_ns": before.fetch_ns,
        "decode_ns": before.decode_ns,
        "cache_hits": before.cache_hits,
        "pixels": before.pixels,
    }
    return Piece("preprocess", ask.arrival_ns, before.hand_over_ns, counts=counts)


_PHASE_KEYS = {
    "preprocess": {
        "cpu_ns": names.PREPROCESS_CPU_NS,
        "fetch_ns": names.PREPROCESS_FETCH_NS,
        "decode_ns": names.PREPROCESS_DECODE_NS,
        "cache_hits": names.PREPROCESS_CACHE_HITS,
        "pixels": names.PREPROCESS_PIXELS,
    },
    "queue": {},
    "encode": {
        "items": names.ENCODE_ITEMS,
        "patches": names.ENCODE_PATCHES,
        "hits": names.ENCODE_CACHE_HITS,
    },
    "prefill": {
        "chunks": names.PREFILL_CHUNKS,
        "tokens": names.PREFILL_TOKENS,
        "visual_tokens": names.PREFILL_VISUAL_TOKENS,
        "cached_tokens": names.PREFILL_CACHED_TOKENS,
    },
    "decode": {"steps": names.DECODE_STEPS, "preemptions": names.DECODE_PREEMPTIONS},
}


def _phase_attributes(piece: Piece) -> dict[str, Value]:
    values: dict[str, Value] = {names.PHASE: piece.phase}
    for key, name in _PHASE_KEYS[piece.phase].items():
        values[name] = piece.counts[key]
    if piece.phase in ("prefill", "decode") or (piece.phase == "encode" and piece.counts["items"]):
        values[names.GPU_TIME_NS] = piece.gpu_ns
        values[names.GPU_TIME_QUALITY] = names.QUALITY_MEASURED if piece.sole else names.QUALITY_ATTRIBUTED
    if piece.ratios is not None:
        values.update(
            _counters((key, ratio, _RATIO_DOUBT) for key, ratio in zip(RATIOS, piece.ratios, strict=True))
        )
    return values


def _ids(seed: int, engine: int, kind: int, number: int) -> Ids:
    return Ids(
        _mix(seed, engine, kind, number, 1001),
        _mix(seed, engine, kind, number, 1002),
        _mix(seed, engine, kind, number),
    )


def _mix(seed: int, engine: int, kind: int, number: int, part: int = 0) -> int:
    """Return 64 bits that look random and differ for different arguments; never zero (splitmix64)."""
    state = seed & _MASK
    for word in (engine * 8 + kind, number, part):
        state = (state + 0x9E3779B97F4A7C15 + word * 0xD1342543DE82EF95) & _MASK
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state or 1
