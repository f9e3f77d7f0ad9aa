"""Log lines: stamped for a file, with priorities for the journal, bare for who looks on; the wording is the same."""

import logging
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from agent_process import start_agent, stderr_until

from vtprof_agent.cli import log_lines

CODE = """
import logging, sys
from vtprof_agent.cli.log_lines import start_logging
start_logging("debug", stamped={"stamped": True, "bare": False}.get(sys.argv[1]))
for level in (10, 20, 30, 40, 50):
    logging.getLogger("vtprof_agent.x").log(level, "level %d", level)
try:
    1 / 0
except ZeroDivisionError:
    logging.exception("it failed")
logging.getLogger("urllib3").error("not ours")
"""


def _lines(kind: str, environment: dict[str, str] | None = None, **more: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, kind],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, **(environment or {})},
    )
    return done.stderr.splitlines()


def test_a_log_that_goes_on_for_days_says_when_and_how_grave() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    lines = _lines("stamped", {"TZ": "Asia/Kathmandu", "JOURNAL_STREAM": "1:1"})
    assert [line.split(" ", 1)[1] for line in lines[:6]] == [
        "DEBUG vtprof-agent: level 10",
        "INFO vtprof-agent: level 20",
        "WARNING vtprof-agent: level 30",
        "ERROR vtprof-agent: level 40",
        "CRITICAL vtprof-agent: level 50",
        "ERROR vtprof-agent: it failed",
    ]
    times = [datetime.fromisoformat(line.split(" ")[0]) for line in lines[:6]]
    assert all(time.utcoffset() is not None for time in times)
    assert before <= times[0] and times[-1] <= datetime.now(UTC)
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_for_a_person_who_looks_on_there_is_no_stamp() -> None:
    lines = _lines("bare")
    assert lines[:2] == ["vtprof-agent: level 10", "vtprof-agent: level 20"]


def test_without_a_wish_lines_are_bare_on_a_terminal_and_stamped_in_a_file() -> None:
    assert [line.split(" ", 1)[1] for line in _lines("either")[:1]] == ["DEBUG vtprof-agent: level 10"]
    terminal, side = pty.openpty()
    done = subprocess.run([sys.executable, "-c", CODE, "either"], stderr=side, timeout=60, check=True)
    os.close(side)
    shown = os.read(terminal, 1 << 16)
    os.close(terminal)
    assert done.returncode == 0
    assert shown.startswith(b"vtprof-agent: level 10\r\n")


def test_the_journal_stamps_itself_and_is_given_priorities(monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.fstat(sys.stderr.fileno())
    here = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    formatter = log_lines._formatter(True, here)
    record = logging.LogRecord("x", logging.WARNING, "", 0, "first\nsecond", None, None)
    assert formatter.format(record) == "<4>vtprof-agent: first\n<4>second"
    priorities = {}
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        record = logging.LogRecord("x", level, "", 0, "text", None, None)
        priorities[level] = formatter.format(record)[:3]
    assert [*priorities.values()] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    record = logging.LogRecord("x", logging.INFO, "", 0, "text", None, None)
    stamped = log_lines._formatter(True, {"JOURNAL_STREAM": "1:1"})
    assert re.match(r"\d{4}-\d\d-\d\dT", stamped.format(record)), "redirected, or of a parent: no journal"
    assert log_lines._formatter(False, here).format(record) == "vtprof-agent: text"


def test_exec_stamps_its_lines_in_a_file(tmp_path: Path) -> None:
    done = start_agent("exec", "--out", str(tmp_path / "out"), "--", "true")
    _, errors = done.communicate(timeout=60)
    lines = [line for line in errors.splitlines() if line.endswith("`vtprof-agent status` shows them")]
    assert len(lines) == 1 and re.match(
        r"\d{4}-\d\d-\d\dT\S+ INFO vtprof-agent: the processes' rings", lines[0]
    )


def test_run_stamps_its_lines(tmp_path: Path) -> None:
    agent = start_agent("run", "--out", str(tmp_path / "out"), "--ring-dir", str(tmp_path / "rings"))
    try:
        line = stderr_until(agent, "no rings in")
    finally:
        agent.kill()
        agent.communicate(timeout=30)
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 INFO vtprof-agent: no rings in "
    assert re.match(pattern, line)
