"""The probe's one way out: opens the ring at the first record, numbers requests and steps, heeds the control word.

Detail levels: 0 requests and their phases (steps that hold prefill or encode); 1 adds decode steps; 2 adds GPU time;
3 adds forward passes outside ``generate``. A record costs the ring writer's time plus one attribute lookup.
"""

import itertools
import threading
import time
from typing import Any, Callable, Dict, Optional, Tuple

from vtprof_schemas import records

DETAIL_DECODE_STEPS = 1
DETAIL_GPU_TIME = 2
DETAIL_FOREIGN_STEPS = 3

ANCHOR_INTERVAL_NS = 1_000_000_000
"""How often the clock anchor is refreshed at most."""


class Recorder:
    """Writes records into the ring that ``open_ring`` gives, opened once and only when there is something to say."""

    def __init__(
        self,
        open_ring: Callable[[], Any],
        clock: Callable[[], int] = time.monotonic_ns,
        detail: Optional[int] = None,
    ) -> None:
        self._open_ring = open_ring
        self._ring: Any = None
        self._lock = threading.Lock()
        self._info: Dict[str, Any] = {}
        self._early_errors = 0
        self._fixed_detail = detail
        self._anchor_due = 0
        self.now = clock
        self.detail = records.DETAIL_DEFAULT if detail is None else detail
        self.active = True
        """False after a detach: hooks that are still on somebody's stack write nothing more."""
        self.request_numbers = itertools.count(1)
        self.step_numbers = itertools.count(1)

    def write(self, kind: records.RecordKind, *values: Any) -> None:
        """Write one record; ``values`` are the fields of ``kind`` in order."""
        if self.active:
            (self._ring or self._ring_opened()).write(kind, *values)

    def set_info(self, info: Dict[str, Any]) -> None:
        """Add resource attributes of this process (keys of ``names``)."""
        self._info.update(info)
        if self.active:
            (self._ring or self._ring_opened()).set_info(dict(self._info))

    def poll_control(self, now: int) -> bool:
        """Read the control word once a step, refresh the clock anchor when due; return whether the agent asks to detach."""
        ring = self._ring or self._ring_opened()
        detail, detach = ring.control()
        if self._fixed_detail is None:
            self.detail = detail
        if now >= self._anchor_due:
            self._anchor_due = now + ANCHOR_INTERVAL_NS
            ring.refresh_anchor()
        return bool(detach)

    def add_probe_ns(self, duration_ns: int) -> None:
        """Add to the time that the probe itself took."""
        if self._ring is not None:
            self._ring.add_probe_ns(duration_ns)

    def fault(self) -> None:
        """Count an error of a hook; never raises."""
        try:
            if self._ring is None:
                self._early_errors += 1
            else:
                self._ring.count_hook_error()
        except Exception:
            self._early_errors += 1

    def state(self) -> Tuple[bool, Optional[str], int]:
        """Return whether a ring is open, why it is not working (or None), and the errors counted before it was."""
        return self._ring is not None, getattr(self._ring, "reason", None), self._early_errors

    def after_fork(self) -> None:
        """Renew the lock in a forked child; the ring writer itself takes care of its ring."""
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the recording cleanly."""
        self.active = False
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()

    def _ring_opened(self) -> Any:
        with self._lock:
            if self._ring is None:
                ring = self._open_ring()
                for _ in range(self._early_errors):
                    ring.count_hook_error()
                if self._info:
                    ring.set_info(dict(self._info))
                self._ring = ring
        return self._ring
