"""The state machine of one ring: decoded records in, finished requests and engine steps out. Pure; no clock of its own.

A step is held until its GPU time came or the hold ran out, a request until it finished and its steps are settled.
Any order of records, duplicates and gaps included, is taken without an error; what cannot be used is counted.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vtprof_agent.decoding import Decoding
from vtprof_agent.facts import Caller, FinishedRequest, StepFact
from vtprof_agent.request_state import KvCosts, Piece, RequestState, finish
from vtprof_agent.steps import EncodePart, OpenStep, PrefillPart, StepParts
from vtprof_schemas import names, records

PIPELINE_STEPS = 8
"""A part whose step is this many iterations behind belongs to a step whose record was lost."""
MAX_OPEN_STEPS = 16_384
_DECODE_REQUESTS = records.STEP.field_names.index("decode_requests")


@dataclass(frozen=True)
class AssemblySettings:
    """How long things are held, and how many."""

    gpu_time_hold_ns: int = 2_000_000_000
    finish_linger_ns: int = 200_000_000
    """Wait after a request finished: the record of its last step may come after its own."""
    max_open_requests: int = 8192


@dataclass
class AssemblyCounts:
    """What the assembly could not use or had to cut, since its start."""

    requests_without_arrival: int = 0
    requests_evicted: int = 0
    requests_aborted: int = 0
    records_without_request: int = 0
    parts_without_step: int = 0
    pieces_dropped: int = 0
    negative_durations: int = 0
    late_gpu_times: int = 0
    unknown_kinds: int = 0


class Assembly:
    """Follows the requests and steps of one ring; feed it in order, advance it, take what is finished."""

    def __init__(self, settings: AssemblySettings, *, expects_gpu_time: bool = True) -> None:
        """Start empty. Where no GPU time will come (a model on the CPU) nothing is held for it."""
        self.kv = KvCosts()
        self.model: str | None = None
        self.expects_gpu_time = expects_gpu_time
        self.counts = AssemblyCounts()
        self._settings = settings
        self._requests: OrderedDict[int, RequestState] = OrderedDict()
        self._finishing: dict[int, RequestState] = {}
        self._decoding = Decoding()
        self._parts: OrderedDict[int, StepParts] = OrderedDict()
        self._steps: deque[OpenStep] = deque()
        self._steps_by_index: dict[int, OpenStep] = {}
        self._latest_ns: int | None = None
        self._sequence = self._now_ns = 0
        self._requests_done: list[FinishedRequest] = []
        self._steps_done: list[StepFact] = []
        self._handlers: dict[int, Callable[[Sequence[Any]], None]] = {
            records.REQUEST_ARRIVED.code: self._on_arrived,
            records.REQUEST_LABEL.code: self._on_label,
            records.REQUEST_PARENT.code: self._on_parent,
            records.REQUEST_INPUT.code: self._on_input,
            records.PREPROCESS.code: self._on_preprocess,
            records.QUEUE.code: self._on_queue,
            records.ENCODE.code: self._on_encode,
            records.PREFILL.code: self._on_prefill,
            records.STEP.code: self._on_step,
            records.GPU_TIME.code: self._on_gpu_time,
            records.FIRST_TOKEN.code: self._on_first_token,
            records.PREEMPTED.code: self._on_preempted,
            records.TRANSFER.code: self._on_transfer,
            records.REQUEST_KV.code: self._on_kv,
            records.REQUEST_MODEL.code: self._on_model,
            records.REQUEST_FINISHED.code: self._on_finished,
        }

    def feed(self, code: int, sequence: int, values: Sequence[Any], now_ns: int) -> None:
        """Take one record: its kind, ring sequence and payload fields in the order of ``records``."""
        handler = self._handlers.get(code)
        if handler is None:
            self.counts.unknown_kinds += 1
            return
        self._sequence, self._now_ns = sequence, now_ns
        handler(values)

    def advance(self, now_ns: int) -> None:
        """Settle steps whose GPU time came or is overdue, then close the requests that wait for nothing more."""
        hold = self._settings.gpu_time_hold_ns if self.expects_gpu_time else 0
        while self._steps and (self._steps[0].gpu_ns is not None or now_ns - self._steps[0].seen_ns >= hold):
            self._settle(self._steps.popleft())
        linger = self._settings.finish_linger_ns
        for number, state in list(self._finishing.items()):
            if state.unsettled_steps == 0 and now_ns - state.finished_seen_ns >= linger:
                self._leave(number, state)

    def close(self) -> None:
        """End everything: the process is gone. Requests without an end are aborted at the last record's time."""
        while self._steps:
            self._settle(self._steps.popleft())
        for index in list(self._parts):
            self._drop_parts(index)
        for number, state in list(self._requests.items()):
            if state.finished_ns is None:
                self.counts.requests_aborted += 1
            self._leave(number, state)

    def take_requests(self) -> list[FinishedRequest]:
        """Hand over the requests finished since the last call."""
        done, self._requests_done = self._requests_done, []
        return done

    def take_steps(self) -> list[StepFact]:
        """Hand over the steps settled since the last call, in order."""
        done, self._steps_done = self._steps_done, []
        return done

    def settle_steps(self) -> None:
        """Settle all steps now, with the GPU times that are there: the agent stops."""
        while self._steps:
            self._settle(self._steps.popleft())
        for number, state in list(self._finishing.items()):
            self._leave(number, state)

    @property
    def left_over(self) -> dict[str, int]:
        """Return by kind what could not be used or had to be cut; kinds that never occurred are absent."""
        kinds = {**vars(self.counts), "decoders_recounted": self._decoding.mismatches}
        return {kind: number for kind, number in kinds.items() if number}

    @property
    def open_requests(self) -> int:
        """Return how many requests with an arrival are open."""
        return sum(state.arrival_ns is not None for state in self._requests.values())

    def needed_sequence(self, next_sequence: int) -> int:
        """Return the lowest ring sequence that an open request or step still needs, else the next one to read."""
        needed = [next_sequence]
        needed += [state.sequence for state in self._requests.values() if state.arrival_ns is not None]
        needed += [parts.sequence for parts in self._parts.values()]
        needed += [step.parts.sequence for step in self._steps]
        return min(needed)

    # --- Requests ------------------------------------------------------------------------------------------

    def _on_arrived(self, values: Sequence[Any]) -> None:
        number, time_ns = values
        known = self._requests.get(number)
        if known is not None:
            if known.arrival_ns is not None and known.finished_ns is None:
                return  # a duplicate
            self._leave(number, known)
        self._open(number, time_ns)
        self._saw(time_ns)

    def _open(self, number: int, arrival_ns: int | None) -> RequestState:
        if len(self._requests) >= self._settings.max_open_requests:
            oldest_number, oldest = next(iter(self._requests.items()))
            self.counts.requests_evicted += 1
            self._leave(oldest_number, oldest)
        state = self._requests[number] = RequestState(number, self._sequence, arrival_ns)
        return state

    def _leave(self, number: int, state: RequestState) -> None:
        """Close a request: export it, or count it when its arrival was lost."""
        del self._requests[number]
        self._finishing.pop(number, None)
        self._decoding.leave(number)
        if state.arrival_ns is None:
            self.counts.requests_without_arrival += 1
            return
        end_ns, status = state.finished_ns, state.status
        if end_ns is not None:
            state.infer_decode(end_ns)
        if end_ns is None:
            end_ns, status = self._latest_ns or state.arrival_ns, names.STATUS_ABORTED
        self._requests_done.append(finish(state, end_ns, status, self.kv, self.model))

    def _find(self, number: int) -> RequestState | None:
        state = self._requests.get(number)
        if state is None:
            self.counts.records_without_request += 1
        return state

    def _on_label(self, values: Sequence[Any]) -> None:
        number, length, text = values
        state = self._find(number)
        if state is not None:
            # A cut in the middle of a character must not cost the label.
            state.label = text[: min(length, records.LABEL_BYTES)].decode("utf-8", "ignore") or None

    def _on_model(self, values: Sequence[Any]) -> None:
        number, length, text = values
        state = self._find(number)
        if state is not None:
            state.model = text[: min(length, records.LABEL_BYTES)].decode("utf-8", "ignore") or None

    def _on_kv(self, values: Sequence[Any]) -> None:
        number, tokens, visual, per_token, fixed = values
        state = self._find(number)
        if state is not None:
            state.held = (tokens, visual, per_token, fixed)

    def _on_parent(self, values: Sequence[Any]) -> None:
        number, trace_id, span_id, flags = values
        state = self._find(number)
        if state is not None and any(trace_id) and any(span_id):
            state.caller = Caller(int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"), flags)

    def _on_input(self, values: Sequence[Any]) -> None:
        state = self._find(values[0])
        if state is None:
            return
        state.counts = dict(zip(_INPUT_KEYS, values[1:], strict=True))
        state.input_tokens = state.counts[names.INPUT_TOKENS]
        image, video = state.counts[names.TOKENS_IMAGE], state.counts[names.TOKENS_VIDEO]
        known = [tokens for tokens in (image, video) if tokens >= 0]
        state.visual_tokens = sum(known) if known else records.UNKNOWN

    def _on_first_token(self, values: Sequence[Any]) -> None:
        number, time_ns = values
        state = self._find(number)
        if state is None:
            return
        self._saw(time_ns)
        if state.first_token_ns is None:
            state.first_token_ns = time_ns
            chunks = (part.state for parts in self._parts.values() for part in parts.prefills)
            if number not in self._decoding and state not in chunks:
                # The record of its last chunk is lost: the token itself says that it decodes from here on.
                self._decode_from(state, time_ns)

    def _on_finished(self, values: Sequence[Any]) -> None:
        number, time_ns, status, output_tokens = values
        state = self._find(number)
        if state is None or state.finished_ns is not None:
            return
        self._saw(time_ns)
        state.finished_ns = time_ns
        state.finished_seen_ns = self._now_ns
        state.output_tokens = output_tokens
        if 0 <= status < len(names.STATUSES):
            state.status = names.STATUSES[status]
        self._finishing[number] = state

    # --- Phases of requests --------------------------------------------------------------------------------

    def _add(self, state: RequestState, piece: Piece) -> bool:
        if piece.end_ns < piece.start_ns:
            self.counts.negative_durations += 1
            return False
        self._saw(piece.end_ns)
        kept = state.add(piece)
        self.counts.pieces_dropped += not kept
        return kept

    def _on_preprocess(self, values: Sequence[Any]) -> None:
        number, start_ns, end_ns, *counts = values
        state = self._find(number)
        if state is not None:
            self._add(
                state,
                Piece(names.PREPROCESS, start_ns, end_ns, dict(zip(_PREPROCESS_KEYS, counts, strict=True))),
            )

    def _on_queue(self, values: Sequence[Any]) -> None:
        number, start_ns, end_ns = values
        state = self._find(number)
        if (
            state is not None
            and self._add(state, Piece(names.QUEUE, start_ns, end_ns, {}))
            and state.decode is not None
        ):
            state.pause_decode(end_ns)

    def _on_transfer(self, values: Sequence[Any]) -> None:
        number, start_ns, end_ns, moved_bytes, kind = values
        state = self._find(number)
        if state is None:
            return
        piece = Piece(names.TRANSFER, start_ns, end_ns, {names.TRANSFER_BYTES: moved_bytes})
        if 0 <= kind < len(records.TRANSFER_KINDS):
            piece.text[names.TRANSFER_KIND] = records.TRANSFER_KINDS[kind]
        self._add(state, piece)

    def _on_preempted(self, values: Sequence[Any]) -> None:
        number, _, time_ns = values
        state = self._find(number)
        if state is not None:
            self._saw(time_ns)
            state.preempt()
            self._decoding.leave(number)

    # --- Steps ---------------------------------------------------------------------------------------------

    def _parts_of(self, index: int) -> StepParts:
        parts = self._parts.get(index)
        if parts is None:
            if len(self._parts) >= 4 * PIPELINE_STEPS:
                self._drop_parts(next(iter(self._parts)))
            parts = self._parts[index] = StepParts(self._sequence)
        return parts

    def _on_encode(self, values: Sequence[Any]) -> None:
        index, number, start_ns, end_ns, items, patches, pairs, hits = values
        state = self._find(number) or self._open(number, None)
        counts = {names.ENCODE_ITEMS: items, names.ENCODE_PATCHES: patches, names.ENCODE_CACHE_HITS: hits}
        piece = Piece(names.ENCODE, start_ns, end_ns, counts)
        self._add(state, piece)
        self._parts_of(index).encodes.append(EncodePart(state, piece, patches, pairs))

    def _on_prefill(self, values: Sequence[Any]) -> None:
        index, number, tokens, visual, _context, cached, pairs, visual_pairs, last = values
        state = self._find(number) or self._open(number, None)
        counts = {
            names.PREFILL_CHUNKS: 1, names.PREFILL_TOKENS: tokens, names.PREFILL_VISUAL_TOKENS: visual,
            names.PREFILL_CACHED_TOKENS: cached,
        }  # fmt: skip
        part = PrefillPart(state, counts, pairs, visual_pairs, last)
        self._parts_of(index).prefills.append(part)

    def _drop_parts(self, index: int) -> None:
        """Give up the parts of a step whose record never came; their requests decode if the prompt was complete."""
        self.counts.parts_without_step += 1
        for part in self._parts.pop(index).prefills:
            if part.completes():
                self._decode_from(part.state, part.state.first_token_ns)

    def _decode_from(self, state: RequestState, from_ns: int | None) -> None:
        if self._requests.get(state.number) is state:
            self._decoding.join(state, from_ns)

    def _on_step(self, values: Sequence[Any]) -> None:
        index, start_ns, end_ns = values[:3]
        if end_ns < start_ns:
            self.counts.negative_durations += 1
            end_ns = start_ns
        self._saw(end_ns)
        parts = self._parts.pop(index, None) or StepParts(self._sequence)
        for behind in [i for i in self._parts if i + PIPELINE_STEPS < index]:
            self._drop_parts(behind)
        decoders = self._decoding.of_step(values[_DECODE_REQUESTS], start_ns)
        for part in parts.prefills:
            begin_ns = parts.encode_end_ns(part.state, start_ns, end_ns)
            part.piece = Piece(names.PREFILL, begin_ns, end_ns, part.counts)
            self._add(part.state, part.piece)
            if part.completes():
                self._decode_from(part.state, end_ns)
        step = OpenStep(self._sequence, values, end_ns, parts, decoders, self._now_ns)
        for state in step.states():
            state.unsettled_steps += 1
        if len(self._steps) >= MAX_OPEN_STEPS:
            self._settle(self._steps.popleft())
        self._steps.append(step)
        self._steps_by_index[index] = step

    def _on_gpu_time(self, values: Sequence[Any]) -> None:
        index, gpu_ns, encode_gpu_ns = values
        step = self._steps_by_index.get(index)
        if step is None:
            self.counts.late_gpu_times += 1
        elif gpu_ns >= 0:
            step.gpu_ns = gpu_ns
            step.encode_gpu_ns = encode_gpu_ns if encode_gpu_ns >= 0 else None

    def _settle(self, step: OpenStep) -> None:
        """Split a step's GPU time over its requests and hand the step on."""
        if self._steps_by_index.get(step.index) is step:
            del self._steps_by_index[step.index]
        if step.gpu_ns is not None or self.expects_gpu_time:
            step.share_gpu_time()
        for state in step.states():
            state.unsettled_steps -= 1
        self._steps_done.append(step.fact(self._decoding.refs(step.decoders)))

    def _saw(self, time_ns: int) -> None:
        if self._latest_ns is None or time_ns > self._latest_ns:
            self._latest_ns = time_ns


_INPUT_KEYS = (
    names.INPUT_TOKENS, names.TOKENS_TEXT, names.TOKENS_IMAGE, names.TOKENS_VIDEO, names.TOKENS_AUDIO,
    names.TOKENS_CACHED, names.ITEMS_IMAGE, names.ITEMS_VIDEO, names.ITEMS_AUDIO,
)  # fmt: skip
_PREPROCESS_KEYS = (
    names.PREPROCESS_CPU_NS, names.PREPROCESS_FETCH_NS, names.PREPROCESS_DECODE_NS, names.PREPROCESS_PIXELS,
    names.PREPROCESS_CACHE_HITS,
)  # fmt: skip
