"""Runs one Python text in another process: on a new thread that a borrowed, parked thread starts."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from vtprof_agent.attach.machine import (
    CODE_BYTES,
    DATA,
    DONE,
    FUNCTIONS,
    LEFT,
    MAPPED_BYTES,
    MARK,
    MOST_TEXT_BYTES,
    RESULT,
    TEXT,
    WORD,
    Machine,
)
from vtprof_agent.attach.memory import PROC, Memory, mappings
from vtprof_agent.attach.parked import Parked, parked_threads
from vtprof_agent.attach.processes import ended
from vtprof_agent.attach.ptrace import StoppedThread, ThreadGone
from vtprof_agent.attach.refusal import Refused
from vtprof_agent.attach.scheduling import hurried, uninterrupted
from vtprof_agent.attach.target import Interpreter

_READ, _WRITE, _EXECUTE = 1, 2, 4
_PRIVATE_ANONYMOUS = 0x22
_CALLS: Final = {62: (9, 10), 183: (222, 226)}
"""By ELF machine: numbers of mmap and mprotect."""
_LOOK_AGAIN_S = 0.001
NO_THREAD = (
    "no thread of it waited in a safe system call within {seconds:g} s (a single busy thread cannot be interrupted"
    " safely): start it with `vtprof-agent exec -- …`, or try again when it is idle"
)


@dataclass(frozen=True)
class Injection:
    """What was done to the process."""

    thread: int
    """Id of the thread that was borrowed."""
    stopped_ns: int
    """The longest that it, or one tried before it, stood still (see ``StoppedThread``); no other thread was stopped."""
    base: int
    """Where our code is."""

    def thread_error(self, memory: Memory) -> int:
        """Return the error number of ``pthread_create``, 0 when it succeeded or has not returned yet."""
        (error,) = memory.words(self.base + DATA + RESULT, 8, 1)
        return error


def inject(
    pid: int, interpreter: Interpreter, machine: Machine, memory: Memory, text: str, deadline: float
) -> Injection:
    """Have a new thread of the process run ``text``; returns once the borrowed thread is let go.

    Raises Refused, and then nothing but our mapping is in the process. ``deadline`` is of ``time.monotonic``. Call it
    within ``alone``. Memory is written while no thread is stopped: a busy host may keep its lock on it for long.
    """
    content = text.encode() + b"\0"
    if len(content) > MOST_TEXT_BYTES:
        raise Refused("the path of the ring or stage folder is too long: choose a shorter one")
    borrowing = _Borrowing(pid, machine, memory, deadline)
    mmap, mprotect = _CALLS[machine.elf_machine]
    base, fresh = _idle_mapping(pid, machine, memory), False
    if base is None:
        fresh = True
        base = borrowing.on_parked(
            lambda parked: parked.call(mmap, (0, MAPPED_BYTES, _READ | _WRITE, _PRIVATE_ANONYMOUS, -1, 0))
        )
        if -4096 < base < 0:
            raise Refused(
                f"the kernel gives it no memory (mmap: {os.strerror(-base)}): limits or a seccomp filter"
            )
        memory.write(base, machine.code)
    data = base + DATA
    memory.write(data + TEXT, content)
    memory.write(data + FUNCTIONS, b"".join(map(WORD.pack, interpreter.functions)))
    _set_words(memory, data, 0)

    def send(parked: _StoppedParked) -> int:
        if fresh and (error := parked.call(mprotect, (base, CODE_BYTES, _READ | _EXECUTE))):
            return error
        parked.borrow(base)
        return 0

    try:
        error = borrowing.on_parked(send)
    except BaseException:
        _set_words(memory, data, 1)  # nobody is in it: it may be used again
        raise
    if error:
        raise Refused(
            f"it may not have executable memory (mprotect: {os.strerror(-error)}; SELinux or a seccomp filter):"
            " start it with `vtprof-agent exec -- …`"
        )
    return Injection(borrowing.thread, borrowing.stopped_ns, base)


class _StoppedParked:
    """A parked thread while it is stopped; unless it is borrowed, it will go on as if it had not been."""

    def __init__(self, thread: StoppedThread, parked: Parked, machine: Machine, memory: Memory) -> None:
        self._thread, self._parked, self._machine, self._memory = thread, parked, machine, memory
        self._registers = thread.registers()
        self._mask: int | None = None
        self.is_parked = machine.parked_in(self._registers, parked.behind)
        self._borrowed = False

    def call(self, number: int, arguments: tuple[int, ...]) -> int:
        """Make a system call and return its result."""
        if self._mask is None:
            self._mask = self._thread.block_signals()
        return self._machine.call(self._thread, self._parked.behind, number, arguments)

    def borrow(self, base: int) -> None:
        """Send it into our code."""
        self._restore_mask()
        self._machine.borrow(self._thread, self._registers, self._memory, base)
        self._borrowed = True

    def close(self) -> None:
        """Set the registers with which it goes on."""
        self._restore_mask()
        if self.is_parked and not self._borrowed:
            self._thread.set_registers(self._machine.resumed(self._registers))

    def _restore_mask(self) -> None:
        if self._mask is not None:
            self._thread.set_signal_mask(self._mask)
            self._mask = None


class _Borrowing:
    """Stops parked threads, one at a time, until one lets itself be used."""

    def __init__(self, pid: int, machine: Machine, memory: Memory, deadline: float) -> None:
        self._pid, self._machine, self._memory, self._deadline = pid, machine, memory, deadline
        self._started = time.monotonic()
        self.thread = 0
        self.stopped_ns = 0
        """The longest of its stops."""

    def on_parked(self, act: Callable[[_StoppedParked], int]) -> int:
        """Return what ``act`` returns on a parked thread; raises Refused when there is none in time."""
        while True:
            for parked in parked_threads(self._pid, self._machine.parked_calls):
                if not self._machine.is_call(self._memory, parked.behind):
                    continue
                thread = StoppedThread(parked.tid)
                try:
                    with uninterrupted(), hurried(), thread:
                        stopped = _StoppedParked(thread, parked, self._machine, self._memory)
                        try:
                            if stopped.is_parked:
                                self.thread = parked.tid
                                return act(stopped)
                        finally:
                            stopped.close()
                except ThreadGone:
                    continue
                finally:
                    self.stopped_ns = max(self.stopped_ns, thread.held_ns)
            if ended(self._pid):
                raise Refused("it ended meanwhile")
            if time.monotonic() > self._deadline:
                raise Refused(NO_THREAD.format(seconds=round(time.monotonic() - self._started, 1)))
            time.sleep(_LOOK_AGAIN_S)


@contextmanager
def alone(pid: int, deadline: float) -> Iterator[None]:
    """Keep other agents off the process meanwhile: two must not use one mapping. Raises Refused."""
    try:
        file = (PROC / str(pid) / "stat").open("rb")
    except OSError as error:
        raise Refused("it ended just now") from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise Refused(
                        "another attach or detach works on it: wait until that has ended"
                    ) from error
            except OSError:
                break  # a /proc without locks: the kernel still lets only one trace a thread
            time.sleep(_LOOK_AGAIN_S)
        yield


def _idle_mapping(pid: int, machine: Machine, memory: Memory) -> int | None:
    """Return our mapping of an earlier time if both threads have left it: its code is never written again."""
    for found in mappings(pid):
        if found.path or found.permissions != "r-xp" or found.end - found.start < CODE_BYTES:
            continue
        if memory.read(found.start, len(machine.code)) != machine.code:
            continue
        left, error, done = memory.words(found.start + DATA, 8, 3)
        if left and (done or error):
            return found.start
    return None


def _set_words(memory: Memory, data: int, value: int) -> None:
    for place in (RESULT, DONE, LEFT):
        memory.write(data + place, WORD.pack(value))


def was_attached(pid: int, memory: Memory) -> bool:
    """Tell whether this agent's code is in the process: it was attached to before."""
    return any(
        not found.path and found.permissions == "r-xp" and memory.read(found.start, len(MARK)) == MARK
        for found in mappings(pid)
    )
