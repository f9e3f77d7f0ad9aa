"""An agent that runs beside a server as a sidecar does, and can be killed and started anew."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from agent_process import wait_for
from engine_server import agent_command

from vtprof_agent.progress_store import LOCK_FILE
from vtprof_agent.staging import child_environment, stage


class AgentBeside:
    """Follows the rings of a folder and writes to another; more than one after the other may do so."""

    def __init__(self, folder: Path) -> None:
        """Make the folders and stage the probe; no agent runs yet."""
        self.out, self.rings, self._probe = folder / "out", folder / "rings", folder / "probe"
        self.rings.mkdir(parents=True, mode=0o700)
        self._log = (folder / "agent.log").open("ab")
        stage(self._probe)
        self._agent: subprocess.Popen[bytes] | None = None

    def probe_environment(self) -> Mapping[str, str]:
        """Return the variables that bring the probe into a server."""
        return child_environment(self._probe, self.rings, {})

    def start(self) -> None:
        """Start an agent and wait until the rings are its own."""
        command = agent_command("run", "--out", str(self.out), "--ring-dir", str(self.rings))
        self._agent = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT, env=os.environ)
        wait_for(self._locked)

    def _locked(self) -> bool:
        """Tell whether an agent holds the folder's lock: the kernel takes it from one that is killed."""
        path = self.rings / LOCK_FILE
        if not path.exists():
            return False
        with path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def kill(self) -> None:
        """Kill the agent as the kernel's out-of-memory killer does."""
        assert self._agent is not None
        self._agent.send_signal(signal.SIGKILL)
        self._agent.wait()
        self._agent = None

    def stop(self) -> None:
        """End the agent in order, if one runs: it writes all that is in the rings first."""
        if self._agent is not None:
            self._agent.terminate()
            assert self._agent.wait(timeout=60) == 0
            self._agent = None

    def close(self) -> None:
        """End the agent whatever state it is in."""
        if self._agent is not None:
            self.kill()
        self._log.close()
