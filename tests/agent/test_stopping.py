"""The wish to end reaches who waits, at once and whatever it is doing, and no number of signals can hold it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from vtprof_agent.stopping import Stop

STORM = """
import os, signal, sys, threading
from vtprof_agent.stopping import stop_on_signals
stop, over = stop_on_signals(), threading.Event()
def storm():
    for _ in range(30_000):
        os.kill(os.getpid(), signal.SIGTERM)
    over.set()
threading.Thread(target=storm, daemon=True).start()
turns = 0
while not over.is_set() or turns < 1000:
    stop.wait(0.0)
    turns += 1
print(stop.is_set(), stop.wait(60.0))
"""


def test_thousands_of_signals_while_it_waits_hold_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STORM], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["True", "True"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_wait_that_would_go_on_for_long(number: signal.Signals) -> None:
    code = (
        "import signal\nfrom vtprof_agent.stopping import stop_on_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "stop = stop_on_signals()\nprint('waits', flush=True)\nprint(stop.wait(3600.0))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(number)
        told, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (told, process.returncode) == ("True\n", 0)


def test_a_hangup_that_is_ignored_stays_so() -> None:
    code = (
        "import os, signal\nfrom vtprof_agent.stopping import stop_on_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "stop = stop_on_signals()\nos.kill(os.getpid(), signal.SIGHUP)\nprint(stop.wait(0.01))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"


def test_without_a_signal_a_wait_ends_after_its_time_and_a_set_one_at_once() -> None:
    stop = Stop()
    assert stop.wait(0.0) is False and stop.is_set() is False
    begun = time.monotonic()
    assert stop.wait(0.02) is False and time.monotonic() - begun >= 0.02
    threading.Timer(0.01, stop.set).start()
    assert stop.wait(60.0) is True
    for _ in range(100_000):  # more than the pipe holds
        stop.set()
    assert stop.wait(60.0) is True and stop.is_set()
    os.kill(os.getpid(), 0)
