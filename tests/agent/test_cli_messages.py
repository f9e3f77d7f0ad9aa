"""What the commands tell: where rings are, what is waited for, what cannot be done and why, each in one line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from agent_process import start_agent, stderr_until

from vtprof_agent.private_rings import private_rings
from vtprof_probe.ring_writer import RingWriter

NOBODY = 65534
DOCTOR = "vtprof-agent doctor"


def _agent(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "vtprof_agent", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )


def test_exec_in_which_the_probe_was_loaded_and_nothing_served_says_so(tmp_path: Path) -> None:
    # -S: without the installed vtprof, so that the staged one is found.
    command = [sys.executable, "-S", "-c", "import vtprof_probe"]
    done = _agent("exec", "--out", str(tmp_path), "--", *command, PYTHONDONTWRITEBYTECODE="")
    assert done.returncode == 0, done.stderr
    assert "nothing was recorded: the probe was loaded, but no process of this command served" in done.stderr


def test_exec_says_where_its_rings_are(tmp_path: Path) -> None:
    script = "import os; print(os.environ['VTPROF_RING_DIR'])"
    done = _agent("exec", "--out", str(tmp_path), "--", sys.executable, "-c", script)
    folder = done.stdout.strip()
    assert (
        f"vtprof-agent: the processes' rings are in {folder}: `vtprof-agent status` shows them" in done.stderr
    )
    assert not Path(folder).exists()


def test_status_shows_the_rings_of_sessions_too() -> None:
    with private_rings() as folder:
        assert f"no rings in {folder} now: no process records there" in _agent("status").stdout
        ring = RingWriter.create(str(folder), 64, "all", 0, {})
        shown = _agent("status").stdout
        document = json.loads(_agent("status", "--format", "json").stdout)
        alone = _agent("status", "--ring-dir", str(folder / "other")).stdout
        ring.close()
    assert f"in {folder}:\nPID {os.getpid()} (alive)" in shown
    assert str(folder) in document["ring_dirs"]
    assert [one["pid"] for one in document["rings"] if one["file"].startswith(str(folder))] == [os.getpid()]
    told = "no process records there; `vtprof-agent doctor` says what it takes"
    other = folder / "other"
    assert alone == f"agent of {other}: none runs\nno rings in {other} now: {told}\n"


def test_stage_names_a_ring_folder_that_containers_can_share(tmp_path: Path) -> None:
    # Not in /dev/shm, of which each container has its own; and the probe makes the folder if it comes first.
    done = _agent("stage", str(tmp_path / "probe"))
    assert f"VTPROF_RING_DIR={tmp_path / 'rings'}" in done.stdout.splitlines()
    assert len(done.stdout.splitlines()) == 3
    assert f"vtprof-agent run --ring-dir {tmp_path / 'rings'} --out traces" in done.stderr
    done = _agent("stage", str(tmp_path / "probe"), "--ring-dir", "/mnt/rings")
    assert "VTPROF_RING_DIR=/mnt/rings" in done.stdout.splitlines()
    assert "run --ring-dir /mnt/rings" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--out", "/proc/x"], "--out /proc/x: cannot be written to"),
        (["run", "--out", "/dev/null", "--ring-dir", "/proc/nope/x"], "cannot be used as ring folder"),
        (["attach", "-5"], "PID -5: no process has it"),
        (["detach", "--dry-run", "-5"], "PID -5: no process has it"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_two(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = _agent(*arguments, VTPROF_AGENT_RING_DIR=str(tmp_path / "rings"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr


def test_a_grpc_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        rings = ("--ring-dir", str(tmp_path / "rings"), "--out", str(tmp_path / "out"))
        done = _agent("run", *rings, "--otlp-receive-grpc", f"127.0.0.1:{port}")
    assert (done.returncode, done.stderr) == (
        2,
        f"vtprof-agent: --otlp-receive-grpc 127.0.0.1:{port}: cannot listen there (port in use?); choose another port\n",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "exec", "doctor"])
def test_a_value_of_a_file_or_the_environment_is_blamed_on_it(command: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(f'metrics = "0.0.0.0:9464"\nring_dir = "{tmp_path}"\n')
    tail = ("--", "true") if command == "exec" else ()
    found = {}
    for flag, more in (("", {}), ("", {"VTPROF_AGENT_METRICS": "0.0.0.0:9"}), ("--metrics=0.0.0.0:7", {})):
        done = _agent(command, f"--config={file}", *filter(None, [flag]), *tail, **more)
        assert done.returncode == (0 if command == "doctor" else 2), done.stderr
        said = re.findall(
            r"(\S+(?: metrics)?) '(0\.0\.0\.0:\d+)': would be open to the network", done.stdout + done.stderr
        )
        found.update({address: blamed for blamed, address in said})
    file_said = f"{file}: metrics"
    assert found == {
        "0.0.0.0:9464": file_said, "0.0.0.0:9": "VTPROF_AGENT_METRICS", "0.0.0.0:7": "--metrics"
    }  # fmt: skip


def test_a_metrics_page_is_announced_when_all_else_is_open_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        rings = ("--ring-dir", str(tmp_path / "rings"), "--out", str(tmp_path / "out"))
        page = _agent("run", *rings, "--metrics", address)
        receiver = _agent("run", *rings, "--metrics", "127.0.0.1:0", "--otlp-receive-http", address)
    for done, flag in ((page, "--metrics"), (receiver, "--otlp-receive-http")):
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert re.match(f"vtprof-agent: {flag} '?{address}'?: cannot listen there ", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["doctor", "--format", "x"], "Invalid value for '--format': 'x' is not one of 'text', 'json'; see " + DOCTOR),
        (["run", "--keep-ratio", "x"], "Invalid value for '--keep-ratio': 'x' is not a valid float; see vtprof-agent run"),
        (["run", "--nope"], "No such option: --nope; see vtprof-agent run"),
        (["nope"], "No such command 'nope'; see vtprof-agent"),
        (["stage"], "Missing argument 'DIR'; see vtprof-agent stage"),
    ],
)  # fmt: skip
def test_a_usage_error_is_one_line(arguments: list[str], said: str) -> None:
    done = _agent(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"vtprof-agent: {said} --help\n")


def test_the_list_of_commands_is_not_cut_on_a_terminal_of_80_columns() -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-m", "vtprof_agent", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    listed = shown.stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == [
        "run",
        "exec",
        "attach",
        "detach",
        "stage",
        "status",
        "doctor",
    ]
    assert all(line.endswith(".") and not line.endswith("..") for line in listed)


def test_run_says_that_it_waits_for_rings(tmp_path: Path) -> None:
    agent = start_agent("run", "--out", str(tmp_path), "--ring-dir", str(tmp_path / "rings"))
    try:
        line = stderr_until(agent, "vtprof-agent: no rings")
        agent.send_signal(signal.SIGTERM)
        agent.communicate(timeout=30)
    finally:
        agent.kill()
    said = f" INFO vtprof-agent: no rings in {tmp_path}/rings yet: waiting for a process to record there\n"
    assert line.endswith(said)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_status_of_another_users_folder_is_one_line() -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom vtprof_agent.rings_report import look\n"
        f"from vtprof_schemas.errors import BackendError\nos.setgroups([]); os.setuid({NOBODY})\n"
        "for path in sys.argv[1:]:\n    try:\n        look(Path(path))\n"
        "    except BackendError as error:\n        print(error)"
    )
    rings = Path(tempfile.mkdtemp(prefix="vtprof-test-", dir="/var/tmp"))
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(rings), str(rings / "below")],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        rings.rmdir()
    assert done.stdout.splitlines() == [
        f"--ring-dir {rings}: belongs to user 0, who alone may read it: look as that user or as root",
        f"--ring-dir {rings}/below: Permission denied: look as the user of the server or as root",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize("command", ["status", "doctor"])
def test_the_commands_on_another_users_folder_say_so_in_one_line(command: str) -> None:
    # First as root, so that what it imports is there when this user may not read it.
    code = (
        "import os, sys\nfrom vtprof_agent.cli import main\ndef run():\n    try:\n        main()\n"
        "    except SystemExit as ended:\n        print('CODE', ended.code, file=sys.stderr)\n"
        f"run()\nos.setgroups([]); os.setuid({NOBODY})\nprint('AS NOBODY', file=sys.stderr)\nrun()"
    )
    rings = Path(tempfile.mkdtemp(prefix="vtprof-test-", dir="/var/tmp"))
    try:
        words = [sys.executable, "-c", code, command, "--ring-dir", str(rings)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    finally:
        rings.rmdir()
    said = f"--ring-dir {rings}: belongs to user 0, who alone may read it: look as that user or as root"
    as_nobody = done.stderr.partition("AS NOBODY\n")[2].splitlines()
    if command == "status":
        assert as_nobody == [f"vtprof-agent: {said}", "CODE 2"]
    else:  # one problem among the others
        assert as_nobody == ["CODE 0"]
        assert done.stdout.splitlines().count(f"problem: {said}") == 1


def test_exec_of_no_command_says_that_alone_and_makes_nothing(tmp_path: Path) -> None:
    done = _agent("exec", "--", "nosuchcmd", cwd=tmp_path)
    said = "vtprof-agent: nosuchcmd: command not found; check its name and PATH\n"
    assert (done.returncode, done.stderr) == (127, said)
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_can_be_attached_to_and_writes_no_python(tmp_path: Path) -> None:
    brief = _agent("doctor", "--ring-dir", str(tmp_path), VTPROF_AGENT_FLUSH_S="0.5").stdout
    assert [line for line in brief.splitlines() if line.startswith("setting ")] == [
        f"setting ring_dir = {tmp_path} (--ring-dir)", "setting flush_s = 0.5 (VTPROF_AGENT_FLUSH_S)",
    ]  # fmt: skip
    assert " other settings are as by default (--verbose shows them)" in brief
    told = [line.startswith("problem: ") for line in brief.splitlines()]
    assert told == sorted(told, reverse=True), "what is wrong comes first"
    shown = _agent("doctor", "--verbose", "--ring-dir", str(tmp_path)).stdout
    assert "setting engine_metrics = not set (default)" in shown
    assert "None" not in shown
    assert "()" not in shown
    assert "\nattach allowed: " in shown
    counted = re.search(r"other Python processes, no engine seen in them: (\d+)", shown)
    assert counted  # this one, or, where an earlier test has imported an engine's library here, that
    assert int(counted[1]) >= 1 or f"PID {os.getpid()} (" in shown
