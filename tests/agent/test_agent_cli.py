"""The command line: exit codes, one line for a mistake, staging, status and doctor."""

import json
import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from agent_process import WRITER, newest_metric, spans, start_agent, start_writer, wait_for

from vtprof_agent.follower import Progress
from vtprof_agent.inbox.ring_header import RingFile
from vtprof_agent.progress_store import ProgressStore
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records


def _agent(*arguments: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "vtprof_agent", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(environment or {})},
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["no-such-command"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_exec_returns_the_childs_code(tmp_path: Path, command: list[str], code: int) -> None:
    done = _agent(
        "exec", "--out", str(tmp_path), "--", *command, environment={"VTPROF_AGENT_LOG_LEVEL": "error"}
    )
    assert done.returncode == code
    assert done.stderr.count("\n") == (1 if code in (126, 127) else 0)


@pytest.mark.parametrize("url", ["ftp://h:9400/metrics", "h:9400", "http://"])
@pytest.mark.parametrize("sample_s", ["0", "1"])
def test_a_dcgm_page_that_is_no_url_ends_the_start(tmp_path: Path, url: str, sample_s: str) -> None:
    folders = ["--out", str(tmp_path), "--ring-dir", str(tmp_path / "rings")]
    done = _agent("run", *folders, "--dcgm-url", url, environment={"VTPROF_AGENT_SAMPLE_S": sample_s})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"--dcgm-url {url!r}: not an http(s) URL; give one such as http://127.0.0.1:9400" in done.stderr


def test_exec_in_which_nothing_was_recorded_says_so_and_leaves_no_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vtprof_agent", "exec", "--", "true"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0
    said = "nothing was recorded: as far as can be told no process of this command loaded the probe"
    assert f" WARNING vtprof-agent: {said}" in done.stderr.splitlines()[-1]
    # Counters of a GPU on this machine are the one thing that may have been written.
    assert not list(tmp_path.rglob("*.traces.jsonl"))
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "traces"])


def test_exec_gives_the_child_its_environment_and_writes_all_it_recorded(tmp_path: Path) -> None:
    script = (
        "import os, sys; assert os.environ['VTPROF_ENABLE'] == '1'; sys.argv[1:1] = [os.environ['VTPROF_RING_DIR']]\n"
        + WRITER
    )
    out = tmp_path / "out"
    done = _agent("exec", "--out", str(out), "--", sys.executable, "-c", script, "1024", "30", "0", "-")
    assert done.returncode == 0, done.stderr
    assert "nothing was recorded" not in done.stderr
    assert sum(span["name"] == names.SPAN_REQUEST for span in spans(out)) == 30
    assert newest_metric(out, names.AGENT_RECORDS_READ) == 180


def test_exec_passes_sigterm_on_and_returns_the_childs_answer(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    script = (
        "import signal, sys, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
        f"pathlib.Path({str(mark)!r}).touch()\n"
        "signal.pause()\n"
    )
    agent = start_agent("exec", "--out", str(tmp_path / "out"), "--", sys.executable, "-c", script)
    try:
        wait_for(mark.exists)
        agent.send_signal(signal.SIGTERM)
        agent.communicate(timeout=30)
    finally:
        agent.kill()
    assert agent.returncode == 9


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGHUP"])
def test_exec_passes_other_signals_on_and_does_not_die_of_them(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "started"
    script = (
        "import pathlib, signal, sys\n"
        f"signal.signal(signal.{name}, lambda *_: sys.exit(9))\n"
        f"pathlib.Path({str(mark)!r}).touch()\n"
        "signal.pause()\n"
    )
    agent = start_agent("exec", "--out", str(tmp_path / "out"), "--", sys.executable, "-c", script)
    try:
        wait_for(mark.exists)
        agent.send_signal(getattr(signal, name))
        agent.communicate(timeout=30)
    finally:
        agent.kill()
    assert agent.returncode == 9


DAEMON = """
import os, signal, sys, time
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records
ready, tell = os.pipe()
if os.fork():
    os.read(ready, 1)  # the daemon has written
    os._exit(3)
os.setsid()
for number in (0, 1, 2):
    os.dup2(os.open(os.devnull, os.O_RDWR), number)
ring = RingWriter.create(os.environ["VTPROF_RING_DIR"], 64, "all", 0, {names.DEVICE_KIND: "cpu"})
ring.write(records.REQUEST_ARRIVED, 1, time.monotonic_ns())
ring.write(records.REQUEST_ARRIVED, 2, time.monotonic_ns())
ring.write(records.REQUEST_FINISHED, 2, time.monotonic_ns(), 0, 1)
open(sys.argv[1], "w").write(f"{os.getpid()} {os.environ['VTPROF_RING_DIR']}")
os.write(tell, b"x")
signal.alarm(120)
signal.pause()
"""


def test_exec_of_a_command_that_goes_to_the_background_keeps_what_was_recorded_and_says_so(
    tmp_path: Path,
) -> None:
    mark, out = tmp_path / "mark", tmp_path / "out"
    done = _agent("exec", "--out", str(out), "--", sys.executable, "-c", DAEMON, str(mark))
    pid, rings = mark.read_text().split()
    os.kill(int(pid), signal.SIGKILL)
    assert done.returncode == 3, done.stderr
    assert f"still run (PID {pid})" in done.stderr
    assert "left to the next agent" not in done.stderr
    requests = [span for span in spans(out) if span["name"] == names.SPAN_REQUEST]
    assert len(requests) == 2
    assert not Path(rings).exists()


def test_a_hangup_ends_a_run_like_sigterm(tmp_path: Path) -> None:
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        pytest.skip("under nohup, which the agent heeds")
    rings, out = tmp_path / "rings", tmp_path / "out"
    writer = start_writer(rings, requests=5)
    agent = start_agent("run", "--ring-dir", str(rings), "--out", str(out))
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        wait_for(lambda: (rings / "agent.lock").exists() and out.is_dir())
        agent.send_signal(signal.SIGHUP)
        agent.communicate(timeout=30)
        assert agent.returncode == 0
    finally:
        agent.kill()
        writer.communicate("\n", timeout=30)
    assert sum(span["name"] == names.SPAN_REQUEST for span in spans(out)) == 5


def test_exec_calibrates_the_host_only_when_asked(tmp_path: Path) -> None:
    def resource(*flags: str) -> set[str]:
        out = tmp_path / f"out{len(flags)}"
        script = "import os, sys; sys.argv[1:1] = [os.environ['VTPROF_RING_DIR']]\n" + WRITER
        done = _agent(
            "exec", "--out", str(out), *flags, "--", sys.executable, "-c", script, "1024", "2", "0", "-"
        )
        assert done.returncode == 0, done.stderr
        (path,) = out.glob("*.traces.jsonl")
        document = json.loads(path.read_text().splitlines()[0])
        return {entry["key"] for entry in document["resourceSpans"][0]["resource"]["attributes"]}

    measured = {names.DEVICE_PEAK_FLOPS, names.DEVICE_BANDWIDTH, names.DEVICE_PEAK_SOURCE}
    assert not measured & resource()
    assert measured <= resource("--calibrate-host")


def test_stage_copies_the_probe_without_byte_code_and_twice_is_the_same(tmp_path: Path) -> None:
    def files() -> dict[str, bytes]:
        return {
            str(p.relative_to(tmp_path)): p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()
        }

    done = _agent("stage", str(tmp_path))
    assert done.returncode == 0, done.stderr
    first = files()
    assert {"sitecustomize.py", "vtprof_probe/__init__.py", "vtprof_schemas/names.py"} <= first.keys()
    assert [name for name in first if name.endswith(".dist-info/entry_points.txt")]
    assert not [name for name in first if name.endswith(".pyc")]
    assert f"PYTHONPATH={tmp_path}" in done.stdout.splitlines()
    assert "VTPROF_ENABLE=1" in done.stdout.splitlines()
    _agent("stage", str(tmp_path))
    assert files() == first
    bare = [sys.executable, "-S", "-c", "import vtprof_probe; print(vtprof_probe.__file__)"]
    loaded = subprocess.run(
        bare, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}, check=True
    )
    assert loaded.stdout.startswith(str(tmp_path))


def test_status_shows_a_ring_and_how_far_it_was_read(tmp_path: Path) -> None:
    writer = start_writer(tmp_path, requests=3)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        document = json.loads(_agent("status", "--ring-dir", str(tmp_path), "--format", "json").stdout)
        (ring,) = document["rings"]
        assert (ring["pid"], ring["process"], ring["engine"], ring["records_read"]) == (
            writer.pid,
            "alive",
            "test",
            None,
        )
        assert f"PID {writer.pid} (alive)" in _agent("status", "--ring-dir", str(tmp_path)).stdout
    finally:
        writer.communicate("\n", timeout=30)


def test_status_says_of_a_closed_ring_how_far_it_was_read(tmp_path: Path) -> None:
    def line() -> str:
        return _agent("status", "--ring-dir", str(rings)).stdout

    rings = tmp_path / "rings"
    ring = RingWriter.create(str(rings), 1024, "all", 0, {})
    assert "(alive): engine unknown, nothing recorded yet; not followed yet;" in line()
    for number in range(1, 4):
        ring.write(records.REQUEST_ARRIVED, number, number)
    ring.close()
    assert "; detached, not followed yet;" in line()
    # As an agent leaves it that was stopped before it could remove the ring.
    ring_id = RingFile(Path(ring.path)).identity.ring_id
    ProgressStore(rings).save({ring_id: Progress(cursor=4, passed=3)})
    assert "detached, read to the end, 3 read, 0 lost;" in line()
    document = json.loads(_agent("status", "--ring-dir", str(rings), "--format", "json").stdout)
    assert (document["rings"][0]["closed"], document["rings"][0]["read_to_end"]) == (True, True)


def test_status_says_of_a_closed_ring_without_a_record_that_nothing_is_left_to_read(tmp_path: Path) -> None:
    RingWriter.create(str(tmp_path), 1024, "all", 0, {}).close()
    assert (
        "; detached, read to the end; 0 not written" in _agent("status", "--ring-dir", str(tmp_path)).stdout
    )


def test_the_version_is_the_packages() -> None:
    done = _agent("--version")
    assert (done.returncode, done.stdout) == (0, f"vtprof-agent {metadata.version('vtprof')}\n")


def test_doctor_gives_the_promised_document_with_origins(tmp_path: Path) -> None:
    (tmp_path / "1-2.ring").write_bytes(b"not a ring")
    environment = {"VTPROF_AGENT_FLUSH_S": "0.5"}
    done = _agent("doctor", "--format", "json", "--ring-dir", str(tmp_path), environment=environment)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {"gpus", "engines", "rings", "problems"} <= document.keys()
    origins = {setting["name"]: setting["origin"] for setting in document["settings"]}
    assert origins["flush_s"] == "VTPROF_AGENT_FLUSH_S"
    assert origins["ring_dir"] == "--ring-dir"
    assert len([problem for problem in document["problems"] if "1-2.ring" in problem]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--metrics", "nowhere"],
        ["run", "--metrics", "0.0.0.0:0"],
        ["run", "--otlp-receive-http", "0.0.0.0:0"],
        ["run", "--otlp-protocol", "carrier-pigeon"],
        ["run", "--keep-ratio", "7"],
        ["run", "--samplers", "astrology"],
        ["run", "--otlp-endpoint", "collector"],
        ["run", "--otlp-endpoint", "http://[::1"],
        ["status", "--ring-dir", "/etc/passwd"],
        ["doctor", "--ring-dir", "/etc/passwd"],
        ["run", "--config", "missing.toml"],
        ["run", "--out", "/dev/null/x"],
        ["stage", "/dev/null/x"],
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(tmp_path: Path, arguments: list[str]) -> None:
    if arguments[0] == "run":
        arguments = [*arguments, "--ring-dir", str(tmp_path)]
    done = _agent(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    # A finder that hides OpenTelemetry stands in for an environment without it.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'opentelemetry':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    done = _agent("run", environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'vtprof[agent]'" in done.stderr


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom vtprof_agent.cli import main\nsys.argv = ['vtprof-agent', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'opentelemetry', 'prometheus_client', 'psutil', 'requests'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in ("run", "exec", "stage", "status", "doctor"):
        assert command in done.stdout


def test_run_exec_and_doctor_take_the_same_flags_and_every_flag_is_a_setting() -> None:
    from dataclasses import fields

    from vtprof_agent.cli.options import OPTIONS
    from vtprof_agent.config import Config

    assert OPTIONS.keys() <= {field.name for field in fields(Config)}
    flags = ["--out"] + ["--" + name.replace("_", "-") for name in OPTIONS if name != "out_dir"]
    for command in ("run", "exec", "doctor"):
        shown = _agent(command, "--help").stdout
        assert [flag for flag in [*flags, "--config"] if flag not in shown] == []
        told = " ".join(shown.split())
        assert (
            "VTPROF_AGENT_OTLP_ENDPOINT in the environment" in told
            and "`vtprof-agent doctor --verbose`" in told
        )
        assert names.DEFAULT_RING_DIR in told and Config().otlp_protocol in told


def test_flags_reach_the_settings_with_their_own_names_as_origins(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("keep_ratio = 0.5\nflush_s = 2.0\n")
    arguments = [
        "--config",
        str(file),
        "--ring-dir",
        str(tmp_path),
        "--keep-ratio",
        "0.25",
        "--insecure-listen",
    ]
    arguments += ["--engine-metrics", "http://127.0.0.1:1", "--samplers", "host"]
    document = json.loads(_agent("doctor", "--format", "json", *arguments).stdout)
    found = {one["name"]: (one["value"], one["origin"]) for one in document["settings"]}
    assert found["keep_ratio"] == (0.25, "--keep-ratio")
    assert found["flush_s"] == (2.0, str(file))
    assert found["engine_metrics"] == (["http://127.0.0.1:1"], "--engine-metrics")
    assert found["samplers"] == (["host"], "--samplers")
    assert found["insecure_listen"] == (True, "--insecure-listen")
    assert found["metrics"] == (None, "default")
