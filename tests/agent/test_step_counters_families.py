"""Counters of requests of several sequences, and of several schedulers; and of records that cannot be true."""

from collections.abc import Sequence

import pytest
from counted_steps import (
    ENERGY,
    GPUS,
    SECOND,
    FakeMeter,
    energy,
    feed,
    machine,
    one_by_one,  # noqa: F401  # a fixture
)
from ring_records import Row, arrived, finished, left, prefill, prompt, sequence, step, step_facts

from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.step_work import Measures
from vtprof_schemas import names
from vtprof_schemas.records import STEP_RANK_SHIFT


def families(meter: FakeMeter, rings: Sequence[int]) -> Assembly:
    made = Assembly(AssemblySettings(), expects_gpu_time=False, joined=True, measures=Measures(meter))
    made.steps.gpus.update(dict.fromkeys(rings, GPUS))
    return made


@pytest.mark.usefixtures("one_by_one")
def test_a_request_that_goes_on_with_one_sequence_fewer_counts_what_it_has_cached_by_then() -> None:
    """Two requests of one sequence each and of one length, though one had two before: half of 100 mJ each."""
    rows = [
        arrived(1, 0), prompt(1, 10), sequence(11, 1), sequence(12, 1), arrived(2, 0), prompt(2, 10),
        prefill(1, 11, tokens=10), prefill(1, 12, tokens=10), prefill(1, 2, tokens=10), step(1, 0, 10, prefill_tokens=30),
    ]  # fmt: skip
    rows += [step(2 + n, 10 + n, 11 + n, decoders=3, decode_context_tokens=3 * (10 + n)) for n in range(40)]
    rows += [left(11, 41, 50, 40)]
    rows += [step(42 + n, 50 + n, 51 + n, decoders=2, decode_context_tokens=2 * (50 + n)) for n in range(10)]
    rows += [left(12, 51, 60, 50), left(2, 51, 60, 50), finished(1, 60, 90), finished(2, 60, 50)]
    made = families(FakeMeter({50 + n: {ENERGY: (0, 0, 10.0)} for n in range(10)}), [0])
    feed(made, rows)
    made.advance(10 * SECOND)
    made.advance(20 * SECOND)
    found = [energy(request, names.DECODE) for request in made.take_requests()]
    assert found == pytest.approx([50.0, 50.0])


def test_a_request_whose_sequences_run_on_two_schedulers_has_the_energy_of_both() -> None:
    made = families(FakeMeter({at: {ENERGY: (0, 0, 10.0)} for at in (201, 202, 301, 302)}), [1, 2])
    order = {0: 0, 1: 0, 2: 0}

    def tell(ring: int, row: Row) -> None:
        order[ring] += 1
        made.feed(row[0], order[ring], row[1], 0, ring)

    for row in (arrived(1, 0), prompt(1, 10), sequence(11, 1), sequence(12, 1)):
        tell(0, row)
    for ring in (1, 2):
        first = ring << STEP_RANK_SHIFT
        tell(ring, prefill(first, 10 + ring, tokens=10))
        tell(ring, step(first, ring, 100 + ring, prefill_tokens=10))
        for at in (200 + ring, 300 + ring):
            tell(ring, step(first + at // 100, at, at + 50, decoders=1, decode_context_tokens=10))
        tell(ring, left(10 + ring, first + 4, 400, 3))
    tell(0, finished(1, 500, 6))
    made.advance(10 * SECOND)
    made.advance(20 * SECOND)
    (request,) = made.take_requests()
    whole = sum(float(p.attributes.get(ENERGY, 0.0)) for p in request.phases if p.phase == names.DECODE)
    assert whole == pytest.approx(40.0)
    assert not any(line.account._members for line in made.steps.lines.values())


def test_the_work_of_a_step_that_is_still_to_end_is_not_told() -> None:
    """It would lie before all that others do on the GPU until then."""
    meter = FakeMeter({})
    made = machine(meter)
    feed(made, [arrived(1, 0), prefill(1, 1, tokens=5), step(1, 0, 130 * SECOND, prefill_tokens=5)])
    feed(made, [step(2, 20, 30, decoders=1, decode_context_tokens=5)], first=4)
    made.advance(10 * SECOND)
    assert [work.end_ns for _, work in meter.added] == [30]
    assert [fact.index for fact in step_facts(made)] == [1, 2]
