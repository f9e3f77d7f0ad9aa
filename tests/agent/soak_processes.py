"""The processes of a soak: the agent in its lives, the Collector, inference processes; and what makes a disk full."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO

import psutil
from nvml_standin import standin

from vtprof_agent.agent_state import STATE_FILE
from vtprof_agent.config import ENV_PREFIX, Config

HERE = Path(__file__).parent
HTTP, GRPC = "http/protobuf", "grpc"
PAGE_COUNTERS = (
    "records_read",
    "records_lost",
    "spans_dropped",
    "metric_batches_dropped",
    "requests_unusable",
)


class Agent:
    """One agent after the other on the same rings, destinations and spool."""

    def __init__(
        self, folder: Path, collector: "Collector", gpus: standin.Control | None, library: Path
    ) -> None:
        self._folder, self._collector = folder, collector
        self.page = free_port()
        self._environment = dict(os.environ) if gpus is None else standin.environment(library, gpus)
        self.flag = folder / "full"
        self._log: IO[str] = (folder / "agent.log").open("a")
        self.process: subprocess.Popen[str] | None = None
        self.lives: list[dict[str, float]] = []
        self.rss_bytes: list[list[int]] = []

    def start(self, protocol: str) -> None:
        """Start one."""
        settings = {
            "otlp_protocol": protocol, "spool_dir": self._folder / "disk" / "spool", "budget_cpu_ratio": 0,
            "budget_rss_bytes": 0, "budget_probe_ratio": 0, "rotate_bytes": 1 << 26, "stop_s": 60, "flush_s": 0.2,
        }  # fmt: skip
        known = {one.name for one in fields(Config)}
        environment = {
            **self._environment,
            **{ENV_PREFIX + key.upper(): str(value) for key, value in settings.items() if key in known},
            "LD_PRELOAD": str(self._folder / "full_disk.so"),
            "VTPROF_FULL_DISK": str(self._folder / "disk"),
            "VTPROF_FULL_FLAG": str(self.flag),
        }
        command = [
            sys.executable, "-m", "vtprof_agent", "run", "--ring-dir", str(self._folder / "rings"),
            "--out", str(self._folder / "disk" / "out"), "--otlp-endpoint", self._collector.endpoint(protocol),
            "--metrics", f"127.0.0.1:{self.page}",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, env=environment, stderr=self._log, text=True)
        self.lives.append({})
        self.rss_bytes.append([])

    def note(self) -> None:
        """Read its page and memory, if it is there."""
        if self.process is None or self.process.poll() is not None:
            return
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.page}/metrics", timeout=5) as answer:
                text = answer.read().decode()
            state = json.loads((self._folder / "rings" / STATE_FILE).read_text())["agent"]
            self.rss_bytes[-1].append(psutil.Process(self.process.pid).memory_info().rss)
        except (OSError, ValueError, psutil.Error):
            return
        for name in PAGE_COUNTERS:
            lines = [line for line in text.split("\n") if line.startswith(f"vtprof_agent_{name}_total")]
            self.lives[-1][name] = sum(float(line.rsplit(" ", 1)[1]) for line in lines)
        self.lives[-1]["records_read"] += state["records_read_before"]  # the page's are this life's own

    def end(self, how: signal.Signals, patience_s: float = 120.0) -> None:
        """End it; one that is asked to must do so in order."""
        assert self.process is not None
        self.note()
        self.process.send_signal(how)
        code = self.process.wait(patience_s)
        assert code == (0 if how is signal.SIGTERM else -how), f"agent ended with {code}"


class Collector:
    """The receiver's process, stopped and started on the same ports."""

    def __init__(self, folder: Path) -> None:
        self.log, self._http, self._grpc = folder / "received.log", free_port(), free_port()
        self._process: subprocess.Popen[str] | None = None

    def endpoint(self, protocol: str) -> str:
        return f"http://127.0.0.1:{self._http if protocol == HTTP else self._grpc}"

    def start(self) -> None:
        """Start it and wait until it serves."""
        command = [
            sys.executable,
            str(HERE / "soak_receiver.py"),
            str(self.log),
            str(self._http),
            str(self._grpc),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def hang(self) -> None:
        """Let it take connections and never answer, until ``wake``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Let it be gone from one moment to the next."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Writer:
    """An inference process, which writes when it is told to."""

    def __init__(self, rings: Path, capacity: int, rate: float, distance: str, hw_id: str) -> None:
        script = str(HERE / "ring_load.py")
        command = [sys.executable, script, str(rings), str(capacity), str(rate), "bursts", distance, hw_id]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def write(self, cycles: int) -> None:
        """Tell it to write; returns at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{cycles}\n")
        self._process.stdin.flush()

    def written(self) -> int:
        """Wait until it has written what it was last told to; return all its records."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compile_preload(library: Path) -> None:
    """Compile what makes a disk full."""
    source = str(HERE / "full_disk.c")
    command: Sequence[str] = ("gcc", "-O2", "-shared", "-fPIC", "-o", str(library), source, "-ldl")
    subprocess.run(command, check=True, capture_output=True, text=True)
