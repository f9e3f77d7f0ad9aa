"""The probe's one way out: opens the ring at the first record, numbers requests and steps, heeds the control word.

Detail levels: 0 requests and their phases (steps that hold prefill or encode); 1 adds decode steps; 2 adds GPU time;
3 adds forward passes outside ``generate``. A record costs the ring writer's time and nothing beside it.
"""

import itertools
import json
import threading
import time
from typing import Any, Callable, Dict, Optional, Set, Tuple

from vtprof_probe.clock import Spent
from vtprof_schemas import names, records

DETAIL_DECODE_STEPS = 1
DETAIL_GPU_TIME = 2
DETAIL_FOREIGN_STEPS = 3

CONTROL_INTERVAL_NS = 10_000_000
"""How often the control word is read at most; steps as long as this read it each time."""
ANCHOR_INTERVAL_NS = 1_000_000_000
"""How often the clock anchor is refreshed at most, and the time of the hooks published within a call."""


class Recorder:
    """Writes records into the ring that ``open_ring`` gives, opened once and only when there is something to say."""

    write: Callable[..., None]
    """``write(kind, *values)`` writes one record; ``values`` are the fields of ``kind`` in order."""

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
        self._hooks: Dict[str, str] = {}
        self._early_errors = 0
        self._fixed_detail = detail
        self._anchor_due = 0
        self.write = self._write_first
        self.spent = Spent()
        """Time of the hooks that the ring does not hold yet."""
        self.control_due = 0
        self.now = clock
        self.detail = records.DETAIL_DEFAULT if detail is None else detail
        self.active = True
        """False after a detach: hooks that are still on somebody's stack write nothing more."""
        self._roles: Set[str] = set()
        self.role, self.rank = "all", 0
        self.request_numbers = itertools.count(1)
        self.step_numbers = itertools.count(1)

    def _write_first(self, kind: records.RecordKind, *values: Any) -> None:
        if self.active:
            self._ring_opened().write(kind, *values)

    def set_info(self, info: Dict[str, Any]) -> None:
        """Add resource attributes of this process (keys of ``names``)."""
        self._info.update(info)
        if self.active:
            (self._ring or self._ring_opened()).set_info(dict(self._info))

    def add_info(self, info: Dict[str, Any]) -> None:
        """Add resource attributes that are no reason to open a ring: they are in it if one is opened."""
        self._info.update(info)
        if self.active and self._ring is not None:
            self._ring.set_info(dict(self._info))

    def note_hook(self, name: str, state: str) -> None:
        """Say whether a hook is set, for `vtprof-agent status`: see ``names.PROBE_HOOKS``."""
        self._hooks[name] = state
        self.add_info({names.PROBE_HOOKS: json.dumps(self._hooks, separators=(",", ":"))})

    def identify(self, role: str, rank: int = 0) -> None:
        """Say what this process does (api, engine, worker), before its first record; ``rank`` is a worker's or engine's.

        An engine that runs its worker itself is an engine; with the API server in it, it is all.
        """
        if role in self._roles:
            return
        self._roles.add(role)
        self.rank = rank
        self.role = _role(self._roles)
        self.add_info({names.ROLE: self.role, names.RANK: rank})

    def poll_control(self, now: int) -> bool:
        """Read the control word, refresh the header when due; return whether the agent asks to detach.

        Called at each step that begins after ``control_due``.
        """
        self.control_due = now + CONTROL_INTERVAL_NS
        ring = self._ring or self._ring_opened()
        detail, detach = ring.control()
        if self._fixed_detail is None:
            self.detail = detail
        if now >= self._anchor_due:
            self._anchor_due = now + ANCHOR_INTERVAL_NS
            ring.refresh_anchor()
            self.publish_spent()
        return bool(detach)

    def publish_spent(self) -> None:
        """Add the time that the hooks took since the last call to the ring's."""
        if self._ring is not None:
            spent_ns, self.spent.ns = self.spent.ns, 0
            self._ring.add_probe_ns(spent_ns)

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

    def open_ring(self) -> Any:
        """Return the ring, opened now if need be, so that the process shows before its first record."""
        return self._ring or self._ring_opened()

    def after_fork(self) -> None:
        """Renew in a forked child what is the parent's; the ring writer itself takes care of its ring."""
        self._lock = threading.Lock()
        self.spent.ns = 0

    def close(self) -> None:
        """End the recording cleanly."""
        self.publish_spent()
        self.active, self.write = False, self._write_first
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
                self._ring, self.write = ring, ring.write
                if not self.active:  # closed meanwhile by another thread, which did not see this ring
                    ring.close()
        return self._ring


def _role(roles: Set[str]) -> str:
    if len(roles) == 1:
        return next(iter(roles))
    return "engine" if roles == {"engine", "worker"} else "all"
