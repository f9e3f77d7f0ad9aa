"""SGLang's scheduler: queue, composition and end of each step, retraction, what the KV cache holds.

A step is one ``run_batch`` and the ``process_batch_result`` that takes its result, which under the overlap schedule comes
after the next ``run_batch``. Every tensor-parallel rank has a scheduler that does the same: one of them reports.
"""

from collections import OrderedDict
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from vtprof_probe.engines import sglang_batch
from vtprof_probe.engines.sglang_batch import Chunk, LiveBatch, SequenceState
from vtprof_probe.engines.sglang_encoder import EncoderHooks
from vtprof_probe.engines.sglang_info import Ranks, describe_engine, find_ranks, kv_used_tokens
from vtprof_probe.engines.vllm_shared import argument, number
from vtprof_probe.hooks.targets import HookSetter
from vtprof_probe.recorder import DETAIL_DECODE_STEPS, Recorder
from vtprof_schemas import records

MAX_PENDING = 64
"""Steps whose result is still to come; a pipeline has a few."""


class _Step:
    """A step from its start to its result."""

    __slots__ = (
        "chunks", "context", "decode_tokens", "decoding", "each", "encode_ns", "hits", "number", "preemptions",
        "queues", "rids", "start_ns", "visual",
    )  # fmt: skip

    def __init__(self, step: int, start_ns: int) -> None:
        self.number, self.start_ns = step, start_ns
        self.chunks: List[Chunk] = []
        self.queues: List[Tuple[int, int]] = []
        self.hits: List[Tuple[int, int]] = []
        self.rids: Sequence[str] = ()
        self.decoding = self.context = self.visual = self.encode_ns = self.preemptions = 0
        self.decode_tokens = self.each = 0
        """Tokens computed by those that decode, and by each of them where that is one number; -1 unknown."""


class SchedulerHooks:
    """Writes the records of role engine; where another rank reports, only numbers the steps for the encoder."""

    def __init__(self, recorder: Recorder, encoder: EncoderHooks, detach: Callable[[], None]) -> None:
        """Begin with no step."""
        self._recorder, self._encoder, self._detach = recorder, encoder, detach
        self._ranks: Optional[Ranks] = None
        self._live = LiveBatch()
        self._pending: "OrderedDict[int, _Step]" = OrderedDict()
        """Steps without a result yet, by the id() of what ``run_batch`` returned, in order."""
        self._last_end_ns = 0
        self._preemptions = 0
        self._count = 0
        """Steps of the scheduler so far, by its own count."""

    # --- Requests ------------------------------------------------------------------------------------------

    def enqueue_begins(self, scheduler: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
        """Note since when a request waits."""
        req = argument(args, kwargs, 0, "req")
        state, now = sglang_batch.state_of(req), self._recorder.now()
        if state is None:
            sglang_batch.new_state(req, now)
            return
        # One of a higher priority took its place.
        self._preempt(req, now)
        state.queued_ns = now if state.queued_ns is None else state.queued_ns

    def retract_begins(self, batch: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Wait for the retracted requests."""
        return True

    def retract_ends(self, token: Any, result: Any, error: Optional[BaseException]) -> None:
        """Write who lost its KV: (retracted requests, ratio, requests given up) in every version."""
        if error is not None or not isinstance(result, tuple):
            return
        now = self._recorder.now()
        for req in result[0]:
            self._preempt(req, now)
        for req in result[2] if len(result) > 2 else ():
            self._leave(req, self._step_number(self._count), now)

    def _preempt(self, req: Any, now: int) -> None:
        state = sglang_batch.state_of(req)
        if state is None or req.rid not in self._live:
            return
        self._live.drop(req)
        state.queued_ns = now
        self._preemptions += 1
        if self._reports:
            # It happens while the next step is put together.
            self._recorder.write(records.PREEMPTED, state.number, self._step_number(self._count + 1), now)

    # --- Steps ---------------------------------------------------------------------------------------------

    def run_begins(self, scheduler: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Begin a step; None for a batch that runs nothing of this rank's own."""
        recorder, batch = self._recorder, argument(args, kwargs, 0, "batch")
        now = recorder.now()
        if self._ranks is None:
            self._identify(scheduler)
        if now >= recorder.control_due and recorder.poll_control(now):
            self._detach()
            return None
        # run_batch counts before it does anything else, idle batches of data-parallel attention too.
        self._count = int(scheduler.forward_ct) + 1
        mode = batch.forward_mode
        if mode.is_idle() or sglang_batch.says(mode, "is_prebuilt"):
            return None
        if sglang_batch.says(mode, "is_split_prefill") and int(getattr(batch, "split_index", 0)):
            return None
        step = _Step(self._step_number(self._count), now)
        step.preemptions, self._preemptions = self._preemptions, 0
        self._compose(step, scheduler, batch, mode)
        self._encoder.begin_step(step.number, step.chunks, batch)
        return step

    def run_ends(self, step: _Step, result: Any, error: Optional[BaseException]) -> None:
        """Let the step wait for its result."""
        step.encode_ns, step.hits = self._encoder.end_step(failed=error is not None)
        each = sglang_batch.verified_width(result)
        if step.each > 0 and each > 0:
            # How many are drafted may have been chosen anew within the call.
            step.decode_tokens = each * step.decoding
        if error is None:
            self._pending[id(result)] = step
            if len(self._pending) > MAX_PENDING:
                self._pending.popitem(last=False)

    def result_begins(self, scheduler: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Find the step that a result belongs to."""
        batch, result = argument(args, kwargs, 0, "batch"), argument(args, kwargs, 1, "result")
        step = self._pending.pop(id(result), None)
        if step is None and self._ranks is not None and self._ranks.pp_size > 1:
            # A pipeline makes the result anew on its way around: the oldest step of these requests.
            rids = [req.rid for req in batch.reqs]
            known = next((key for key, step in self._pending.items() if step.rids == rids), None)
            step = None if known is None else self._pending.pop(known)
        return None if step is None else (step, scheduler, batch)

    def result_ends(self, token: Any, result: Any, error: Optional[BaseException]) -> None:
        """Write the step, and before it who was in it."""
        step, scheduler, batch = token
        now = self._recorder.now()
        start_ns = max(step.start_ns, self._last_end_ns)
        self._last_end_ns = now
        ended, running = sglang_batch.finished(batch.reqs), len(self._live)
        for req in ended:
            # SGLang freed its KV just now.
            self._live.drop(req)
        if not self._reports:
            return
        self._write_chunks(step, start_ns)
        if step.chunks and getattr(scheduler, "is_generation", True):
            self._write_first_tokens(step, batch.reqs, now)
        left = self._ended(ended, now)
        if step.chunks or step.encode_ns or self._recorder.detail >= DETAIL_DECODE_STEPS:
            self._write_step(step, scheduler, start_ns, now, running)
        for req in left:
            self._leave(req, step.number, now)

    def _compose(self, step: _Step, scheduler: Any, batch: Any, mode: Any) -> None:
        reqs = batch.reqs
        if mode.is_extend():
            decoding = (getattr(batch, "decoding_reqs", None) or ()) if mode.is_mixed() else ()
            prompts = len(reqs) - len(decoding)
            for req, begin, tokens in zip(reqs[:prompts], batch.prefix_lens, batch.extend_lens):
                chunk = self._live.prefill(req, int(begin), int(tokens))
                step.chunks.append(chunk)
                state = chunk.state
                if chunk.last:
                    state.completed_in = step.number
                if state.queued_ns is not None:
                    step.queues.append((state.number, state.queued_ns))
                    state.queued_ns = None
            step.context = sum(batch.prefix_lens[prompts:])
            step.decode_tokens = int(sum(batch.extend_lens[prompts:]))
            reqs = reqs[prompts:]
        else:
            step.context = sglang_batch.decode_context(batch, reqs)
            step.each = sglang_batch.tokens_each(scheduler, batch)
            step.decode_tokens = max(step.each * len(reqs), records.UNKNOWN)
        step.decoding = len(reqs)
        if reqs:
            step.visual = self._live.decode(reqs)
        step.rids = [req.rid for req in batch.reqs]

    # --- Writing -------------------------------------------------------------------------------------------

    def _write_chunks(self, step: _Step, start_ns: int) -> None:
        write = self._recorder.write
        for sequence, queued_ns in step.queues:
            write(records.QUEUE, sequence, min(queued_ns, start_ns), start_ns)
        for sequence, hits in step.hits:
            write(records.ENCODE, step.number, sequence, start_ns, start_ns, 0, 0, 0, hits)
        for chunk in step.chunks:
            pairs = chunk.tokens * chunk.begin + chunk.tokens * (chunk.tokens + 1) // 2
            write(
                records.PREFILL, step.number, chunk.state.number, chunk.tokens, chunk.visual_tokens, chunk.begin,
                chunk.cached, pairs, chunk.visual_pairs, int(chunk.last),
            )  # fmt: skip

    def _write_first_tokens(self, step: _Step, reqs: Sequence[Any], now: int) -> None:
        """Write the first tokens of requests that do not stream: their outputs reach the API only at the end."""
        for req in reqs:
            state = sglang_batch.state_of(req)
            if state is None or state.completed_in != step.number or getattr(req, "stream", False):
                continue
            sampling = getattr(req, "sampling_params", None)
            # One that shall generate nothing fills the prefix cache for the samples of n > 1.
            if getattr(sampling, "max_new_tokens", None) != 0 and len(req.output_ids) == 1:
                self._recorder.write(records.FIRST_TOKEN, state.number, now)

    def _write_step(self, step: _Step, scheduler: Any, start_ns: int, now: int, running: int) -> None:
        used, page = kv_used_tokens(scheduler), getattr(scheduler, "page_size", None)
        self._recorder.write(
            records.STEP, step.number, start_ns, now, sum(chunk.tokens for chunk in step.chunks), step.decoding,
            step.context, step.visual, step.encode_ns, used, self._live.visual,
            -(-used // page) if used >= 0 and isinstance(page, int) and page > 0 else records.UNKNOWN,
            running, len(scheduler.waiting_queue), step.preemptions, step.decode_tokens,
        )  # fmt: skip

    def _ended(self, ended: Sequence[Any], now: int) -> List[Any]:
        """Return which of the finished requests are in no step that runs already."""
        left = []
        for req in ended:
            state = sglang_batch.state_of(req)
            if state is not None and state.finished_ns is None:
                state.finished_ns = now
            if not any(req.rid in step.rids for step in self._pending.values()):
                left.append(req)
        return left

    def _leave(self, req: Any, step: int, now: int) -> None:
        state: Optional[SequenceState] = sglang_batch.state_of(req)
        self._live.drop(req)
        if self._reports:
            time_ns = now if state is None or state.finished_ns is None else state.finished_ns
            self._recorder.write(records.LEFT, number(req.rid), step, time_ns, len(req.output_ids))

    # --- Identity ------------------------------------------------------------------------------------------

    @property
    def _reports(self) -> bool:
        return self._ranks is not None and self._ranks.reports

    def _step_number(self, count: int) -> int:
        rank = self._ranks.dp if self._ranks is not None else 0
        return rank << records.STEP_RANK_SHIFT | count & records.STEP_COUNT_MASK

    def _identify(self, scheduler: Any) -> None:
        self._ranks = ranks = find_ranks(scheduler)
        self._recorder.identify("engine" if ranks.reports else "worker", ranks.tp)
        try:
            self._recorder.set_info(describe_engine(scheduler, ranks))
        except Exception:
            # What the server is can be missing; what it does goes on.
            self._recorder.fault()


def install_scheduler(
    setter: HookSetter, recorder: Recorder, detach: Callable[[], None], encoder: EncoderHooks
) -> None:
    """Set the hooks of the scheduler."""
    hooks = SchedulerHooks(recorder, encoder, detach)
    setter.set("sglang.enqueue", hooks.enqueue_begins, _nothing)
    setter.set("sglang.retract", hooks.retract_begins, hooks.retract_ends)
    setter.set("sglang.run_batch", hooks.run_begins, hooks.run_ends)
    setter.set("sglang.batch_result", hooks.result_begins, hooks.result_ends)


def _nothing(token: Any, result: Any, error: Optional[BaseException]) -> None:
    """End of a hook that only looks in at the beginning."""
