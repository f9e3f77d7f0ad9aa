"""Client requests as vLLM's API server sees them before the engine does: arrival, caller's context, refusal.

The web application puts a `Caller` into the context of each HTTP request before any task of it is started, so that all of
them find the same one: the serving layer runs in one task, a stream hands over to the engine in another. A request that
never gets to the engine is recorded when the serving layer's coroutine, or the engine's own `add_request`, ends.
"""

import itertools
import os
import re
from contextvars import ContextVar, Token
from typing import Any, Dict, NamedTuple, Optional, Tuple

from vtprof_probe.engines.vllm_media import MediaWork
from vtprof_probe.engines.vllm_shared import argument, number
from vtprof_probe.recorder import Recorder
from vtprof_probe.request_context import TraceParent, parse_traceparent
from vtprof_schemas import names, records

_REFUSALS = frozenset(
    ("ValueError", "TypeError", "OverflowError", "NotImplementedError", "TemplateError",
     "VLLMClientError", "GracefulHTTPError", "UnidentifiedImageError")
)  # fmt: skip
"""Bases of what vLLM raises for a request that it will not serve."""
_NO_REQUEST = frozenset(("VLLMNotFoundError",))
_HANG_UPS = frozenset(("CancelledError", "GeneratorExit"))
_PROMPT_TOKENS = re.compile(
    r"(?:contains|has|passed) (\d+) input tokens|(?:prompt \(length |Input length \()(\d+)\)"
)
"""How vLLM's versions tell the length of a prompt that is too long; not where it says "at least"."""


class Caller:
    """One call of the API: what is known of it before the engine knows its requests."""

    __slots__ = (
        "arrived_ns", "handed", "label", "parent", "returned", "served", "settled", "single", "went_on", "work",
    )  # fmt: skip

    def __init__(self, arrived_ns: int, parent: Optional[TraceParent] = None) -> None:
        self.arrived_ns, self.parent = arrived_ns, parent
        self.label, self.single = "", False
        self.work: Optional[MediaWork] = MediaWork()
        self.handed = 0
        """Requests that the engine got."""
        self.went_on = False
        """One of them has ended: those that follow, such as the next turn with a tool, arrived later than the call."""
        self.served = False
        """The serving layer has it."""
        self.returned = False
        """The serving coroutine is done; a stream may go on."""
        self.settled = False
        """Its refusal is recorded."""


class _Adding(NamedTuple):
    """A call of the engine client's ``add_request``."""

    caller: Caller
    request_id: str
    handed: int
    own: Optional["Token[Optional[Caller]]"]


_caller: "ContextVar[Optional[Caller]]" = ContextVar("vtprof_vllm_caller", default=None)
_refused = itertools.count(1)


def current_caller() -> Optional[Caller]:
    """Return the API call that this task is part of."""
    return _caller.get()


def current_work() -> Optional[MediaWork]:
    """Return where the media work of this task's API call is added up."""
    caller = _caller.get()
    return None if caller is None else caller.work


def write_text(recorder: Recorder, kind: records.RecordKind, request: int, text: str) -> None:
    """Write a record that holds a text, cut to what fits."""
    data = text.encode("utf-8", "replace")[: records.LABEL_BYTES]
    recorder.write(kind, request, len(data), data)


class ArrivalHooks:
    """Hooks of the web application, the serving layer and the engine client's ``add_request``."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def called(self, app: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
        """Note an HTTP request, in the context that all its tasks inherit."""
        scope = argument(args, kwargs, 0, "scope")
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            # Also over what a task inherited that an earlier request of the connection started.
            _caller.set(
                Caller(self._recorder.now(), _parent(headers.get(b"traceparent", b"").decode("latin-1")))
            )

    def served(
        self, prefix: str, serving: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]
    ) -> Optional[Caller]:
        """Note an API call; ``prefix`` is what this endpoint puts before the id."""
        outer = _caller.get()
        if outer is not None and outer.served and not outer.returned:
            return None
        now = self._recorder.now()
        request = argument(args, kwargs, 0, "request")
        headers = getattr(argument(args, kwargs, 1, "raw_request"), "headers", None)
        get = getattr(headers, "get", None)
        header, id_ = ("", "") if get is None else (get("traceparent"), get("X-Request-Id"))
        if outer is not None and not outer.served:
            caller = outer
            caller.arrived_ns = now
        else:
            caller = Caller(now, _parent(header))
            _caller.set(caller)
        # Without a prefix the endpoint makes its id itself, whatever the header says.
        id_ = (id_ if prefix else None) or getattr(request, "request_id", None) or ""
        caller.label, caller.single, caller.served = prefix + id_ if id_ else "", _single(request), True
        return caller

    def answered(self, caller: Caller, result: Any, error: Optional[BaseException]) -> None:
        """Record a call that ended without any request of the engine."""
        caller.returned = True
        if caller.handed or caller.settled:
            return
        failure: Any = error
        if error is None and type(result).__name__ == "ErrorResponse":
            failure = getattr(result, "error", None) or result
        if failure is not None:
            self._refuse(caller, caller.label, failure)

    def adding(self, engine: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> _Adding:
        """Note that a request is on its way into the engine client."""
        caller, own = _caller.get(), None
        request_id = str(argument(args, kwargs, 0, "request_id", ""))
        if caller is None:
            caller = Caller(self._recorder.now())
            # No serving layer: the caller may have loaded and decoded media where nobody saw it.
            caller.work = None
            own = _caller.set(caller)
        return _Adding(caller, request_id, caller.handed, own)

    def added(self, adding: _Adding, result: Any, error: Optional[BaseException]) -> None:
        """Record a request that the engine client refused."""
        caller = adding.caller
        if adding.own is not None:
            try:
                _caller.reset(adding.own)
            except ValueError:
                # Ended by the garbage collector, in another context: ours went with its own.
                pass
        if error is not None and caller.handed == adding.handed:
            self._refuse(caller, visible_id(caller, adding.request_id), error)

    def _refuse(self, caller: Caller, label: str, failure: Any) -> None:
        status = _status(failure)
        if status is None:
            return
        caller.settled = True
        recorder, now = self._recorder, self._recorder.now()
        recorder.identify("api")
        # The engine's id may not exist yet, and the caller's may come again.
        own = number("refused-%d-%d-%s" % (os.getpid(), next(_refused), label))
        recorder.write(records.REQUEST_ARRIVED, own, caller.arrived_ns)
        if label:
            write_text(recorder, records.REQUEST_LABEL, own, label)
        if caller.parent is not None:
            recorder.write(records.REQUEST_PARENT, own, *caller.parent)
        tokens = _prompt_tokens(failure)
        if tokens is not None:
            unknown = (records.UNKNOWN,) * 8
            recorder.write(records.REQUEST_INPUT, own, tokens, *unknown)
        recorder.write(records.REQUEST_FINISHED, own, now, names.STATUSES.index(status), 0)


def _parent(header: Optional[str]) -> Optional[TraceParent]:
    """Return the trace context of a header; one that is not valid is the client's affair, and ignored (W3C)."""
    return parse_traceparent(header) if header else None


def visible_id(caller: Optional[Caller], external_id: str) -> str:
    """Return the id that the caller sees: that of a single prompt without the number that some endpoints append."""
    label = "" if caller is None or not caller.single else caller.label
    return label if label and external_id in (label + "-0", label + "_0") else external_id


def _single(request: Any) -> bool:
    """Tell whether a completion request has one prompt: a text, or one list of token ids."""
    prompt = getattr(request, "prompt", None)
    return not isinstance(prompt, list) or len(prompt) == 1 or (bool(prompt) and isinstance(prompt[0], int))


def _status(failure: Any) -> Optional[str]:
    """Return the status that an exception or an error answer stands for; None for what names no request of ours."""
    if isinstance(failure, BaseException):
        bases = {base.__name__ for base in type(failure).__mro__}
        if bases & _NO_REQUEST:
            return None
        if bases & _HANG_UPS:
            return names.STATUS_ABORTED
        return names.STATUS_REJECTED if bases & _REFUSALS else names.STATUS_ERROR
    code = getattr(failure, "code", None)
    if not isinstance(code, int):
        return names.STATUS_REJECTED
    # 404 is the answer to a model that is not served.
    return None if code == 404 else names.STATUS_REJECTED if code < 500 else names.STATUS_ERROR


def _prompt_tokens(failure: Any) -> Optional[int]:
    """Return the length of the prompt if the refusal tells it exactly."""
    text = str(getattr(failure, "message", None) or failure)
    match = _PROMPT_TOKENS.search(text)
    return None if match is None else int(match.group(1) or match.group(2))
