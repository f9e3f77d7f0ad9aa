"""Registers, parked system calls and code for x86-64."""

import struct
from collections.abc import Mapping
from typing import Final

from vtprof_agent.attach.machine import (
    ENTRY,
    WAITS,
    WAITS_FOR_EVENTS,
    WAITS_IN_FUTEX,
    call_rank,
)
from vtprof_agent.attach.memory import Memory
from vtprof_agent.attach.ptrace import StoppedThread

_REGISTERS = struct.Struct("<27Q")
"""user_regs_struct of sys/user.h."""
_R10, _R9, _R8, _RAX, _RCX, _RDX, _RSI, _RDI, _ORIG_RAX, _RIP = range(7, 17)
_NO_CALL: Final = (1 << 64) - 1
_SYSCALL = b"\x0f\x05"
_EINTR, _RESTARTS, _RESTART_BLOCK = 4, (512, 513, 514), 516
_NR_RESTART = 219
_NR_EPOLL_WAIT, _NR_EPOLL_PWAIT = 232, 281
_FOREVER = 0xFFFFFFFF
"""-1 as int: the timeout of an epoll_wait without end."""


class X86Machine:
    """x86-64."""

    elf_machine = 62
    parked_calls: Mapping[int, int] = {
        # poll, select, epoll_wait, pselect6, ppoll, epoll_pwait, epoll_pwait2
        **dict.fromkeys((7, 23, _NR_EPOLL_WAIT, 270, 271, _NR_EPOLL_PWAIT, 441), WAITS_FOR_EVENTS),
        # clock_nanosleep, nanosleep, accept, accept4, wait4, waitid, recvfrom, recvmsg
        **dict.fromkeys((230, 35, 43, 288, 61, 247, 45, 47), WAITS),
        _NR_RESTART: WAITS,  # a sleep or poll that was stopped before; allocator and loader wait without timeouts
        202: WAITS_IN_FUTEX,
    }
    # stubs/x86_64.S
    code = bytes.fromhex(
        "767470726f662d6174746163682d3100488d642480519c5051525355565741504151415241534154"
        "415541564157fc4889e54883e4c0488d1dc3ff0000b8ffffffffbaffffffff480faea30010000048"
        "8d7b5831f6488d15430000004889d9ff532089c048894308b8ffffffffbaffffffff480faeab0010"
        "00004889ec48c70301000000415f415e415d415c415b415a415941585f5e5d5b5a59589dc2800053"
        "554883ec084889fbff53284889c7ff5330ff533885c07414ff534089c5488dbb00800000ff534889"
        "efff535048c74310010000004883c4085d5b31c0c3"
    )

    def is_call(self, memory: Memory, behind: int) -> bool:
        """Tell whether the instruction before this address is a system call of 64-bit code."""
        return memory.read(behind - len(_SYSCALL), len(_SYSCALL)) == _SYSCALL

    def parked_in(self, registers: bytes, behind: int) -> bool:
        """Tell whether the thread is at the end of one of the calls, interrupted or not."""
        values = _REGISTERS.unpack(registers)
        rank = call_rank(self.parked_calls, values[_ORIG_RAX], values[_RSI])
        return rank is not None and values[_RIP] == behind

    def call(self, thread: StoppedThread, behind: int, number: int, arguments: tuple[int, ...]) -> int:
        """Make a system call with the instruction that the thread has executed last."""
        values = list(_REGISTERS.unpack(thread.registers()))
        values[_RIP] = behind - len(_SYSCALL)
        values[_RAX], values[_ORIG_RAX] = number, _NO_CALL
        for place, argument in zip((_RDI, _RSI, _RDX, _R10, _R8, _R9), arguments, strict=False):
            values[place] = argument & _NO_CALL
        thread.set_registers(_REGISTERS.pack(*values))
        thread.step()
        return _signed(_REGISTERS.unpack(thread.registers())[_RAX])

    def resumed(self, registers: bytes) -> bytes:
        """Return the registers with which the thread goes on: a call is made again where the kernel would do so."""
        values = list(_REGISTERS.unpack(registers))
        result, number = -_signed(values[_RAX]), values[_ORIG_RAX]
        # An epoll_wait fails with EINTR when its thread is stopped, as after SIGCONT. With a timeout that is left
        # so: the caller works out what is left of it. Without one the call is made again, unseen.
        endless = number in (_NR_EPOLL_WAIT, _NR_EPOLL_PWAIT) and values[_R10] & _FOREVER == _FOREVER
        if result in _RESTARTS or (result == _EINTR and endless):
            values[_RAX] = number
            values[_RIP] -= len(_SYSCALL)
        elif result == _RESTART_BLOCK:
            values[_RAX] = _NR_RESTART
            values[_RIP] -= len(_SYSCALL)
        values[_ORIG_RAX] = _NO_CALL
        return _REGISTERS.pack(*values)

    def borrow(self, thread: StoppedThread, registers: bytes, memory: Memory, base: int) -> None:
        """Send the thread into our code, and from there to where it would go on."""
        del memory  # all that the code needs is in the registers
        values = list(_REGISTERS.unpack(self.resumed(registers)))
        values[_RCX], values[_RIP] = values[_RIP], base + ENTRY
        thread.set_registers(_REGISTERS.pack(*values))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
