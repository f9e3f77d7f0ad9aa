"""What a running agent tells of itself reaches `status`; a dead, hanging or lying one is told as such."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtprof_agent.agent_state import (
    PERIOD_S,
    STALE_S,
    STATE_FILE,
    AgentState,
    DestinationState,
    SamplerState,
    StateWriter,
    look,
)
from vtprof_agent.counters.rolling import CounterState
from vtprof_agent.follower import Progress
from vtprof_agent.progress_store import CURSORS_FILE, LOCK_FILE, ProgressStore, claim
from vtprof_agent.regular_file import open_regular
from vtprof_agent.samplers.sampler import Device
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError

S = 1_000_000_000
NOW = 1_900_000_000 * S
STATE = AgentState(
    pid=77, version="0.1.0", started_unix_ns=NOW - 3600 * S, cpu_ratio=0.0213, rss_bytes=61_200_000, probe_ratio=0.0012,
    detail=2, detail_reason="the agent's CPU time 0.0600 cores, limit 0.05", detail_seconds={3: 3000.0, 2: 600.0},
    destinations=(DestinationState("http://me:secret@collector:4318/v1?key=secret", 1234, 5, 678, "refused"),),
    samplers=(SamplerState("nvml"), SamplerState("gpm", "this GPU has no performance metrics")),
    gpus=(Device("GPU-1", "NVIDIA H200", {"gpm": True}),),
    attribution=(
        CounterState("GPU-1", names.GPU_ENERGY_MJ, names.QUALITY_ATTRIBUTED, float("inf"), 600, 0, True, 0.3, 0),
    ),
    rings=2, records_read=10_000, records_lost=3, open_requests=4, keep_ratio=0.1, requests_sampled_out=880,
)  # fmt: skip


def write(folder: Path, state: AgentState = STATE, unix_ns: int = NOW) -> None:
    StateWriter(folder, lambda: 0, lambda: unix_ns).write(lambda: state)


def test_status_tells_all_that_the_live_agent_wrote(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    write(tmp_path)
    seen = look(tmp_path, NOW + 2 * S)
    assert (seen.alive, seen.age_s) == (True, 2.0)
    assert seen.lines() == [
        f"agent of {tmp_path}: PID 77 runs",
        "  version 0.1.0, CPU 0.021 cores, memory 61.2 MB, the probe takes at most 0.12 % of a process's time",
        "  detail 2 (windows, no single steps) because of the agent's CPU time 0.0600 cores, limit 0.05",
        "  2 rings, 10000 records read, 3 lost, 4 requests in flight, 0 faults survived",
        "  0.1 of ordinary requests are kept, all slow and failed ones; 880 were left out",
        "  to http://collector:4318/v1: 1234 spans delivered, 5 dropped, 678 bytes wait on disk; last error: refused",
        "  GPU GPU-1: NVIDIA H200",
        "  sampler nvml: on",
        "  sampler gpm: off: this GPU has no performance metrics",
        "  vtprof.gpu.energy_mj of GPU-1: attributed, no fit yet, 600 windows, others may use this GPU",
    ]
    document = json.loads(json.dumps(seen.document(), allow_nan=False))
    assert document["agent"]["gpus"] == [{"uuid": "GPU-1", "name": "NVIDIA H200", "details": {"gpm": True}}]
    assert "secret" not in (tmp_path / STATE_FILE).read_text()
    os.close(lock)


def test_the_file_is_the_user_s_alone_replaced_as_a_whole_and_not_too_often(tmp_path: Path) -> None:
    now = [0]
    writer = StateWriter(tmp_path, lambda: now[0], lambda: NOW)
    (tmp_path / STATE_FILE).with_suffix(".new").write_text("of an agent that was killed")
    asked = []

    def state() -> AgentState:
        asked.append(1)
        return STATE

    for now[0] in (0, S, int(PERIOD_S * S) - 1, int(PERIOD_S * S)):
        writer.write(state)
    assert len(asked) == 2
    assert stat.S_IMODE((tmp_path / STATE_FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
    writer.close()
    writer.close()
    assert not list(tmp_path.iterdir())


def test_an_agent_that_was_killed_is_not_taken_for_a_live_one(tmp_path: Path) -> None:
    os.close(claim(tmp_path))
    write(tmp_path)
    seen = look(tmp_path, NOW + 600 * S)
    assert seen.alive is False
    assert seen.lines() == [
        f"agent of {tmp_path}: none runs; PID 77 ended without a stop, its last word is 10 min old"
    ]


def test_one_that_hangs_is_told_as_such(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    write(tmp_path)
    assert "it hangs" not in look(tmp_path, NOW + int(STALE_S) * S).lines()[0]
    assert look(tmp_path, NOW + 45 * S).lines()[0].endswith("told nothing for 45 s: it hangs or is stopped")
    os.close(lock)


def test_without_an_agent_or_before_its_first_word_that_is_said(tmp_path: Path) -> None:
    assert look(tmp_path, NOW).lines() == [f"agent of {tmp_path}: none runs"]
    assert look(tmp_path / "missing", NOW).alive is False
    lock = claim(tmp_path)
    assert look(tmp_path, NOW).lines()[0].endswith("runs, and has told nothing of itself yet")
    os.close(lock)
    os.close(claim(tmp_path))  # looking left no lock behind


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    agent=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from([*vars(STATE), "target", "key"]), inner, max_size=30)
        ),
        max_leaves=40,
    )
)
def test_whatever_the_file_holds_is_told_in_lines(tmp_path: Path, agent: object) -> None:
    lock = claim(tmp_path)
    document = {"version": 1, "written_unix_ns": NOW, "agent": agent}
    (tmp_path / STATE_FILE).write_text(json.dumps(document))
    assert all(line.isprintable() for line in look(tmp_path, NOW).lines())
    os.close(lock)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", '{"version": 2}', "[" * 100_000, '{"version":1,"agent":{},"written_unix_ns":"x"}'],
)
def test_a_file_that_is_no_state_is_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text)
    (line,) = look(tmp_path, NOW).lines()
    assert f"{STATE_FILE} cannot be used" in line


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("{}")
    (tmp_path / STATE_FILE).symlink_to(tmp_path / "other")
    assert "cannot be read" in look(tmp_path, NOW).lines()[0]
    (tmp_path / STATE_FILE).with_suffix(".new").symlink_to(tmp_path / "other")
    write(tmp_path)
    assert (tmp_path / "other").read_text() == "{}"
    assert not (tmp_path / STATE_FILE).is_symlink()


def test_the_command_shows_it_as_text_and_json(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    write(tmp_path, replace(STATE, detail=3, detail_reason=None))

    def status(*more: str) -> str:
        command = [sys.executable, "-m", "vtprof_agent", "status", "--ring-dir", str(tmp_path), *more]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    assert "  detail 3 (everything)\n" in status()
    (agent,) = json.loads(status("--format", "json"))["agents"]
    assert (agent["alive"], agent["ring_dir"], agent["agent"]["records_read"]) == (
        True,
        str(tmp_path),
        10_000,
    )
    os.close(lock)


@pytest.fixture
def never_waits() -> Iterator[None]:
    """Fail a test that waits for the other end of a FIFO."""

    def late(*_: object) -> None:
        raise AssertionError("it waits for the other end of a FIFO")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("never_waits")
def test_a_fifo_in_place_of_a_file_is_a_line_and_no_wait(tmp_path: Path) -> None:
    for name in (STATE_FILE, LOCK_FILE, CURSORS_FILE):
        os.mkfifo(tmp_path / name)
    seen = look(tmp_path, NOW)
    assert (seen.alive, seen.lines()) == (
        None,
        [f"agent of {tmp_path}: {STATE_FILE} cannot be read: not a regular file"],
    )
    with pytest.raises(BackendError, match=f"{LOCK_FILE}: cannot be used as ring folder: not a regular file"):
        claim(tmp_path)
    store = ProgressStore(tmp_path)
    assert store.get("r") is None and "not a regular file" in str(store.problem)
    store.save({"r": Progress(5)})
    assert ProgressStore(tmp_path).get("r") == Progress(5)
    write(tmp_path)
    assert look(tmp_path, NOW).age_s == 0


@pytest.mark.usefixtures("never_waits")
def test_a_device_or_a_link_in_place_of_the_cursors_is_not_read(tmp_path: Path) -> None:
    (tmp_path / CURSORS_FILE).symlink_to("/dev/zero")
    assert ProgressStore(tmp_path).problem is not None
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(Path("/dev/zero"), os.O_RDONLY)
