"""The wish to end, told by signals: a flag, and a pipe that wakes who waits. No lock, which a signal could find held."""

import atexit
import os
import select
import signal
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType

_MS_PER_S = 1000
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(Exception):
    """Ctrl-C came where nothing is left to do. Its text says what is left of the work, for the user; often nothing is."""


class Stop:
    """Set by a signal handler at any moment, also within ``wait``; waited for by the main thread."""

    def __init__(self) -> None:
        """Open the pipe; it stays open as long as the process, for a signal may come until its end."""
        self._set = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)

    def set(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Ask for the end; fit for a signal handler."""
        self._set = True
        with suppress(OSError):  # a full pipe wakes as well
            os.write(self._write, b"\0")

    def is_set(self) -> bool:
        """Tell whether the end was asked for."""
        return self._set

    def wait(self, timeout_s: float) -> bool:
        """Wait for so long or until the end is asked for; return whether it was."""
        if not self._set:
            self._poll.poll(max(0.0, timeout_s) * _MS_PER_S)
        return self._set


def stop_on_signals() -> Stop:
    """Return what SIGTERM, Ctrl-C and SIGHUP set, instead of ending this process, however often they come."""
    stop = Stop()
    deaf_at_exit(_STOPPING)
    for number in _STOPPING:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup's is to stay
            signal.signal(number, stop.set)
    return stop


def deaf_at_exit(numbers: Iterable[int]) -> None:
    """Have signals ignored from the interpreter's end on: it then gives up handlers, and a late one would end us itself."""
    atexit.register(ignore, tuple(numbers))


def ignore(numbers: Iterable[int]) -> None:
    """Ignore signals from now on."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
