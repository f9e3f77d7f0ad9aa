"""What comes from beside the rings reaches the destinations at each flush and at the stop; its faults cost nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memory_outbox import Outbox
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.export.destination import Batch, Outcome
from vtprof_agent.feed import FEED_COUNTS, Feeds
from vtprof_agent.loop import Agent, LoopSettings
from vtprof_agent.metric_points import Point
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.observer import Observer
from vtprof_agent.resource import agent_resource
from vtprof_agent.samplers.sampler import Sample
from vtprof_schemas import names

NODE = agent_resource("test")
COUNTER = "vtprof_agent_otlp_spans_received_total"


class Kept:
    """A destination that keeps what it is given."""

    target = "kept"
    spool_bytes = None
    problem = None

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.outbox = Outbox(self, 100)

    def submit(self, batch: Batch) -> None:
        self.outbox.put(batch)
        self.outbox.pump()

    def send(self, batch: Batch) -> Outcome:
        self.batches.append(batch)
        return Outcome.DELIVERED

    def close(self, timeout_s: float = 0, *, last: bool = False) -> None:
        """Nothing to do."""

    def names(self) -> list[str]:
        return [span.name for batch in self.batches for span in batch.spans]


class Given:
    """A feed that gives what it holds; the last span comes while it closes."""

    def __init__(self, *spans: str) -> None:
        self.spans = list(spans)
        self.closed = 0

    def take(self) -> tuple[list[ReadableSpan], list[Point]]:
        taken, self.spans = self.spans, []
        context = SpanContext(1, 1, False)
        sample = Sample(names.ENGINE_RUNNING, len(taken))
        return [ReadableSpan(name, context, resource=NODE) for name in taken], [Point(NODE, sample, 7)]

    def counts(self) -> Mapping[str, int]:
        return {COUNTER: 3}

    def close(self) -> None:
        self.closed += 1
        self.spans.append("last")


class Broken(Given):
    """A feed that fails."""

    def take(self) -> Any:
        raise ValueError("no")

    def close(self) -> None:
        raise OSError("no")


def run(folder: Path, feeds: Feeds, page: Metrics | None = None) -> Kept:
    kept = Kept()
    settings = LoopSettings(flush_s=0)
    observer = Observer(NODE, page or Metrics("test"), sample_s=0, series_s=0)
    agent = Agent(folder, [kept], settings, AssemblySettings(), observer=observer, feeds=feeds)
    agent.turn()
    agent.stop()
    return kept


def test_spans_and_points_leave_with_the_flush_and_the_last_ones_at_the_stop(tmp_path: Path) -> None:
    feed = Given("first")
    kept = run(tmp_path, Feeds([feed]))
    assert kept.names() == ["first", "last"]
    assert feed.closed == 1
    first = kept.batches[0].metrics
    assert first is not None
    assert first.resource_metrics[0].scope_metrics[0].metrics[0].name == names.ENGINE_RUNNING


def test_a_feed_that_fails_costs_the_others_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, Feeds([Broken(), Given("first")])).names() == ["first", "last"]


def test_their_counts_are_added_up_on_the_metrics_page(tmp_path: Path) -> None:
    page = Metrics("1")
    run(tmp_path, Feeds([Given(), Given()]), page)
    assert page.registry.get_sample_value(COUNTER) == 6
    assert all(page.registry.get_sample_value(name) is not None for name in FEED_COUNTS)
