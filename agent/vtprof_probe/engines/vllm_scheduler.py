"""Hooks on vLLM's scheduler, in the EngineCore process: queueing, what each step holds, when it ended, who left.

A step begins with its ``schedule()``, at the earliest when the step before it ended, and ends with its
``update_from_output``; its records are written then, those of its requests first. With async scheduling the next step
is composed before: what a step holds is kept by its number until its output is there.
"""

import itertools
import weakref
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from vtprof_probe.engines.vllm_batch import Batch
from vtprof_probe.engines.vllm_composition import UNSEEN, Composition
from vtprof_probe.engines.vllm_info import data_parallel_rank, describe_engine
from vtprof_probe.engines.vllm_shared import STEP_ATTRIBUTE
from vtprof_probe.hooks.targets import HookSetter
from vtprof_probe.recorder import DETAIL_DECODE_STEPS, Recorder
from vtprof_schemas import records

MAX_IN_FLIGHT = 64
"""Steps whose output is awaited at most; pipeline stages and async scheduling keep a few. Older ones are given up."""

_numbers: Dict[int, Iterator[int]] = {}
"""Step numbers by data-parallel rank. They outlive hooks and schedulers: attached again, or with the next engine in this
process, they go on and none comes twice."""

Args = Tuple[Any, ...]
Kwargs = Dict[str, Any]


class _Scheduled(NamedTuple):
    """A step whose output is not there yet."""

    scheduled_ns: int
    made: Composition
    used_blocks: int
    running: int
    waiting: int


class _Leaving(NamedTuple):
    request: int
    step: int
    time_ns: int
    output_tokens: int


class _Watched:
    """What is kept of one scheduler. No reference to it or to its requests."""

    def __init__(self, scheduler: Any, rank: int) -> None:
        self.batch = Batch(has_decoder_media=not getattr(scheduler, "is_encoder_decoder", False))
        self.numbers = _numbers.setdefault(rank, itertools.count((rank << records.STEP_RANK_SHIFT) + 1))
        self.in_flight: Dict[int, _Scheduled] = {}
        self.ended_ns = 0
        self.misfits = 0
        """What the batch could not make sense of, as far as it was counted."""
        self.leaving: List[_Leaving] = []


class SchedulerHooks:
    """The begin and end functions of the hooks on a scheduler."""

    def __init__(self, recorder: Recorder, detach: Callable[[], None]) -> None:
        self._recorder, self._detach = recorder, detach
        self._watched: "weakref.WeakKeyDictionary[Any, _Watched]" = weakref.WeakKeyDictionary()
        self._latest: Tuple[Callable[[], Any], Optional[_Watched]] = (_nobody, None)
        """The one that was looked up last, of one scheduler as a rule: half a microsecond saved each time."""

    # --- Requests come and go ------------------------------------------------------------------------------

    def add_begins(self, scheduler: Any, args: Args, kwargs: Kwargs) -> None:
        """Note when a request came to the scheduler."""
        request = _argument(args, kwargs, "request")
        self._watch(scheduler).batch.arrive(request.request_id, self._recorder.now(), request)

    def free_begins(self, scheduler: Any, args: Args, kwargs: Kwargs) -> None:
        """Let go of a request as the scheduler does: finished or aborted, while waiting or running."""
        request = _argument(args, kwargs, "request")
        watched = self._watch(scheduler)
        self._leave(watched, request.request_id, getattr(request, "num_output_tokens", records.UNKNOWN))

    def _leave(self, watched: _Watched, key: str, output_tokens: int) -> None:
        member = watched.batch.leave(key)
        if member is None:
            return
        left = _Leaving(member.number, member.last_step, self._recorder.now(), output_tokens)
        watched.leaving.append(left)
        if left.step not in watched.in_flight:
            self._write_leaving(watched)

    def _write_leaving(self, watched: _Watched) -> None:
        """Write who has left and whose last step has ended: nothing of a request follows its LEFT."""
        write, in_flight = self._recorder.write, watched.in_flight
        for left in [left for left in watched.leaving if left.step not in in_flight]:
            watched.leaving.remove(left)
            write(records.LEFT, left.request, left.step, left.time_ns, left.output_tokens)

    # --- Steps ---------------------------------------------------------------------------------------------

    def schedule_begins(self, scheduler: Any, args: Args, kwargs: Kwargs) -> Any:
        """Take the time; the first time of a scheduler that is at work already, take up its requests."""
        recorder = self._recorder
        if not recorder.active:
            return None
        now = recorder.now()
        if now >= recorder.control_due and recorder.poll_control(now):
            self._detach()
            return None
        return scheduler, self._watch(scheduler), now

    def schedule_ends(self, token: Any, output: Any, error: Optional[BaseException]) -> None:
        """Number the step and keep what it holds; a schedule of nothing is no step."""
        scheduler, watched, scheduled_ns = token
        if error is not None:
            return
        batch, in_flight = watched.batch, watched.in_flight
        for key in getattr(output, "finished_req_ids", None) or ():
            self._leave(watched, key, records.UNKNOWN)
        if not output.total_num_scheduled_tokens:
            return
        step = next(watched.numbers)
        setattr(output, STEP_ATTRIBUTE, step)
        made = batch.step(step, output, scheduler.requests, scheduler.running, in_flight.keys())
        if batch.recounts + batch.unread != watched.misfits:
            watched.misfits = batch.recounts + batch.unread
            self._recorder.fault()
        running, waiting = scheduler.get_request_counts()
        in_flight[step] = _Scheduled(scheduled_ns, made, _used_blocks(scheduler), running, waiting)
        if len(in_flight) > MAX_IN_FLIGHT:
            del in_flight[next(iter(in_flight))]
            self._recorder.fault()

    def update_begins(self, scheduler: Any, args: Args, kwargs: Kwargs) -> Any:
        """Find the step whose output has come."""
        watched = self._watch(scheduler)
        step = getattr(_argument(args, kwargs, "scheduler_output"), STEP_ATTRIBUTE, None)
        return (watched, step) if step in watched.in_flight else None

    def update_ends(self, token: Any, result: Any, error: Optional[BaseException]) -> None:
        """Write the step that ended, its requests' parts first and those who left behind it."""
        watched, step = token
        scheduled = watched.in_flight.pop(step)
        if error is None and self._recorder.active:
            end_ns = self._recorder.now()
            start_ns = max(scheduled.scheduled_ns, watched.ended_ns)
            watched.ended_ns = end_ns
            self._write_parts(step, start_ns, scheduled.made)
            self._write_step(step, start_ns, end_ns, scheduled)
        if watched.leaving:
            self._write_leaving(watched)

    def _write_parts(self, step: int, start_ns: int, made: Composition) -> None:
        write = self._recorder.write
        for member in made.queued:
            since_ns, member.waiting_since = member.waiting_since, None
            if since_ns is not None:
                write(
                    records.QUEUE,
                    member.number,
                    start_ns if since_ns == UNSEEN else min(since_ns, start_ns),
                    start_ns,
                )
        for member in made.waits:
            if member.waiting_since is None:
                member.waiting_since = start_ns
        for request in made.preempted:
            write(records.PREEMPTED, request, step, start_ns)
        for request, hits in made.hits:
            write(records.ENCODE, step, request, start_ns, start_ns, 0, 0, 0, hits)
        for chunk in made.chunks:
            write(records.PREFILL, step, *chunk)

    def _write_step(self, step: int, start_ns: int, end_ns: int, scheduled: _Scheduled) -> None:
        made = scheduled.made
        if not made.chunks and self._recorder.detail < DETAIL_DECODE_STEPS:
            return
        self._recorder.write(
            records.STEP, step, start_ns, end_ns,
            sum([chunk.tokens for chunk in made.chunks]),
            made.decode_requests, made.decode_context, made.decode_visual, records.UNKNOWN,
            made.kv_tokens, made.kv_visual, scheduled.used_blocks,
            scheduled.running, scheduled.waiting, len(made.preempted), made.decode_tokens,
        )  # fmt: skip

    # --- Schedulers ----------------------------------------------------------------------------------------

    def _watch(self, scheduler: Any) -> _Watched:
        latest, watched = self._latest
        if watched is not None and latest() is scheduler:
            return watched
        watched = self._watched.get(scheduler) or self._begin_to_watch(scheduler)
        self._latest = weakref.ref(scheduler), watched
        return watched

    def _begin_to_watch(self, scheduler: Any) -> _Watched:
        recorder = self._recorder
        rank = data_parallel_rank(scheduler.vllm_config.parallel_config)
        watched = self._watched[scheduler] = _Watched(scheduler, rank)
        recorder.identify("engine", rank)
        recorder.set_info(describe_engine(scheduler, recorder.fault))
        # A probe that came late: who waits now waits from now on. Who runs is read at the first step.
        now, running = recorder.now(), {request.request_id for request in scheduler.running}
        for key, request in scheduler.requests.items():
            if key not in running:
                watched.batch.arrive(key, now, request)
        return watched


def install_scheduler(setter: HookSetter, recorder: Recorder, detach: Callable[[], None]) -> None:
    """Set the hooks on vLLM's scheduler; ``detach`` takes all hooks of the process away."""
    hooks = SchedulerHooks(recorder, detach)
    setter.set("vllm.scheduler.schedule", hooks.schedule_begins, hooks.schedule_ends)
    setter.set("vllm.scheduler.update", hooks.update_begins, hooks.update_ends)
    setter.set("vllm.scheduler.add", hooks.add_begins, _nothing)
    setter.set("vllm.scheduler.free", hooks.free_begins, _nothing)


def _nothing(token: Any, result: Any, error: Optional[BaseException]) -> None:
    """End a hook that has nothing to do at its end."""


def _nobody() -> Any:
    """Stand for a reference to no scheduler."""


def _argument(args: Args, kwargs: Kwargs, name: str) -> Any:
    """Return the first argument of a method, which may be given by name."""
    return args[0] if args else kwargs[name]


def _used_blocks(scheduler: Any) -> int:
    """Return the KV blocks in use, without the null block that vLLM keeps; -1 if the pool cannot be read."""
    pool = getattr(getattr(scheduler, "kv_cache_manager", None), "block_pool", None)
    if pool is None:
        return records.UNKNOWN
    return int(pool.num_gpu_blocks - 1 - pool.get_num_free_blocks())
