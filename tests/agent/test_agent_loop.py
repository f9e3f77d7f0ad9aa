"""The loop in this process, on a real ring, with a clock that the test moves: what is known when, and what goes away."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from memory_outbox import Outbox
from opentelemetry.sdk.trace import ReadableSpan

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.counters.rolling import RollingMeter
from vtprof_agent.export.destination import Batch, Outcome
from vtprof_agent.follower import Keep, RingFollower
from vtprof_agent.inbox.discovery import Liveness
from vtprof_agent.loop import READ_RECORDS, Agent, LoopSettings
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.observer import Observer
from vtprof_agent.resource import agent_resource
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records

BASE = {names.ENGINE_NAME: "test", names.DEVICE_KIND: "cpu"}
KNOWN = {**BASE, names.KV_BYTES_PER_TOKEN: 8}
MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND


class _Collecting:
    """A destination that keeps the spans."""

    target = "memory"
    spool_bytes = None
    problem = None

    def __init__(self) -> None:
        self.outbox = Outbox(self, 8)
        self.spans: list[ReadableSpan] = []

    def submit(self, batch: Batch) -> None:
        self.outbox.put(batch)
        self.outbox.pump()

    def send(self, batch: Batch) -> Outcome:
        self.spans += batch.spans
        return Outcome.DELIVERED

    def close(self, timeout_s: float = 0.0, *, last: bool = False) -> None:
        return


class _Bench:
    """An agent on a folder of rings; ``at`` is its time."""

    def __init__(
        self,
        rings: Path,
        page: Metrics | None = None,
        keep: Keep | None = None,
        meter: RollingMeter | None = None,
    ) -> None:
        self.at = 0
        self.unix_s = 1e9
        self.destination = _Collecting()
        self.agent = Agent(
            rings, [self.destination], LoopSettings(flush_s=1.0), AssemblySettings(), keep=keep,
            observer=Observer(
                agent_resource("agent-test"), page or Metrics("test"), sample_s=0, series_s=0, meter=meter
            ),
            clock_ns=lambda: self.at, unix_ns=lambda: int(self.unix_s * SECOND),
        )  # fmt: skip

    def turn(self, at_ns: int) -> None:
        self.at = at_ns
        self.agent.turn()

    @property
    def kv_bytes(self) -> list[object]:
        return [
            span.attributes.get(names.KV_BYTES)
            for span in self.destination.spans
            if span.name == names.SPAN_REQUEST and span.attributes is not None
        ]

    def resources(self) -> set[object]:
        return {span.resource.attributes.get(names.KV_BYTES_PER_TOKEN) for span in self.destination.spans}


def _begin(ring: RingWriter, number: int = 1) -> None:
    ring.write(records.REQUEST_ARRIVED, number, 100)
    ring.write(records.REQUEST_INPUT, number, 30, 10, 20, 0, 0, 0, 1, 0, 0)
    ring.write(records.PREFILL, number, number, 30, 20, 0, 0, 465, 0, 1)


def _end(ring: RingWriter, number: int = 1) -> None:
    _step(ring, number)
    ring.write(records.FIRST_TOKEN, number, 200)
    ring.write(records.REQUEST_FINISHED, number, 210, 0, 1)


def _step(ring: RingWriter, number: int = 1) -> None:
    ring.write(records.STEP, number, 150, 200, 30, 0, 0, 0, 0, 30, 20, -1, 1, 0, 0, 0)


def _ring(tmp_path: Path) -> RingWriter:
    ring = RingWriter.create(str(tmp_path), 64, "all", 0, BASE)
    assert not ring.reason
    return ring


def test_what_the_process_said_before_it_finished_a_request_is_known_of_that_request(tmp_path: Path) -> None:
    ring, bench = _ring(tmp_path), _Bench(tmp_path)
    bench.turn(0)
    _begin(ring)
    bench.turn(10 * MILLISECOND)
    ring.set_info(KNOWN)
    _end(ring)
    # All within the first second: the folder is looked at again only after it.
    bench.turn(20 * MILLISECOND)
    bench.turn(300 * MILLISECOND)
    bench.turn(SECOND - 1)
    bench.turn(SECOND)
    # (30 input + 1 output - 1) x 8 bytes.
    assert bench.kv_bytes == [240]
    assert bench.resources() == {8}


class _Told(RollingMeter):
    """Notes up to when it was told that all work is known."""

    def __init__(self) -> None:
        super().__init__()
        self.through: list[int] = []

    def advance(self, now_ns: int) -> None:
        self.through.append(now_ns)


def test_the_meter_is_told_of_no_time_of_which_records_are_left_to_read(tmp_path: Path) -> None:
    """4,096 records are read of a ring in a turn: with one more the time of the turn before stands."""
    meter, ring = _Told(), RingWriter.create(str(tmp_path), 8192, "all", 0, BASE)
    bench = _Bench(tmp_path, meter=meter)
    bench.turn(SECOND)
    for number in range(READ_RECORDS + 1):
        _step(ring, number)
    bench.turn(2 * SECOND)
    bench.turn(3 * SECOND)
    assert meter.through == [SECOND, SECOND, 3 * SECOND]


def test_what_rings_hold_for_each_other_is_told_of_a_turn_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = _Told()
    assert RingWriter.create(str(tmp_path), 64, "all", 0, BASE).path
    bench = _Bench(tmp_path, meter=meter)
    monkeypatch.setattr(RingFollower, "at_end", False)
    for second in (1, 2, 3):
        bench.turn(second * SECOND)
    assert meter.through == [0, SECOND, 2 * SECOND]


@pytest.mark.parametrize(("capacity", "longest_s"), [(1024, 1 / 32), (65_536, 1.0)])
def test_small_rings_are_read_more_often(tmp_path: Path, capacity: int, longest_s: float) -> None:
    """One that holds 32,768 records or more is left alone for a second, one of 1,024 for a thirty-second of it."""
    assert RingWriter.create(str(tmp_path), capacity, "all", 0, BASE).path
    bench = _Bench(tmp_path)
    pauses: list[float] = []
    bench.agent.follow(lambda: len(pauses) >= 10, pauses.append)
    assert max(pauses) == longest_s


@pytest.mark.parametrize("then", [Liveness.ALIVE, Liveness.DEAD])
def test_it_is_known_at_a_drain_though_it_was_said_after_the_agents_last_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: Liveness
) -> None:
    ring, bench = _ring(tmp_path), _Bench(tmp_path)
    bench.turn(0)
    _begin(ring)

    left = [ring]

    def finish_now(_identity: object) -> Liveness:
        while left:
            left[0].set_info(KNOWN)
            _end(left.pop())
        return then

    # The agent asks this after it has looked at the header and before it reads the rest.
    monkeypatch.setattr("vtprof_agent.loop.process_alive", finish_now)
    bench.at = 20 * MILLISECOND
    bench.agent.stop()
    assert bench.kv_bytes == [240]
    assert bench.resources() == {8}


def test_it_is_known_to_the_next_agent(tmp_path: Path) -> None:
    ring, first = _ring(tmp_path), _Bench(tmp_path)
    first.turn(0)
    _begin(ring)
    first.turn(10 * MILLISECOND)
    first.agent.stop()
    ring.set_info(KNOWN)
    _end(ring)
    second = _Bench(tmp_path)
    second.turn(0)
    second.agent.stop()
    assert (first.kv_bytes, second.kv_bytes) == ([], [240])
    assert second.resources() == {8}


def _held(page: Metrics, model: str | None = None) -> list[float | None]:
    of = {} if model is None else {"model": model}
    return [
        page.registry.get_sample_value(names.PROM_KV_BYTES, {"modality": modality, **of})
        for modality in ("visual", "other")
    ]


def _page_with_kv(tmp_path: Path) -> tuple[RingWriter, _Bench, Metrics]:
    ring, page = _ring(tmp_path), Metrics("1")
    ring.set_info(KNOWN)
    bench = _Bench(tmp_path, page)
    _begin(ring)
    _step(ring)
    bench.turn(0)
    # 20 visual tokens and 10 others, 8 bytes each.
    assert _held(page) == [160, 80]
    return ring, bench, page


@pytest.mark.parametrize("ratio", [1.0, None])
def test_an_exemplar_names_the_request_span_that_is_exported_or_there_is_none(
    tmp_path: Path, ratio: float | None
) -> None:
    ring, page = _ring(tmp_path), Metrics("1")
    bench = _Bench(tmp_path, page, keep=lambda _finished, _trace_id: ratio)
    _begin(ring)
    _step(ring)
    ring.write(records.FIRST_TOKEN, 1, 200)
    ring.write(records.REQUEST_FINISHED, 1, 300, 0, 1)
    ring.close()
    bench.turn(0)
    bench.agent.stop()
    [ttft] = [family for family in page.registry.collect() if family.name == names.PROM_TTFT]
    exemplars = [sample.exemplar for sample in ttft.samples if sample.exemplar is not None]
    roots = [span for span in bench.destination.spans if span.name == names.SPAN_REQUEST]
    assert page.registry.get_sample_value("vtprof_requests_total", {"status": "ok"}) == 1
    assert len(roots) == len(exemplars) == (ratio is not None)
    if ratio is None:
        return
    [root], [seen] = roots, exemplars
    assert root.context is not None
    assert int(seen.labels["trace_id"], 16) == root.context.trace_id
    assert int(seen.labels["span_id"], 16) == root.context.span_id


def test_the_kv_gauge_is_zero_once_the_server_closed_its_ring(tmp_path: Path) -> None:
    ring, bench, page = _page_with_kv(tmp_path)
    ring.close()
    bench.turn(SECOND)
    assert _held(page) == [0, 0]


def test_the_kv_gauge_is_zero_once_the_server_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ring_kept_open, bench, page = _page_with_kv(tmp_path)
    monkeypatch.setattr("vtprof_agent.loop.process_alive", lambda _: Liveness.DEAD)
    bench.turn(SECOND)
    assert _held(page) == [0, 0]


def test_the_kv_gauge_of_running_requests_of_unknown_size_is_absent_and_not_zero(tmp_path: Path) -> None:
    ring, page = _ring(tmp_path), Metrics("1")
    bench = _Bench(tmp_path, page)
    bench.turn(0)
    assert _held(page) == [0, 0]
    _begin(ring)
    _step(ring)
    bench.turn(SECOND)
    assert _held(page) == [None, None]


def test_a_request_that_ended_and_waits_for_its_counters_is_not_in_flight(tmp_path: Path) -> None:
    ring, page = _ring(tmp_path), Metrics("1")
    bench = _Bench(tmp_path, page)
    bench.turn(0)
    for number in (1, 2):
        _begin(ring, number)
    _end(ring)

    def counted() -> list[float | None]:
        series = ("vtprof_agent_open_requests", "vtprof_agent_held_requests")
        ended = page.registry.get_sample_value("vtprof_requests_total", {"status": "ok"})
        return [*map(page.registry.get_sample_value, series), ended]

    bench.turn(SECOND)
    assert counted() == [1, 1, None]
    bench.turn(10 * SECOND)
    assert counted() == [1, 0, 1]


def test_kv_is_told_by_model_and_stays_at_zero_when_the_model_is_gone(tmp_path: Path) -> None:
    page, rings = Metrics("1"), {}
    for model, token_bytes in (("red", 8), ("blue", 100), ("blind", None)):
        rings[model] = _ring(tmp_path)
        known = {} if token_bytes is None else {names.KV_BYTES_PER_TOKEN: token_bytes}
        rings[model].set_info({**BASE, **known, names.REQUEST_MODEL: model})
    bench = _Bench(tmp_path, page)
    for ring in rings.values():
        _begin(ring)
        _step(ring)
    bench.turn(0)
    # 20 visual tokens and 10 others, 8 or 100 bytes each; nobody knows of a token's in the third.
    assert [_held(page, model) for model in rings] == [[160, 80], [2000, 1000], [None, None]]
    rings["blue"].close()
    bench.turn(SECOND)
    assert [_held(page, model) for model in rings] == [[160, 80], [0, 0], [None, None]]
    assert _held(page) == [None, None]


def test_a_ring_cut_off_in_its_header_ends_the_ring_and_not_the_agent(tmp_path: Path) -> None:
    ring, bench = _ring(tmp_path), _Bench(tmp_path)
    _begin(ring)
    _end(ring)
    bench.turn(0)
    os.truncate(ring.path, 100)
    bench.turn(SECOND)
    bench.agent.stop()
    assert len(bench.kv_bytes) == 1


def test_the_agent_clears_away_a_ring_that_a_killed_process_left_half_made(tmp_path: Path) -> None:
    young, old = tmp_path / ".4194303-5-1.tmp", tmp_path / ".4194303-5-2.tmp"
    bench = _Bench(tmp_path)
    for path, age_s in ((young, 1), (old, 3600)):
        path.write_bytes(b"x")
        os.utime(path, (bench.unix_s - age_s,) * 2)
    bench.turn(0)
    assert (young.exists(), old.exists()) == (True, False)


@pytest.mark.parametrize("again", [os.link, shutil.copy])
def test_a_ring_with_two_names_is_read_once_by_this_agent_and_the_next(
    again: Callable[[str, str], object], tmp_path: Path
) -> None:
    ring, bench = _ring(tmp_path), _Bench(tmp_path)
    _begin(ring)
    _end(ring)
    records_written = 6
    twin = tmp_path / "twin.ring"
    again(ring.path, str(twin))
    bench.turn(0)
    ring.close()
    for second in (2, 4, 6, 8):
        bench.turn(second * SECOND)
    assert not Path(ring.path).exists(), "drained"
    assert twin.exists()
    bench.agent.stop()
    assert len(bench.kv_bytes) == 1
    assert bench.agent.records_read == records_written
    after = _Bench(tmp_path)
    after.turn(10 * SECOND)
    after.agent.stop()
    assert not after.destination.spans
    assert after.agent.records_read == 0
