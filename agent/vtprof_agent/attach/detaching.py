"""Detaches the probe from a process and its Python children: by the rings, and in an idle process by a call."""

import time
from collections.abc import Callable
from pathlib import Path

from vtprof_agent.attach.attaching import Options, for_each, succeeded, would
from vtprof_agent.attach.execution import Host, carry_out, host
from vtprof_agent.attach.injector import was_attached
from vtprof_agent.attach.outcome import DETACHED, WOULD_DETACH, Outcome
from vtprof_agent.attach.processes import read_process, tree
from vtprof_agent.attach.refusal import NotConcerned, Refused
from vtprof_agent.attach.rings import ask_to_detach, open_rings, remove_empty
from vtprof_agent.attach.script import DETACH
from vtprof_schemas import names

HEED_S = 1.5
"""A probe heeds its ring at the next step; a server without one in that time is idle."""
_POLL_S = 0.02


def detach(pid: int, options: Options) -> list[Outcome]:
    """Detach from the tree of a process; afterwards every patched attribute is the original object.

    Raises Refused when nothing of the tree is attached.
    """
    pids = tree(pid, options.children)
    rings = {one: _rings(one, options.ring_dir) for one in pids}
    if not options.dry_run:
        ask_to_detach([path for paths in rings.values() for path in paths])
        _wait(lambda: not any(paths and _rings(one, options.ring_dir) for one, paths in rings.items()))
    try:
        return for_each(pids, lambda one: _detach_one(one, bool(rings[one]), options))
    finally:
        if not options.dry_run:
            remove_empty([path for paths in rings.values() for path in paths])


def _detach_one(pid: int, had_ring: bool, options: Options) -> Outcome:
    with host(pid) as target:
        if options.dry_run:
            _require_probe(target, had_ring)
            return would(target, WOULD_DETACH)
        if had_ring and not open_rings(target.process, options.ring_dir):
            return succeeded(target, DETACHED, None)
        _require_probe(target, had_ring)
        done = carry_out(target, {"action": DETACH}, options.stage_dir, options.timeout_s)
        if left := open_rings(target.process, options.ring_dir):
            raise Refused(f"its ring {left[0]} is still open: try again")
        if not done.changed and not had_ring:
            raise NotConcerned("it is not attached")
        return succeeded(target, DETACHED, done)


def _require_probe(target: Host, had_ring: bool) -> None:
    """Raise NotConcerned, so that it is skipped, unless the probe is or was in the process."""
    by_exec = target.environment(names.ENV_ENABLE) == "1"
    if not had_ring and not by_exec and not was_attached(target.process.pid, target.memory):
        raise NotConcerned("it is not attached")


def _rings(pid: int, ring_dir: Path) -> list[Path]:
    try:
        return open_rings(read_process(pid), ring_dir)
    except Refused:
        return []


def _wait(over: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HEED_S
    while not over() and time.monotonic() < deadline:
        time.sleep(_POLL_S)
