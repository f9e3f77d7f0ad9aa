"""After losses no request is given the energy of another: what was a stranger's in a step is nobody's."""

from random import Random

import pytest
from counted_steps import ENERGY, SECOND, FakeMeter
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_records import Row, arrived, finished, left, prefill, prompt, sequence, step, step_facts
from test_step_counters_families import families

from vtprof_agent.decoding import LET_GO_NS
from vtprof_agent.facts import FinishedRequest, StepFact
from vtprof_schemas import names

API, ENGINE = 0, 1
TENTH = SECOND // 10


def told(
    rows: list[tuple[int, Row]], table: dict[int, float]
) -> tuple[dict[str, FinishedRequest], list[StepFact]]:
    """Feed the rings of a server, whose decode steps have so many mJ by their start; each row at its step's end."""
    made = families(
        FakeMeter({start_ns: {ENERGY: (0.0, 0.0, amount)} for start_ns, amount in table.items()}), [ENGINE]
    )
    numbers, now_ns, done = {API: 0, ENGINE: 0}, 0, list[FinishedRequest]()
    for ring, (code, values) in rows:
        numbers[ring] += 1
        if code == step(0, 0, 0)[0]:
            now_ns = max(now_ns, values[2])
        made.feed(code, numbers[ring], values, now_ns, ring)
        made.requests.rounds += 1
        made.advance(now_ns)
        done += made.take_requests()
    for _ in range(3):
        now_ns += 10 * SECOND
        made.requests.rounds += 1
        made.advance(now_ns)
    done += made.take_requests()
    return {str(one.attributes[names.REQUEST_ID]): one for one in done}, step_facts(made)


def energy_mj(request: FinishedRequest) -> float:
    return sum(float(phase.attributes.get(ENERGY, 0.0)) for phase in request.phases)


def test_a_request_of_which_the_scheduler_never_let_go_stands_for_no_other_after_its_end() -> None:
    """It decodes in ten steps of 7 mJ and ends; the steps from a second after are of one whose records are lost."""
    rows = [(API, arrived(1, 0)), (API, prompt(1, 5)), (ENGINE, prefill(1, 1, tokens=5))]
    rows += [(ENGINE, step(1, 0, TENTH, prefill_tokens=5))]
    starts = [TENTH * (1 + n) for n in range(10)]
    end_ns = starts[-1] + TENTH
    later = [end_ns + LET_GO_NS + 1 + n * TENTH for n in range(100)]
    for index, start_ns in enumerate(starts, start=2):
        rows += [(ENGINE, step(index, start_ns, start_ns + TENTH, decoders=1, decode_context_tokens=5))]
    rows += [(API, finished(1, end_ns, 11))]
    for index, start_ns in enumerate(later, start=12):
        rows += [(ENGINE, step(index, start_ns, start_ns + TENTH, decoders=1, decode_context_tokens=5))]
    requests, facts = told(rows, dict.fromkeys((*starts, *later), 7.0))
    assert energy_mj(requests["1"]) == pytest.approx(70.0)
    assert [len(fact.requests) for fact in facts] == [1] * 11 + [0] * 100


def test_a_request_that_the_scheduler_let_go_before_its_prompt_was_given_up_decodes_no_more() -> None:
    """The step of its prompt is lost, which is known nine steps later; those after that are of a stranger."""
    rows = [(API, arrived(1, 0)), (API, prompt(1, 5)), (ENGINE, prefill(1, 1, tokens=5))]
    rows += [(ENGINE, left(1, 2, 10, 1)), (API, finished(1, 10, 1))]
    table = {index * 10: 7.0 for index in range(2, 20)}
    rows += [(ENGINE, step(at // 10, at, at + 10, decoders=1, decode_context_tokens=5)) for at in table]
    requests, facts = told(rows, table)
    assert energy_mj(requests["1"]) == 0.0
    assert [fact.requests for fact in facts] == [()] * 18


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), min_size=8, max_size=16),
    st.randoms(),
    st.booleans(),
)
def test_no_request_is_in_a_step_that_began_long_after_its_end(
    wanted: list[tuple[int, int]], chance: Random, losing: bool
) -> None:
    """Requests of some sequences for some steps each, one admitted in each step; one in seven records is lost."""
    rows: list[tuple[int, Row]] = []
    running: list[list[int]] = []
    table: dict[int, float] = {}
    index = 0
    while index < len(wanted) or running:
        index, at = index + 1, index * SECOND
        decoders = sum(sequences for _, sequences, _ in running)
        fresh = index <= len(wanted)
        if fresh:
            sequences = wanted[index - 1][0]
            rows += [(API, arrived(index, at)), (API, prompt(index, 5))]
            rows += [(API, sequence(100 * index + n, index)) for n in range(sequences)]
            rows += [(ENGINE, prefill(index, 100 * index + n, tokens=5)) for n in range(sequences)]
        rows.append((ENGINE, step(index, at, at + SECOND, decoders=decoders, prefill_tokens=5 * fresh)))
        table[at] = 1.0 * decoders
        for one in running:
            one[2] -= 1
            if not one[2]:
                rows += [(ENGINE, left(100 * one[0] + n, index + 1, at + SECOND, 1)) for n in range(one[1])]
                rows.append((API, finished(one[0], at + SECOND, 1)))
        running = [one for one in running if one[2]]
        running += [[index, *wanted[index - 1]]] if fresh else []
    requests, facts = told([row for row in rows if not losing or chance.random() > 1 / 7], table)
    by_ref = {request.ref: request for request in requests.values()}
    for fact in facts:
        for ref in fact.requests:
            request = by_ref.get(ref)
            if request is not None and request.attributes[names.REQUEST_STATUS] == names.STATUS_OK:
                assert fact.start_ns <= request.end_ns + LET_GO_NS
    if not losing:
        assert sum(map(energy_mj, requests.values())) == pytest.approx(sum(table.values()))
