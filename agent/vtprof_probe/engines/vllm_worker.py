"""Hooks in vLLM's workers: encoder runs of each step, and on CUDA the GPU time of each step.

A step is one ``execute_model`` of a SchedulerOutput that bears the scheduler's number, with the ``sample_tokens`` that
follows it. Profiling, warm-up and graph capture bear none and leave no record.
"""

import functools
import sys
import threading
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

from vtprof_probe.engines.vllm_encoder import work_of_step
from vtprof_probe.engines.vllm_shared import STEP_ATTRIBUTE, argument, number
from vtprof_probe.engines.vllm_worker_info import worker_info, worker_rank
from vtprof_probe.gpu_timer import GpuTimer
from vtprof_probe.hooks.targets import HookSetter
from vtprof_probe.recorder import DETAIL_GPU_TIME, Recorder
from vtprof_schemas import records

Args = Tuple[Any, ...]
Kwargs = Dict[str, Any]
WARM_UP = "_"
"""First character of the request ids that runner V2's warm-up makes up; a client's never begin so."""
MAX_UNNUMBERED = 256
"""Steps without a number, one behind the other, that are no fault: processes are attached to and left one by one."""


def install_worker(setter: HookSetter, recorder: Recorder, detach: Callable[[], None]) -> None:
    """Set the hooks of the model runners; in a process that runs none of them they are never called."""
    hooks = _WorkerHooks(recorder, detach)
    for runner in ("v1", "v2", "encoder_only"):
        setter.set("vllm.worker.execute." + runner, hooks.execute_begins, hooks.execute_ends)
    for runner in ("v1", "v2"):
        setter.set("vllm.worker.launch." + runner, hooks.launches, hooks.never_ends)
        setter.set("vllm.worker.sample." + runner, hooks.sample_begins, hooks.sample_ends)
    setter.set("vllm.worker.encode.v1", hooks.encode_v1_begins, hooks.encode_ends)
    setter.set("vllm.worker.encode.v2", hooks.encode_v2_begins, hooks.encode_ends)


class _Step:
    """The step whose ``execute_model`` is running."""

    __slots__ = ("begin", "config", "launched", "number", "scheduled", "timer")

    def __init__(self, number: int, scheduled: Mapping[str, Sequence[int]], config: Any) -> None:
        self.number = number
        self.scheduled = scheduled
        """Items for the encoder by request."""
        self.config = config
        self.timer: Optional[GpuTimer] = None
        self.begin: Any = None
        """Event before the step's first work on the GPU."""
        self.launched = False

    def launch(self) -> None:
        """Move the begin of the step's GPU time here, once: until now the host alone was at work."""
        if self.timer is not None and not self.launched:
            self.launched = True
            self.begin.record()


class _Thread(threading.local):
    """What one thread of a worker is about."""

    step: Optional[_Step] = None
    timer: Optional[GpuTimer] = None
    unsampled: Optional[int] = None
    """A timed step whose ``sample_tokens`` is still to come."""


class _WorkerHooks:
    """The hooks of one process.

    Events are recorded on the stream that is current where the hook is called, which is the runner's main one: CUDA
    graphs are replayed on it, and with async scheduling only copies to the host run beside it.
    """

    def __init__(self, recorder: Recorder, detach: Callable[[], None]) -> None:
        self._recorder, self._detach = recorder, detach
        self._thread = _Thread()
        self._described = False
        self._unnumbered = 0

    # --- Steps ---------------------------------------------------------------------------------------------

    def execute_begins(self, runner: Any, args: Args, kwargs: Kwargs) -> Any:
        """Begin a step; None for what is none."""
        thread, recorder = self._thread, self._recorder
        output = argument(args, kwargs, 0, "scheduler_output")
        step_number = getattr(output, STEP_ATTRIBUTE, None)
        if not recorder.active:
            return None
        if step_number is not None:
            self._describe(runner)
        if self._described and self._told_to_stop():
            return None
        if step_number is None:
            self._note_unnumbered(output)
            return None
        self._unnumbered = 0
        scheduled = getattr(output, "scheduled_encoder_inputs", None) or {}
        if not scheduled and not getattr(output, "total_num_scheduled_tokens", 0):
            return None
        step = _Step(
            step_number, scheduled, getattr(getattr(runner, "model_config", None), "hf_config", None)
        )
        self._close_unsampled(thread)
        if recorder.detail >= DETAIL_GPU_TIME:
            step.timer = self._timer(runner)
            step.begin = None if step.timer is None else step.timer.mark()
        thread.step = step
        return step

    def execute_ends(self, step: _Step, result: Any, error: Optional[BaseException]) -> None:
        """End the step's forward pass; without a result ``sample_tokens`` follows and belongs to the step."""
        thread, timer = self._thread, step.timer
        thread.step = None
        if timer is None:
            return
        if error is not None:
            timer.close_step(None)
            return
        timer.add(step.begin, timer.mark(), encoder=False, nested=False)
        if result is None:
            thread.unsampled = step.number
        else:
            timer.close_step(step.number)
        timer.poll()

    def launches(self, _runner: Any, _args: Args, _kwargs: Kwargs) -> None:
        """Note that the step's work on the GPU begins: the runner has prepared its batch on the host."""
        step = self._thread.step
        if step is not None:
            step.launch()

    def never_ends(self, _token: Any, _result: Any, _error: Optional[BaseException]) -> None:
        """Stand behind ``launches``, which begins nothing that ends."""

    def sample_begins(self, _runner: Any, _args: Args, _kwargs: Kwargs) -> Any:
        """Begin the sampling of a timed step."""
        thread = self._thread
        return None if thread.unsampled is None or thread.timer is None else thread.timer.mark()

    def sample_ends(self, mark: Any, _result: Any, error: Optional[BaseException]) -> None:
        """End the step with its sampling."""
        thread = self._thread
        step_number, thread.unsampled = thread.unsampled, None
        if thread.timer is not None:
            if error is None:
                thread.timer.add(mark, thread.timer.mark(), encoder=False, nested=False)
            thread.timer.close_step(step_number if error is None else None)
            thread.timer.poll()

    def _close_unsampled(self, thread: _Thread) -> None:
        """Close a step that was never sampled, as on a pipeline rank that only passes on."""
        if thread.unsampled is not None and thread.timer is not None:
            thread.timer.close_step(thread.unsampled)
        thread.unsampled = None

    # --- Encoders ------------------------------------------------------------------------------------------

    def encode_v1_begins(self, runner: Any, _args: Args, _kwargs: Kwargs) -> Any:
        """Begin the encoder run of runner V1, which takes all scheduled items; it is called in every step."""
        return self._encode_begins(getattr(runner, "requests", None), None)

    def encode_v2_begins(self, encoder: Any, args: Args, kwargs: Kwargs) -> Any:
        """Begin an encoder run of runner V2 over the inputs that it is given."""
        batch = kwargs.get("mm_kwargs", args[-1] if args else None)
        # Until 0.16 the encoder runner itself kept the items, and its cache was a plain dict of outputs.
        states = getattr(getattr(encoder, "encoder_cache", None), "mm_features", None)
        if states is None:
            states = getattr(encoder, "req_id_to_mm_features", None)
        return self._encode_begins(states, batch) if batch else None

    def _encode_begins(self, states: Any, batch: Optional[Sequence[Any]]) -> Any:
        step = self._thread.step
        if step is None or not step.scheduled or states is None:
            return None
        step.launch()
        mark = None if step.timer is None else step.timer.mark()
        return step, self._recorder.now(), mark, states, batch

    def encode_ends(self, token: Any, _result: Any, error: Optional[BaseException]) -> None:
        """Write the run for each of its requests; on a GPU its interval is that of the launch, not of the work."""
        step, start_ns, mark, states, batch = token
        end_ns = self._recorder.now()
        if error is not None:
            return
        if mark is not None:
            step.timer.add(mark, step.timer.mark(), encoder=True, nested=True)
        for work in work_of_step(step.scheduled, states, batch, step.config):
            self._recorder.write(
                records.ENCODE, step.number, number(work.request), start_ns, end_ns,
                work.items, work.patches, work.attention_pairs, records.UNKNOWN,
            )  # fmt: skip

    # --- Around the runner ---------------------------------------------------------------------------------

    def _told_to_stop(self) -> bool:
        """Read the control word when due, also where the scheduler's hooks are gone before ours."""
        recorder = self._recorder
        now = recorder.now()
        if now >= recorder.control_due and recorder.poll_control(now):
            self._detach()
            return True
        return False

    def _note_unnumbered(self, output: Any) -> None:
        """Count a fault, once, when the scheduler's hook does not number the steps; warm-up and empty ones it never saw."""
        requests = getattr(output, "num_scheduled_tokens", None)
        if requests and not next(iter(requests)).startswith(WARM_UP):
            self._unnumbered += 1
            if self._unnumbered == MAX_UNNUMBERED:
                self._recorder.fault()

    def _describe(self, runner: Any) -> None:
        if not self._described:
            self._described = True
            self._recorder.identify("worker", worker_rank(runner))
            self._recorder.add_info(worker_info(runner))

    def _timer(self, runner: Any) -> Optional[GpuTimer]:
        if getattr(getattr(runner, "device", None), "type", "") != "cuda":
            return None
        thread, recorder = self._thread, self._recorder
        if thread.timer is None:
            new_event = functools.partial(sys.modules["torch"].cuda.Event, enable_timing=True)
            thread.timer = GpuTimer(new_event, lambda *values: recorder.write(records.GPU_TIME, *values))
        return thread.timer
