"""Ctrl-C in a terminal, or SIGTERM, is answered with one line: what was written, or what is left as it was."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from agent_process import start_agent, start_writer, stderr_until
from collectors import http_collector, wait_for

from vtprof_agent import cli
from vtprof_agent.oversight import Account, Losses
from vtprof_agent.ring_totals import RingTotals


class _Outbox:
    """What a destination says of itself."""

    def __init__(self, delivered: int, dropped: int) -> None:
        self.spans_delivered, self.spans_dropped = delivered, dropped


class _Destination:
    def __init__(self, target: str, delivered: int, dropped: int) -> None:
        self.target, self.outbox = target, _Outbox(delivered, dropped)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_agent_that_is_stopped_says_what_it_read_and_wrote(tmp_path: Path, number: signal.Signals) -> None:
    rings, out = tmp_path / "rings", tmp_path / "out"
    rings.mkdir()
    writer = start_writer(rings, requests=5)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "30\n"
        for said in (
            f"stopped; records: 30 read, none lost; spans: 15 to {out}, none dropped",
            f"stopped; records: 0 read, none lost; spans: 0 to {out}, none dropped",  # all was read before
        ):
            agent = start_agent("run", "--ring-dir", str(rings), "--out", str(out), "--samplers", "host")
            try:
                stderr_until(agent, "following ")
                agent.send_signal(number)
                _, errors = agent.communicate(timeout=60)
            finally:
                agent.kill()
            assert agent.returncode == 0
            assert errors.splitlines()[-1].endswith(f" INFO vtprof-agent: {said}")
    finally:
        writer.kill()
        writer.communicate()


def test_the_last_line_counts_what_this_agent_lost_and_not_those_before_it() -> None:
    destinations = (_Destination("/out", 7, 2), _Destination("http://c:4318", 5, 4))
    before = Losses(RingTotals(records_read=100, records_lost=30), spans_dropped=5)
    account = Account(RingTotals(records_read=112, records_lost=33), 1, 0, 0, 0, destinations, before)  # type: ignore[arg-type]
    # 112 - 100 and 33 - 30 records; 2 + 4 - 5 spans
    assert account.told() == "records: 12 read, 3 lost; spans: 7 to /out, 5 to http://c:4318, 1 dropped"


MEASURING = """
import os, signal
from vtprof_agent import calibrate_host
from vtprof_agent.cli import main
from vtprof_schemas.errors import BackendError
def measure():
    os.kill(os.getpid(), signal.SIGINT)
    raise BackendError("the measuring process died with SIGINT")
calibrate_host.measure = measure
main()
"""


def test_a_stop_while_the_host_is_measured_is_no_failure(tmp_path: Path) -> None:
    words = ["run", "--calibrate-host", "--ring-dir", str(tmp_path / "rings"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", MEASURING, *words, "--samplers", "host"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    said = f"stopped; records: 0 read, none lost; spans: 0 to {tmp_path}/out, none dropped\n"
    assert (done.returncode, done.stderr.endswith(said)) == (0, True), done.stderr


def _in_front() -> None:
    """Be what the terminal's Ctrl-C is for, though the tests may run in the background, where it is ignored."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_in_a_terminal_is_one_line_and_130(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    with http_collector() as seen:
        seen.hang.clear()
        words = ["doctor", "--otlp-endpoint", seen.url, "--ring-dir", str(tmp_path), "--samplers", "host"]
        doctor = subprocess.Popen(
            [sys.executable, "-m", "vtprof_agent", *words], stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True, preexec_fn=_in_front,
        )  # fmt: skip
        os.close(theirs)
        try:
            wait_for(lambda: seen.calls)
            os.write(ours, b"\x03")
            code = doctor.wait(60)
        finally:
            doctor.kill()
            seen.hang.set()
    told = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert (told.replace("^C", "").splitlines(), code) == (["vtprof-agent: interrupted"], 130)


ATTACHED = "; some processes may be attached to: `vtprof-agent detach 4242` ends that"
DETACHED = "; some processes may still record: run it again"


@pytest.mark.parametrize(
    ("words", "module", "left"),
    [
        (["attach", "4242"], "attaching.attach", ATTACHED),
        (["attach", "4242", "--dry-run"], "attaching.attach", ""),
        (["detach", "4242"], "detaching.detach", DETACHED),
        (["detach", "4242", "--dry-run"], "detaching.detach", ""),
    ],
)
def test_what_an_interrupted_attach_leaves_is_said(
    words: list[str], module: str, left: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"vtprof_agent.attach.{module}", interrupted)
    monkeypatch.setattr(sys, "argv", ["vtprof-agent", *words, "--ring-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (130, f"vtprof-agent: interrupted{left}\n")
