"""A server's rings for the agent's tests: a script says who writes what, an agent with a moved clock follows."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from memory_outbox import Outbox
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

from vtprof_agent.assembly import AssemblySettings
from vtprof_agent.export.destination import Batch, Outcome
from vtprof_agent.loop import Agent, LoopSettings
from vtprof_agent.metrics.metrics import Metrics
from vtprof_agent.observer import Observer
from vtprof_agent.resource import agent_resource
from vtprof_probe.ring_writer import RingWriter
from vtprof_schemas import names, records

Line = tuple[str, Row]
"""Who writes, and what."""
COMMON = {names.ENGINE_NAME: "vllm", names.FAMILY: "server-1"}
INFO: dict[str, dict[str, Any]] = {
    "api": {**COMMON, names.ROLE: "api", names.SERVICE_NAME: "chat", names.REQUEST_MODEL: "tiny"},
    "engine": {**COMMON, names.ROLE: "engine", names.KV_BYTES_PER_TOKEN: 8},
    "worker": {**COMMON, names.ROLE: "worker", names.DEVICE_KIND: "cpu", names.HW_ID: "GPU-0"},
}
PHASES = {span: phase for phase, span in names.PHASE_SPANS.items()}


class Kept:
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


class Server:
    """The rings of one server, by the name of their process."""

    def __init__(self, folder: Path, processes: Mapping[str, Mapping[str, Any]] | Iterable[str]) -> None:
        self.folder = folder
        self.rings: dict[str, RingWriter] = {}
        for name in processes:
            self.start(name, processes[name] if isinstance(processes, Mapping) else INFO[name])

    def start(self, name: str, info: Mapping[str, Any]) -> None:
        rank = info.get(names.RANK, 0)
        ring = RingWriter.create(str(self.folder), 256, str(info[names.ROLE]), rank, dict(info))
        assert not ring.reason
        self.rings[name] = ring

    def write(self, who: str, row: Row) -> None:
        self.rings[who].write(records.KINDS[row[0]], *row[1])

    def write_all(self, script: Iterable[Line]) -> None:
        for who, row in script:
            self.write(who, row)


class Following:
    """An agent on a folder of rings, whose clock moves only here."""

    def __init__(
        self, folder: Path, page: Metrics | None = None, kept: Kept | None = None, **limits: int
    ) -> None:
        self.now_ns = 0
        self.kept = kept or Kept()
        self.agent = Agent(
            folder, [self.kept], LoopSettings(), AssemblySettings(**limits),
            observer=Observer(agent_resource("agent-test"), page or Metrics("test"), sample_s=0, series_s=0),
            clock_ns=lambda: self.now_ns,
        )  # fmt: skip

    def turn(self, times: int = 1, step_ns: int = 1_000_000) -> None:
        for _ in range(times):
            self.agent.turn()
            self.now_ns += step_ns

    def settle(self) -> None:
        """Let everything become due that can."""
        self.turn(8, 3_000_000_000)

    def stop(self, last: bool = False) -> None:
        self.agent.stop(last)

    @property
    def spans(self) -> list[ReadableSpan]:
        return self.kept.spans


def requests(spans: Iterable[ReadableSpan]) -> dict[str, dict[str, Any]]:
    """Return the attributes of the requests by id, with ``phases`` (name, start, end), ``start``, ``end``, ``span``."""
    found: dict[int, dict[str, Any]] = {}
    for span in spans:
        assert span.context is not None and span.attributes is not None
        if span.name == names.SPAN_REQUEST:
            entry = found.setdefault(span.context.span_id, {"phases": []})
            entry.update(span.attributes)
            entry.update(start=span.start_time, end=span.end_time, span=span)
    for span in spans:
        assert span.attributes is not None
        if span.name in PHASES:
            assert span.parent is not None
            entry = found[span.parent.span_id]
            part = (PHASES[span.name], span.start_time, span.end_time)
            if part not in entry["phases"]:
                entry["phases"].append(part)
    return {str(entry[names.REQUEST_ID]): entry for entry in found.values()}


def unexplained(entry: Mapping[str, Any]) -> int:
    """Return what is left of TTFT when the phases before the first token are taken away, ns."""
    first_token = entry["start"] + entry[names.TTFT_NS]
    explained = sum(
        max(0, min(end, first_token) - start)
        for phase, start, end in entry["phases"]
        if phase in names.TTFT_PHASES
    )
    return int(entry[names.TTFT_NS] - explained)


def step_spans(spans: Iterable[ReadableSpan]) -> list[tuple[str, int, int, int, tuple[int, ...]]]:
    """Return (kind, first iteration, iterations, duration, span ids linked) of the steps and windows."""
    found = []
    for span in spans:
        if span.name in (names.SPAN_STEP, names.SPAN_WINDOW):
            assert span.attributes is not None and span.start_time is not None and span.end_time is not None
            index, count = span.attributes[names.STEP_INDEX], span.attributes[names.STEP_COUNT]
            assert isinstance(index, int) and isinstance(count, int)
            links = tuple(link.context.span_id for link in span.links)
            found.append((span.name, index, count, span.end_time - span.start_time, links))
    return found


UNTOLD = {"encode_ns": -1}
"""A scheduler does not know how long the encoder ran."""
ALL = ("api", "engine", "worker")
ONE: tuple[Line, ...] = (
    ("api", arrived(71, 100)),
    ("api", prompt(71, text=10, image=20)),
    ("api", preprocess(71, 100, 150)),
    ("engine", queue(71, 158, 160)),
    ("worker", encode(1, 71, 165, 180, patches=80)),
    ("engine", prefill(1, 71, tokens=30, visual=20)),
    ("engine", step(1, 160, 200, prefill_tokens=30, **UNTOLD)),
    ("api", first_token(71, 203)),
    ("engine", step(2, 202, 210, decoders=1, **UNTOLD)),
    ("engine", step(3, 212, 220, decoders=1, **UNTOLD)),
    ("engine", left(71, 3, 221, output=3)),
    ("api", finished(71, 225, output=3)),
)
"""One request with an image through three processes."""
ONE_PHASES = [
    ("preprocess", 100, 150), ("queue", 150, 160), ("encode", 160, 180), ("prefill", 180, 200), ("decode", 200, 220),
]  # fmt: skip


def run(tmp_path: Path, script: Any, processes: Any = ALL, **limits: int) -> Following:
    """Write the whole script and follow it to its end."""
    server, agent = Server(tmp_path, processes), Following(tmp_path, **limits)
    server.write_all(script)
    agent.settle()
    return agent
