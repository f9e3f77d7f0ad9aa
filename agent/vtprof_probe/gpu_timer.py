"""GPU time of steps from pairs of CUDA events, read when they are done and never waited for.

An event marks a place in the stream; recording one costs some microseconds and no synchronisation. ``poll`` asks the
oldest step's last event whether it has passed, and only then reads the time between its events.
"""

from collections import deque
from typing import Any, Callable, Deque, List, NamedTuple, Optional, Tuple

MAX_WAITING_STEPS = 4096
"""Steps whose events have not passed yet; beyond it the oldest go unmeasured."""

NS_PER_MS = 1_000_000


class _Waiting(NamedTuple):
    step: int
    spans: Tuple[Tuple[Any, Any, bool, bool], ...]
    """(begin, end, encoder, within another span) of each pair."""


class GpuTimer:
    """Times the spans of each step; ``new_event`` makes an event that can ``record``, ``query``, ``elapsed_time``."""

    def __init__(self, new_event: Callable[[], Any], emit: Callable[[int, int, int], None]) -> None:
        self._new_event = new_event
        self._emit = emit
        self._free: List[Any] = []
        self._waiting: Deque[_Waiting] = deque()
        self._spans: List[Tuple[Any, Any, bool, bool]] = []
        self.dropped = 0

    def mark(self) -> Any:
        """Record an event now and return it."""
        event = self._free.pop() if self._free else self._new_event()
        event.record()
        return event

    def add(self, begin: Any, end: Any, encoder: bool, nested: bool) -> None:
        """Add a span to the current step; a nested one lies in another and adds nothing to the step's time."""
        self._spans.append((begin, end, encoder, nested))

    def close_step(self, step: Optional[int]) -> None:
        """End the current step; None throws its spans away."""
        spans, self._spans = tuple(self._spans), []
        if step is None or not spans:
            self._release(spans)
            return
        if len(self._waiting) >= MAX_WAITING_STEPS:
            self._release(self._waiting.popleft().spans)
            self.dropped += 1
        self._waiting.append(_Waiting(step, spans))

    def poll(self) -> None:
        """Emit (step, GPU time ns, encoder's GPU time ns) of every step whose events have passed."""
        while self._waiting and all(end.query() for _, end, _, _ in self._waiting[0].spans):
            done = self._waiting.popleft()
            total = encoder = 0
            for begin, end, is_encoder, nested in done.spans:
                duration = int(begin.elapsed_time(end) * NS_PER_MS)
                encoder += duration if is_encoder else 0
                total += 0 if nested else duration
            self._release(done.spans)
            self._emit(done.step, total, encoder)

    def _release(self, spans: Tuple[Tuple[Any, Any, bool, bool], ...]) -> None:
        for begin, end, _, _ in spans:
            self._free.extend((begin, end))
