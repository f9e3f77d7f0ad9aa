"""What the budget decides reaches the rings that are followed, and what the agent tells of itself leaves on time."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from memory_outbox import Outbox

from vtprof_agent.agent_state import STATE_FILE
from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.budget import Budget, Verdict
from vtprof_agent.export.destination import Outcome
from vtprof_agent.follower import Progress, RingFollower
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_agent.loop import Agent, LoopSettings
from vtprof_agent.metric_points import Point
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.metrics.otel import registry_metrics
from vtprof_agent.observer import Observer
from vtprof_agent.oversight import Account, Losses, Oversight
from vtprof_agent.processes import Processes
from vtprof_agent.progress_store import ProgressStore
from vtprof_agent.resource import agent_resource
from vtprof_agent.ring_totals import RingTotals
from vtprof_agent.samplers.sampler import Sample
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records

SECOND = 1_000_000_000
NODE = agent_resource("agent-test")


class Decided(Budget):
    """A budget whose verdict is given, and which notes what it was asked with."""

    def __init__(self, level: int) -> None:
        super().__init__(0, 0, 0)
        self.level = level
        self.asked: list[dict[str, int]] = []

    def look(self, now_ns: int, cpu_s: float, rss_bytes: float, probe_ns: Any) -> Verdict:
        self.asked.append(dict(probe_ns))
        return Verdict(self.level, "said once" if len(self.asked) == 1 else None)


@pytest.fixture
def writer(tmp_path: Path) -> RingWriter:
    return RingWriter.create(str(tmp_path), 64, "all", 0, {names.DEVICE_KIND: "cpu"})


def follow(writer: RingWriter) -> RingFollower:
    return RingFollower(RingReader.open(Path(writer.path)), AssemblySettings(), {})


def test_the_level_reaches_the_process_and_is_taken_back_when_the_agent_leaves(
    writer: RingWriter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring, budget = follow(writer), Decided(2)
    writer.add_probe_ns(123)
    ring.refresh()
    oversight = Oversight(tmp_path, "test", budget)
    observer = Observer(NODE, Metrics("test"), oversight=oversight, sample_s=0, series_s=0)
    observer.turn(SECOND, SECOND, 0, [ring])
    assert budget.asked == [{Path(writer.path).name: 123}]
    assert (writer.control(), ring.detail) == ((2, False), 2)
    assert [record.getMessage() for record in caplog.records] == ["said once"]
    observer.turn(SECOND + SECOND // 2, SECOND, 0, [ring])
    assert len(budget.asked) == 1  # once a second
    observer.leave(ring)
    assert (writer.control(), ring.detail) == ((3, False), 3)
    observer.follow(ring)  # a ring that is new while the level is low
    assert writer.control() == (2, False)


def test_series_leave_each_period_and_with_the_last_flush(tmp_path: Path) -> None:
    observer = Observer(NODE, Metrics("test"), sample_s=0, series_s=10.0)
    told = [observer.data((), at * SECOND, 0) is not None for at in (0, 5, 10, 19)]
    assert told == [True, False, True, False]
    assert observer.data((), 19 * SECOND, 0, last=True) is not None


def test_points_leave_together_each_period_and_once(tmp_path: Path) -> None:
    observer = Observer(NODE, Metrics("test"), sample_s=0, series_s=10.0)
    told = []
    for at in (0, 3, 6, 11, 12):
        point = Point(NODE, Sample(names.AGENT_RSS_BYTES, at), at)
        data = observer.data([point], at * SECOND, 0, last=at == 12)
        metrics = data.resource_metrics[0].scope_metrics[0].metrics if data else []
        ours = [metric.data for metric in metrics if metric.name == names.AGENT_RSS_BYTES]
        told.append(
            [point.time_unix_nano for data in ours for point in data.data_points if point.time_unix_nano]
        )
    assert told == [[], [], [], [3, 6, 11], [12]]


def test_points_of_the_agent_tell_its_losses_and_level(tmp_path: Path) -> None:
    outbox = SimpleNamespace(spans_dropped=3, metrics_dropped=0)
    destinations = cast(
        Any,
        [SimpleNamespace(outbox=outbox, spool_bytes=70), SimpleNamespace(outbox=outbox, spool_bytes=None)],
    )
    oversight = Oversight(tmp_path, "test", Decided(1))
    points = oversight.points(NODE, Account(RingTotals(), 0, 0, 0, 0, destinations), 5)
    told = {point.sample.key: point.sample.value for point in points}
    assert told[names.AGENT_SPANS_DROPPED] == 6
    assert told[names.AGENT_SPOOL_BYTES] == 70
    assert told[names.AGENT_DETAIL] == 1


def test_a_process_is_known_by_its_pid_unless_two_have_it() -> None:
    def ring(pid: int, instance: str) -> Any:
        told = {names.SERVICE_INSTANCE_ID: instance}
        return SimpleNamespace(pid=pid, resource=SimpleNamespace(attributes=told))

    processes = Processes()
    processes.take([ring(1, "a"), ring(1, "a"), ring(2, "b"), ring(2, "c"), ring(2, "b")])
    assert processes.get(1) == {names.SERVICE_INSTANCE_ID: "a"}
    assert processes.get(2) is None
    assert processes.get(3) is None


def test_what_was_lost_and_who_cannot_be_told_its_detail_reach_the_state(
    tmp_path: Path, writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, now = follow(writer), [0]
    monkeypatch.setattr(
        ring.reader, "set_control", lambda _level: False
    )  # as where the ring may only be read
    oversight = Oversight(tmp_path, "test", Decided(2), clock_ns=lambda: now[0], unix_ns=lambda: now[0])
    outbox = SimpleNamespace(spans_delivered=0, spans_dropped=0, metrics_dropped=0)
    destinations = cast(Any, [SimpleNamespace(outbox=outbox, spool_bytes=None, target="there", problem=None)])
    losses = {}
    for second, lost in ((2, 7), (4, 7), (6, 9), (8, 9)):
        now[0] = second * SECOND
        oversight.look(now[0], [ring])
        outbox.spans_dropped = lost - 7
        oversight.tell(Account(RingTotals(records_lost=lost), 1, 0, 0, 0, destinations))
        told = json.loads((tmp_path / STATE_FILE).read_text())["agent"]
        losses[second] = {one["what"]: (one["count"], one["last_unix_ns"]) for one in told["losses"]}
        assert told["detail_refused"] == [ring.pid]
    records = [losses[second]["records lost in rings"] for second in losses]
    assert records == [(7, 2 * SECOND), (7, 2 * SECOND), (9, 6 * SECOND), (9, 6 * SECOND)]
    assert losses[4]["spans dropped"] == (0, None)
    assert losses[8]["spans dropped"] == (2, 6 * SECOND)


def test_what_earlier_agents_counted_is_no_growth_and_what_comes_on_top_is(tmp_path: Path) -> None:
    now = [0]
    oversight = Oversight(tmp_path, "test", Decided(3), clock_ns=lambda: now[0], unix_ns=lambda: now[0])
    outbox = SimpleNamespace(spans_delivered=0, spans_dropped=11163, metrics_dropped=2)
    destinations = cast(Any, [SimpleNamespace(outbox=outbox, spool_bytes=None, target="there", problem=None)])
    told = {}
    # At 4 s a ring is followed on, of which an earlier agent had lost 3; at 6 s this one loses 2 of it.
    for second, lost, before in ((2, 5, 5), (4, 8, 8), (6, 10, 8)):
        now[0] = second * SECOND
        outbox.spans_dropped += second == 6
        stored = Losses(RingTotals(records_lost=before), 11163, 2)
        oversight.tell(Account(RingTotals(records_lost=lost), 1, 0, 0, 0, destinations, stored))
        losses = json.loads((tmp_path / STATE_FILE).read_text())["agent"]["losses"]
        told[second] = {one["what"]: (one["count"], one["before"], one["last_unix_ns"]) for one in losses}
    assert [told[second]["records lost in rings"] for second in told] == [
        (5, 5, None),
        (8, 8, None),
        (10, 8, 6 * SECOND),
    ]
    assert told[4]["spans dropped"] == (11163, 11163, None)
    assert told[6]["spans dropped"] == (11164, 11163, 6 * SECOND)
    assert told[6]["batches of metrics dropped"] == (2, 2, None)


def test_an_agent_that_takes_over_tells_no_problem_of_what_the_last_one_lost(tmp_path: Path) -> None:
    ring = RingWriter.create(str(tmp_path), 64, "all", 0, {names.DEVICE_KIND: "cpu"})
    ring.write(records.REQUEST_ARRIVED, 1, 1)
    reader = RingReader.open(Path(ring.path))
    there = reader.identity.ring_id
    reader.close()
    outbox = Outbox(cast(Any, SimpleNamespace(send=lambda _batch: Outcome.DELIVERED)))
    destination = SimpleNamespace(
        outbox=outbox,
        spool_bytes=None,
        target="there",
        problem=None,
        submit=outbox.put,
        close=lambda _s: None,
    )
    store = ProgressStore(tmp_path)
    store.save({there: Progress(1, passed=9, records_lost=4), "gone": Progress(5, passed=10, records_lost=3)},
               {"there": (11163, 2)})  # fmt: skip
    oversight = Oversight(tmp_path, "test", Decided(3))
    observer = Observer(NODE, Metrics("test"), oversight=oversight, sample_s=0, series_s=0)
    agent = Agent(tmp_path, cast(Any, [destination]), LoopSettings(), AssemblySettings(), observer=observer)
    agent.turn()
    state = json.loads((tmp_path / STATE_FILE).read_text())["agent"]
    losses = {one["what"]: (one["count"], one["before"], one["last_unix_ns"]) for one in state["losses"]}
    assert losses["records lost in rings"] == (7, 7, None)
    assert losses["spans dropped"] == (11163, 11163, None)
    assert losses["batches of metrics dropped"] == (2, 2, None)
    agent.stop()


def test_a_state_that_cannot_be_told_costs_no_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    oversight, metrics = Oversight(tmp_path, "test", Decided(3)), Metrics("test")
    observer = Observer(NODE, metrics, oversight=oversight, sample_s=0, series_s=0)
    monkeypatch.setattr(oversight, "_state", lambda _account: 1 / 0)
    observer.refresh(Account(RingTotals(records_read=5), 0, 0, 0, 0, ()), [], {})
    assert metrics.registry.get_sample_value("vtprof_agent_records_read_total") == 5
    assert (observer.faults, len(caplog.messages)) == (1, 1)


def test_what_each_destination_took_and_lost_is_told_apart() -> None:
    def destination(target: str, *counts: int) -> Any:
        told = dict(zip(("spans_delivered", "spans_dropped", "metrics_dropped"), counts, strict=True))
        return SimpleNamespace(target=target, outbox=SimpleNamespace(**told))

    metrics = Metrics("test")
    observer = Observer(NODE, metrics, sample_s=0, series_s=0)
    two = (destination("/traces", 438, 0, 0), destination("http://me:secret@collector:4318", 400, 38, 2))
    observer.refresh(Account(RingTotals(), 0, 0, 0, 0, two), [], {})
    counters = ("spans_exported", "spans_dropped", "metric_batches_dropped")
    value = metrics.registry.get_sample_value
    for target, counts in (("/traces", [438, 0, 0]), ("http://collector:4318", [400, 38, 2])):
        found = [value(f"vtprof_agent_{name}_total", {"destination": target}) for name in counters]
        assert found == counts, target
    (sent,) = [
        one for one in registry_metrics(metrics.registry, 0, 1) if one.name == "vtprof.agent.spans_exported"
    ]
    assert {point.attributes["vtprof.destination"]: point.value for point in sent.data.data_points} == {  # type: ignore[index, union-attr]
        "/traces": 438, "http://collector:4318": 400,
    }  # fmt: skip
    nowhere = Metrics("test")
    Observer(NODE, nowhere, sample_s=0, series_s=0).refresh(Account(RingTotals(), 0, 0, 0, 0, ()), [], {})
    assert nowhere.registry.get_sample_value("vtprof_agent_spans_dropped_total") == 0


def test_the_page_counts_the_records_of_this_agent_and_the_state_those_of_all(tmp_path: Path) -> None:
    """A page that goes on from 100 falls after a kill to what was stored, which Prometheus counts once more."""
    oversight, metrics = Oversight(tmp_path, "test", Decided(3)), Metrics("test")
    observer = Observer(NODE, metrics, oversight=oversight, sample_s=0, series_s=0)
    account = Account(RingTotals(records_read=112), 1, 3, 20, 0, (), Losses(RingTotals(records_read=100)))
    observer.refresh(account, [], {})
    value = metrics.registry.get_sample_value
    assert value("vtprof_agent_records_read_total") == 112 - 100
    assert (value("vtprof_agent_open_requests"), value("vtprof_agent_held_requests")) == (3, 20)
    state = json.loads((tmp_path / STATE_FILE).read_text())["agent"]
    told = [state[key] for key in ("records_read", "records_read_before", "open_requests", "held_requests")]
    assert told == [112, 100, 3, 20]


def test_a_folder_that_takes_no_state_is_said_once_until_it_took_one_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now, folder = [0], tmp_path / "rings"
    folder.mkdir()
    oversight = Oversight(folder, "test", Decided(3), clock_ns=lambda: now[0])
    said = []
    # Told of twice a second, as with each flush, and written every other second.
    for half_seconds in range(40):
        if half_seconds in (8, 24):
            (folder / STATE_FILE).unlink()
            folder.rmdir()
        elif half_seconds == 16:
            folder.mkdir()
        now[0] = half_seconds * SECOND // 2
        oversight.tell(Account(RingTotals(), 0, 0, 0, 0, ()))
        said.append(len(caplog.messages))
    assert (said[7], said[15], said[23], said[39]) == (0, 1, 1, 2)
    assert "the agent's state cannot be written" in caplog.messages[0]
