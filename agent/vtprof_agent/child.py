"""Runs a command beside the agent: starts it, passes signals on, and tells its exit code as a shell would."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from vtprof_agent.stopping import deaf_at_exit, ignore
from vtprof_schemas.errors import ConfigError

NOT_FOUND = 127
NOT_EXECUTABLE = 126
SIGNAL_BASE = 128
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Before the command runs these end us; behind it all of ``FORWARDED`` are the command's."""
FORWARDED = (*ENDING, signal.SIGUSR1, signal.SIGUSR2)
FROM_KEYBOARD = (signal.SIGINT, signal.SIGQUIT)


class CannotStart(ConfigError):
    """The command could not be started; the exit code is that of a shell."""

    def __init__(self, message: str, exit_code: int) -> None:
        """Keep the exit code beside the line."""
        super().__init__(message)
        self.exit_code = exit_code


class Child:
    """A running command."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it, and pass on from now on the signals that would end us; raises CannotStart."""
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        # Before the start, lest a signal in between ends us alone. One that is ignored (nohup) stays so for the
        # command, which inherits that.
        for number in FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._forward)
        try:
            self._process = subprocess.Popen(command, env=dict(environment))
        except FileNotFoundError as error:
            raise _not_found(command[0]) from error
        except OSError as error:
            raise CannotStart(f"{command[0]}: cannot be run: {error.strerror}", NOT_EXECUTABLE) from error
        for number in FORWARDED:
            signal.signal(number, self._forward)
        for early in self._early:
            self._forward(early, None)

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None  # __init__ has started it, or raised
        return self._process

    def ended(self) -> bool:
        """Tell whether the command has ended."""
        return self._running.poll() is not None

    def exit_code(self) -> int:
        """Wait for the end and return the code, 128 + n after signal n."""
        code = self._running.wait()
        return SIGNAL_BASE - code if code < 0 else code

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        # A terminal sends Ctrl-C to the whole foreground group: the child has it already, and a second one hurts.
        if number in FROM_KEYBOARD and _from_terminal():
            return
        if self._process is None:
            self._early.append(number)
        elif self._process.poll() is None:
            self._process.send_signal(number)


def require_command(name: str) -> None:
    """Raise CannotStart when a command is not there or is no program, before anything is prepared for it."""
    if shutil.which(name) is None:
        if "/" in name and Path(name).exists():
            raise CannotStart(f"{name}: cannot be run: {os.strerror(errno.EACCES)}", NOT_EXECUTABLE)
        raise _not_found(name)


def _not_found(name: str) -> CannotStart:
    return CannotStart(f"{name}: command not found; check its name and PATH", NOT_FOUND)


def leave_on_signals() -> None:
    """Turn the signals that end a process into SystemExit, so that what was opened is cleaned up; until a child runs.

    While that is done no further one disturbs it, nor does any at the interpreter's end, where the exit code is at stake.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        ignore(ENDING)
        raise SystemExit(SIGNAL_BASE + number)

    deaf_at_exit(FORWARDED)
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)


def _from_terminal() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
