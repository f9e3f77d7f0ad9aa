"""The few ptrace requests that the injector needs, through ctypes: one thread is seized, stopped and let go."""

import ctypes
import errno
import os
import signal
import struct
import time
from contextlib import suppress
from types import TracebackType

from vtprof_agent.attach.memory import PROC
from vtprof_agent.attach.refusal import Refused

_SINGLESTEP, _DETACH, _GETREGSET, _SETREGSET = 9, 17, 0x4204, 0x4205
_SEIZE, _INTERRUPT, _GETSIGMASK, _SETSIGMASK = 0x4206, 0x4207, 0x420A, 0x420B
_NT_PRSTATUS, NT_PRFPREG = 1, 2
_EVENT_STOP = 128
_ALL_THREADS = 0x40000000
"""``__WALL``: wait for a thread whoever made it."""
_MASK = struct.Struct("=Q")
_NOT_BLOCKED = (
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGSEGV,
    signal.SIGKILL,
    signal.SIGSTOP,
)
_BLOCKED = ~sum(1 << (number - 1) for number in _NOT_BLOCKED) & (1 << 64) - 1
_REGISTER_BYTES = 4096


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class ThreadGone(Exception):
    """The thread ended, or cannot be stopped at this moment: another one may do."""


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p)


def _ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, tid, address, data) == -1:
        number = ctypes.get_errno()
        if number == errno.ESRCH:
            raise ThreadGone
        raise OSError(number, os.strerror(number))


class StoppedThread:
    """One thread, stopped while the context lasts; all others of its process run on.

    ``held_ns`` is the time from our order to stop until the kernel has let the thread go, less what it waited for a
    processor before it stopped: at that time it was ready to run, as after any event. Where the kernel does not tell
    that wait (no ``schedstat``), it is in it.
    """

    def __init__(self, tid: int) -> None:
        """Name the thread; it is stopped on entry."""
        self.tid = tid
        self.held_ns = 0
        self._since = 0
        self._signal = 0

    def __enter__(self) -> "StoppedThread":
        """Stop the thread. Raises ThreadGone when another should be tried, Refused when tracing is not allowed."""
        try:
            _ptrace(_SEIZE, self.tid)
        except PermissionError as error:
            if _ended(self.tid):  # until it is collected the kernel refuses it so
                raise ThreadGone from error
            raise Refused(
                "the kernel does not let it be traced: another tracer, or a right is missing"
            ) from error
        self._since, waited_ns = time.monotonic_ns(), _waited_ns(self.tid)
        _ptrace(_INTERRUPT, self.tid)
        status = self._wait()
        stopped = time.monotonic_ns()
        self._since = min(stopped, self._since + _waited_ns(self.tid) - waited_ns)
        if status >> 16 != _EVENT_STOP or status >> 8 & 0xFF != signal.SIGTRAP:
            # A signal came first, or the process is being stopped: that is its own business.
            self._signal = 0 if status >> 16 else status >> 8 & 0xFF
            self._let_go()
            raise ThreadGone
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the thread go on with the registers that it has then."""
        self._let_go()

    def registers(self, kind: int = _NT_PRSTATUS) -> bytes:
        """Return a register set as the kernel lays it out."""
        buffer = ctypes.create_string_buffer(_REGISTER_BYTES)
        vector = _Vector(ctypes.addressof(buffer), _REGISTER_BYTES)
        _ptrace(_GETREGSET, self.tid, kind, ctypes.addressof(vector))
        return buffer.raw[: vector.length]

    def set_registers(self, values: bytes) -> None:
        """Set the general registers."""
        buffer = ctypes.create_string_buffer(values, len(values))
        vector = _Vector(ctypes.addressof(buffer), len(values))
        _ptrace(_SETREGSET, self.tid, _NT_PRSTATUS, ctypes.addressof(vector))

    def signal_mask(self) -> int:
        """Return the set of blocked signals."""
        buffer = ctypes.create_string_buffer(_MASK.size)
        _ptrace(_GETSIGMASK, self.tid, _MASK.size, ctypes.addressof(buffer))
        return int(_MASK.unpack(buffer.raw)[0])

    def set_signal_mask(self, mask: int) -> None:
        """Set the blocked signals."""
        buffer = ctypes.create_string_buffer(_MASK.pack(mask), _MASK.size)
        _ptrace(_SETSIGMASK, self.tid, _MASK.size, ctypes.addressof(buffer))

    def block_signals(self) -> int:
        """Block all but those that a fault raises, and return the mask as it was."""
        mask = self.signal_mask()
        self.set_signal_mask(_BLOCKED)
        return mask

    def step(self) -> None:
        """Execute one instruction."""
        while True:
            _ptrace(_SINGLESTEP, self.tid)
            status = self._wait()
            if status >> 16:
                continue  # the process is being stopped or continued: the instruction is still to come
            if status >> 8 & 0xFF == signal.SIGTRAP:
                return
            self._signal = status >> 8 & 0xFF

    def _wait(self) -> int:
        try:
            _, status = os.waitpid(self.tid, _ALL_THREADS)
        except ChildProcessError as error:
            raise ThreadGone from error
        if not os.WIFSTOPPED(status):
            raise ThreadGone
        return status

    def _let_go(self) -> None:
        with suppress(ThreadGone, OSError):  # it is gone
            _ptrace(_DETACH, self.tid, 0, self._signal)
        self.held_ns = time.monotonic_ns() - self._since


def _ended(tid: int) -> bool:
    """Tell whether a thread is gone, or dead and not collected yet."""
    try:
        return (PROC / str(tid) / "stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return True


def _waited_ns(tid: int) -> int:
    """Return how long the thread has waited for processors in its life, 0 where that is not known."""
    try:
        return int((PROC / str(tid) / "schedstat").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
