"""What a stop could not deliver and rings still hold is left to the next agent; only what nobody reads again is lost."""

import errno
import json
from pathlib import Path

import pytest
from collectors import batch
from test_agent_feeds import NODE, Given, Kept
from test_agent_loop import _begin, _end, _ring

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.delivery import Delivery
from vtprof_agent.export.backoff import Backoff
from vtprof_agent.export.files import FileDestination
from vtprof_agent.export.otlp import OtlpDestination
from vtprof_agent.export.rotating import RotatingLines, Rotation
from vtprof_agent.faults import Faults
from vtprof_agent.feed import Feeds
from vtprof_agent.loop import Agent, LoopSettings
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.observer import Observer
from vtprof_agent.progress_store import ProgressStore
from vtprof_probe.ring_writer import RingWriter

OF_FEED = 2
"""Spans of ``Given``: the first, and the one that comes while it closes."""


def _recorded(rings: Path) -> RingWriter:
    rings.mkdir()
    ring = _ring(rings)
    for number in range(1, 4):
        _begin(ring, number)
        _end(ring, number)
    return ring


def _agent(
    rings: Path, destination: FileDestination | OtlpDestination, *feeds: Given, size: int = 512
) -> Agent:
    observer = Observer(NODE, Metrics("test"), sample_s=0, series_s=0)
    settings = LoopSettings(flush_s=0, batch_spans=size, stop_s=0.5)
    agent = Agent(rings, [destination], settings, AssemblySettings(), observer=observer, feeds=Feeds(feeds))
    agent.turn()
    return agent


def _full(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RotatingLines, "write", refuses)


def _spans(out: Path) -> list[str]:
    return [
        span["spanId"]
        for path in out.glob("*.traces.jsonl")
        for line in path.read_text().splitlines()
        for whole in json.loads(line)["resourceSpans"]
        for inner in whole["scopeSpans"]
        for span in inner["spans"]
    ]


@pytest.mark.parametrize("size", [512, 4])
def test_the_next_agent_writes_what_a_stop_on_a_full_disk_left_and_nothing_is_counted_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    rings, out = tmp_path / "rings", tmp_path / "out"
    ring = _recorded(rings)
    with monkeypatch.context() as patch:
        _full(patch)
        first = FileDestination(out, "a", Rotation())
        _agent(rings, first, Given("first"), size=size).stop()
    left = first.outbox.left_in_rings
    assert left >= 3, "a span for each request"
    assert first.outbox.spans_dropped == OF_FEED
    assert f"{out}: {left} spans were not written; the next agent reads them again" in caplog.messages
    second = FileDestination(out, "b", Rotation())
    _agent(rings, second).stop()
    assert len(set(_spans(out))) == second.outbox.spans_delivered == left
    assert second.outbox.spans_dropped == OF_FEED
    ring.close()


def test_of_each_batch_it_is_known_how_many_spans_rings_hold(tmp_path: Path) -> None:
    kept = Kept()
    delivery = Delivery([kept], ProgressStore(tmp_path), 4, Faults())
    delivery.submit(batch(1, 10).spans, None, from_rings=6)
    delivery.submit(batch(2, 3).spans, None)
    assert [(len(one.spans), one.again) for one in kept.batches] == [(4, 4), (4, 2), (2, 0), (3, 0)]


@pytest.mark.parametrize("why", ["the last agent", "the ring was removed"])
def test_what_no_agent_reads_again_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    rings = tmp_path / "rings"
    ring = _recorded(rings)
    _full(monkeypatch)
    destination = FileDestination(tmp_path / "out", "a", Rotation())
    agent = _agent(rings, destination)
    if why == "the ring was removed":
        Path(ring.path).unlink()
    agent.stop(last=why == "the last agent")
    assert destination.outbox.left_in_rings == 0
    assert destination.outbox.spans_dropped >= 3
    ring.close()


def test_without_a_spool_what_an_endpoint_did_not_take_is_left_in_the_rings_too(tmp_path: Path) -> None:
    rings = tmp_path / "rings"
    ring = _recorded(rings)
    destination = OtlpDestination("http://127.0.0.1:9", timeout_s=0.2, backoff=Backoff(0.01, 0.01))
    _agent(rings, destination, Given("first")).stop()
    assert destination.outbox.left_in_rings >= 3
    assert destination.outbox.spans_dropped == OF_FEED
    ring.close()
