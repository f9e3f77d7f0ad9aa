"""Attach where the kernel or the moment is against it: one reason that says what to do, and the process goes on."""

import os
import platform
import random
import threading
from pathlib import Path

import pytest
from attach_programs import running

from vtprof_agent.attach import processes
from vtprof_agent.attach.attaching import Options, attach
from vtprof_agent.attach.detaching import detach
from vtprof_agent.attach.outcome import ATTACHED, DETACHED, FAILED, SKIPPED
from vtprof_agent.attach.processes import ended, why_denied
from vtprof_agent.attach.ptrace import StoppedThread, ThreadGone
from vtprof_agent.attach.refusal import Refused
from vtprof_agent.attach.scheduling import hurried

IDLE = (
    "import sys, threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    "print('ready', flush=True)\nsys.stdin.read()"
)
TRIES = 12


@pytest.fixture
def unprivileged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc in which this process has no capability, and process 7 is its own user's."""
    for name, capabilities in (("self", "0"), ("7", "0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status").write_text(f"Uid:\t500\t500\t500\t500\nCapEff:\t{capabilities}\n")
    monkeypatch.setattr(processes, "PROC", tmp_path)
    monkeypatch.setattr(processes, "_YAMA", tmp_path / "ptrace_scope")
    monkeypatch.setattr(os, "geteuid", lambda: 500)
    return tmp_path


def test_yama_is_named_and_the_way_past_it(unprivileged: Path) -> None:
    (unprivileged / "ptrace_scope").write_text("1\n")
    assert why_denied(7) == (
        "Yama forbids to trace it (kernel.yama.ptrace_scope = 1): run vtprof-agent with CAP_SYS_PTRACE (sudo, docker run"
        " --cap-add SYS_PTRACE), or start it with `vtprof-agent exec -- …`"
    )


@pytest.mark.parametrize("scope", ["0\n", None])
def test_without_yama_the_process_itself_is_the_reason(unprivileged: Path, scope: str | None) -> None:
    if scope is not None:
        (unprivileged / "ptrace_scope").write_text(scope)
    assert "it has more rights than you, or is not dumpable" in why_denied(7)


def test_a_thread_that_has_just_ended_is_passed_over_and_not_taken_for_a_missing_right() -> None:
    # Its first thread alone ends, and stays dead and uncollected; such is any thread for a moment, and the kernel then
    # refuses to trace it as it refuses without a right.
    program = (
        "import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
        "print('ready', flush=True)\nctypes.PyDLL(None).PyEval_SaveThread()\nctypes.CDLL(None).syscall({exit_call}, 0)"
    ).format(exit_call={"x86_64": 60, "aarch64": 93}[platform.machine()])
    with running(program) as process:
        while not ended(process.pid):
            pass
        with pytest.raises(ThreadGone), StoppedThread(process.pid):
            pass


def test_a_process_that_is_killed_at_any_moment_is_told_and_nothing_stays(tmp_path: Path) -> None:
    chance = random.Random(4)
    options = Options(tmp_path / "rings", stage_dir=tmp_path, timeout_s=20.0)
    for _ in range(TRIES):
        with running(IDLE) as process:
            killer = threading.Timer(chance.uniform(0.0, 0.2), process.kill)
            killer.start()
            try:
                (outcome,) = attach(process.pid, options)
                assert outcome.result in (ATTACHED, FAILED, SKIPPED)
                assert outcome.reason is None or "ended" in outcome.reason or "ending" in outcome.reason
            except Refused as error:  # it had ended before anything was done
                assert "ended" in str(error) or "ending" in str(error) or "no such process" in str(error)
            finally:
                killer.join()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("vtprof-attach-")] == []


def test_a_process_that_was_started_with_the_probe_is_detached_from_whatever_its_ring_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As under `vtprof-agent exec`, whose folder of rings has a name of its own.
    monkeypatch.setenv("VTPROF_ENABLE", "1")
    monkeypatch.setenv("VTPROF_RING_DIR", str(tmp_path / "of-exec"))
    program = "import vtprof_probe\nvtprof_probe.enable()\n" + IDLE
    with running(program) as process:
        assert [one.result for one in detach(process.pid, Options(tmp_path / "other"))] == [DETACHED]
        with pytest.raises(Refused, match="it is not attached"):
            detach(process.pid, Options(tmp_path / "other"))


def test_the_priority_of_the_attacher_is_as_before_behind_a_stop() -> None:
    before = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
    with pytest.raises(KeyError), hurried():
        inside = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        raise KeyError
    assert inside in (os.SCHED_FIFO, before[0])
    assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == before


def test_where_no_other_priority_is_allowed_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    before = os.sched_getscheduler(0)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with hurried():
        assert os.sched_getscheduler(0) == before
