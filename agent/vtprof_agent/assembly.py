"""The state machine of a family of rings: decoded records in, finished requests and engine steps out. Pure; no clock.

A step is held until its GPU time came or the hold ran out, a request until it finished and its steps are settled.
Any order of records, duplicates and gaps included, is taken without an error; what cannot be used is counted.
``joined`` are the rings of a server of several processes; any other process is a family of its one ring, 0.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from vtprof_agent.facts import FinishedRequest
from vtprof_agent.request_state import Piece, RequestState
from vtprof_agent.request_table import AssemblyCounts, AssemblySettings, RequestTable
from vtprof_agent.request_told import TOLD, tell
from vtprof_agent.step_facts import StepRun
from vtprof_agent.step_lines import IN_FLIGHT, Line, StepLines
from vtprof_agent.step_work import Measures
from vtprof_agent.steps import EncodePart, OpenStep, PrefillPart, StepParts
from vtprof_schemas import names, records

__all__ = ["Assembly", "AssemblyCounts", "AssemblySettings"]


class Assembly:
    """Follows the requests and steps of a family; feed it in order, advance it, take what is finished."""

    def __init__(
        self,
        settings: AssemblySettings,
        *,
        expects_gpu_time: bool = True,
        joined: bool = False,
        measures: Measures | None = None,
    ) -> None:
        """Start empty. Where no GPU time will come (a model on the CPU) nothing is held for it."""
        self.expects_gpu_time = expects_gpu_time
        self.times_steps = True
        """False while the detail is so low that the probe leaves out the GPU times."""
        self.joined = joined
        self.ranks: dict[int, int] = {}
        """By ring the rank of the process, of those that may tell of the same steps."""
        self._settings = settings
        self.steps = StepLines(joined=joined, measures=measures)
        leave = (lambda _: None) if joined else self.steps.leave
        self.requests = RequestTable(settings, joined=joined, on_leave=leave)
        self.counts = self.requests.counts
        self._ring = self._sequence = self._now_ns = 0
        self._runs_done: list[StepRun] = []
        self._handlers: dict[int, Callable[[Sequence[Any]], None]] = {
            records.REQUEST_ARRIVED.code: self._on_arrived,
            records.PREPROCESS.code: self._on_preprocess,
            records.QUEUE.code: self._on_queue,
            records.ENCODE.code: self._on_encode,
            records.PREFILL.code: self._on_prefill,
            records.STEP.code: self._on_step,
            records.GPU_TIME.code: self._on_gpu_time,
            records.FIRST_TOKEN.code: self._on_first_token,
            records.PREEMPTED.code: self._on_preempted,
            records.TRANSFER.code: self._on_transfer,
            records.REQUEST_FINISHED.code: self._on_finished,
        }
        self._handlers.update((code, partial(self._on_told, code)) for code in TOLD)
        if joined:
            self._handlers[records.SEQUENCE.code] = self._on_sequence
            self._handlers[records.LEFT.code] = self._on_left

    def feed(self, code: int, sequence: int, values: Sequence[Any], now_ns: int, ring: int = 0) -> None:
        """Take one record: its kind, ring sequence and payload fields in the order of ``records``, and its ring."""
        handler = self._handlers.get(code)
        if handler is None:
            self.counts.unknown_kinds += 1
            return
        self._ring, self._sequence, self._now_ns = ring, sequence, now_ns
        handler(values)

    def advance(self, now_ns: int) -> None:
        """Settle steps whose GPU time and counters came or are overdue, then close requests that wait for nothing more."""
        hold_ns = self._settings.gpu_time_hold_ns
        self.steps.await_steps(self.requests.any_running)
        for steps in self.steps.due(now_ns, hold_ns, expects_gpu_time=self.expects_gpu_time):
            self._settle(steps)
        self.requests.advance(now_ns)

    def close(self) -> None:
        """End everything: the processes are gone. Requests without an end are aborted at the last record's time."""
        for steps in self.steps.all():
            self._settle(steps)
        for index in list(self.steps.parts):
            self._drop_parts(index)
        self.requests.leave_all()

    def take_requests(self) -> list[FinishedRequest]:
        """Hand over the requests finished since the last call."""
        return self.requests.take()

    def take_runs(self) -> list[StepRun]:
        """Hand over the steps settled since the last call, those of one ring in order."""
        done, self._runs_done = self._runs_done, []
        return done

    def settle_steps(self) -> None:
        """Settle all steps now, with the GPU times that are there: the agent stops."""
        for steps in self.steps.all():
            self._settle(steps)
        self.requests.leave_finishing()

    @property
    def left_over(self) -> dict[str, int]:
        """Return by kind what could not be used or had to be cut; kinds that never occurred are absent."""
        kinds = {**vars(self.counts), "decoders_recounted": self.steps.mismatches}
        return {kind: number for kind, number in kinds.items() if number}

    def needed(self) -> list[Mapping[int, int]]:
        """Return, of every open request and held step, the lowest sequence by ring that it still needs."""
        return [*self.requests.needed(), *self.steps.needed()]

    # --- Requests ------------------------------------------------------------------------------------------

    def _on_arrived(self, values: Sequence[Any]) -> None:
        number, time_ns = values
        adopted = self.requests.arrive(number, time_ns, self._ring, self._sequence)
        if adopted is not None:
            self.steps.replace(adopted, adopted)  # who is named has changed
        self.requests.saw(self._ring, time_ns)

    def _on_sequence(self, values: Sequence[Any]) -> None:
        child, number = values
        state = self._find(number)
        if state is not None:
            orphan = self.requests.adopt(child, state)
            if orphan is not None:
                self.steps.replace(orphan, state)

    def _find(self, number: int) -> RequestState | None:
        state = self.requests.find(number)
        if state is not None and self.joined:
            state.need(self._ring, self._sequence)
        return state

    def _engines(self, number: int) -> RequestState | None:
        """Return the request that a scheduler's record names; in a family it may come before the arrival."""
        if not self.joined:
            return self._find(number)
        state = self._named(number)
        state.live.add(number)
        if state.served_by is None:
            state.served_by = self._ring
        return state

    def _named(self, number: int) -> RequestState:
        """Return the request that a step's part names, opened if need be."""
        state = self.requests.get(number)
        if state is None:
            if not self.joined:
                self.counts.records_without_request += 1
            state = self.requests.open(number, None, self._ring, self._sequence)
        elif self.joined:
            state.need(self._ring, self._sequence)
        return state

    def _on_told(self, code: int, values: Sequence[Any]) -> None:
        state = self._find(values[0])
        if state is not None:
            tell(state, code, values)

    def _on_first_token(self, values: Sequence[Any]) -> None:
        number, time_ns = values
        state = self._find(number)
        if state is None:
            return
        self.requests.saw(self._ring, time_ns)
        if state.first_token_ns is None:
            state.first_token_ns = time_ns
            if self.joined:
                return  # the scheduler's records of its prompt may not be read yet
            chunks = (part.state for parts in self.steps.parts.values() for part in parts.prefills)
            if state.decoding == 0 and state not in chunks:
                # The record of its last chunk is lost: the token itself says that it decodes from here on.
                self._decode_from(self.steps.line(self._ring), number, state, time_ns)

    def _on_finished(self, values: Sequence[Any]) -> None:
        number, time_ns, status, output_tokens = values
        state = self._find(number)
        if state is None or state.finished_ns is not None:
            return
        self.requests.saw(self._ring, time_ns)
        state.finished_ns = time_ns
        state.output_tokens = output_tokens
        if 0 <= status < len(names.STATUSES):
            state.status = names.STATUSES[status]
        self.requests.finishing(state, self._now_ns)
        self.steps.one_finished()

    # --- Phases of requests --------------------------------------------------------------------------------

    def _add(self, state: RequestState, piece: Piece) -> bool:
        if piece.end_ns < piece.start_ns:
            self.counts.negative_durations += 1
            return False
        self.requests.saw(self._ring, piece.end_ns)
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
        state = self._engines(number)
        if state is None:
            return
        if state.children:
            for piece in state.pieces:  # its sequences wait together
                if piece.phase == names.QUEUE and piece.start_ns <= end_ns and start_ns <= piece.end_ns:
                    piece.start_ns, piece.end_ns = min(piece.start_ns, start_ns), max(piece.end_ns, end_ns)
                    return
        added = self._add(state, Piece(names.QUEUE, start_ns, end_ns, {}))
        if added and state.decode is not None and not state.children:
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
        number, index, time_ns = values
        state = self._engines(number)
        if state is not None:
            self.requests.saw(self._ring, time_ns)
            if self.steps.line(self._ring).decodes_untold(number, index - IN_FLIGHT):
                state.decode_untold(time_ns)
            self.steps.line(self._ring).decoding.leave(number)
            state.preempt()

    def _on_left(self, values: Sequence[Any]) -> None:
        number, index, time_ns, output_tokens = values
        self.requests.saw(self._ring, time_ns)
        line = self.steps.line(self._ring)
        untold = line.decodes_untold(number, index)
        line.decoding.leave(number)
        state = self._find(number)
        if state is None:
            return
        if untold:
            state.decode_untold(time_ns)
        state.live.discard(number)
        state.left += 1
        if output_tokens >= 0:
            state.left_tokens[number] = output_tokens
        if not state.live and state.arrival_ns is None:
            self.requests.finishing(state, self._now_ns)

    # --- Steps ---------------------------------------------------------------------------------------------

    def _parts_of(self, index: int) -> StepParts:
        parts, over = self.steps.part_of(index, self._ring, self._sequence)
        if over is not None:
            self._drop_parts(over)
        return parts

    def _on_encode(self, values: Sequence[Any]) -> None:
        index, number, start_ns, end_ns, items, patches, pairs, hits = values
        state = self._named(number)
        counts = {names.ENCODE_ITEMS: items, names.ENCODE_PATCHES: patches, names.ENCODE_CACHE_HITS: hits}
        piece = Piece(names.ENCODE, start_ns, end_ns, counts)
        rank = self.ranks.get(self._ring, 0)
        part = EncodePart(number, state, piece, patches, pairs, self._ring, rank)
        step = None
        if self.joined and self.steps.begun(index):
            step = self.steps.by_index.get(index)
            if step is None:
                self.counts.parts_without_step += 1
                self._add(state, piece)
                return
        parts = self._parts_of(index) if step is None else step.parts
        twin = parts.twin(part) if self.joined else None
        if twin is not None and end_ns >= start_ns:
            self.requests.saw(self._ring, end_ns)
            twin.join(part)
            return
        self._add(state, piece)
        parts.encodes += (part,)
        if step is not None and state not in (*step.decoders, *(part.state for part in parts.prefills)):
            state.unsettled_steps += sum(other.state is state for other in parts.encodes) == 1

    def _on_prefill(self, values: Sequence[Any]) -> None:
        index, number, tokens, visual, _context, cached, pairs, visual_pairs, last = values
        state = (self._engines(number) if self.joined else None) or self._named(number)
        counts = {
            names.PREFILL_CHUNKS: 1, names.PREFILL_TOKENS: tokens, names.PREFILL_VISUAL_TOKENS: visual,
            names.PREFILL_CACHED_TOKENS: cached,
        }  # fmt: skip
        if self.joined and state.counts.get(names.TOKENS_CACHED, records.UNKNOWN) < 0:
            state.counts[names.TOKENS_CACHED] = cached
        part = PrefillPart(number, state, counts, pairs, visual_pairs, last)
        self._parts_of(index).prefills += (part,)

    def _drop_parts(self, index: int) -> None:
        """Give up the parts of a step whose record never came; their requests decode if the prompt was complete."""
        self.counts.parts_without_step += 1
        parts = self.steps.parts.pop(index)
        for part in parts.prefills:
            if part.completes():
                line = self.steps.line(part.state.served_by or 0)
                self._decode_from(line, part.number, part.state, part.state.first_token_ns)

    def _decode_from(self, line: Line, number: int, state: RequestState, from_ns: int | None) -> None:
        # It may have been let go of before the step of its prompt was told, or given up.
        let_go = self.joined and number not in state.live
        if self.requests.holds(state) and not let_go:
            line.decoding.join(number, state, from_ns)

    def _on_step(self, values: Sequence[Any]) -> None:
        index, start_ns, end_ns = values[:3]
        if end_ns < start_ns:
            self.counts.negative_durations += 1
            end_ns = start_ns
        self.requests.saw(self._ring, end_ns)
        line = self.steps.line(self._ring)
        parts = None
        if self.steps.parts:
            parts = self.steps.parts.pop(index, None)
            for behind in self.steps.behind(index):
                self._drop_parts(behind)
        if parts is None:
            parts = StepParts(self._ring, self._sequence)
        parts.needs.setdefault(self._ring, self._sequence)
        count = values[_DECODE_REQUESTS]
        if line.recheck:
            self._recheck(line, count, start_ns, end_ns)
        decoders = line.decoding.of_step(count, start_ns)
        if self.joined:
            parts.fold_hits()
        for part in parts.prefills:
            begin_ns = parts.encode_end_ns(part.state, start_ns, end_ns)
            part.piece = Piece(names.PREFILL, begin_ns, end_ns, part.counts)
            self._add(part.state, part.piece)
            if part.completes():
                self._decode_from(line, part.number, part.state, end_ns)
        step = OpenStep(
            self._ring, self._sequence, values, end_ns, parts, line.decoding, decoders, self._now_ns
        )
        step.timed = not self.times_steps
        if self.joined and 0 <= line.last_index < index - 1:
            for piece in step.decode_pieces:
                piece.counts[names.DECODE_STEPS] = records.UNKNOWN  # what came between was not recorded
        if parts.gpu is not None:
            step.take_gpu_time(*parts.gpu[:3], last_word=parts.gpu[3])
        for state in step.states():
            state.unsettled_steps += 1
        over = self.steps.append(step)
        if over is not None:
            self._settle([over])

    def _recheck(self, line: Line, decoders: int, start_ns: int, end_ns: int) -> None:
        """Find those that decode though the record of their last chunk is lost: their first token says so."""
        if decoders > len(line.decoding):
            line.recheck -= 1
            for state in self.requests.undecided(start_ns, end_ns)[: decoders - len(line.decoding)]:
                line.decoding.join(state.number, state, state.first_token_ns)

    def _on_gpu_time(self, values: Sequence[Any]) -> None:
        index, gpu_ns, encode_gpu_ns = values
        step = self.steps.by_index.get(index)
        rank = self.ranks.get(self._ring, 0)
        lowest = not self.joined or self.steps.lowest(self._ring, index, self.ranks)
        if step is not None:
            step.take_gpu_time(gpu_ns, encode_gpu_ns, rank, last_word=lowest)
            step.parts.needs.setdefault(self._ring, self._sequence)
        elif not self.joined or self.steps.begun(index):
            self.counts.late_gpu_times += 1
        else:
            parts = self._parts_of(index)
            if parts.gpu is None or rank < parts.gpu[2]:
                parts.gpu = (gpu_ns, encode_gpu_ns, rank, lowest)

    def _settle(self, steps: Sequence[OpenStep]) -> None:
        self._runs_done += self.steps.settle(steps, expects_gpu_time=self.expects_gpu_time)


_DECODE_REQUESTS = records.STEP.field_names.index("decode_requests")
_PREPROCESS_KEYS = (
    names.PREPROCESS_CPU_NS, names.PREPROCESS_FETCH_NS, names.PREPROCESS_DECODE_NS, names.PREPROCESS_PIXELS,
    names.PREPROCESS_CACHE_HITS,
)  # fmt: skip
