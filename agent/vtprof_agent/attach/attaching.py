"""Attaches the probe to a process and its Python children, all of one family, and says what became of each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vtprof_agent.attach.bundle import bundle
from vtprof_agent.attach.execution import Done, Host, carry_out, host
from vtprof_agent.attach.outcome import ATTACHED, FAILED, SKIPPED, WOULD_ATTACH, Outcome
from vtprof_agent.attach.parked import parked_threads
from vtprof_agent.attach.processes import is_machine_init, process_name, read_process, tree
from vtprof_agent.attach.refusal import AlreadyOn, NotConcerned, Refused
from vtprof_agent.attach.rings import family_of, open_rings
from vtprof_agent.attach.script import ATTACH, PROBE
from vtprof_agent.attach.shared_files import check_ring_dir
from vtprof_agent.staging import release
from vtprof_schemas import names

NS_PER_MS = 1e6
_LEFT = "; what runs below it was left as it is: to attach there, give its PID"


@dataclass(frozen=True)
class Options:
    """How to attach or detach."""

    ring_dir: Path
    stage_dir: Path | None = None
    children: bool = True
    dry_run: bool = False
    timeout_s: float = 10.0


def attach(pid: int, options: Options) -> list[Outcome]:
    """Attach to the tree of a process; what fails or is no Python is said and left as it was.

    Raises Refused when the tree holds nothing to attach to.
    """
    if options.children:
        _refuse_everything(pid)
    pids = tree(pid, options.children)
    family = _family(pids, options.ring_dir)
    return for_each(pids, lambda one: _attach_one(one, family, options), root_first=True)


def for_each(pids: list[int], act: Callable[[int], Outcome], root_first: bool = False) -> list[Outcome]:
    """Act on each process, the first being the root, and collect the outcomes.

    With ``root_first`` those below are left as they are when the root is refused: it may be more than was meant.
    Raises Refused with the root's reason when the tree is the root alone.
    """
    outcomes = []
    for pid in pids:
        try:
            outcomes.append(act(pid))
        except NotConcerned as error:
            outcomes.append(Outcome(pid, process_name(pid), SKIPPED, str(error)))
        except Refused as error:
            stops = root_first and pid == pids[0] and len(pids) > 1 and not isinstance(error, AlreadyOn)
            reason = f"{error}{_LEFT if stops else ''}"
            outcomes.append(Outcome(pid, process_name(pid), FAILED, reason))
            if stops:
                break
    if all(outcome.result == SKIPPED for outcome in outcomes):
        root = outcomes[0]
        below = " (nor does it concern a process below it)" if len(pids) > 1 else ""
        raise Refused(f"PID {root.pid} ({root.name}): {root.reason}{below}")
    return outcomes


def succeeded(target: Host, result: str, done: Done | None) -> Outcome:
    """Return the outcome of an order that was carried out; ``done`` is None where the ring alone sufficed."""
    injection = done.injection if done else None
    return Outcome(
        target.process.pid,
        target.process.name,
        result,
        python=".".join(map(str, target.interpreter.version)),
        method=target.method if done else None,
        thread=injection.thread if injection else None,
        stopped_ms=injection.stopped_ns / NS_PER_MS if injection else None,
    )


def _attach_one(pid: int, family: str, options: Options) -> Outcome:
    with host(pid) as target:
        process = target.process
        check_ring_dir(process, options.ring_dir, target.environment(names.ENV_RING_GROUP))
        if rings := open_rings(process, options.ring_dir):
            raise AlreadyOn(
                f"it is attached already: its ring is {rings[0]}; `vtprof-agent detach {pid}` ends that"
            )
        if options.dry_run:
            return would(target, WOULD_ATTACH)
        order = {
            "action": ATTACH,
            "family": family,
            "family_variable": names.ENV_FAMILY,
            "ring_dir": str(options.ring_dir),
            "release": release(),
        }
        done = carry_out(target, order, options.stage_dir, options.timeout_s, {PROBE: bundle()})
        if not done.changed:
            where = f" and records to {done.ring}" if done.ring else ""
            raise AlreadyOn(f"the probe is on in it already{where}; `vtprof-agent detach {pid}` ends that")
        return succeeded(target, ATTACHED, done)


def would(target: Host, result: str) -> Outcome:
    """Return what would be done, and on which thread at this moment."""
    threads = parked_threads(target.process.pid, target.machine.parked_calls)
    return Outcome(
        target.process.pid,
        target.process.name,
        result,
        None if threads else "no thread of it is parked at this moment: refused if none is within --timeout",
        ".".join(map(str, target.interpreter.version)),
        target.method,
        threads[0].tid if threads else None,
    )


def _refuse_everything(pid: int) -> None:
    """Raise Refused for a machine's first process, below which everything runs; a container's own is its entry point."""
    try:
        process = read_process(pid)
    except Refused:
        return  # said where it is attached to
    if is_machine_init(process):
        raise Refused(
            f"PID {pid} ({process.name}) is this machine's first process, everything runs below it: give the PID of the"
            " server"
        )


def _family(pids: list[int], ring_dir: Path) -> str:
    """Return the family of those that record already, else one named for the first that can be read."""
    name = ""
    for pid in pids:
        try:
            process = read_process(pid)
        except Refused:
            continue
        known = family_of(open_rings(process, ring_dir))
        if known is not None:
            return known
        name = name or f"{process.own_pid}-{process.start_ticks}"
    return name
