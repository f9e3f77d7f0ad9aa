"""What a server may tell the probe of a request: its id, its caller's trace context, when it arrived.

``with vtprof_probe.request(id="cmpl-81", traceparent=header):`` around processor and ``generate``. Without it requests
are numbered and begin with the processor call. A no-op unless the probe is enabled.
"""

import re
import threading
import time
from contextlib import contextmanager
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

_TRACEPARENT = re.compile(r"\A(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_ZERO = re.compile(r"\A0+\Z")

TraceParent = Tuple[bytes, bytes, int]
"""Trace id (16 bytes), span id (8 bytes), flags."""


class RequestContext(NamedTuple):
    """What is known of the requests of the next ``generate`` call on this thread."""

    ids: Sequence[str]
    parents: Sequence[Optional[TraceParent]]
    arrived_ns: int
    invalid_parents: int

    def request_id(self, row: int) -> Optional[str]:
        """Return the caller's id of a row of the batch."""
        return self.ids[row] if row < len(self.ids) else None

    def parent(self, row: int) -> Optional[TraceParent]:
        """Return the trace context of a row; a single one holds for the whole batch."""
        if len(self.parents) == 1:
            return self.parents[0]
        return self.parents[row] if row < len(self.parents) else None


class _Contexts(threading.local):
    stack: Tuple[RequestContext, ...] = ()


_contexts = _Contexts()
_switch = {"on": False}


def turn(on: bool) -> None:
    """Turn the explicit interface on or off, with the probe."""
    _switch["on"] = on


def current() -> Optional[RequestContext]:
    """Return the innermost context of this thread."""
    stack = _contexts.stack
    return stack[-1] if stack else None


def parse_traceparent(text: str) -> Optional[TraceParent]:
    """Parse a W3C ``traceparent`` header; None if it is not valid."""
    match = _TRACEPARENT.match(text.strip())
    if match is None or _ZERO.match(match.group(1)) or _ZERO.match(match.group(2)):
        return None
    if match.group(4) is not None and text.strip().startswith("00-"):
        return None
    return bytes.fromhex(match.group(1)), bytes.fromhex(match.group(2)), int(match.group(3), 16)


@contextmanager
def request(
    id: Optional[str] = None,
    traceparent: Union[str, Sequence[str], None] = None,
    arrived_ns: Optional[int] = None,
    ids: Optional[Sequence[str]] = None,
) -> Iterator[None]:
    """Name the request(s) of the processor and ``generate`` calls in the block.

    ``id`` for one request, ``ids`` for a batch in row order; ``arrived_ns`` is CLOCK_MONOTONIC, by default now. A
    ``traceparent`` (one, or one a row) that is not valid is ignored and counted.
    """
    context = _context(id, traceparent, arrived_ns, ids) if _switch["on"] else None
    if context is None:
        yield
        return
    outer = _contexts.stack
    _contexts.stack = (*outer, context)
    try:
        yield
    finally:
        _contexts.stack = outer


def _context(
    id: Optional[str],
    traceparent: Union[str, Sequence[str], None],
    arrived_ns: Optional[int],
    ids: Optional[Sequence[str]],
) -> Optional[RequestContext]:
    try:
        names: List[str] = [str(name) for name in ids] if ids is not None else [] if id is None else [str(id)]
        headers: Sequence[str] = [traceparent] if isinstance(traceparent, str) else list(traceparent or ())
        parents = [parse_traceparent(header) if isinstance(header, str) else None for header in headers]
        arrived = time.monotonic_ns() if arrived_ns is None else int(arrived_ns)
        return RequestContext(names, parents, arrived, sum(parent is None for parent in parents))
    except Exception:
        # Whatever the caller passed, its own request must not fail for it.
        return RequestContext((), (), time.monotonic_ns(), 1)
