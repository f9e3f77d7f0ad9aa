"""`status` as a command: its text, its JSON and its exit codes."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from agent_states import HEALTHY, STATE, write

from vtprof_agent.agent_state import Seen
from vtprof_agent.cli.app import run
from vtprof_agent.progress_store import claim


@pytest.mark.parametrize("format_", ["text", "json"])
def test_status_ends_with_1_only_when_it_is_asked_to_check_and_all_is_not_well(
    tmp_path: Path, format_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["status", "--ring-dir", str(tmp_path), "--format", format_]

    def codes() -> tuple[int, int]:
        return run(words), run([*words, "--check"])

    assert codes() == (0, 1), "no agent runs"
    assert format_ == "json" or f"agent of {tmp_path}: none runs\n" in capsys.readouterr().out
    lock, healthy = claim(tmp_path), replace(HEALTHY, losses=())
    assert codes() == (0, 0), "it has only just started"
    write(tmp_path, healthy, time.time_ns())
    assert codes() == (0, 0)
    write(tmp_path, STATE, time.time_ns())
    assert codes() == (0, 1), "it has problems"
    write(tmp_path, healthy, time.time_ns())
    (tmp_path / "broken.ring").write_bytes(b"no ring")
    assert codes() == (0, 1), "a ring that cannot be read"
    (tmp_path / "broken.ring").unlink()
    os.close(lock)
    assert codes() == (0, 1), "it was killed"
    assert not Seen(tmp_path, None).sound, "whether one runs cannot be asked, and none tells of itself"


def test_that_no_agent_runs_is_said_first_without_being_asked_to_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", "--ring-dir", str(tmp_path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"agent of {tmp_path}: none runs" and second.startswith(
        f"no rings in {tmp_path} now: no process records there; "
    )


def test_the_command_shows_it_as_text_and_json(tmp_path: Path) -> None:
    lock = claim(tmp_path)
    write(tmp_path, replace(STATE, detail=3, detail_reason=None))

    def status(*more: str) -> str:
        command = [sys.executable, "-m", "vtprof_agent", "status", "--ring-dir", str(tmp_path), *more]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    assert "  detail 3 (everything), 2 rings, " in status()
    assert "  amd is off: no amdsmi\n" in status("--verbose")
    (agent,) = json.loads(status("--format", "json"))["agents"]
    assert (agent["alive"], agent["ring_dir"], agent["agent"]["records_read"]) == (
        True,
        str(tmp_path),
        10_000,
    )
    os.close(lock)
