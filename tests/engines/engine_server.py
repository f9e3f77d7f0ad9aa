"""Runs the vLLM of the engines' environment as users do, with the agent beside it, and leaves no process behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import tiny_model
from capture import SERVER_ENVIRONMENT, free_port, get

START_TIMEOUT_S: Final = 300
STOP_TIMEOUT_S: Final = 60
PR_SET_PDEATHSIG: Final = 1
LOG_TAIL_BYTES: Final = 4000
OPTIONS: Final = (
    *("--served-model-name", tiny_model.MODEL_NAME),
    *("--dtype", tiny_model.DTYPE),
    *("--load-format", "dummy"),
    *("--limit-mm-per-prompt", '{"video": 0}'),
    "--enforce-eager",
    "--enable-prompt-tokens-details",
    "--enable-logging-iteration-details",
)
ROLES: Final = {"vllm": "api", "VLLM::EngineCor": "engine", "VLLM::Worker": "worker"}
"""Names that vLLM gives its processes, as the kernel cuts them."""


class ServerFailed(AssertionError):
    """The server did not start, or not end; the message holds the end of its log."""


@dataclass
class Server:
    """A running server; ``process`` is what was started, the agent or vLLM itself."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Return the living processes of the server's session: children that vLLM orphans stay in it."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def by_role(self) -> dict[str, psutil.Process]:
        """Return vLLM's processes by their role: api, engine, worker."""
        found = {}
        for process in self.processes():
            with suppress(psutil.Error):
                role = ROLES.get(_name(process.pid))
                if role is not None:
                    found[role] = process
        return found

    def api_pid(self) -> int:
        """Return the PID of the API server, which the others are children of."""
        return self.by_role()["api"].pid

    def wait_ready(self) -> None:
        """Wait until the server answers; raises ServerFailed with the end of its log."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise ServerFailed(f"the server ended with {self.process.returncode}:\n{self.tail()}")
            return get(self.port, "/health")[0] == 200

        self._wait(ready, START_TIMEOUT_S, "did not answer")

    def wait_ended(self) -> int:
        """Wait for the end of what was started and return its code; raises ServerFailed."""
        self._wait(lambda: self.process.poll() is not None, STOP_TIMEOUT_S, "did not end")
        return self.process.wait()

    def stop(self) -> int:
        """End the server in order and return its exit code; raises ServerFailed if it does not end."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait_ended()

    def _wait(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise ServerFailed(f"the server {what} within {timeout_s:.0f} s:\n{self.tail()}")
            time.sleep(0.2)


def agent_command(*words: str) -> list[str]:
    """Return the command line of the agent of this environment."""
    return [sys.executable, "-m", "vtprof_agent", *words]


def engine_environment(cache: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for the engine: offline, one thread, its caches in the test's folder."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OTEL_", "VTPROF_", "VLLM_", "PYTHONPATH"))
    }
    return kept | SERVER_ENVIRONMENT | {"VLLM_CACHE_ROOT": str(cache)} | dict(extra or {})


@contextmanager
def serving(
    venv: Path,
    model: Path,
    folder: Path,
    options: Sequence[str] = (),
    agent: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run ``vllm serve`` and yield the server once it answers; at the end all its processes are gone.

    ``agent`` are the words before it, such as the command line of ``vtprof-agent exec``. Raises ServerFailed.
    """
    port = free_port()
    command = [*agent, str(venv / "bin" / "vllm"), "serve", str(model), *OPTIONS, *options]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=engine_environment(venv / "cache", environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    server = Server(process, port, log)
    try:
        server.wait_ready()
        yield server
    except BaseException:
        print(f"--- end of {log}:\n{server.tail()}")
        raise
    finally:
        end_all(server)


def end_all(server: Server) -> None:
    """End the server in order, then kill what is left of its session."""
    with suppress(ServerFailed):
        server.stop()
    for process in server.processes():
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    server.process.wait()


def _end_with_parent() -> None:
    """Have the kernel end this process when the test's is killed, which could not do it then."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _name(pid: int) -> str:
    """Return the name that a process gave itself; vLLM sets it, psutil reads the command line instead."""
    return Path(f"/proc/{pid}/comm").read_text().strip()
