"""SGLang's tokenizer manager: arrival, preprocessing, hand-over, first token and end of each client request.

SGLang's ``rid`` is one id in all processes. A call of several prompts is as many requests. With n > 1 the samples, and
the call that fills the prefix cache for them, run under ids of their own and count for the one the client asked for.
"""

import asyncio
import time
import weakref
from collections import OrderedDict
from contextvars import ContextVar
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from vtprof_probe.engines.sglang_info import describe_api
from vtprof_probe.engines.sglang_media import AUDIO, IMAGE, VIDEO, count_prompt, media_items
from vtprof_probe.engines.transformers_media import image_pixels
from vtprof_probe.engines.vllm_shared import argument, number
from vtprof_probe.hooks.patches import Begin
from vtprof_probe.hooks.targets import HookSetter
from vtprof_probe.recorder import Recorder
from vtprof_probe.request_context import TraceParent, parse_traceparent
from vtprof_schemas import names, records

MAX_OPEN = 65536
"""Ids remembered; of more than that at once the oldest lose their end."""

_OK, _ABORTED, _REJECTED, _ERROR = (
    names.STATUSES.index(status)
    for status in (names.STATUS_OK, names.STATUS_ABORTED, names.STATUS_REJECTED, names.STATUS_ERROR)
)
_REFUSED = frozenset((400, 413, 422, 429, 503))
"""HTTP status in an abort's reason: SGLang did not take the request up."""
_HEALTH = "HEALTH_CHECK"
"""Begins the ids of SGLang's own requests, which a busy scheduler drops without a word."""
_Args = Tuple[Any, ...]
_Kwargs = Dict[str, Any]


class _Arrival(NamedTuple):
    time_ns: int
    parent: Optional[TraceParent]
    samples: int = 1


class _Request:
    """One client request until its last sample has ended."""

    __slots__ = (
        "arrival", "cpu_ns", "fetch_ns", "first_token", "handed_over", "id", "number", "output_tokens", "pixels",
        "remaining", "status", "stream",
    )  # fmt: skip

    def __init__(self, rid: str, arrival: _Arrival, stream: bool) -> None:
        self.id, self.number, self.arrival, self.stream = rid, number(rid), arrival, stream
        self.remaining = arrival.samples
        self.cpu_ns = self.fetch_ns = self.pixels = records.UNKNOWN
        self.first_token = self.handed_over = False
        self.output_tokens, self.status = 0, _OK


_current: "ContextVar[Optional[_Request]]" = ContextVar("vtprof_sglang_request", default=None)
"""The request that this task prepares."""


class TokenizerHooks:
    """Writes the records of role api."""

    def __init__(self, recorder: Recorder) -> None:
        """Begin with no request."""
        self._recorder = recorder
        self._arrivals: "OrderedDict[Any, _Arrival]" = OrderedDict()
        """By the id() of a call's object until it has a rid, then by rid."""
        self._requests: "OrderedDict[str, _Request]" = OrderedDict()
        """By rid, the samples' too."""
        self._prefix_calls: "OrderedDict[str, None]" = OrderedDict()
        """Ids that only fill the prefix cache: their output is nobody's."""
        self._manager: Callable[[], Any] = _no_manager
        self._refused = 0

    # --- Arrival -------------------------------------------------------------------------------------------

    def call_begins(self, manager: Any, args: _Args, kwargs: _Kwargs) -> None:
        """Note when a call arrived; its id comes later."""
        call, http = argument(args, kwargs, 0, "obj"), argument(args, kwargs, 1, "request")
        _remember(self._arrivals, id(call), _Arrival(self._recorder.now(), _parent(call, http)))
        if self._manager() is not manager:
            self._manager = weakref.ref(manager)
            self._recorder.identify("api")
            self._recorder.set_info(describe_api(manager))

    def batch_begins(self, manager: Any, args: _Args, kwargs: _Kwargs) -> None:
        """Give the arrival of a call to each of its prompts."""
        call = argument(args, kwargs, 0, "obj")
        arrival = self._arrivals.pop(id(call), None)
        if arrival is not None and isinstance(call.rid, list):
            samples = int(getattr(call, "parallel_sample_num", 1) or 1)
            # With n > 1 older versions list ids for the samples too, which get others.
            for rid in call.rid[: getattr(call, "batch_size", None)]:
                _remember(self._arrivals, rid, arrival._replace(samples=samples))

    def normalize_begins(self, call: Any, args: _Args, kwargs: _Kwargs) -> Any:
        """Keep the call in sight while SGLang checks it."""
        return call

    def normalize_ends(self, call: Any, result: Any, error: Optional[BaseException]) -> None:
        """Write a call that was refused before it had an id."""
        arrival = self._arrivals.pop(id(call), None) if error is not None else None
        if arrival is not None:
            self._refused += 1
            rid = (
                call.rid if isinstance(call.rid, str) else "refused-%d-%d" % (arrival.time_ns, self._refused)
            )
            self._close(self._open(rid, arrival, False), _REJECTED)

    def tokenize_begins(self, manager: Any, args: _Args, kwargs: _Kwargs) -> Any:
        """Open the request: from here on it has an id."""
        call = argument(args, kwargs, 0, "obj")
        arrival = self._arrivals.pop(id(call), None) or self._arrivals.pop(call.rid, None)
        if arrival is None or call.rid.startswith(_HEALTH):
            # It came before the hooks did, or asks for the server's health; its parts would only puzzle the reader.
            return None
        request = self._open(call.rid, arrival, bool(getattr(call, "stream", False)))
        return request, _current.set(request)

    def tokenize_ends(self, token: Any, tokenized: Any, error: Optional[BaseException]) -> None:
        """Write the prompt, or how the request ended before it had one."""
        request, context = token
        _current.reset(context)
        if error is None:
            self._write_input(request, tokenized)
            return
        cancelled = isinstance(error, (asyncio.CancelledError, GeneratorExit))
        self._close(
            request, _ABORTED if cancelled else _REJECTED if isinstance(error, ValueError) else _ERROR
        )

    # --- Preprocessing -------------------------------------------------------------------------------------

    def load_begins(self, processor: Any, args: _Args, kwargs: _Kwargs) -> Any:
        """Note when media began to be fetched and decoded, which SGLang does in one go."""
        request = _current.get()
        return None if request is None else (request, self._recorder.now())

    def load_ends(self, token: Any, loaded: Any, error: Optional[BaseException]) -> None:
        """Add the time and the pixels before resizing."""
        request, start_ns = token
        request.fetch_ns = max(request.fetch_ns, 0) + self._recorder.now() - start_ns
        if error is None:
            pixels, _ = image_pixels(list(getattr(loaded, "images", None) or ()))
            request.pixels = max(request.pixels, 0) + sum(pixels)

    def process_begins(self, processor: Any, args: _Args, kwargs: _Kwargs) -> Any:
        """Note the CPU time of this thread before the processor."""
        request = _current.get()
        return None if request is None else (request, time.thread_time_ns())

    def process_ends(self, token: Any, result: Any, error: Optional[BaseException]) -> None:
        """Add the processor's CPU time."""
        request, start_ns = token
        request.cpu_ns = max(request.cpu_ns, 0) + time.thread_time_ns() - start_ns

    def sample_id_begins(self, call: Any, args: _Args, kwargs: _Kwargs) -> Any:
        """Find the request whose sample gets an id of its own."""
        return self._requests.get(call.rid) if isinstance(call.rid, str) else None

    def sample_id_ends(self, request: _Request, rid: Any, error: Optional[BaseException]) -> None:
        """Write that the new id counts for the request."""
        if error is None and isinstance(rid, str):
            _remember(self._requests, rid, request)
            self._recorder.write(records.SEQUENCE, number(rid), request.number)

    # --- Hand-over -----------------------------------------------------------------------------------------

    def send_begins(self, manager: Any, args: _Args, kwargs: _Kwargs) -> Any:
        """Keep the id of what is sent; up to 0.5.9 it came behind the call's own object."""
        tokenized = argument(args, kwargs, max(min(len(args) - 1, 1), 0), "tokenized_obj")
        return [self._sent(tokenized)]

    def send_batch_begins(self, manager: Any, args: _Args, kwargs: _Kwargs) -> Any:
        """Keep the ids of a batch, which was tokenized as a whole."""
        batch = argument(args, kwargs, max(min(len(args) - 1, 1), 0), "tokenized_objs")
        return [self._sent(tokenized) for tokenized in batch]

    def send_ends(self, sent: List[Optional[_Request]], result: Any, error: Optional[BaseException]) -> None:
        """Write the preprocessing of a request at its first hand-over."""
        now = self._recorder.now()
        for request in sent:
            if request is None or request.handed_over:
                continue
            if error is not None:
                self._close(request, _ERROR)
                continue
            request.handed_over = True
            self._recorder.write(
                records.PREPROCESS, request.number, request.arrival.time_ns, now, request.cpu_ns, request.fetch_ns,
                records.UNKNOWN, request.pixels, records.UNKNOWN,
            )  # fmt: skip

    def _sent(self, tokenized: Any) -> Optional[_Request]:
        rid = tokenized.rid
        request = self._requests.get(rid)
        if request is None:
            arrival = self._arrivals.pop(rid, None)
            if arrival is None:
                return None
            request = self._open(rid, arrival, bool(getattr(tokenized, "stream", False)))
            self._write_input(request, tokenized)
        sampling = getattr(tokenized, "sampling_params", None)
        if rid != request.id and getattr(sampling, "max_new_tokens", None) == 0:
            _remember(self._prefix_calls, rid, None)
        return request

    # --- Results -------------------------------------------------------------------------------------------

    def output_begins(self, manager: Any, args: _Args, kwargs: _Kwargs) -> None:
        """Write first tokens and ends as they arrive from the scheduler.

        It sends a request that does not stream only at its end: the scheduler's own hook then tells its first token.
        """
        output, now = argument(args, kwargs, 0, "recv_obj"), self._recorder.now()
        reasons = output.finished_reasons
        tokens = getattr(output, "completion_tokens", None)
        for row, rid in enumerate(output.rids):
            request = self._requests.get(rid)
            if request is None or (reasons[row] is None and request.first_token):
                continue
            count = tokens[row] if tokens else 0
            if rid in self._prefix_calls:
                count = 0
            if request.stream and not request.first_token and count:
                request.first_token = True
                self._recorder.write(records.FIRST_TOKEN, request.number, now)
            if reasons[row] is not None:
                self._ended(rid, _status(reasons[row]), count, now)

    def result_begins(self, dispatcher: Any, args: _Args, kwargs: _Kwargs) -> None:
        """Take what the scheduler sent: outputs in older versions, and in all of them a request that it dropped."""
        word = argument(args, kwargs, 0, "obj")
        if getattr(word, "finished_reasons", None) is not None:
            self.output_begins(dispatcher, (word,), {})
        elif type(word).__name__ == "AbortReq" and word.rid in self._requests:
            manager = self._manager()
            state = manager.rid_to_state.get(word.rid) if manager is not None else None
            tokens = len(getattr(state, "output_ids", None) or ())
            reason = getattr(word, "finished_reason", None)
            self._ended(word.rid, _status(reason) if reason else _ABORTED, tokens, self._recorder.now())

    def _ended(self, rid: str, status: int, tokens: int, now: int) -> None:
        request = self._requests[rid]
        if rid in self._prefix_calls:
            del self._prefix_calls[rid], self._requests[rid]
            if status != _OK:
                self._close(request, status)
            return
        del self._requests[rid]
        request.output_tokens += tokens
        request.status = max(request.status, status)
        request.remaining -= 1
        if request.remaining <= 0:
            self._close(request, request.status, now)

    # --- Writing -------------------------------------------------------------------------------------------

    def _open(self, rid: str, arrival: _Arrival, stream: bool) -> _Request:
        request = _Request(rid, arrival, stream)
        _remember(self._requests, rid, request)
        write = self._recorder.write
        write(records.REQUEST_ARRIVED, request.number, arrival.time_ns)
        text = rid.encode("utf-8", "replace")[: records.LABEL_BYTES]
        write(records.REQUEST_LABEL, request.number, len(text), text)
        if arrival.parent is not None:
            write(records.REQUEST_PARENT, request.number, *arrival.parent)
        return request

    def _write_input(self, request: _Request, tokenized: Any) -> None:
        ids = getattr(tokenized, "input_ids", None)
        total = records.UNKNOWN if ids is None else len(ids)
        media = media_items(getattr(tokenized, "mm_inputs", None))
        if not media:
            request.fetch_ns = request.pixels = 0
        counts = count_prompt(media)
        (image, images), (video, videos), (audio, audios) = (counts[kind] for kind in (IMAGE, VIDEO, AUDIO))
        known = total >= 0 and min(image, video, audio) >= 0
        text = total - image - video - audio if known else records.UNKNOWN
        self._recorder.write(
            records.REQUEST_INPUT, request.number, total, text, image, video, audio, records.UNKNOWN,
            images, videos, audios,
        )  # fmt: skip

    def _close(self, request: _Request, status: int, now: Optional[int] = None) -> None:
        self._requests.pop(request.id, None)
        ended = self._recorder.now() if now is None else now
        self._recorder.write(records.REQUEST_FINISHED, request.number, ended, status, request.output_tokens)


def install_tokenizer(setter: HookSetter, recorder: Recorder, detach: Callable[[], None]) -> None:
    """Set the hooks of the tokenizer manager and its media processor."""
    hooks = TokenizerHooks(recorder)

    def polled(begin: Begin) -> Begin:
        def polls(manager: Any, args: _Args, kwargs: _Kwargs) -> Any:
            now = recorder.now()
            if now >= recorder.control_due and recorder.poll_control(now):
                detach()
                return None
            return begin(manager, args, kwargs)

        return polls

    setter.set("sglang.arrival", hooks.call_begins, _nothing)
    setter.set("sglang.batch_arrival", hooks.batch_begins, _nothing)
    setter.set("sglang.normalize", hooks.normalize_begins, hooks.normalize_ends)
    setter.set("sglang.tokenize", hooks.tokenize_begins, hooks.tokenize_ends)
    setter.set("sglang.load_media", hooks.load_begins, hooks.load_ends)
    setter.set("sglang.process_media", hooks.process_begins, hooks.process_ends)
    setter.set("sglang.sample_id", hooks.sample_id_begins, hooks.sample_id_ends)
    setter.set("sglang.send", polled(hooks.send_begins), hooks.send_ends)
    setter.set("sglang.send_batch", hooks.send_batch_begins, hooks.send_ends)
    setter.set("sglang.output", polled(hooks.output_begins), _nothing)
    setter.set("sglang.results", hooks.result_begins, _nothing)


def _no_manager() -> None:
    """Stand for a manager that was not seen yet."""


def _nothing(token: Any, result: Any, error: Optional[BaseException]) -> None:
    """End of a hook that only looks in at the beginning."""


def _remember(known: "OrderedDict[Any, Any]", key: Any, value: Any) -> None:
    known[key] = value
    if len(known) > MAX_OPEN:
        known.popitem(last=False)


def _parent(call: Any, http: Any) -> Optional[TraceParent]:
    """Return the caller's trace context: of the HTTP request, or handed in by an embedding program."""
    for headers in (getattr(http, "headers", None), getattr(call, "external_trace_header", None)):
        text = None if headers is None else headers.get("traceparent")
        if isinstance(text, str):
            return parse_traceparent(text)
    return None


def _status(reason: Any) -> int:
    """Return the status that a finish reason stands for."""
    if not isinstance(reason, dict) or reason.get("type") != "abort":
        return _OK
    code = reason.get("status_code")
    if not isinstance(code, int):
        return _ABORTED
    return _REJECTED if int(code) in _REFUSED else _ERROR
