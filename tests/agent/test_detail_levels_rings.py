"""Levels of detail, counters and sampling from ring to spans: what one agent says is what the next one need not."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from family_rings import INFO, Server
from opentelemetry.sdk.trace import ReadableSpan
from ring_records import (
    Row,
    arrived,
    encode,
    finished,
    first_token,
    left,
    prefill,
    preprocess,
    prompt,
    queue,
    step,
)

from vtprof_agent.align import Alignment
from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.counters.meter import Share, StepCounters, Work
from vtprof_agent.facts import FinishedRequest
from vtprof_agent.family import Families
from vtprof_agent.follower import Keep, Progress, RingFollower
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_agent.step_work import Measures
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records

SECOND = 1_000_000_000
MS = 1_000_000
ENERGY = names.GPU_ENERGY_MJ
INFO_ALONE = {names.DEVICE_KIND: "cpu", names.ENGINE_NAME: "transformers"}


class Ring:
    """One ring, and whoever follows it; the followers' clock stands where the records end."""

    def __init__(self, folder: Path, info: Mapping[str, Any]) -> None:
        self.writer = RingWriter.create(str(folder), 1024, "all", 0, dict(info))
        assert not self.writer.reason

    def write(self, rows: Sequence[Row]) -> None:
        for code, values in rows:
            self.writer.write(records.KINDS[code], *values)

    def follow(
        self, progress: Progress | None = None, measures: Measures | None = None, keep: Keep | None = None
    ) -> RingFollower:
        reader = RingReader.open(Path(self.writer.path))
        return RingFollower(reader, AssemblySettings(), {}, progress, None, measures, keep)


@pytest.fixture(autouse=True)
def no_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the times of spans be those of the records."""
    monkeypatch.setattr(Alignment, "from_anchor", classmethod(lambda cls, *_: cls(0)))


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    made = Ring(tmp_path, INFO_ALONE)
    yield made
    made.writer.close()


def read(follower: RingFollower, now_ns: int = 0) -> list[ReadableSpan]:
    follower.read(1024, now_ns)
    follower.advance(now_ns)
    return follower.spans()


def ended(follower: RingFollower) -> list[ReadableSpan]:
    follower.finish(process_gone=True)
    return follower.spans()


def listed(spans: Sequence[ReadableSpan]) -> list[tuple[str, int]]:
    return sorted((span.name.removeprefix("vtprof."), (span.start_time or 0) // MS) for span in spans)


def request(number: int, start_ms: int, detail: int = 3, steps: int = 4) -> list[Row]:
    """Return the records that the probe writes of one request at a level; each step takes 10 ms."""
    at = [(start_ms + 10 * n) * MS for n in range(steps + 2)]
    index = number * 100
    rows = [
        arrived(number, at[0]), prompt(number, 10), prefill(index, number, tokens=10),
        step(index, at[0], at[1], prefill_tokens=10), first_token(number, at[1]),
    ]  # fmt: skip
    if detail >= 1:
        rows += [step(index + n, at[n], at[n + 1], decoders=1) for n in range(1, steps + 1)]
    return [*rows, finished(number, at[steps + 1], steps + 1)]


PHASES = [("decode", 10), ("prefill", 0), ("request", 0)]


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_at_every_level_a_request_has_its_phases_and_the_probe_is_told(ring: Ring, level: int) -> None:
    follower = ring.follow()
    assert follower.set_detail(level)
    assert ring.writer.control() == (level, False)
    ring.write(request(1, 0, level))
    spans = [*read(follower), *ended(follower)]
    steps = {3: [("step", 0), ("window", 10)], 2: [("window", 0)]}.get(level, [])
    assert listed(spans) == sorted(PHASES + steps)
    decode = next(span for span in spans if span.name == names.PHASE_SPANS[names.DECODE])
    assert decode.end_time is not None and decode.end_time // MS == 50


def test_a_level_that_cannot_be_written_still_sheds_spans_and_is_remembered(
    ring: Ring, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = ring.follow()
    monkeypatch.setattr(follower.reader._ring, "writable", False)
    assert not follower.set_detail(1)
    assert not follower.set_detail(0)
    assert follower.detail_refused
    assert follower.detail == 0
    assert ring.writer.control() == (3, False)
    assert [record.message.count("cannot be set") for record in caplog.records] == [1]
    ring.write(request(1, 0))
    assert listed([*read(follower), *ended(follower)]) == PHASES


def test_a_new_agent_begins_with_everything_whatever_a_killed_one_left(ring: Ring) -> None:
    ring.follow().set_detail(0)
    follower = ring.follow()
    assert follower.detail == 3
    assert ring.writer.control() == (3, False)


def test_a_detach_that_was_asked_for_survives_a_change_of_level(ring: Ring) -> None:
    follower = ring.follow()
    follower.reader.set_control(3, detach=True)
    follower.set_detail(1)
    assert ring.writer.control() == (1, True)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_the_next_agent_repeats_and_loses_no_step(ring: Ring, level: int) -> None:
    ring.write([*request(1, 0), *request(2, 100)])
    first = ring.follow()
    first.set_detail(level)
    early = read(first)
    stored = first.progress()
    ring.write(request(3, 1500))
    second = ring.follow(stored)
    second.set_detail(level)
    late = [*read(second), *ended(second)]
    kinds = (names.SPAN_STEP, names.SPAN_WINDOW)
    steps = [span for span in (*early, *late) if span.name in kinds]
    counts = [(span.attributes or {})[names.STEP_COUNT] for span in steps]
    assert sum(count for count in counts if isinstance(count, int)) == (15 if level >= 2 else 0)
    assert len({span.context.span_id for span in steps if span.context}) == len(steps)
    roots = {span.start_time for span in (*early, *late) if span.name == names.SPAN_REQUEST}
    assert len(roots) == 3


def test_steps_passed_without_spans_are_not_given_one_by_the_next_agent(ring: Ring) -> None:
    ring.write(request(1, 0)[:-1])  # still running: it is read again
    first = ring.follow()
    first.set_detail(1)
    assert read(first) == []
    second = ring.follow(first.progress())
    ring.write([step(105, 50 * MS, 60 * MS, decoders=1), finished(1, 60 * MS, 6)])
    assert listed([*read(second), *ended(second)]) == sorted([*PHASES, ("window", 50)])


class OneMeter:
    """Gives every step 6 mJ for its decoding, 2 for its prompts."""

    def __init__(self) -> None:
        self.added: list[tuple[tuple[str, ...], Work]] = []
        self.lines: dict[int, list[Work]] = {}
        self.awaited: list[bool] = []
        """What was told last, and before."""

    def add(self, gpus: tuple[str, ...], work: Work, line: int = 0) -> None:
        self.added.append((gpus, work))
        self.lines.setdefault(line, []).append(work)

    def await_step(self, gpus: tuple[str, ...], line: int, awaited: bool) -> None:
        self.awaited.append(awaited)

    def complete(self, gpus: tuple[str, ...], end_ns: int) -> bool:
        return True

    def of(self, gpus: tuple[str, ...], work: Work, line: int = 0) -> StepCounters | None:
        assert work in self.lines[line]
        prefilled, decoded = 2.0 * (work.prefill_tokens > 0), 6.0 * (work.decode_requests > 0)
        shares = tuple(Share(amount, amount, amount) for amount in (0.0, prefilled, decoded))
        return StepCounters({ENERGY: (shares[0], shares[1], shares[2])}, {ENERGY: "measured"}, len(gpus))

    def of_run(self, gpus: tuple[str, ...], works: Sequence[Work], line: int = 0) -> StepCounters | None:
        assert all(work in self.lines[line] for work in works)
        decoded = Share(*(6.0 * len(works),) * 3)
        none = Share(0.0, 0.0, 0.0)
        return StepCounters({ENERGY: (none, none, decoded)}, {ENERGY: "measured"}, len(gpus), len(works))


def energies(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    return {
        span.name.removeprefix("vtprof."): span.attributes[ENERGY]
        for span in spans
        if span.attributes and ENERGY in span.attributes
    }


def test_counters_come_from_the_gpus_that_the_process_names(tmp_path: Path) -> None:
    ring = Ring(tmp_path, {names.HW_ID: "GPU-0, GPU-1", names.DEVICE_KIND: "cuda"})
    meter = OneMeter()
    follower = ring.follow(measures=Measures(meter))
    follower.set_detail(1)  # no GPU times are recorded, so none is waited for
    ring.write(request(1, 0))
    spans = [*read(follower), *ended(follower)]
    assert {gpus for gpus, _ in meter.added} == {("GPU-0", "GPU-1")}
    assert energies(spans) == {"prefill": 2.0, "decode": 24.0}


def test_steps_of_two_servers_on_one_gpu_are_told_apart(tmp_path: Path) -> None:
    """And each server asks for its own, though both took the same steps at the same time."""
    meter = OneMeter()
    for _ in range(2):
        ring = Ring(tmp_path, {names.HW_ID: "GPU-0", names.DEVICE_KIND: "cuda"})
        follower = ring.follow(measures=Measures(meter))
        follower.set_detail(1)
        ring.write(request(1, 0))
        assert energies([*read(follower), *ended(follower)]) == {"prefill": 2.0, "decode": 24.0}
    assert [len(works) for works in meter.lines.values()] == [5, 5]


@pytest.mark.parametrize("ends", ["finished", "gone"])
def test_the_meter_is_told_while_requests_are_open(tmp_path: Path, ends: str) -> None:
    """A step of one of them may be under way, but not when all finished, or their process is gone."""
    ring = Ring(tmp_path, {names.HW_ID: "GPU-0", names.DEVICE_KIND: "cuda"})
    meter = OneMeter()
    follower = ring.follow(measures=Measures(meter))
    rows = request(1, 0)
    ring.write(rows[:-1])
    read(follower)
    read(follower)
    assert meter.awaited[-1]
    if ends == "finished":
        ring.write(rows[-1:])
        read(follower)
    else:
        ended(follower)
    assert not meter.awaited[-1]


def test_where_decode_steps_are_not_recorded_no_counters_are_given(tmp_path: Path) -> None:
    ring = Ring(tmp_path, {names.HW_ID: "GPU-0", names.DEVICE_KIND: "cuda"})
    meter = OneMeter()
    follower = ring.follow(measures=Measures(meter))
    follower.set_detail(0)
    ring.write(request(1, 0, detail=0))
    assert energies([*read(follower), *ended(follower)]) == {}
    assert meter.added == []


def test_a_model_on_the_cpu_is_not_metered(ring: Ring) -> None:
    meter = OneMeter()
    follower = ring.follow(measures=Measures(meter))
    ring.writer.set_info({**INFO_ALONE, names.HW_ID: "GPU-0"})
    ring.write(request(1, 0))
    read(follower)
    assert meter.added == []


def test_a_server_of_several_workers_is_metered_over_all_their_gpus(tmp_path: Path) -> None:
    cuda = {names.DEVICE_KIND: "cuda"}
    workers = {
        f"worker-{rank}": {**INFO["worker"], **cuda, names.RANK: rank, names.HW_ID: f"GPU-{rank}"}
        for rank in (0, 1)
    }
    server = Server(tmp_path, {"api": INFO["api"], "engine": INFO["engine"], **workers})
    meter, families = OneMeter(), Families()
    followers = [
        RingFollower(
            RingReader.open(Path(server.rings[name].path)), AssemblySettings(), {}, None, families, Measures(meter)
        )
        for name in ("api", "worker-0", "worker-1", "engine")
    ]  # fmt: skip
    server.write_all(
        [
            ("api", arrived(71, 100)), ("api", prompt(71, 10)), ("api", preprocess(71, 100, 150)),
            ("engine", queue(71, 158, 160)),
            ("worker-0", encode(1, 71, 165, 180)), ("worker-1", encode(1, 71, 166, 181)),
            ("engine", prefill(1, 71, tokens=30)), ("engine", step(1, 160, 200, prefill_tokens=30, encode_ns=-1)),
            ("api", first_token(71, 203)), ("engine", step(2, 202, 210, decoders=1, encode_ns=-1)),
            ("engine", left(71, 2, 211, output=2)), ("api", finished(71, 225, output=2)),
        ]
    )  # fmt: skip
    spans: list[ReadableSpan] = []
    for turn in range(8):
        for follower in followers:
            follower.scanned()
            follower.read(1024, turn * SECOND)
            follower.advance(turn * SECOND)
            spans += follower.spans()
    assert [gpus for gpus, _ in meter.added] == [("GPU-0", "GPU-1")] * 2
    # Patches of the lowest rank, the time of both.
    assert (meter.added[0][1].patches, meter.added[0][1].encode_ns) == (16, 16)
    assert energies(spans)["decode"] == 6.0


def test_a_request_that_is_not_kept_makes_no_spans_and_still_counts(ring: Ring) -> None:
    asked: list[int] = []

    def keep(finished: FinishedRequest, trace_id: int) -> float | None:
        asked.append(trace_id)
        return 0.25 if finished.start_ns else None

    follower = ring.follow(keep=keep)
    ring.write([*request(1, 0), *request(2, 100)])
    spans = read(follower, 0) + read(follower, SECOND)
    roots = [span for span in spans if span.name == names.SPAN_REQUEST]
    assert [(span.start_time, span.attributes[names.SAMPLING_RATIO]) for span in roots] == [  # type: ignore[index]
        (100 * MS, 0.25)
    ]
    phases = [span for span in spans if span.name in names.PHASE_SPANS.values()]
    assert len(phases) == 2
    assert all(names.SAMPLING_RATIO not in (span.attributes or {}) for span in phases)
    assert len(follower.finished) == 2
    # Nobody is sent to a trace that is not there, and the decision goes by the ids that the spans have.
    assert [follower.trace(request) is None for request in follower.finished] == [True, False]
    assert roots[0].context is not None and asked[1] == roots[0].context.trace_id
    # The cursor has passed both as if both were exported: nothing is open.
    ended(follower)
    assert follower.progress().cursor == follower.reader.cursor


def test_a_ring_that_names_its_server_later_keeps_its_level(tmp_path: Path) -> None:
    ring = Ring(tmp_path, {})
    follower = ring.follow()
    follower.set_detail(1)
    ring.writer.set_info(INFO["engine"])
    follower.refresh()
    assert follower.detail == 1
    ring.write([step(1, 0, 10, decoders=1)])
    assert [*read(follower), *read(follower, SECOND), *ended(follower)] == []
