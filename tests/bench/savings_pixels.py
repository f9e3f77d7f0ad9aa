"""The pixel limit of MM001 against reality: a server without the limit and one with it, the same images to both in turn.

Both are the demo's server: a tiny Qwen2.5-VL on Transformers, under probe and agent. They take turns request by request,
in random order, so that what else the machine does hits both; the client's own clock says what was saved.
"""

import base64
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from savings_prediction import Traces, read_traces

from vtprof_analyzer.demo import client, tiny_model

UNLIMITED_PIXELS: Final = 8000 * tiny_model.TOKEN_PIXELS**2
ADVISED_PIXELS: Final = 4096 * tiny_model.TOKEN_PIXELS**2
"""`longest_edge` of the rule's advice."""
THREADS: Final = 2
STOP_LIMIT_S: Final = 60
SIDES_TOKENS: Final = ((64, 72), (72, 72), (68, 80), (80, 72), (76, 80), (80, 80))
"""Height and width of the images in visual tokens: 4,608 to 6,400 an image."""
ODD_PIXELS: Final = 9
"""More on each side, as photographs have: they are resized with a limit and without it."""


@dataclass(frozen=True)
class PixelRun:
    """Pairs of times to the answer's only token [ms], without the limit and with it, and the traces of both servers."""

    without_ms: list[float]
    limited_ms: list[float]
    without_cpu_s: float
    limited_cpu_s: float
    """CPU time of each server over all of its requests."""
    without: Traces
    limited: Traces

    def cpu_saved(self) -> float:
        """Return the part of the server's CPU time that the limit saved."""
        return 1 - self.limited_cpu_s / self.without_cpu_s

    def saved_ms(self) -> list[float]:
        """Return what the limit saved of each request, by the client's clock."""
        return [a - b for a, b in zip(self.without_ms, self.limited_ms, strict=True)]


@dataclass(frozen=True)
class _Server:
    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        used = self.process.cpu_times()
        return float(used.user + used.system)


def measure(folder: Path, requests: int, rng: random.Random) -> PixelRun:
    """Send so many images to both servers and analyze what was recorded of each."""
    limits = {"without": UNLIMITED_PIXELS, "limited": ADVISED_PIXELS}
    taken: dict[str, list[float]] = {name: [] for name in limits}
    with ExitStack() as held:
        servers = {
            name: held.enter_context(_serving(folder / name, pixels)) for name, pixels in limits.items()
        }
        cpu_s = {name: -server.cpu_s() for name, server in servers.items()}
        for number in range(requests):
            body = _body(number)
            for name in rng.sample(list(servers), len(servers)):
                taken[name].append(_answer_ms(servers[name].port, body))
            if number % 6 == 5:
                print(f"  {number + 1} of {requests} images", file=sys.stderr, flush=True)
        for name, server in servers.items():
            cpu_s[name] += server.cpu_s()
    traces = {name: read_traces(folder / name, folder / f"{name}.db", "model_facts") for name in limits}
    return PixelRun(
        taken["without"],
        taken["limited"],
        cpu_s["without"],
        cpu_s["limited"],
        traces["without"],
        traces["limited"],
    )


def _body(number: int) -> bytes:
    """Return a request with an image that no other one has, for one token."""
    rows, columns = SIDES_TOKENS[number % len(SIDES_TOKENS)]
    side = tiny_model.TOKEN_PIXELS
    png = client.draw(client.Picture(rows * side + ODD_PIXELS, columns * side + ODD_PIXELS, seed=number))
    text = f"{number:04d} what does the picture show?"
    return json.dumps(
        {"conversations": [[text, [base64.b64encode(png).decode()]]], "max_new_tokens": 1}
    ).encode()


@contextmanager
def _serving(traces: Path, max_pixels: int) -> Iterator[_Server]:
    """Run the demo's server with this limit under the agent."""
    command = [sys.executable, "-m", "vtprof_agent", "exec", "--out", str(traces), "--calibrate-host", "--"]
    command += [sys.executable, "-m", "vtprof_analyzer.demo.serve", "--threads", str(THREADS)]
    command += ["--longest-edge", str(max_pixels)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = _port(process)
        yield _Server(port, _listening(process.pid))
    finally:
        process.terminate()  # the agent hands it on, and writes what it has read
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listening(agent: int) -> psutil.Process:
    """Return the server's process: the agent itself, or what it started."""
    family = [psutil.Process(agent), *psutil.Process(agent).children(recursive=True)]
    return next(one for one in reversed(family) if "vtprof_analyzer.demo.serve" in one.cmdline())


def _port(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith('{"port"'):
            return int(json.loads(line)["port"])
    sys.exit(f"the demo's server ended with exit code {process.wait()} before it served anything")


def _answer_ms(port: int, body: bytes) -> float:
    """Return the time from sending a request to its answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    begin = time.monotonic()
    with opener.open(f"http://127.0.0.1:{port}/generate", body, timeout=client.TIMEOUT_S) as response:
        response.read()
    return (time.monotonic() - begin) * 1e3
