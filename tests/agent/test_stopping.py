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


LATE = """
import os, signal, sys
class Late:
    def __del__(self, kill=os.kill, numbers=(signal.SIGTERM, signal.SIGINT), pid=os.getpid()):
        for number in numbers:
            kill(pid, number)
late = Late()
"""
"""Sends signals to itself while the interpreter takes its modules apart: no Python handler is called any more by then."""


RUNNING = "from vtprof_agent.stopping import stop_on_signals\nstop_on_signals()"
STARTING = "from vtprof_agent.child import *\nleave_on_signals()"
WITH_COMMAND = f"{STARTING}\nChild([sys.executable, '-c', 'raise SystemExit(7)'], os.environ).exit_code()"


@pytest.mark.parametrize(("setup", "code"), [(RUNNING, 0), (STARTING, 3), (WITH_COMMAND, 7)])
def test_a_signal_at_the_interpreter_s_very_end_costs_no_exit_code(setup: str, code: int) -> None:
    script = f"{LATE}{setup}\nsys.exit({code})"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == code


def test_a_second_signal_does_not_disturb_the_cleaning_up_after_the_first() -> None:
    script = (
        "import os, signal\nfrom vtprof_agent.child import leave_on_signals\nleave_on_signals()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM)\n    signal.pause()\n"
        "finally:\n    os.kill(os.getpid(), signal.SIGINT)\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('cleaned up')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("cleaned up\n", 128 + signal.SIGTERM)
