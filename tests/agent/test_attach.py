"""Attach and detach on real processes: the program goes on, the probe comes and goes, or is refused in one line."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from agent_process import wait_for
from attach_programs import busy_program, finish, running

from vtprof_agent.attach.attaching import Options, attach
from vtprof_agent.attach.detaching import detach
from vtprof_agent.attach.injector import alone
from vtprof_agent.attach.outcome import ATTACHED, DETACHED, FAILED, SKIPPED, WOULD_ATTACH, Outcome

CYCLES = 4
NOBODY = 65534
ASK = """
import sys, threading
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except Exception as error:
        print("raised", type(error).__name__, flush=True)
"""
"""Answers questions; its main thread reads, which no one may borrow, another sleeps."""
SERVER = (
    "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n" + ASK
)


def ask(process: "subprocess.Popen[str]", expression: str) -> str:
    assert process.stdin and process.stdout
    process.stdin.write(expression + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


PROBE_ON = "'vtprof_probe' in sys.modules and sys.modules['vtprof_probe'].enabled()"


def run_command(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "vtprof_agent", *words], capture_output=True, text=True)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(tmp_path / "rings", timeout_s=60.0)


def test_attach_turns_the_probe_on_and_detach_off_again_and_again(options: Options) -> None:
    with running(SERVER) as process:
        for _ in range(CYCLES):
            (attached,) = attach(process.pid, options)
            assert (attached.result, attached.reason) == (ATTACHED, None)
            assert ask(process, PROBE_ON) == "True"
            (detached,) = detach(process.pid, options)
            assert (detached.result, detached.reason) == (DETACHED, None)
            assert ask(process, PROBE_ON) == "False"
        assert ask(process, "sys.getswitchinterval()") == "0.005"
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            assert "TracerPid:\t0\n" in (thread / "status").read_text()
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
        assert ask(process, "'order' in globals() or 'run' in globals()") == "False"
        assert (
            ask(
                process,
                "[found for found in sys.path + sys.meta_path if 'vtprof-' in str(found) or 'Bundle' in str(found)]",
            )
            == "[]"
        )
        # One mapping serves all times: of 64 KiB of code and as much data.
        maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        ours = [line for line in maps if " r-xp " in line and len(line.split()) == 5]
        assert len(ours) == 1
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, out, errors) == (0, "", "")


@pytest.mark.parametrize("kind", ["alloc", "malloc", "import"])
def test_a_busy_program_with_a_sleeping_thread_goes_on(kind: str, options: Options) -> None:
    with running(busy_program(kind)) as process:
        for _ in range(CYCLES):
            (attached,) = attach(process.pid, options)
            assert (attached.result, attached.reason) == (ATTACHED, None), process.poll()
            (detached,) = detach(process.pid, options)
            assert (detached.result, detached.reason) == (DETACHED, None), process.poll()
        code, out, errors = finish(process)
        assert (code, errors) == (0, "")
        assert int(out) > 0


def test_a_busy_program_of_one_thread_is_refused_and_goes_on(options: Options) -> None:
    never_waits = "print('ready', flush=True)\nfor _ in range(30_000_000): pass\nprint('end')"
    with running(never_waits) as process:
        (outcome,) = attach(process.pid, Options(options.ring_dir, timeout_s=0.3))
        assert outcome.result == FAILED
        assert outcome.reason and "vtprof-agent exec" in outcome.reason
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (0, "end\n", "")


def test_interrupted_calls_of_the_borrowed_thread_are_made_again(options: Options) -> None:
    # The main thread is parked in each kind of call, another one in a futex or a sleep. The call ends when a byte or a
    # lock comes, which is after attach, and not before; an error in it would end the program with another code.
    calls = {
        "sleep": "got = True\nwhile not told.is_set():\n    begin = time.monotonic(); time.sleep(0.5)\n"
        "    got = got and time.monotonic() - begin >= 0.49",
        "poll": "p = select.poll(); p.register(r, 1); got = p.poll()",
        "select": "got = select.select([r], [], [])[0]",
        "epoll": "p = select.epoll(); p.register(r, 1); got = p.poll()",
        "accept": "server.settimeout(None); got = server.accept()",
        "futex": "got = lock.acquire()",
    }
    for name, call in calls.items():
        program = (
            "import os, select, socket, sys, threading, time\nr, w = os.pipe(); told = threading.Event()\n"
            "server = socket.create_server(('127.0.0.1', 0)); lock = threading.Lock(); lock.acquire()\n"
            "def end():\n    sys.stdin.readline(); told.set(); os.write(w, b'x'); lock.release(); global c\n"
            "    c = socket.create_connection(server.getsockname())\n"
            "threading.Thread(target=end, daemon=True).start()\n"
            f"print('ready', flush=True)\n{call}\nassert told.is_set()\n"
            "print(bool(got))"
        )
        with running(program) as process:
            (outcome,) = attach(process.pid, options)
            assert outcome.result == ATTACHED, (name, outcome.reason)
            assert process.poll() is None, name
            out, errors = process.communicate("\n", timeout=60)
            assert (process.returncode, out, errors) == (0, "True\n", ""), name


def test_the_processes_of_a_tree_are_one_family_and_others_in_it_are_skipped(options: Options) -> None:
    program = (
        "import os, subprocess\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SERVER!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nother = subprocess.Popen(['sleep', '600'])\n"
    )
    program = "import sys\n" + program + SERVER
    with running(program) as process:
        found = {outcome.pid: outcome for outcome in attach(process.pid, options)}
        child, other = int(ask(process, "child.pid")), int(ask(process, "other.pid"))
        assert {pid: outcome.result for pid, outcome in found.items()} == {
            process.pid: ATTACHED,
            child: ATTACHED,
            other: SKIPPED,
        }
        assert found[other].reason == "it is not a Python process: it runs sleep"
        environments = (
            ask(process, "os.environ['VTPROF_FAMILY']"),
            ask(
                process,
                '(child.stdin.write(b\'__import__("os").environ["VTPROF_FAMILY"]\\n\'), child.stdin.flush(),'
                " child.stdout.readline().decode().strip())[2]",
            ).strip('"'),
        )
        assert environments[0] == environments[1]
        assert environments[0].startswith(f"'{process.pid}-")
        assert {o.pid: o.result for o in detach(process.pid, options)} == {
            process.pid: DETACHED,
            child: DETACHED,
            other: SKIPPED,
        }
        ask(process, "(other.kill(), child.kill())")


@pytest.mark.parametrize("minor", range(9, 15))
def test_every_python_from_3_9_on_can_be_attached_to(minor: int, options: Options) -> None:
    python = f"python3.{minor}"
    if subprocess.run(["sh", "-c", f"{python} -c ''"], capture_output=True).returncode:
        pytest.skip(f"no {python} here")
    with running("import sys\n" + SERVER, python) as process:
        (outcome,) = attach(process.pid, options)
        assert (outcome.result, outcome.reason, outcome.python) == (ATTACHED, None, f"3.{minor}")
        assert ask(process, PROBE_ON) == "True"
        assert [one.result for one in detach(process.pid, options)] == [DETACHED]
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0


def test_a_python_older_than_3_9_is_refused(options: Options) -> None:
    if subprocess.run(["sh", "-c", "python3.8 -c ''"], capture_output=True).returncode:
        pytest.skip("no python3.8 here")
    with running("import sys\n" + SERVER, "python3.8") as process:
        (outcome,) = attach(process.pid, options)
        assert outcome.reason == "its Python is older than 3.9; the probe needs CPython 3.9 or later"
        assert ask(process, "1 + 1") == "2"


def test_two_at_once_attach_once(options: Options) -> None:
    with running(SERVER) as process:
        results: list[str] = []
        threads = [
            threading.Thread(target=lambda: results.append(attach(process.pid, options)[0].result))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [ATTACHED, FAILED, FAILED]
        assert ask(process, PROBE_ON) == "True"


def test_while_another_works_on_it_a_process_is_refused(options: Options) -> None:
    with running(SERVER) as process, alone(process.pid, 0.0):
        (outcome,) = attach(process.pid, Options(options.ring_dir, timeout_s=0.0))
        assert outcome.reason == "another attach or detach works on it: wait until that has ended"


def test_dry_run_changes_nothing(options: Options) -> None:
    with running(SERVER) as process:
        before = Path(f"/proc/{process.pid}/maps").read_text()
        looks: list[Outcome] = []

        def meets_a_parked_thread() -> bool:
            # It looks once, at a moment when on a busy machine no thread need be parked.
            (outcome,) = attach(process.pid, Options(options.ring_dir, dry_run=True))
            looks.append(outcome)
            return outcome.thread is not None

        wait_for(meets_a_parked_thread)
        assert {(look.result, look.method) for look in looks} == {(WOULD_ATTACH, "parked thread")}
        assert looks[-1].thread != process.pid
        assert Path(f"/proc/{process.pid}/maps").read_text() == before
        assert ask(process, "'vtprof_probe' in sys.modules") == "False"


def test_a_probe_that_fails_in_the_process_is_told_and_the_process_goes_on(options: Options) -> None:
    broken = "import sys, types\nsys.modules['vtprof_probe'] = types.ModuleType('vtprof_probe')\n" + SERVER
    with running(broken) as process:
        (outcome,) = attach(process.pid, options)
        assert outcome.result == FAILED
        assert outcome.reason and outcome.reason.startswith("the probe failed in it: AttributeError")
        assert ask(process, "1 + 1") == "2"


def test_a_process_that_ends_during_attach_is_told(options: Options) -> None:
    ending = (
        "import os, sys, types, threading, time\nprobe = types.ModuleType('vtprof_probe')\n"
        "probe.enabled = lambda: os._exit(3)\nsys.modules['vtprof_probe'] = probe\n" + SERVER
    )
    with running(ending) as process:
        (outcome,) = attach(process.pid, options)
        assert (outcome.result, outcome.reason) == (FAILED, "it ended meanwhile")
        assert process.wait(timeout=10) == 3


def test_bad_targets_are_refused_in_one_line_with_exit_code_2(tmp_path: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "600"])
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    try:
        with running(SERVER) as stopped, running(SERVER) as threaded:
            stopped.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
            thread = next(
                int(path.name)
                for path in Path(f"/proc/{threaded.pid}/task").iterdir()
                if int(path.name) != threaded.pid
            )
            cases = {
                sleeper.pid: "it is not a Python process: it runs sleep",
                zombie.pid: "it has ended already",
                4_194_300: "there is no such process",
                stopped.pid: "it is stopped: continue it first",
                thread: f"that is a thread: give its process, {threaded.pid}",
            }
            for pid, reason in cases.items():
                for command in ("attach", "detach"):
                    ended = run_command(command, str(pid), "--ring-dir", str(tmp_path / "rings"))
                    assert (ended.returncode, ended.stdout) == (2, ""), (command, pid)
                    assert reason in ended.stderr
                    assert len(ended.stderr.splitlines()) == 1
            stopped.send_signal(signal.SIGCONT)
            assert ask(stopped, "1 + 1") == "2"
    finally:
        for process in (sleeper, zombie):
            process.kill()
            process.wait()


def test_what_is_attached_already_or_not_at_all_is_told(tmp_path: Path) -> None:
    rings = ("--ring-dir", str(tmp_path / "rings"))
    with running(SERVER) as process:
        ended = run_command("detach", str(process.pid), *rings)
        assert (ended.returncode, ended.stderr) == (
            2,
            f"vtprof-agent: PID {process.pid} ({Path(sys.executable).name}): it is not attached\n",
        )
        first = run_command("attach", str(process.pid), *rings, "--format", "json")
        assert first.returncode == 0, first.stderr
        assert [one["result"] for one in json.loads(first.stdout)["processes"]] == ["attached"]
        again = run_command("attach", str(process.pid), *rings)
        assert again.returncode == 2
        assert "the probe is on in it already" in again.stderr


def test_a_ring_folder_of_another_user_is_refused(options: Options) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    options.ring_dir.mkdir()
    os.chown(options.ring_dir, NOBODY, -1)
    with running(SERVER) as process:
        (outcome,) = attach(process.pid, options)
        assert outcome.reason and f"belongs to user {NOBODY}" in outcome.reason
        assert ask(process, "'vtprof_probe' in sys.modules") == "False"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_without_the_right_to_trace_it_is_refused_and_says_what_to_do() -> None:
    code = (
        "import os, sys\nfrom vtprof_agent.attach.processes import read_process\n"
        "from vtprof_agent.attach.refusal import Refused\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "try:\n    read_process(int(sys.argv[1]))\nexcept Refused as error:\n    print(error)"
    )
    with running(SERVER) as process:
        ended = subprocess.run(
            [sys.executable, "-c", code, str(process.pid)], capture_output=True, text=True, check=True
        )
        assert ended.stdout == (
            "it belongs to user 0: run vtprof-agent as that user, or as root with CAP_SYS_PTRACE\n"
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_root_attaches_to_the_process_of_another_user() -> None:
    # Its own imports come first: as nobody it may not read the folder of this Python.
    server = (
        "import asyncio, json, vtprof_schemas.records, vtprof_probe.ring_writer, sys, os, importlib.util\n"
        "for name in [n for n in sys.modules if n.startswith('vtprof_')]: del sys.modules[name]\n"
        f"sys.path[:] = []; os.setgid({NOBODY}); os.setuid({NOBODY})\n" + SERVER
    )
    with tempfile.TemporaryDirectory() as folder, running(server) as process:
        Path(folder).chmod(0o777 | stat.S_ISVTX)
        (outcome,) = attach(process.pid, Options(Path(folder) / "rings"))
        assert (outcome.result, outcome.reason) == (ATTACHED, None)
        assert ask(process, "hasattr(sys.modules['vtprof_probe'], 'attached_release')") == "True"
        assert [outcome.result for outcome in detach(process.pid, Options(Path(folder) / "rings"))] == [
            DETACHED
        ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a mount namespace")
def test_a_process_with_its_own_mounts_needs_a_shared_ring_folder() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare of util-linux")
    script = 'mount -t tmpfs none /dev/shm && mount -t tmpfs none /tmp && exec "$PYTHON" -S -c "$PROGRAM"'
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    outer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHON": os.path.realpath(sys.executable), "PROGRAM": SERVER},
    )  # fmt: skip
    try:
        assert outer.stdout and outer.stderr
        assert outer.stdout.readline().strip() == "ready", outer.stderr.read()
        (pid,) = (
            int(child) for child in Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        )
        (refused,) = attach(pid, Options(Path("/dev/shm/vtprof-test"), children=False))
        assert refused.result == FAILED
        assert refused.reason and "mount a shared volume at the same path in both" in refused.reason
        visible = Path(tempfile.mkdtemp(prefix="vtprof-test-", dir="/var/tmp"))
        try:
            options = Options(visible / "rings", children=False)
            (attached,) = attach(pid, options)
            assert (attached.result, attached.reason) == (ATTACHED, None)
            assert ask(outer, "os.getpid() if 'os' in globals() else __import__('os').getpid()") == "1"
            # The probe went through the /tmp that only the process has, and nothing stayed there.
            assert ask(outer, "hasattr(sys.modules['vtprof_probe'], 'attached_release')") == "True"
            assert list(Path(f"/proc/{pid}/root/tmp").iterdir()) == []
            assert [outcome.result for outcome in detach(pid, options)] == [DETACHED]
        finally:
            shutil.rmtree(visible)
    finally:
        outer.kill()
        outer.communicate()
