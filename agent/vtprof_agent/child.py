"""Runs a command beside the agent: starts it, passes signals on, and tells its exit code as a shell would."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

from vtprof_schemas.errors import ConfigError

NOT_FOUND = 127
NOT_EXECUTABLE = 126
SIGNAL_BASE = 128
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
        try:
            self._process = subprocess.Popen(command, env=dict(environment))
        except FileNotFoundError as error:
            raise CannotStart(
                f"{command[0]}: command not found; check its name and PATH", NOT_FOUND
            ) from error
        except OSError as error:
            raise CannotStart(f"{command[0]}: cannot be run: {error.strerror}", NOT_EXECUTABLE) from error
        for number in FORWARDED:
            signal.signal(number, self._forward)

    def ended(self) -> bool:
        """Tell whether the command has ended."""
        return self._process.poll() is not None

    def exit_code(self) -> int:
        """Wait for the end and return the code, 128 + n after signal n."""
        code = self._process.wait()
        return SIGNAL_BASE - code if code < 0 else code

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        # A terminal sends Ctrl-C to the whole foreground group: the child has it already, and a second one hurts.
        if number == signal.SIGINT and _from_terminal():
            return
        if self._process.poll() is None:
            self._process.send_signal(number)


def _from_terminal() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
