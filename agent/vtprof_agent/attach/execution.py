"""Carries one order out in one process and brings its answer: finds the way in, injects, waits."""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from vtprof_agent.attach.injector import Injection, alone, inject
from vtprof_agent.attach.machine import Machine, this_machine
from vtprof_agent.attach.memory import PROC, Memory
from vtprof_agent.attach.processes import Process, alive, read_process
from vtprof_agent.attach.refusal import NotConcerned, Refused
from vtprof_agent.attach.script import ANSWER, NoAnswer, text, wait_for_answer
from vtprof_agent.attach.shared_files import SharedFolder, shared_folder
from vtprof_agent.attach.target import Interpreter, find_interpreter, open_memory

PARKED_THREAD, REMOTE_EXEC = "parked thread", "sys.remote_exec"
_REMOTE_EXEC_SINCE = (3, 14)
RESOURCE_TRACKER = "it is multiprocessing's resource tracker, in which no engine runs"
_RESOURCE_TRACKER = b"from multiprocessing.resource_tracker import main"
_REMOTE_EXEC_S = 1.0
"""An interpreter that runs Python code takes an order within its switch interval; one that waits in a call does not."""


@dataclass(frozen=True)
class Host:
    """A Python process that can be worked on."""

    process: Process
    interpreter: Interpreter
    memory: Memory
    machine: Machine

    @property
    def method(self) -> str:
        """Return the way in: 3.14 has one of its own, for a caller of the same version."""
        same = sys.version_info[:2] == self.interpreter.version
        return REMOTE_EXEC if same and self.interpreter.version >= _REMOTE_EXEC_SINCE else PARKED_THREAD

    def environment(self, variable: str) -> str | None:
        """Return a variable of the environment that the process was started with."""
        try:
            entries = (PROC / str(self.process.pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            return None
        start = variable.encode() + b"="
        found = [entry[len(start) :] for entry in entries if entry.startswith(start)]
        return os.fsdecode(found[0]) if found else None


@contextmanager
def host(pid: int) -> Iterator[Host]:
    """Give a process to work on; nothing of it changes by this. Raises Refused."""
    machine = this_machine()
    process = read_process(pid)
    if _RESOURCE_TRACKER in _command_line(pid):
        raise NotConcerned(RESOURCE_TRACKER)
    memory = open_memory(pid)
    try:
        yield Host(process, find_interpreter(pid, memory, machine.elf_machine), memory, machine)
    finally:
        memory.close()


def _command_line(pid: int) -> bytes:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


@dataclass(frozen=True)
class Done:
    """What came of an order."""

    changed: bool
    """False: the process was already as wanted."""
    injection: Injection | None
    """None when the interpreter took the order by itself."""
    ring: str = ""
    """Where it records, as it sees it itself; empty before its first record where no engine is imported."""


def carry_out(
    target: Host,
    order: Mapping[str, str],
    stage_dir: Path | None,
    timeout_s: float,
    files: Mapping[str, str] = MappingProxyType({}),
) -> Done:
    """Have the process carry out an order (see ``script``); returns when it has answered. Raises Refused.

    ``files`` are laid beside the answer; the order names them relative to it.
    """
    deadline = time.monotonic() + timeout_s
    pid = target.process.pid
    with shared_folder(target.process, stage_dir, files) as folder, alone(pid, deadline):
        full = {**order, "folder": str(folder.there)}
        answer = partial(wait_for_answer, folder.here / ANSWER, lambda: alive(target.process))
        if target.method == REMOTE_EXEC:
            _by_remote_exec(pid, text(full), folder)
            try:
                return _done(answer(_REMOTE_EXEC_S), None)
            except NoAnswer:
                pass  # it waits in some call: then one of its threads is parked
        injection = inject(pid, target.interpreter, target.machine, target.memory, text(full), deadline)
        try:
            return _done(answer(timeout_s), injection)
        except NoAnswer as error:
            raise _thread_refused(target, injection) or error from error


def _done(answer: Mapping[str, object], injection: Injection | None) -> Done:
    return Done(bool(answer["changed"]), injection, str(answer.get("ring") or ""))


def _by_remote_exec(pid: int, statement: str, folder: SharedFolder) -> None:
    script = folder.here / "order.py"
    script.write_text(statement, encoding="utf-8")
    script.chmod(0o644)
    try:
        # Of 3.14: unknown to a type checker that looks through the eyes of our oldest Python.
        getattr(sys, "remote_exec")(pid, str(folder.there / script.name))  # noqa: B009
    except (OSError, RuntimeError):
        return  # switched off in the target, or another build of it: the other way is left


def _thread_refused(target: Host, injection: Injection) -> Refused | None:
    try:
        error = injection.thread_error(target.memory)
    except Refused:
        return None
    if not error:
        return None
    return Refused(
        f"it can start no thread ({os.strerror(error)}): raise its limits, or use `vtprof-agent exec`"
    )
