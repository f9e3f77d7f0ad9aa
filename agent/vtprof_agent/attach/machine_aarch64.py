"""Registers, parked system calls and code for aarch64."""

import struct
from collections.abc import Iterator, Mapping

from vtprof_agent.attach.machine import DATA, ENTRY, WAITS, WAITS_FOR_EVENTS, WAITS_IN_FUTEX, call_rank
from vtprof_agent.attach.memory import Memory
from vtprof_agent.attach.ptrace import NT_PRFPREG, StoppedThread
from vtprof_agent.attach.refusal import Refused

_REGISTERS = struct.Struct("<34Q")
"""user_pt_regs of asm/ptrace.h: x0 to x30, sp, pc, pstate."""
_X8, _X19, _SP, _PC = 8, 19, 31, 32
_SVC = b"\x01\x00\x00\xd4"
_PAGE_BYTES = 0x1000
_FP = struct.Struct("<512sII")
"""user_fpsimd_state: v0 to v31, fpsr, fpcr."""
_FP_CONTEXT = struct.Struct("<IIII512s")
_FP_MAGIC = 0x46508001
_SIGNAL_FRAME = struct.Struct("<128x QQ QiiQ Q120x8x Q34Q8x")
"""siginfo, then ucontext: flags, link, altstack (address, flags, size), mask, padding, mcontext up to its reserved part."""
_RESERVED_BYTES = 4096
_NO_ALTSTACK_CHANGE = 0x7F
"""Flags that are none: the kernel then leaves the alternate stack as it is."""


class ArmMachine:
    """aarch64. An interrupted call is made again by the kernel's own rule: it has moved pc back when we look."""

    elf_machine = 183
    parked_calls: Mapping[int, int] = {
        # ppoll, pselect6, epoll_pwait, epoll_pwait2
        **dict.fromkeys((73, 72, 22, 441), WAITS_FOR_EVENTS),
        # clock_nanosleep, nanosleep, accept, accept4, wait4, waitid, recvfrom, recvmsg
        **dict.fromkeys((115, 101, 202, 242, 260, 95, 207, 212), WAITS),
        128: WAITS,  # restart_syscall: a sleep or poll that was stopped before
        98: WAITS_IN_FUTEX,
    }
    # stubs/aarch64.S
    code = bytes.fromhex(
        "767470726f662d6174746163682d310060620191e1031faa42010010e30313aa701240f900023fd6"
        "e003002a600600f9200080d260fe9fc8681180d2010000d4fd7bbea9fd030091f35301a9f30300aa"
        "701640f900023fd6701a40f900023fd6701e40f900023fd640010034702240f900023fd6f403002a"
        "60224091702640f900023fd6e003142a702a40f900023fd6200080d26142009120fc9fc8e0031faa"
        "f35341a9fd7bc2a8c0035fd6"
    )

    def __init__(self) -> None:
        """Know no other calls yet."""
        self._others: dict[int, int] = {}
        """By the address behind a call: that of another one."""

    def is_call(self, memory: Memory, behind: int) -> bool:
        """Tell whether the instruction before this address is a system call, and another one is near."""
        return (
            memory.read(behind - len(_SVC), len(_SVC)) == _SVC
            and self._other_call(memory, behind) is not None
        )

    def parked_in(self, registers: bytes, behind: int) -> bool:
        """Tell whether the thread is at one of the calls: about to make it again, or just behind it."""
        values = _REGISTERS.unpack(registers)
        known = call_rank(self.parked_calls, values[_X8], values[1]) is not None
        return known and values[_PC] in (behind, behind - len(_SVC))

    def call(self, thread: StoppedThread, behind: int, number: int, arguments: tuple[int, ...]) -> int:
        """Make a system call with another ``svc`` than the thread's own, at which the kernel might restart its call."""
        values = list(_REGISTERS.unpack(thread.registers()))
        values[_PC] = self._others[behind]
        values[_X8] = number
        for place, argument in enumerate(arguments):
            values[place] = argument & (1 << 64) - 1
        thread.set_registers(_REGISTERS.pack(*values))
        thread.step()
        result = _REGISTERS.unpack(thread.registers())[0]
        return int(result - (1 << 64) if result >> 63 else result)

    def resumed(self, registers: bytes) -> bytes:
        """Return the registers as they are."""
        return registers

    def borrow(self, thread: StoppedThread, registers: bytes, memory: Memory, base: int) -> None:
        """Send the thread into our code above a signal frame of its own state, from which it returns."""
        values = list(_REGISTERS.unpack(registers))
        frame = signal_frame(registers, thread.registers(NT_PRFPREG), thread.signal_mask())
        values[_SP] = (values[_SP] - 128 - len(frame)) & ~15
        memory.write(values[_SP], frame)
        values[_X19], values[_PC] = base + DATA, base + ENTRY
        thread.set_registers(_REGISTERS.pack(*values))

    def _other_call(self, memory: Memory, behind: int) -> int | None:
        if behind not in self._others:
            page = behind & -_PAGE_BYTES
            for start in (page, page - _PAGE_BYTES, page + _PAGE_BYTES):
                for place, word in _instructions(memory, start):
                    if word == _SVC and place != behind - len(_SVC):
                        self._others[behind] = place
        return self._others.get(behind)


def _instructions(memory: Memory, start: int) -> Iterator[tuple[int, bytes]]:
    try:
        page = memory.read(start, _PAGE_BYTES)
    except Refused:
        return
    for place in range(0, _PAGE_BYTES, len(_SVC)):
        yield start + place, page[place : place + len(_SVC)]


def signal_frame(registers: bytes, floating: bytes, mask: int) -> bytes:
    """Return what ``rt_sigreturn`` restores these registers and this signal mask from."""
    vectors, fpsr, fpcr = _FP.unpack_from(floating)
    start = _SIGNAL_FRAME.pack(0, 0, 0, _NO_ALTSTACK_CHANGE, 0, 0, mask, 0, *_REGISTERS.unpack(registers))
    context = _FP_CONTEXT.pack(_FP_MAGIC, _FP_CONTEXT.size, fpsr, fpcr, vectors)
    return start + context.ljust(_RESERVED_BYTES, b"\0")
