"""Runs the real agent and a real writer process for tests, and reads back what the agent wrote."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WRITER = """
import sys, time
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records
directory, capacity, requests = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pause, linger = float(sys.argv[4]), sys.argv[5]
ring = RingWriter.create(directory, capacity, "all", 0, {names.ENGINE_NAME: "test", names.DEVICE_KIND: "cpu",
                                                         names.KV_BYTES_PER_TOKEN: 8})
now = time.monotonic_ns
for number in range(1, requests + 1):
    begin = now()
    ring.write(records.REQUEST_ARRIVED, number, begin)
    ring.write(records.REQUEST_INPUT, number, 4, 4, 0, 0, 0, 0, 0, 0, 0)
    ring.write(records.PREFILL, number, number, 4, 0, 0, 0, 10, 0, 1)
    ring.write(records.STEP, number, begin, now(), 4, 0, 0, 0, 0, 4, 0, 1, 1, 0, 0, 0)
    ring.write(records.FIRST_TOKEN, number, now())
    ring.write(records.REQUEST_FINISHED, number, now(), 0, 1)
    ring.refresh_anchor()
    if pause:
        time.sleep(pause)
print(requests * 6, flush=True)
if linger == "linger":
    sys.stdin.readline()
ring.close()
"""
"""Writes so many requests of one prefill step each: six records, a request span, a prefill span and a step span."""
RECORDS_PER_REQUEST = 6


def start_writer(
    ring_dir: Path, requests: int, pause_s: float = 0.0, capacity: int = 65536, linger: bool = True
) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-c",
        WRITER,
        str(ring_dir),
        str(capacity),
        str(requests),
        str(pause_s),
        "linger" if linger else "-",
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def start_agent(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "vtprof_agent", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def stderr_until(process: "subprocess.Popen[str]", text: str, timeout_s: float = 90.0) -> str:
    """Return the next line that a process says with a text in it; one that is late is killed, and fails as one that ends."""
    assert process.stderr is not None
    late = threading.Timer(timeout_s, process.kill)
    late.start()
    said = []
    try:
        for line in process.stderr:
            if text in line:
                return line
            said.append(line)
    finally:
        late.cancel()
    raise AssertionError(f"{text!r} was not said, but {''.join(said)!r}")


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait until something holds; a test that waits here in vain fails."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def documents(folder: Path, signal: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON lines of all files of a signal; a last line that was cut is left out."""
    for path in sorted(folder.glob(f"*.{signal}.jsonl")):
        for line in path.read_text().split("\n"):
            if line:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue


def spans(folder: Path) -> list[dict[str, Any]]:
    return [
        span
        for document in documents(folder, "traces")
        for resource in document["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def newest_metric(folder: Path, name: str) -> int:
    """Return the largest value of an integer metric."""
    return max(
        (
            int(point["asInt"])
            for document in documents(folder, "metrics")
            for resource in document["resourceMetrics"]
            for scope in resource["scopeMetrics"]
            for metric in scope["metrics"]
            if metric["name"] == name
            for kind in ("sum", "gauge")
            for point in metric.get(kind, {}).get("dataPoints", [])
        ),
        default=0,
    )
