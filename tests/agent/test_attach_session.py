"""Attach as a session: nothing is touched before all else is sure, others' rings stay out, and all is left again."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from agent_process import documents, spans, wait_for
from attach_programs import running

from vtprof_agent.attach import attaching, processes
from vtprof_agent.attach.attaching import Options, attach
from vtprof_agent.attach.outcome import ATTACHED, FAILED, Outcome
from vtprof_agent.attach.processes import is_machine_init, read_process
from vtprof_agent.attach.refusal import Refused
from vtprof_agent.inbox.ring_header import RingFile
from vtprof_agent.progress_store import claim
from vtprof_schemas import names

WAITING = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
ANSWERS = "print('ready', flush=True)\nfor line in sys.stdin:\n    print(repr(eval(line)), flush=True)\n"
ENGINE = "import sys, types\nengine = sys.modules['vllm'] = types.ModuleType('vllm')\nengine.__version__ = '0.32.0'\n"
"""Stands for an engine that is imported: its hooks wait for its modules."""
IDLE_SERVER = ENGINE + WAITING + ANSWERS
SERVING = (
    ENGINE + WAITING + "import os, time\n"
    "from vtprof_schemas import records\n"
    "def serve():\n"
    "    number = 0\n"
    "    while True:\n"
    "        time.sleep(0.02)\n"
    "        installed = getattr(sys.modules.get('vtprof_probe.install'), '_installed', None)\n"
    "        if not installed: continue\n"
    "        write, number = installed[0].recorder.write, number + 1\n"
    "        for kind, values in ((records.REQUEST_ARRIVED, (number, time.monotonic_ns())),\n"
    "                             (records.REQUEST_FINISHED, (number, time.monotonic_ns(), 0, 1))):\n"
    "            write(kind, *values)\n"
    "threading.Thread(target=serve, daemon=True).start()\n" + ANSWERS
)
"""Writes requests through the probe's own recorder as soon as one is on."""
PROBE_ON = "'vtprof_probe' in sys.modules and sys.modules['vtprof_probe'].enabled()"


def ask(process: "subprocess.Popen[str]", expression: str) -> str:
    assert process.stdin and process.stdout
    process.stdin.write(expression + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "vtprof_agent", *words], capture_output=True, text=True, timeout=60
    )


def test_what_cannot_be_followed_is_found_before_the_process_is_touched(tmp_path: Path) -> None:
    (tmp_path / "notdir").touch()
    rings = tmp_path / "rings"
    lock = claim(rings)
    try:
        with running(IDLE_SERVER) as process:
            for words in (
                ("--out", str(tmp_path / "notdir")),
                ("--out", "/proc/x"),
                ("--metrics", "nowhere"),
                ("--out", str(tmp_path / "out"), "--ring-dir", str(rings)),
            ):
                ended = command("attach", str(process.pid), *words)
                assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), words
                assert ask(process, "'vtprof_probe' in sys.modules") == "False", words
    finally:
        os.close(lock)


def test_a_followed_attach_exports_its_own_processes_alone_and_says_what_it_left(tmp_path: Path) -> None:
    # Another server records where all do that are attached to without a session.
    out, shared = tmp_path / "out", Path(names.DEFAULT_RING_DIR)
    with running(SERVING) as process, running(SERVING) as other:
        assert [one.result for one in attach(other.pid, Options(shared))] == [ATTACHED]
        agent = subprocess.Popen(
            [sys.executable, "-m", "vtprof_agent", "attach", str(process.pid), "--out", str(out)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            wait_for(lambda: bool(out.exists() and _requests(out)) or agent.poll() is not None)
            agent.send_signal(signal.SIGINT)
            said, errors = agent.communicate(timeout=60)
        finally:
            agent.kill()
        assert agent.returncode == 0, errors
        assert re.fullmatch(rf"PID {process.pid} \(.*\): detached, Python .*", said.splitlines()[-1])
        assert ask(process, PROBE_ON) == "False"
        assert ask(other, PROBE_ON) == "True"
        assert command("detach", str(other.pid)).returncode == 0
    for path in shared.glob(f"{other.pid}-*.ring"):
        path.unlink()
    assert _pids(out) == {process.pid}


def test_a_session_that_fails_behind_the_attach_detaches_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtprof_agent.attach.session import prepared
    from vtprof_agent.config import Config

    options = Options(tmp_path / "rings")
    config = Config(ring_dir=options.ring_dir, out_dir=tmp_path / "out", sample_s=0)
    with running(IDLE_SERVER) as process:
        with (
            pytest.raises(BrokenPipeError),
            prepared(process.pid, config, options, own_rings=True) as session,
        ):
            assert session.options.ring_dir != options.ring_dir
            assert [one.result for one in session.attach(process.pid)] == [ATTACHED]
            assert ask(process, PROBE_ON) == "True"
            raise BrokenPipeError
        assert ask(process, PROBE_ON) == "False"
    assert not session.options.ring_dir.exists()


@pytest.mark.parametrize("folder", ["/proc/nope/rings", "/sys/nope"])
def test_a_ring_folder_that_the_process_cannot_make_is_refused(folder: str) -> None:
    with running(IDLE_SERVER) as process:
        (outcome,) = attach(process.pid, Options(Path(folder)))
        assert outcome.result == FAILED
        assert outcome.reason and outcome.reason.startswith(f"no ring can be made in {folder}: ")
        assert ask(process, PROBE_ON) == "False"


def test_a_server_shows_its_ring_and_hooks_before_its_first_record(tmp_path: Path) -> None:
    with running(IDLE_SERVER) as process:
        assert [one.result for one in attach(process.pid, Options(tmp_path))] == [ATTACHED]
        shown = command("status", "--ring-dir", str(tmp_path)).stdout
        assert f"PID {process.pid} (alive)" in shown
        assert "): vllm 0.32.0, nothing recorded yet; not followed yet;" in shown
        assert "no hook set yet; server " in shown  # none of the engine's modules is there
        (path,) = tmp_path.glob("*.ring")
        # Elsewhere attached to, it says where it records.
        (again,) = attach(process.pid, Options(tmp_path / "other"))
        assert again.reason and f"is on in it already and records to {path};" in again.reason
        ring = RingFile(path)
        info = ring.info()
        assert info is not None and names.PROBE_HOOKS in info.values
        ring.close()
        # A ring without a record is worth nothing to anybody: it does not outlive the detach.
        command("detach", str(process.pid), "--ring-dir", str(tmp_path))
        assert list(tmp_path.glob("*.ring")) == []


def test_below_a_process_that_cannot_be_attached_to_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(pid: int) -> processes.Process:
        if pid == 7:
            raise Refused("no permission to trace it")
        return read_process(pid)

    touched: list[int] = []

    def attach_one(pid: int, _family: str, _options: Options) -> Outcome:
        refused(pid)
        touched.append(pid)
        return Outcome(pid, "x", ATTACHED)

    monkeypatch.setattr(attaching, "tree", lambda pid, _children: [pid, os.getpid()])
    monkeypatch.setattr(attaching, "_attach_one", attach_one)
    (outcome,) = attach(7, Options(tmp_path))
    assert (outcome.result, touched) == (FAILED, [])
    assert outcome.reason == (
        "no permission to trace it; what runs below it was left as it is: to attach there, give its PID"
    )


def test_a_shell_that_started_the_server_brings_the_server(tmp_path: Path) -> None:
    outer = subprocess.Popen(
        ["sh", "-c", '"$PYTHON" -c "$PROGRAM"; true'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHON": sys.executable, "PROGRAM": IDLE_SERVER},
    )  # fmt: skip
    try:
        assert outer.stdout and outer.stdin
        assert outer.stdout.readline() == "ready\n"
        found = attach(outer.pid, Options(tmp_path))
        assert sorted(one.result for one in found) == ["attached", "skipped"]
    finally:
        outer.communicate(timeout=30)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_a_machines_first_process_is_refused_and_a_containers_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "echo ready; read x"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert outer.stdout
        outer.stdout.readline()
        pid = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()[0])
        first = read_process(pid)
        assert first.own_pid == 1
        assert not is_machine_init(first)
        monkeypatch.setattr(processes, "_FIRST_PID_NAMESPACE", first.pid_namespace)
        assert is_machine_init(first)
        assert not is_machine_init(dataclasses.replace(first, own_pid=2))
        with pytest.raises(Refused, match="this machine's first process, everything runs below it"):
            attach(pid, Options(Path("/nowhere")))
    finally:
        outer.communicate("\n", timeout=30)


def _requests(out: Path) -> list[dict[str, object]]:
    return [span for span in spans(out) if span["name"] == names.SPAN_REQUEST]


def _pids(out: Path) -> set[int]:
    return {
        int(entry["value"]["intValue"])
        for document in documents(out, "traces")
        for resource in document["resourceSpans"]
        for entry in resource["resource"]["attributes"]
        if entry["key"] == "process.pid"
    }
