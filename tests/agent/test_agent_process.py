"""The real agent beside a real writer: nothing that was read is lost at a stop, a kill or a restart."""

import signal
from pathlib import Path

from agent_process import RECORDS_PER_REQUEST, newest_metric, spans, start_agent, start_writer, wait_for

from vtprof_agent.progress_store import LOCK_FILE
from vtprof_schemas import names


def _request_ids(folder: Path) -> list[str]:
    return [span["spanId"] for span in spans(folder) if span["name"] == names.SPAN_REQUEST]


def test_sigterm_writes_everything_that_was_written_into_the_ring(tmp_path: Path) -> None:
    rings, out = tmp_path / "rings", tmp_path / "out"
    writer = start_writer(rings, requests=500, pause_s=0.001)
    agent = start_agent("run", "--ring-dir", str(rings), "--out", str(out))
    try:
        assert writer.stdout is not None
        assert int(writer.stdout.readline()) == 500 * RECORDS_PER_REQUEST
        wait_for((rings / LOCK_FILE).exists)
        agent.send_signal(signal.SIGTERM)
        _, log = agent.communicate(timeout=30)
        assert agent.returncode == 0, log
    finally:
        agent.kill()
        writer.communicate("\n", timeout=30)
    assert len(_request_ids(out)) == len(set(_request_ids(out))) == 500
    assert sum(span["name"] == names.SPAN_STEP for span in spans(out)) == 500
    assert newest_metric(out, names.AGENT_RECORDS_READ) == 500 * RECORDS_PER_REQUEST
    assert newest_metric(out, names.AGENT_RECORDS_LOST) == 0


def test_after_kill_nine_a_new_agent_goes_on_and_every_request_is_there_once(tmp_path: Path) -> None:
    rings, out = tmp_path / "rings", tmp_path / "out"
    writer = start_writer(rings, requests=1500, pause_s=0.002)
    first = start_agent("run", "--ring-dir", str(rings), "--out", str(out))
    second = None
    try:
        wait_for(lambda: len(_request_ids(out)) > 50)
        first.kill()
        first.wait()
        second = start_agent("run", "--ring-dir", str(rings), "--out", str(out))
        assert writer.stdout is not None
        assert int(writer.stdout.readline()) == 1500 * RECORDS_PER_REQUEST
        # Its own file exists: it is up, and hears the signal.
        wait_for(lambda: len(list(out.glob("*.traces.jsonl"))) > 1)
        second.send_signal(signal.SIGTERM)
        _, log = second.communicate(timeout=30)
        assert second.returncode == 0, log
    finally:
        first.kill()
        if second is not None:
            second.kill()
        writer.communicate("\n", timeout=30)
    # A repeated export carries the same ids; distinct ones are the requests, and none was lost.
    assert len(set(_request_ids(out))) == 1500
    assert len({span["spanId"] for span in spans(out) if span["name"] == names.SPAN_STEP}) == 1500
    assert newest_metric(out, names.AGENT_RECORDS_LOST) == 0
    assert newest_metric(out, names.AGENT_RECORDS_READ) == 1500 * RECORDS_PER_REQUEST


def test_records_overwritten_before_the_agent_came_are_counted(tmp_path: Path) -> None:
    rings, out = tmp_path / "rings", tmp_path / "out"
    writer = start_writer(rings, requests=200, capacity=256)
    assert writer.stdout is not None
    written = int(writer.stdout.readline())
    agent = start_agent("run", "--ring-dir", str(rings), "--out", str(out))
    try:
        wait_for(lambda: newest_metric(out, names.AGENT_RECORDS_READ) > 0)
        agent.send_signal(signal.SIGTERM)
        agent.communicate(timeout=30)
    finally:
        agent.kill()
        writer.communicate("\n", timeout=30)
    read, lost = newest_metric(out, names.AGENT_RECORDS_READ), newest_metric(out, names.AGENT_RECORDS_LOST)
    assert read + lost == written == 1200
    assert lost >= 1200 - 256
    assert len(_request_ids(out)) >= 1


def test_the_ring_of_a_process_that_ended_is_read_to_its_end_and_removed(tmp_path: Path) -> None:
    rings, out = tmp_path / "rings", tmp_path / "out"
    writer = start_writer(rings, requests=20, linger=False)
    writer.communicate(timeout=30)
    agent = start_agent("run", "--ring-dir", str(rings), "--out", str(out))
    try:
        wait_for(lambda: not list(rings.glob("*.ring")))
        assert len(_request_ids(out)) == 20
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.communicate(timeout=30)


def test_a_second_agent_on_the_same_rings_is_refused_in_one_line(tmp_path: Path) -> None:
    rings, out = tmp_path / "rings", tmp_path / "out"
    first = start_agent("run", "--ring-dir", str(rings), "--out", str(out))
    try:
        wait_for((rings / LOCK_FILE).exists)
        second = start_agent("run", "--ring-dir", str(rings), "--out", str(out))
        _, message = second.communicate(timeout=30)
        assert second.returncode == 2
        assert message.count("\n") == 1
        assert "another vtprof-agent" in message
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=30)
    assert first.returncode == 0
