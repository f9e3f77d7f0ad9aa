"""A followed attach: all that could fail is opened before the first process is touched, and each is left at the end."""

import dataclasses
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from vtprof_agent.attach.attaching import Options, attach
from vtprof_agent.attach.detaching import detach
from vtprof_agent.attach.outcome import ATTACHED, FAILED, Outcome
from vtprof_agent.attach.processes import alive, process_name, read_process
from vtprof_agent.attach.refusal import Refused
from vtprof_agent.config import Config
from vtprof_agent.loop import Agent
from vtprof_agent.private_rings import private_rings
from vtprof_agent.runner import agent
from vtprof_agent.stopping import Stop
from vtprof_schemas.errors import BackendError

logger = logging.getLogger(__name__)


class Session:
    """An agent that is ready, and the processes attached to for it."""

    def __init__(self, running: Agent, options: Options, last: bool) -> None:
        """Begin; ``last`` tells that nobody will read these rings after it."""
        self.options = options
        """How to attach and detach, with the folder that the agent follows."""
        self._running, self._last = running, last
        self._attached: list[int] = []

    def attach(self, pid: int) -> list[Outcome]:
        """Attach to the tree of a process; raises Refused."""
        outcomes = attach(pid, self.options)
        self._attached = [outcome.pid for outcome in outcomes if outcome.result == ATTACHED]
        return outcomes

    def follow(self, stop: Stop) -> list[Outcome]:
        """Export until the stop or the end of all processes, then detach and write all; return what was detached."""
        processes = []
        for pid in self._attached:
            try:
                processes.append(read_process(pid))
            except Refused:
                continue  # it has ended; its ring is read all the same
        try:
            self._running.follow(lambda: stop.is_set() or not any(map(alive, processes)), stop.wait)
        finally:
            self._attached = [process.pid for process in processes if alive(process)]
            outcomes = self.leave()
            self._running.stop(last=self._last)
        return outcomes

    def leave(self) -> list[Outcome]:
        """Detach from what is still attached."""
        outcomes = []
        while self._attached:
            pid = self._attached.pop(0)
            try:
                outcomes += detach(pid, dataclasses.replace(self.options, children=False))
            except Refused as error:
                outcomes.append(Outcome(pid, process_name(pid), FAILED, str(error)))
        return outcomes


@contextmanager
def prepared(pid: int, config: Config, options: Options, own_rings: bool) -> Iterator[Session]:
    """Give a session whose destinations, ports and ring folder are held, and detach from all that is left at its end.

    With ``own_rings`` the folder is of this session alone: no other process's rings are in it. Raises VtprofError.
    """
    try:
        user = read_process(pid).user
    except Refused as error:
        name = process_name(pid)
        raise Refused(f"PID {pid}{f' ({name})' if name else ''}: {error}") from error
    with private_rings(user) if own_rings else nullcontext(options.ring_dir) as folder:
        if not own_rings:
            _make_for(folder, user)
        with agent(dataclasses.replace(config, ring_dir=folder), {}) as running:
            session = Session(running, dataclasses.replace(options, ring_dir=folder), own_rings)
            try:
                yield session
            finally:
                for outcome in session.leave():
                    logger.warning("%s", outcome.line())


def _make_for(folder: Path, user: int) -> None:
    """Make the ring folder for the user whose processes write there, if it is not there. Raises BackendError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(folder, user, -1)
    except FileExistsError:
        return
    except OSError as error:
        raise BackendError(f"{folder}: cannot be made: {error.strerror}; give another --ring-dir") from error
