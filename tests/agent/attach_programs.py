"""Programs that attach is tried on: idle, busy in many ways, and such as it must refuse."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

HELPER = """
import threading, time
def _rest():
    while True:
        time.sleep(0.05)
"""
"""A thread that sleeps: what a server has many of."""
BUSY = {
    "alloc": """
        import json
        def turn():
            rows = {i: [bytes(64 * (i % 50)) for _ in range(5)] for i in range(200)}
            json.loads(json.dumps({str(key): len(value) for key, value in rows.items()}))
    """,
    "malloc": """
        def turn():
            blocks = [bytearray(1000 + 37 * i) for i in range(500)]
            del blocks
    """,
    "import": """
        import importlib, sys
        def turn():
            for name in ("decimal", "xml.etree.ElementTree", "wave"):  # none that the probe imports too
                for key in [key for key in list(sys.modules) if key.split(".")[0] == name.split(".")[0]]:
                    sys.modules.pop(key)
                importlib.import_module(name)
    """,
    "torch": """
        import torch
        torch.set_num_threads(1)
        a = torch.randn(64, 64)
        def turn():
            for _ in range(20):
                (a @ a).relu().sum().item(), torch.cat([a, a]).contiguous()
    """,
}
LOOP = """
import os, sys, threading
asked = []
threading.Thread(target=lambda: asked.append(sys.stdin.readline()), daemon=True).start()
print("ready", flush=True)
turns = 0
while not asked:
    turn()
    turns += 1
print(turns, flush=True)
os._exit(0)
"""
"""Works until a line comes in; then says how many turns it made and ends, without waiting for its threads.

It makes no system call of its own: that would wake whoever waits for the interpreter, and take it back at once.
"""


def busy_program(kind: str, helper: bool = True, workers: int = 0) -> str:
    """Return a program that works all the time; with ``helper`` one thread of it sleeps, ``workers`` others work too."""
    parts = [HELPER, textwrap.dedent(BUSY[kind])]
    if helper:
        parts.append("threading.Thread(target=_rest, daemon=True).start()")
    if workers:
        parts.append("def _work():\n    while True:\n        turn()")
        parts.append(f"for _ in range({workers}):\n    threading.Thread(target=_work, daemon=True).start()")
    return "\n".join([*parts, LOOP])


@contextmanager
def running(program: str, python: str = sys.executable) -> "Iterator[subprocess.Popen[str]]":
    """Run a program that prints a line when it is ready; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        [python, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout and process.stderr
    try:
        assert process.stdout.readline().strip() == "ready", process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Let a busy program end by itself; return its exit code, the rest of its output and of its errors."""
    out, errors = process.communicate("\n", timeout=60)
    return process.returncode, out, errors
