"""What waits for an endpoint: in order, settled when it is safe, and every span delivered or counted as lost."""

import errno
import os
from pathlib import Path

import pytest
from collectors import batch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vtprof_agent.export.backlog import LITTLE_BEHIND, Backlog
from vtprof_agent.export.backoff import MOST_ASKED_S, Backoff
from vtprof_agent.export.destination import Outcome
from vtprof_agent.export.parcel import Encoded, Parcel, Signal, encode
from vtprof_agent.export.spool import Spool
from vtprof_agent.export.transport import Answer

DELIVERED, RETRY, REFUSED = Answer(Outcome.DELIVERED), Answer(Outcome.RETRY), Answer(Outcome.REFUSED)


def _batch(number: int, size: int = 10, spans: int = 1) -> Encoded:
    return Encoded(number, (Parcel(Signal.TRACES, number, spans, b"x" * size),))


def _answer(backlog: Backlog, answer: Answer) -> int:
    parcel = backlog.take()
    assert parcel is not None
    backlog.done(parcel, answer)
    return parcel.number


def test_while_the_endpoint_takes_them_nothing_is_written_to_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    backlog = Backlog(8, spool)
    for number in range(1, 50):
        backlog.put(_batch(number))
        assert backlog.settled() == number - 1
        assert _answer(backlog, DELIVERED) == number
        assert backlog.settled() == number
    assert list(tmp_path.iterdir()) == []
    assert (backlog.spans_delivered, backlog.messages_replayed) == (49, 0)


def test_while_it_is_away_batches_go_to_the_spool_and_are_settled(tmp_path: Path) -> None:
    backlog = Backlog(8, Spool(tmp_path, 1 << 20))
    backlog.put(_batch(1))
    _answer(backlog, RETRY)
    assert backlog.settled() == 1
    for number in range(2, 100):
        backlog.put(_batch(number))
        assert backlog.settled() == number
    assert backlog.spool_messages == 99
    assert [_answer(backlog, DELIVERED) for _ in range(99)] == list(range(1, 100))
    assert (backlog.take(), backlog.spool_bytes, backlog.messages_replayed) == (None, 0, 99)
    assert (backlog.spans_delivered, backlog.spans_dropped) == (99, 0)


def test_an_endpoint_that_hangs_does_not_keep_the_newer_ones_in_memory(tmp_path: Path) -> None:
    backlog = Backlog(256, Spool(tmp_path, 1 << 20))
    backlog.put(_batch(1))
    sent = backlog.take()
    for number in range(2, LITTLE_BEHIND + 2):
        backlog.put(_batch(number))
    assert (backlog.settled(), backlog.spool_messages) == (LITTLE_BEHIND + 1, LITTLE_BEHIND + 1)
    assert sent is not None
    backlog.done(sent, DELIVERED)
    assert _answer(backlog, DELIVERED) == 2
    assert (backlog.spans_delivered, backlog.spool_messages) == (2, LITTLE_BEHIND - 1)


def test_a_full_disk_holds_a_bounded_number_in_memory_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    backlog = Backlog(3, Spool(tmp_path, 1 << 20))
    backlog.put(_batch(1))
    _answer(backlog, RETRY)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        for number in range(2, 8):
            backlog.put(_batch(number))
        assert (backlog.settled(), backlog.spans_dropped) == (4, 3)
    backlog.put(_batch(8))
    assert (backlog.settled(), backlog.spans_dropped) == (8, 3)
    assert [_answer(backlog, DELIVERED) for _ in range(5)] == [1, 5, 6, 7, 8]
    said = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert said == ["cannot write (No space left on device); batches wait in memory", "can write again"]


def test_memory_is_bounded_in_bytes() -> None:
    backlog = Backlog(1000, None, memory_bytes=1000)
    for number in range(1, 101):
        backlog.put(_batch(number, 100))
    assert (backlog.spans_dropped, backlog.settled()) == (90, 90)


def test_what_was_dropped_while_it_was_sent_is_counted_by_its_answer() -> None:
    for answer, expected in ((DELIVERED, (1, 1)), (RETRY, (0, 2)), (REFUSED, (0, 2))):
        backlog = Backlog(2)
        backlog.put(_batch(1))
        sent = backlog.take()
        for number in (2, 3, 4):
            backlog.put(_batch(number))
        assert sent is not None
        backlog.done(sent, answer)
        assert (backlog.spans_delivered, backlog.spans_dropped) == expected
        assert backlog.settled() == 2


def test_the_same_when_it_went_with_the_oldest_file_of_the_spool(tmp_path: Path) -> None:
    for answer, delivered in ((DELIVERED, 1), (RETRY, 0)):
        backlog = Backlog(2, Spool(tmp_path / str(delivered), 16 * 1024))
        backlog.put(_batch(1, 900))
        _answer(backlog, RETRY)
        sent = backlog.take()
        for number in range(2, 40):
            backlog.put(_batch(number, 900))
        waiting = backlog.spool_messages
        assert sent is not None
        backlog.done(sent, answer)
        assert backlog.spans_delivered == delivered
        assert backlog.spans_delivered + backlog.spans_dropped + waiting == 39


def test_at_a_stop_all_that_waits_is_left_to_the_next_agent(tmp_path: Path) -> None:
    backlog = Backlog(8, Spool(tmp_path, 1 << 20))
    backlog.put(encode(batch(1, with_metrics=True)))
    backlog.put(encode(batch(2)))
    sent = backlog.take()
    assert (backlog.close(), backlog.settled(), backlog.spans_dropped) == (0, 2, 0)
    assert sent is not None
    backlog.done(sent, DELIVERED)  # the thread that was broken off may come late
    backlog = Backlog(8, Spool(tmp_path, 1 << 20))
    assert [_answer(backlog, DELIVERED) for _ in range(3)] == [1, 1, 2]
    assert (backlog.spans_delivered, backlog.take()) == (4, None)


def test_pauses_double_to_a_bound_with_half_of_each_left_to_chance() -> None:
    least, most = Backoff(1.0, 10.0, lambda: 0.0), Backoff(1.0, 10.0, lambda: 1.0)
    assert [least.pause_s() for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert [most.pause_s() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    most.reset()
    assert most.pause_s() == 1.0
    assert (most.pause_s(asked_s=40.0), most.pause_s(asked_s=1e9)) == (40.0, MOST_ASKED_S)


class _Life(RuleBasedStateMachine):
    """Agents one after the other over one folder: put, send, fail, restart, be killed, a disk that is full."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        for old in self.folder.iterdir():
            old.unlink()
        self.room = 1500
        self.submitted = 0
        self.arrived: list[int] = []
        self.delivered_before = 0
        """By agents that ended."""
        self.backlog = Backlog(4, Spool(self.folder, self.room))
        self.sent: Parcel | None = None
        self.patch = pytest.MonkeyPatch()

    @rule(size=st.integers(0, 700) | st.just(2000))
    def put(self, size: int) -> None:
        self.submitted += 1
        self.backlog.put(_batch(self.submitted, size))

    @rule()
    def take(self) -> None:
        if self.sent is None:
            self.sent = self.backlog.take()

    @precondition(lambda self: self.sent is not None)
    @rule(answer=st.sampled_from([DELIVERED, RETRY, REFUSED]))
    def answer(self, answer: Answer) -> None:
        assert self.sent is not None
        if answer is DELIVERED:
            assert not self.arrived or self.sent.number > self.arrived[-1], "in order, and once"
            self.arrived.append(self.sent.number)
        self.backlog.done(self.sent, answer)
        self.sent = None

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.patch.undo()
        if full:

            def refuses(*_: object) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

            self.patch.setattr(os, "pwrite", refuses)

    @precondition(lambda self: self.sent is None)
    @rule(end=st.sampled_from(["stopped", "killed", "killed before the count was stored"]))
    def restart(self, end: str) -> None:
        self.patch.undo()  # a position that was not stored would be delivered twice, as it may
        gone, again = self.backlog, list(self.backlog._waiting)
        if end == "stopped":
            gone.close()
            again = []
        spans, metrics = gone.losses()
        if end == "killed before the count was stored":
            spans -= sum(int(note.path.stem.split("-")[2]) for note in gone._spool._buried)  # type: ignore[union-attr]
        else:
            gone.losses_stored()
        if end != "stopped":
            for file in (*gone._spool._segments, *gone._spool._buried):  # type: ignore[union-attr]
                os.close(file._fd)
        self.delivered_before += gone.spans_delivered
        self.backlog = Backlog(4, Spool(self.folder, self.room))
        self.backlog.inherit(spans, metrics)
        for parcel in again:  # read again from the rings: it was not settled
            self.backlog.put(Encoded(parcel.number, (parcel,)))

    @invariant()
    def all_are_accounted_for(self) -> None:
        backlog = self.backlog
        waiting = len(backlog._waiting) + backlog.spool_messages
        if self.sent is not None and backlog._sending is None:
            waiting += 1  # dropped meanwhile; its answer tells
        done = self.delivered_before + backlog.spans_delivered + backlog.spans_dropped
        assert done + waiting == self.submitted
        assert len(backlog._waiting) <= 4
        assert backlog.spool_bytes <= self.room

    def teardown(self) -> None:
        self.patch.undo()
        self.backlog.close()


def test_whatever_happens_every_span_is_waiting_delivered_or_counted(tmp_path: Path) -> None:
    class Life(_Life):
        folder = tmp_path

    machine = Life.TestCase
    machine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
    machine("runTest").runTest()
