"""Hooks of vLLM's API server, or of the process that runs its offline `LLM`: requests from arrival to their last token.

`OutputProcessor` is the one place that every request passes in every version: it is told of each sequence as it is
handed to the engine, of each output, and of each abort.
"""

import functools
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from vtprof_probe.engines.vllm_arrivals import (
    ArrivalHooks,
    Caller,
    current_caller,
    current_work,
    visible_id,
    write_text,
)
from vtprof_probe.engines.vllm_media import MediaHooks, MediaWork
from vtprof_probe.engines.vllm_shared import argument, number
from vtprof_probe.hooks.targets import HookSetter
from vtprof_probe.recorder import Recorder
from vtprof_probe.request_context import parse_traceparent
from vtprof_schemas import names, records

MAX_SEQUENCES = 16384
"""Sequences followed at once; beyond them the oldest is forgotten."""
_OK, _ABORTED, _ERROR = (
    names.STATUSES.index(status) for status in (names.STATUS_OK, names.STATUS_ABORTED, names.STATUS_ERROR)
)
_MODALITIES = (("image", 0), ("vision", 0), ("video", 1), ("audio", 2))
"""Beginnings of vLLM's names of modalities, and where each is counted."""


class _Request:
    """A client request whose sequences run; ``count`` is how many there will be."""

    __slots__ = ("caller", "count", "ended", "first_token", "id", "number", "open", "output_tokens", "status")

    def __init__(self, id_: str, count: int, caller: Optional[Caller]) -> None:
        self.id, self.number, self.count, self.caller = id_, number(id_), count, caller
        self.open = self.ended = self.output_tokens = 0
        self.status = _OK
        self.first_token = False


class _Ended(NamedTuple):
    """A sequence that may end in the call that runs: its state in the engine is gone afterwards."""

    id: str
    status: int
    state: Any


class RequestHooks:
    """Follows the sequences that `OutputProcessor` is told of."""

    def __init__(self, recorder: Recorder, media: MediaHooks, detach: Callable[[], None]) -> None:
        self._recorder, self._media, self._detach = recorder, media, detach
        self._sequences: Dict[str, _Request] = {}
        self._parents: Dict[str, _Request] = {}
        self._watched: Set[str] = set()
        """Sequences whose every output matters: without a first token yet, or ended by a text that only it finds."""

    # --- Hand-over -----------------------------------------------------------------------------------------

    def handing(self, processor: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Note a sequence on its way to the engine."""
        if self._asked_to_leave(self._recorder.now()):
            return None
        return processor, argument(args, kwargs, 0, "request"), argument(args, kwargs, 2, "parent_req")

    def handed(self, token: Any, result: Any, error: Optional[BaseException]) -> None:
        """Begin to follow a sequence, and record its request with the first one."""
        processor, core, parent = token
        if error is not None:
            return
        id_ = core.request_id
        if id_ in self._sequences:
            # More input for a streaming session, or its end behind the last output.
            if id_ not in processor.request_states:
                self._end(id_, _OK, records.UNKNOWN)
            return
        request = self._parents.get(parent.request_id) if parent is not None else None
        if request is None:
            request = self._arrived(core, parent)
        if parent is not None:
            self._recorder.write(records.SEQUENCE, number(id_), request.number)
        request.open += 1
        if len(self._sequences) >= MAX_SEQUENCES:
            self._forget(next(iter(self._sequences)))
        self._sequences[id_] = request
        self._watched.add(id_)

    def _arrived(self, core: Any, parent: Any) -> _Request:
        # The wall clock first: what comes between the two must not make the arrival earlier than it was.
        wall, now = time.time_ns(), self._recorder.now()
        recorder, caller = self._recorder, current_caller()
        recorder.identify("api")
        id_ = core.request_id if parent is None else parent.request_id
        request = _Request(id_, 1 if parent is None else int(parent.sampling_params.n), caller)
        if parent is not None:
            if len(self._parents) >= MAX_SEQUENCES:
                del self._parents[next(iter(self._parents))]
            self._parents[id_] = request
        run = self._media.take(_media_key(core))
        if caller is not None and caller.work is not None and not caller.went_on:
            arrived = caller.arrived_ns
        else:
            # No call of ours: vLLM's own time, on the wall clock, unless its processor began before.
            arrived = now - max(wall - int(core.arrival_time * 1e9), 0)
            arrived = min(arrived, now if run is None else run.start_ns)
            if caller is not None and not caller.went_on:
                arrived = min(arrived, caller.arrived_ns)
        if caller is not None:
            caller.handed += 1
        recorder.write(records.REQUEST_ARRIVED, request.number, arrived)
        external = getattr(parent, "external_req_id", None) or getattr(core, "external_req_id", None) or id_
        write_text(recorder, records.REQUEST_LABEL, request.number, visible_id(caller, external))
        self._write_parent(core, caller, request.number)
        lora = getattr(core.lora_request, "lora_name", None)
        if lora:
            write_text(recorder, records.REQUEST_MODEL, request.number, str(lora))
        items = self._write_input(core, request.number)
        self._write_preprocess(request.number, arrived, now, caller, run, items)
        return request

    def _write_parent(self, core: Any, caller: Optional[Caller], request: int) -> None:
        parent = None if caller is None else caller.parent
        if parent is None and core.trace_headers:
            # What the engine client was given by someone else; vLLM drops it where its own tracing is off.
            parent = parse_traceparent(str(core.trace_headers.get("traceparent") or ""))
        if parent is not None:
            self._recorder.write(records.REQUEST_PARENT, request, *parent)

    def _write_input(self, core: Any, request: int) -> int:
        """Write what the prompt holds; return its media items."""
        prompt = core.prompt_token_ids
        if prompt is None:
            prompt = getattr(core, "prompt_embeds", None)
        total = records.UNKNOWN if prompt is None else len(prompt)
        tokens, items = [0, 0, 0], [0, 0, 0]
        for feature in core.mm_features or ():
            for beginning, index in _MODALITIES:
                if feature.modality.startswith(beginning):
                    tokens[index] += _embedded(feature.mm_position)
                    items[index] += 1
        if total != records.UNKNOWN and sum(tokens) > total:
            # An encoder-decoder model: its media are in the encoder, and in no position of the prompt.
            tokens = [0, 0, 0]
        text = records.UNKNOWN if total == records.UNKNOWN else total - sum(tokens)
        self._recorder.write(records.REQUEST_INPUT, request, total, text, *tokens, records.UNKNOWN, *items)
        return len(core.mm_features or ())

    def _write_preprocess(
        self, request: int, arrived: int, now: int, caller: Optional[Caller], run: Any, items: int
    ) -> None:
        """Write the time from arrival to hand-over. What nobody could see of a request with media is unknown."""
        cpu, fetch, decode, pixels, hits = (records.UNKNOWN,) * 5 if items else (records.UNKNOWN, 0, 0, 0, 0)
        before = 0
        if items and caller is not None and caller.work is not None:
            # Of several prompts in one call the first one bears what was loaded for them.
            work, caller.work = caller.work, MediaWork()
            # Endpoints other than those that are hooked may load where nobody looks.
            if caller.served or work.decode.ns:
                fetch, decode, before = work.fetch.ns, work.decode.ns, work.cpu_ns
        if run is not None:
            cpu, pixels, hits = before + run.cpu_ns, run.pixels, run.cache_hits
        self._recorder.write(records.PREPROCESS, request, arrived, now, cpu, fetch, decode, pixels, hits)

    def _asked_to_leave(self, now: int) -> bool:
        """Heed the agent's control word when it is due; True after a detach."""
        if now < self._recorder.control_due or not self._recorder.poll_control(now):
            return False
        self._detach()
        return True

    # --- Outputs -------------------------------------------------------------------------------------------

    def output_begins(self, processor: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Record first tokens; return the sequences that may end in this call."""
        recorder = self._recorder
        now = recorder.now()
        if self._asked_to_leave(now):
            return None
        watched, ending = self._watched, []
        for output in argument(args, kwargs, 0, "engine_core_outputs", ()):
            id_ = output.request_id
            reason = output.finish_reason
            if reason is None and id_ not in watched:
                continue
            request = self._sequences.get(id_)
            if request is None:
                continue
            state = processor.request_states.get(id_)
            if id_ in watched and output.new_token_ids:
                if not request.first_token:
                    request.first_token = True
                    recorder.write(records.FIRST_TOKEN, request.number, now)
                if not _stops_at_text(state):
                    watched.discard(id_)
            ending.append(_Ended(id_, _status(reason), state))
        return (processor, ending) if ending else None

    def aborting(self, processor: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Return the sequences that an abort may end: named by their own id or the caller's."""
        # Of a parent it aborts the children by another call of its own.
        outside = getattr(processor, "external_req_ids", None) or {}
        named = argument(args, kwargs, 0, "request_ids", ())
        ids = [own for id_ in named for own in (id_, *outside.get(id_, ()))]
        return processor, self._ended(processor, ids, _ABORTED)

    def failing(self, processor: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
        """Record all sequences as failed: the engine is gone, and nobody says more of them."""
        for ended in self._ended(processor, list(processor.request_states), _ERROR):
            self._end(ended.id, ended.status, _output_tokens(ended.state))

    def may_have_ended(self, token: Any, result: Any, error: Optional[BaseException]) -> None:
        """End the sequences that the processor let go of in its call."""
        processor, ending = token
        for ended in ending:
            if ended.id not in processor.request_states:
                self._end(ended.id, ended.status, _output_tokens(ended.state))

    def _ended(self, processor: Any, ids: List[str], status: int) -> List[_Ended]:
        states = processor.request_states
        return [_Ended(id_, status, states.get(id_)) for id_ in ids if id_ in self._sequences]

    def _end(self, id_: str, status: int, output_tokens: int) -> None:
        """End a sequence; with the last one of its request, the request."""
        request = self._sequences.get(id_)
        if request is None:
            return
        self._forget(id_)
        request.ended += 1
        request.status = max(request.status, status)
        if records.UNKNOWN in (output_tokens, request.output_tokens):
            request.output_tokens = records.UNKNOWN
        else:
            request.output_tokens += output_tokens
        if not request.open and (request.ended >= request.count or request.status != _OK):
            self._parents.pop(request.id, None)
            if request.caller is not None:
                request.caller.went_on = True
            self._recorder.write(
                records.REQUEST_FINISHED, request.number, self._recorder.now(), request.status, request.output_tokens
            )  # fmt: skip

    def _forget(self, id_: str) -> None:
        self._sequences.pop(id_).open -= 1
        self._watched.discard(id_)


def install_api(setter: HookSetter, recorder: Recorder, detach: Callable[[], None]) -> None:
    """Set the hooks of the API server and of the offline `LLM`."""
    media = MediaHooks(recorder, current_work)
    arrivals = ArrivalHooks(recorder)
    requests = RequestHooks(recorder, media, detach)
    for name, prefix in (("vllm.chat", "chatcmpl-"), ("vllm.completion", "cmpl-"), ("vllm.responses", "")):
        setter.set(name, functools.partial(arrivals.served, prefix), arrivals.answered)
    setter.set("vllm.http", arrivals.called, _nothing)
    setter.set("vllm.add_request", arrivals.adding, arrivals.added)
    setter.set("vllm.add_request_offline", arrivals.adding, arrivals.added)
    setter.set("vllm.load_media", media.load_begins, media.load_ends)
    setter.set("vllm.fetch_media", media.fetch_begins, media.fetch_ends)
    for name in ("data_url", "file_url", "image", "video", "audio"):
        setter.set("vllm.decode_" + name, media.decode_begins, media.decode_ends)
    setter.set("vllm.process_media", media.process_begins, media.process_ends)
    setter.set("vllm.processor_cache", media.cache_asked, media.cache_answered)
    setter.set("vllm.hand_over", requests.handing, requests.handed)
    setter.set("vllm.outputs", requests.output_begins, requests.may_have_ended)
    setter.set("vllm.abort", requests.aborting, requests.may_have_ended)
    setter.set("vllm.engine_died", requests.failing, requests.may_have_ended)


def _nothing(token: Any, result: Any, error: Optional[BaseException]) -> None:
    """Do nothing at the end of an HTTP request."""


def _embedded(place: Any) -> int:
    """Return the positions of a placeholder that an item's features fill."""
    # Not by the engine's own method: that keeps a sum on the object, which would travel to the engine with it.
    mask = place.is_embed
    return int(place.length) if mask is None or getattr(mask, "is_cuda", False) else int(mask.sum())


def _media_key(core: Any) -> Tuple[str, ...]:
    """Return the sorted hashes of a request's items, as the processor's result has them."""
    return tuple(
        sorted(str(getattr(item, "mm_hash", None) or item.identifier) for item in core.mm_features or ())
    )


def _status(reason: Any) -> int:
    return {"abort": _ABORTED, "error": _ERROR}.get(str(reason), _OK)


def _stops_at_text(state: Any) -> bool:
    """Tell whether a stop text, which the engine does not know of, can end the sequence; True where it is unsure."""
    detokenizer = getattr(state, "detokenizer", None)
    return detokenizer is not None and bool(getattr(detokenizer, "stop", True))


def _output_tokens(state: Any) -> int:
    """Return the tokens generated for a sequence, as the API's usage counts them."""
    if state is None:
        return records.UNKNOWN
    detokenizer = getattr(state, "detokenizer", None)
    if detokenizer is None:
        return 0  # pooling
    count = getattr(detokenizer, "num_output_tokens", None)
    return int(count()) if count is not None else len(detokenizer.output_token_ids)
