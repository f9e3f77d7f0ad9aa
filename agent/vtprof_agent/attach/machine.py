"""What the injector must know of a processor: where a thread is parked, how to make a call on it, how to borrow it."""

import platform
import struct
from collections.abc import Mapping
from typing import Protocol

from vtprof_agent.attach.memory import Memory
from vtprof_agent.attach.ptrace import StoppedThread
from vtprof_agent.attach.refusal import Refused

CODE_BYTES = DATA = 0x10000
"""The data begin that far behind the code: the largest page there is."""
MAPPED_BYTES = 0x20000
MARK = b"vtprof-attach-1\0"
"""What our code begins with."""
ENTRY = len(MARK)
LEFT, RESULT, DONE, FUNCTIONS, TEXT = 0x00, 0x08, 0x10, 0x20, 0x8000
"""Places in the data; the same names stand in ``stubs/``."""
MOST_TEXT_BYTES = MAPPED_BYTES - DATA - TEXT - 1
WORD = struct.Struct("<Q")

FUTEX_WAIT_BITSET = 9
_FUTEX_COMMAND = 0x7F
WAITS_FOR_EVENTS, WAITS, WAITS_IN_FUTEX = 0, 1, 2
"""Ranks of parked threads, the best first."""


class Machine(Protocol):
    """One processor architecture."""

    code: bytes
    elf_machine: int
    parked_calls: Mapping[int, int]
    """System calls in which a thread holds no lock of the allocator or the loader, and their rank."""

    def is_call(self, memory: Memory, behind: int) -> bool:
        """Tell whether a system call instruction lies before this address, such that ``call`` can use it."""

    def parked_in(self, registers: bytes, behind: int) -> bool:
        """Tell whether the registers are those of a thread at one of ``parked_calls``, made before this address."""

    def call(self, thread: StoppedThread, behind: int, number: int, arguments: tuple[int, ...]) -> int:
        """Make a system call on the thread and return its result; registers are not restored."""

    def resumed(self, registers: bytes) -> bytes:
        """Return the registers with which a thread that was stopped so goes on as if it had not been."""

    def borrow(self, thread: StoppedThread, registers: bytes, memory: Memory, base: int) -> None:
        """Set the registers so that the thread runs our code at ``base`` and then goes on as it would have."""


def call_rank(calls: Mapping[int, int], number: int, second_argument: int) -> int | None:
    """Return the rank of a system call a thread waits in, None where it may hold a lock.

    In a futex only waits of condition variables and semaphores count: glibc's locks wait with another operation.
    """
    rank = calls.get(number)
    if rank == WAITS_IN_FUTEX and second_argument & _FUTEX_COMMAND != FUTEX_WAIT_BITSET:
        return None
    return rank


def this_machine() -> Machine:
    """Return this computer's architecture; raises Refused for one that attach does not know."""
    name = platform.machine()
    if name == "x86_64":
        from vtprof_agent.attach.machine_x86_64 import X86Machine

        return X86Machine()
    if name == "aarch64":
        from vtprof_agent.attach.machine_aarch64 import ArmMachine

        return ArmMachine()
    raise Refused(f"attach knows x86_64 and aarch64, not {name}: start the server with `vtprof-agent exec`")
