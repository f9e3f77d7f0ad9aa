"""What the agent survives: full file tables, failing samplers and rings, its own bugs; what it says of the probe's."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from memory_outbox import Outbox

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.export.destination import Batch, Outcome
from vtprof_agent.follower import RingFollower
from vtprof_agent.inbox.ring_reader import RingReader
from vtprof_agent.loop import Agent, LoopSettings
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.observer import Observer
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.sampler import Sample
from vtprof_agent.sampling import Sampling
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records

CPU = {names.DEVICE_KIND: "cpu"}


class Kept:
    """A destination that keeps what it gets."""

    target = "memory"
    spool_bytes = None
    problem = None

    def __init__(self) -> None:
        self.outbox = Outbox(self, 8)
        self.requests: list[object] = []
        self.metrics: dict[str, list[int | float]] = {}

    def submit(self, batch: Batch) -> None:
        self.outbox.put(batch)
        self.outbox.pump()

    def send(self, batch: Batch) -> Outcome:
        for span in batch.spans:
            if span.name == names.SPAN_REQUEST and span.attributes is not None:
                self.requests.append(span.attributes[names.REQUEST_ID])
        for resource in batch.metrics.resource_metrics if batch.metrics else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    values = [getattr(point, "value", 0) for point in metric.data.data_points]
                    self.metrics.setdefault(metric.name, []).extend(values)
        return Outcome.DELIVERED

    def close(self, timeout_s: float = 0.0, *, last: bool = False) -> None:
        return


class Turning:
    """An agent whose clock goes on by ten seconds with every turn."""

    def __init__(
        self,
        rings: Path,
        kept: Kept,
        max_rings: int = 1024,
        metrics: Metrics | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.now_ns = 0
        settings = LoopSettings(max_rings=max_rings)
        observer = Observer(
            agent_resource("agent-test"), metrics or Metrics("test"), sampling=sampling, series_s=0
        )
        self.agent = Agent(
            rings, [kept], settings, AssemblySettings(), observer=observer, clock_ns=lambda: self.now_ns
        )

    def turn(self) -> None:
        self.agent.turn()
        self.now_ns += 10_000_000_000

    def stop(self) -> None:
        self.agent.stop()


def _ring(folder: Path, request: int) -> RingWriter:
    ring = RingWriter.create(str(folder), 64, "all", 0, CPU)
    ring.write(records.REQUEST_ARRIVED, request, 100)
    ring.write(records.REQUEST_FINISHED, request, 200, 0, 1)
    return ring


def test_a_ring_that_cannot_be_read_is_said_once_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = _ring(tmp_path, 1), _ring(tmp_path, 2)
    read = RingFollower.read

    def failing(self: RingFollower, *arguments: Any) -> Any:
        if str(self.reader.path) == bad.path:
            raise OSError(errno.EMFILE, "Too many open files")
        return read(self, *arguments)

    monkeypatch.setattr(RingFollower, "read", failing)
    kept = Kept()
    agent = Turning(tmp_path, kept)
    for _ in range(3):
        agent.turn()
    assert kept.requests == ["2"]
    assert [r.message.count(Path(bad.path).name) for r in caplog.records if r.levelno == logging.ERROR] == [1]
    monkeypatch.undo()
    agent.stop()
    assert kept.requests == ["2", "1"]
    good.close()


def test_a_bug_in_digesting_a_ring_puts_only_that_ring_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = _ring(tmp_path, 1), _ring(tmp_path, 2)
    spans = RingFollower.spans

    def failing(self: RingFollower) -> Any:
        if str(self.reader.path) == bad.path:
            raise OverflowError("int too large")
        return spans(self)

    monkeypatch.setattr(RingFollower, "spans", failing)
    kept = Kept()
    agent = Turning(tmp_path, kept)
    agent.turn()
    agent.turn()
    agent.stop()
    assert kept.requests == ["2"]
    good.close()


def test_without_free_file_descriptors_a_ring_is_tried_again_and_not_called_faulty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _ring(tmp_path, 1)
    real = os.open

    def full(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if str(path).endswith(records.RING_SUFFIX):
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return real(path, flags, *more, **named)

    kept = Kept()
    agent = Turning(tmp_path, kept)
    monkeypatch.setattr(os, "open", full)
    agent.turn()
    agent.turn()
    assert len([r for r in caplog.records if "Too many open files" in r.message]) == 1
    monkeypatch.undo()
    agent.turn()
    agent.turn()
    assert kept.requests == ["1"]


def test_a_sampler_that_fails_is_said_once_and_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def sample(self, pids: frozenset[int]) -> list[Sample]:
            raise OSError(errno.EMFILE, "Too many open files")

        def close(self) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

    class Sound(Failing):
        def sample(self, pids: frozenset[int]) -> list[Sample]:
            return [Sample(names.GPU_POWER_MW, 7, hw_id="GPU-1")]

    sampling = Sampling([Failing(), Sound()])  # type: ignore[list-item]
    for _ in range(2):
        assert [p.sample.value for p in sampling.sample([], agent_resource("a"), 1)] == [7]
    assert (sampling.faults, len(caplog.records)) == (2, 1)
    sampling.close()


def test_rings_beyond_the_most_are_said_wait_and_are_read_at_the_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rings = [_ring(tmp_path, number) for number in range(1, 5)]
    kept = Kept()
    agent = Turning(tmp_path, kept, max_rings=2)
    for _ in range(3):
        agent.turn()
    assert len(kept.requests) == 2
    assert [r.message for r in caplog.records if "wait" in r.message] == [
        "2 rings wait: 2 at a time are followed; raise the limit of open files (ulimit -n)"
    ]
    agent.stop()
    assert sorted(map(str, kept.requests)) == ["1", "2", "3", "4"]
    del rings


def test_a_drained_ring_holds_no_file_open(tmp_path: Path) -> None:
    rings = [_ring(tmp_path, number) for number in (1, 2, 3)]
    kept = Kept()
    agent = Turning(tmp_path, kept)
    for ring in rings:
        ring.close()
    for _ in range(3):
        agent.turn()
    assert len(kept.requests) == 3
    held = {str(Path(f"/proc/self/fd/{fd}").resolve()) for fd in os.listdir("/proc/self/fd")}  # noqa: PTH208
    assert not held & {ring.path for ring in rings}
    agent.stop()


def test_what_the_probe_could_not_do_reaches_metrics_page_and_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = _ring(tmp_path, 1)
    ring.write(records.REQUEST_ARRIVED, -1, 0)
    for _ in range(3):
        ring.count_hook_error()
    ring.close()
    kept, page = Kept(), Metrics("1")
    agent = Turning(tmp_path, kept, metrics=page)
    agent.turn()
    agent.stop()
    # Three records written, one of them void: lost, and the one that was dropped.
    expected = {
        names.AGENT_RECORDS_READ: 2,
        names.AGENT_RECORDS_LOST: 1,
        names.AGENT_RECORDS_DROPPED: 1,
        names.AGENT_HOOK_ERRORS: 3,
    }
    assert {key: values[-1] for key, values in kept.metrics.items()} == expected
    assert page.registry.get_sample_value(names.PROM_RECORDS_DROPPED) == 1
    assert page.registry.get_sample_value(names.PROM_HOOK_ERRORS) == 3
    (line,) = [r.message for r in caplog.records if "hooks" in r.message]
    assert "could not write 1 records, and 3 errors" in line


def test_what_could_not_be_used_is_said_at_the_end_of_a_ring(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = _ring(tmp_path, 1)
    for _ in range(2):
        ring.write(records.FIRST_TOKEN, 999, 5)  # of a request that never arrived
    ring.close()
    agent = Turning(tmp_path, Kept())
    agent.turn()
    agent.stop()
    lines = [record.message for record in caplog.records if "could be used" in record.message]
    assert [line.partition("used: ")[2] for line in lines] == ["2 records without request"]


def _follower(path: str, progress: Any = None) -> RingFollower:
    return RingFollower(RingReader.open(Path(path)), AssemblySettings(), {}, progress)


def test_what_was_read_but_not_exported_and_overwritten_before_the_next_agent_counts_as_lost(
    tmp_path: Path,
) -> None:
    ring = RingWriter.create(str(tmp_path), 64, "all", 0, CPU)
    for _ in range(50):
        ring.write(records.REQUEST_ARRIVED, 1, 100)
    first = _follower(ring.path)
    first.read(100, 0)
    left = first.progress()
    assert (left.cursor, left.passed, left.records_lost) == (1, 50, 0)
    for _ in range(200):
        ring.write(records.FIRST_TOKEN, 9, 100)
    second = _follower(ring.path, left)
    delivered = second.read(1000, 0).count
    # 250 written, 64 kept, an eighth (8) of margin given up: 195..250 are delivered.
    assert (delivered, second.records_lost, second.records_read) == (56, 194, 56)


def test_a_loss_that_an_earlier_agent_counted_is_not_counted_again(tmp_path: Path) -> None:
    ring = RingWriter.create(str(tmp_path), 64, "all", 0, CPU)
    ring.write(records.REQUEST_ARRIVED, 1, 100)
    first = _follower(ring.path)
    first.read(100, 0)
    ring.write(records.REQUEST_ARRIVED, -1, 0)
    for _ in range(98):
        ring.write(records.FIRST_TOKEN, 1, 100)
    first.read(1000, 0)
    # 100 written, 37..100 kept, 45..100 read: 43 of the numbers 2..44 are lost, the void one among them.
    assert (first.records_lost, first.records_read) == (43, 57)
    assert first.progress().cursor == 1
    second = _follower(ring.path, first.progress())
    second.read(1000, 0)
    # Record 1 too is overwritten now, before anything of it was exported.
    assert second.records_lost == 44
    third = _follower(ring.path, second.progress())
    third.read(1000, 0)
    assert third.records_lost == 44


FAILING_EXEC = """
import errno, sys
from vtprof_agent import loop
def fail(*_, **__):
    raise OSError(errno.EMFILE, "Too many open files")
for name in sys.argv.pop(1).split(","):
    setattr(loop.Agent, name, fail)
from vtprof_agent.cli import main
main()
"""


@pytest.mark.parametrize("broken", ["follow", "stop", "follow,stop"])
def test_exec_returns_the_childs_code_whatever_happens_to_the_agent(tmp_path: Path, broken: str) -> None:
    mark = tmp_path / "mark"
    child = f"sleep 0.3; echo $VTPROF_RING_DIR > {mark}; exit 7"
    command = [sys.executable, "-c", FAILING_EXEC, broken, "exec", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--", "sh", "-c", child], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 7, done.stderr
    assert "the agent failed" in done.stderr and "Traceback" not in done.stderr
    rings = Path(mark.read_text().strip())  # the child came to its end
    assert not rings.exists()
