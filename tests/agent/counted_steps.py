"""Steps fed to an assembly beside a meter that says what a table holds, for the tests of their counters."""

from collections.abc import Sequence

import pytest
from ring_records import (
    Row,
    arrived,
    encode,
    finished,
    only,
    prefill,
    prompt,
    step,
    step_facts,
)

from vtprof_agent import step_work
from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.counters.meter import Share, StepCounters, Work
from vtprof_agent.facts import FinishedRequest, PhaseSpan, StepFact, StepSpan
from vtprof_agent.step_work import Measures
from vtprof_agent.windows import Folding
from vtprof_schemas import names

GPUS = ("GPU-a", "GPU-b")
DRAM, ENERGY = names.GPU_DRAM_BANDWIDTH_RATIO, names.GPU_ENERGY_MJ
SECOND = 1_000_000_000
Given = dict[str, tuple[float, float, float]]


class FakeMeter:
    """Gives each step, by its begin, what a table says; interval ends are half and twice the amount."""

    def __init__(self, table: dict[int, Given], quality: str = names.QUALITY_ATTRIBUTED) -> None:
        self.table, self.quality = table, quality
        self.added: list[tuple[tuple[str, ...], Work]] = []
        self.complete_through = 10**18

    def add(self, gpus: tuple[str, ...], work: Work, line: int = 0) -> None:
        self.added.append((gpus, work))

    def await_step(self, gpus: tuple[str, ...], line: int, awaited: bool) -> None:
        pass

    def complete(self, gpus: tuple[str, ...], end_ns: int) -> bool:
        assert gpus == GPUS
        return end_ns <= self.complete_through

    def of(self, gpus: tuple[str, ...], work: Work, line: int = 0) -> StepCounters | None:
        assert (gpus, work) in self.added
        given = self.table.get(work.start_ns)
        if given is None:
            return None
        shares = {}
        for key, amounts in given.items():
            encoded, prefilled, decoded = (Share(amount, amount / 2, amount * 2) for amount in amounts)
            shares[key] = encoded, prefilled, decoded
        return StepCounters(shares, dict.fromkeys(given, self.quality), len(gpus))

    def of_run(self, gpus: tuple[str, ...], works: Sequence[Work], line: int = 0) -> StepCounters | None:
        """What the steps are given one by one, added up; nothing when one has nothing."""
        found = [self.of(gpus, work) for work in works]
        if not all(found):
            return None
        shares = {
            key: tuple(
                Share(*(sum(ends) for ends in zip(*parts, strict=True)))
                for parts in zip(*(one.shares[key] for one in found if one), strict=True)
            )
            for key in found[0].shares  # type: ignore[union-attr]
        }
        quality = dict.fromkeys(shares, self.quality)
        return StepCounters(shares, quality, len(gpus), len(works))  # type: ignore[arg-type]


def machine(
    meter: FakeMeter | None, *, expects_gpu_time: bool = False, gpus: Sequence[str] = GPUS
) -> Assembly:
    made = Assembly(AssemblySettings(), expects_gpu_time=expects_gpu_time, measures=Measures(meter))
    made.steps.gpus[0] = tuple(gpus)
    return made


def feed(assembly: Assembly, rows: Sequence[Row], now_ns: int = 0, first: int = 1) -> None:
    for sequence, (code, values) in enumerate(rows, start=first):
        assembly.feed(code, sequence, values, now_ns)


def run(rows: Sequence[Row], meter: FakeMeter) -> tuple[dict[str, FinishedRequest], list[StepFact]]:
    made = machine(meter)
    feed(made, rows)
    made.advance(10 * SECOND)
    requests = {str(r.attributes[names.REQUEST_ID]): r for r in made.take_requests()}
    return requests, step_facts(made)


def fold(facts: Sequence[StepFact], detail: int = 3) -> list[StepSpan]:
    folding = Folding(detail=detail)
    for fact in facts:
        folding.add(fact)
    folding.close()
    return folding.take()


def counter(span: StepSpan | PhaseSpan, key: str) -> tuple[object, ...]:
    return tuple(span.attributes.get(key + suffix) for suffix in ("", ".low", ".high", ".quality"))


def energy(request: FinishedRequest, phase: str) -> float:
    return float(only(request, phase).attributes[ENERGY])


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each step of decoding given its own counters, however close together they are."""
    monkeypatch.setattr(step_work, "RUN_NS", -1)


TWO = (
    arrived(1, 0), arrived(2, 0), prompt(1, 10), prompt(2, 30),
    encode(1, 1, 0, 40, patches=30), encode(1, 2, 0, 40, patches=10),
    prefill(1, 1, tokens=10), prefill(1, 2, tokens=30),
    step(1, 0, 100, prefill_tokens=40, encode_ns=40),
    step(2, 100, 120, decoders=2, decode_context_tokens=40),
    step(3, 120, 140, decoders=2, decode_context_tokens=42),
    finished(1, 150, 3), finished(2, 150, 3),
)  # fmt: skip
"""Two requests with images of 30 and 10 patches and prompts of 10 and 30 tokens; an image step and two decode steps."""
