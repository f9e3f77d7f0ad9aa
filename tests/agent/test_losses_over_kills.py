"""What was counted as lost stays counted when the agent is killed: delivered and lost add up over all its lives."""

import os
import signal
import urllib.request
from pathlib import Path

import pytest
from agent_process import start_agent, start_writer
from collectors import Seen, batch, http_collector, wait_for
from soak_processes import free_port

from vtprof_agent.delivery import Delivery
from vtprof_agent.export.backoff import Backoff
from vtprof_agent.export.otlp import OtlpDestination
from vtprof_agent.export.parcel import Parcel, Signal
from vtprof_agent.export.spool import LEAST_BYTES, SEGMENTS, Spool
from vtprof_agent.faults import Faults
from vtprof_agent.follower import Progress
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_agent.progress_store import ProgressStore
from vtprof_probe.ring_writer import RingWriter

ROOM = SEGMENTS * 400
SPANS_PER_REQUEST = 3


def kill(spool: Spool) -> None:
    """Let go of all files as the death of a process does."""
    for segment in (*spool._segments, *spool._buried):
        os.close(segment._fd)


def overfilled(folder: Path) -> Spool:
    """Return a spool that dropped of a hundred messages of one span each what it had no room for."""
    spool = Spool(folder, ROOM)
    for number in range(1, 101):
        spool.append(Parcel(Signal.TRACES, number, 1, b"x" * 100))
    assert 0 < spool.lost.spans < 100
    assert spool.lost.spans + spool.messages == 100
    return spool


def test_what_a_spool_dropped_is_counted_by_the_next_agent_until_the_count_is_stored(tmp_path: Path) -> None:
    killed = overfilled(tmp_path)
    kill(killed)
    second = Spool(tmp_path, ROOM)
    assert (second.lost, second.messages) == (killed.lost, killed.messages)
    second.forget_notes(second.noted())
    kill(second)
    third = Spool(tmp_path, ROOM)
    assert (third.lost.spans, third.messages) == (0, killed.messages)
    assert {path.suffix for path in tmp_path.iterdir()} == {".spool"}


def test_a_note_takes_no_room_and_is_not_taken_from_an_agent_that_lives(tmp_path: Path) -> None:
    living = overfilled(tmp_path)
    notes = list(tmp_path.glob("*.lost"))
    assert len(notes) == living.noted() and sum(note.stat().st_size for note in notes) == 0
    assert Spool(tmp_path, ROOM).lost.spans == 0
    (tmp_path / "5-ab-9-9.lost.lost").write_text("of somebody else")
    kill(living)
    assert Spool(tmp_path, ROOM).lost == living.lost


def deliver(folder: Path, url: str, room: int | None) -> tuple[Delivery, OtlpDestination]:
    spool = None if room is None else Spool(folder / "spool", room)
    destination = OtlpDestination(
        url, timeout_s=10.0, queued_batches=4, spool=spool, backoff=Backoff(0.01, 0.01)
    )
    (folder / "rings").mkdir(exist_ok=True)
    return Delivery([destination], ProgressStore(folder / "rings"), 512, Faults()), destination


@pytest.mark.parametrize("room", [None, ROOM * 8])
def test_the_next_agent_goes_on_counting_what_a_destination_lost(tmp_path: Path, room: int | None) -> None:
    with http_collector() as seen:
        seen.away = True
        delivery, destination = deliver(tmp_path, seen.url, room)
        for number in range(1, 101):
            delivery.submit(batch(number).spans, None)
            delivery.reached({"ring": Progress(number)})
        # Without a spool four are kept in memory, and one more while it is sent.
        wait_for(lambda: destination.outbox.settled() >= (95 if room is None else 100))

        def stored() -> int:
            delivery.settle()
            return ProgressStore(tmp_path / "rings").lost(destination.target)[0]

        wait_for(lambda: 0 < stored() == destination.outbox.spans_dropped)
        lost = stored()
        destination.close(0.0)  # without a settle, as if killed
    again, destination = deliver(tmp_path, seen.url, room)
    try:
        assert destination.outbox.spans_dropped == lost
        again.settle()
        assert destination.outbox.spans_dropped == lost
    finally:
        destination.close(0.0)


def test_rings_that_are_gone_stay_in_the_totals(tmp_path: Path) -> None:
    store = ProgressStore(tmp_path)
    store.save({"a": Progress(cursor=8, passed=10, records_lost=3), "b": Progress(passed=5)})
    store.forget("a")
    store.save({"b": Progress(passed=5)})
    again = ProgressStore(tmp_path)
    assert (again.get("a"), again.retired()) == (None, (7, 3))
    again.forget("b")
    again.forget("never met")
    assert again.retired() == (12, 3)


def test_a_ring_that_was_removed_just_before_a_kill_is_in_the_totals_too(tmp_path: Path) -> None:
    ring = RingWriter.create(str(tmp_path), 4096, "all", 0, {})
    reader = RingReader.open(Path(ring.path))
    there = reader.identity.ring_id
    reader.close()
    (tmp_path / "broken.ring").write_bytes(b"no ring")
    ProgressStore(tmp_path).save({there: Progress(3), "gone": Progress(5, passed=10, records_lost=3)})
    store = ProgressStore(tmp_path)
    store.retire_gone()
    assert (store.get(there), store.get("gone"), store.retired()) == (Progress(3), None, (7, 3))
    ring.close()


def test_spans_that_a_killed_agent_dropped_and_those_that_arrive_make_up_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, requests = free_port(), 6_000
    for name, value in {"SPOOL_DIR": tmp_path / "spool", "SPOOL_BYTES": LEAST_BYTES, "FLUSH_S": 0.05,
                        "BATCH_SPANS": 64, "SAMPLE_S": 0, "BUDGET_CPU_RATIO": 0, "BUDGET_RSS_BYTES": 0}.items():  # fmt: skip
        monkeypatch.setenv(f"VTPROF_AGENT_{name}", str(value))
    seen = Seen()
    seen.away = True

    def dropped() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                page = answer.read().decode()
        except OSError:
            return -1
        return int(float(page.split("\nvtprof_agent_spans_dropped_total ")[1].split()[0]))

    with http_collector(seen):
        arguments = ("run", "--ring-dir", str(tmp_path / "rings"), "--otlp-endpoint", seen.url,
                     "--metrics", f"127.0.0.1:{port}")  # fmt: skip
        with start_writer(tmp_path / "rings", requests, capacity=1 << 17) as writer:
            told: list[int] = []
            for _ in range(3):
                agent = start_agent(*arguments)
                before = max(told, default=0)
                wait_for(lambda before=before: dropped() > before, 60.0)
                told.append(dropped())
                agent.send_signal(signal.SIGKILL)
                agent.communicate()
            agent = start_agent(*arguments)
            wait_for(lambda: dropped() >= told[-1] > 0, 60.0)
            writer.communicate("\n")
            wait_for(
                lambda: not list((tmp_path / "rings").glob("*.ring")), 60.0
            )  # read to its end, and removed
            seen.away = False
            wait_for(lambda: not list(tmp_path.glob("spool/*/*.spool")), 60.0)
            wait_for(lambda: len(set(seen.spans)) + dropped() >= requests * SPANS_PER_REQUEST, 60.0)
            lost = dropped()
            agent.terminate()
            agent.communicate()
    # What is exported again after a kill may be dropped and delivered: counted twice, but never not at all.
    assert told == sorted(told)
    arrived = len(set(seen.spans))
    assert arrived + lost >= requests * SPANS_PER_REQUEST
    assert arrived < requests * SPANS_PER_REQUEST
