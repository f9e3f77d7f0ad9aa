"""The demo's conductor: agent and server as subprocesses, the client in this process, traces in a folder.

Nothing here knows the probe: the server is a plain script, and `vtprof-agent exec` puts the probe into it.
"""

import importlib.util
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from vtprof_analyzer.demo import client
from vtprof_schemas.errors import BackendError, ConfigError, NoData

MARKER: Final = ".vtprof-demo"
"""Stands in a folder that the demo made: only such a folder is emptied by the next run."""
REQUIRED: Final = (
    "torch",
    "transformers",
    "PIL",
    "vtprof_agent",
    "opentelemetry.sdk",
    "prometheus_client",
    "psutil",
)
START_LIMIT_S: Final = 300
STOP_LIMIT_S: Final = 60
THREADS: Final = 2
"""torch threads of the server: the same on every machine, so that reports resemble each other."""


def check_packages() -> None:
    """Raise BackendError with the one line that helps when the demo's packages are not installed."""
    missing = [name for name in REQUIRED if not _installed(name)]
    if missing:
        raise BackendError(f"the demo needs {', '.join(missing)}: pip install 'vtprof[demo]'")


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def prepare_folder(folder: Path) -> None:
    """Make the traces' folder, or empty it when an earlier demo made it. Raises ConfigError for any other's files."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: give another folder with --out")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise ConfigError(f"{folder} holds files that no demo made: give another folder with --out")
        for path in folder.rglob("*"):
            if path.is_file() or path.is_symlink():
                path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("made by `vtprof demo`, which empties this folder when it runs again\n")


def record(
    traces: Path,
    notes: Path,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
    calls: Sequence[client.Call] | None = None,
) -> list[client.SentRequest]:
    """Serve and profile the workload; write traces to `traces` and the client's own books to `notes`.

    Raises BackendError when the server or the agent fails; what they said on stderr is shown as it came.
    """
    agent = [sys.executable, "-m", "vtprof_agent", "exec", "--out", str(traces)]
    agent += ["--metrics", "127.0.0.1:0", "--calibrate-host", "--"]
    server = [sys.executable, "-m", "vtprof_analyzer.demo.serve", "--port", "0", "--threads", str(THREADS)]
    say("measuring this machine, then starting the server: a tiny Qwen2.5-VL with random weights")
    with _process(agent + server) as (process, lines):
        base_url = f"http://127.0.0.1:{_port(process, lines)}"
        say(f"sending {client.count_requests(client.workload() if calls is None else calls)} requests")
        sent = client.run_workload(base_url, notes, progress, calls)
        client.shut_down(base_url)
        try:
            code = process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise BackendError(f"the demo's server did not stop within {STOP_LIMIT_S} s") from None
    if code:
        raise BackendError(f"the demo's server ended with exit code {code}; its messages are above")
    if not any(traces.glob("*.jsonl")):
        raise NoData(f"the agent wrote no traces to {traces}: run `vtprof-agent doctor`")
    return sent


@contextmanager
def _process(command: Sequence[str]) -> Iterator[tuple["subprocess.Popen[str]", "queue.Queue[str | None]"]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines: queue.Queue[str | None] = queue.Queue()
    assert process.stdout is not None
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    try:
        yield process, lines
    finally:
        if process.poll() is None:
            # The agent hands the signal on to the server, and writes what it has read.
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _pump(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _port(process: "subprocess.Popen[str]", lines: "queue.Queue[str | None]") -> int:
    """Wait for the server's first line: a JSON object with its port."""
    while True:
        try:
            line = lines.get(timeout=START_LIMIT_S)
        except queue.Empty:
            raise BackendError(f"the demo's server did not start within {START_LIMIT_S} s") from None
        if line is None:
            code = process.wait()
            raise BackendError(f"the demo's server ended with exit code {code} before it served anything")
        try:
            return int(json.loads(line)["port"])
        except (ValueError, KeyError, TypeError):
            continue  # something a library printed
