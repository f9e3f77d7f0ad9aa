"""Folding steps into spans: sums, time means, links; integers a reader can check by hand."""

from dataclasses import replace
from random import Random

import pytest

from vtprof_agent.facts import RequestRef, StepFact, StepSpan
from vtprof_agent.windows import Folding
from vtprof_schemas import names

SECOND = 1_000_000_000


def _refs(*numbers: int) -> tuple[RequestRef, ...]:
    return tuple(RequestRef(number) for number in numbers)


def _fact(
    sequence: int, start: int, end: int, requests: tuple[RequestRef, ...], *, mixed: bool = False,
    sums: dict[str, int] | None = None, levels: dict[str, int] | None = None,
) -> StepFact:  # fmt: skip
    told = levels or {}
    used = told.get(names.STEP_KV_USED_TOKENS)
    return StepFact(
        sequence=sequence, last_sequence=sequence, index=sequence, start_ns=start, end_ns=end, mixed=mixed,
        requests=requests, decode_requests=len(requests), sums=sums or {},
        levels={key: (level * (end - start), end - start) for key, level in told.items()},
        kv_peak=None if used is None else (used, told.get(names.STEP_KV_VISUAL_TOKENS, -1)),
    )  # fmt: skip


def _fold(facts: list[StepFact]) -> list[StepSpan]:
    folding = Folding()
    for fact in facts:
        folding.add(fact)
    folding.close()
    return folding.take()


def test_decode_only_steps_of_one_composition_are_one_window_with_sums_and_time_means() -> None:
    pair = _refs(1, 2)
    (window,) = _fold(
        [
            _fact(
                5,
                100,
                110,
                pair,
                sums={names.STEP_DECODE_REQUESTS: 2},
                levels={names.STEP_KV_USED_TOKENS: 10, names.STEP_RUNNING: 2},
            ),
            _fact(
                6,
                110,
                140,
                pair,
                sums={names.STEP_DECODE_REQUESTS: 2},
                levels={names.STEP_KV_USED_TOKENS: 14, names.STEP_RUNNING: 3},
            ),
        ]
    )
    assert (window.name, window.start_ns, window.end_ns) == (names.SPAN_WINDOW, 100, 140)
    assert window.attributes[names.STEP_COUNT] == 2
    assert window.attributes[names.STEP_INDEX] == 5
    assert window.attributes[names.STEP_DECODE_REQUESTS] == 4
    # (10 x 10 + 14 x 30) / 40 = 13, and (2 x 10 + 3 x 30) / 40 = 2.75
    assert window.attributes[names.STEP_KV_USED_TOKENS] == 13
    assert window.attributes[names.STEP_RUNNING] == 2.75


def test_the_kv_peak_is_the_largest_iterations_with_the_visual_part_of_that_same_one() -> None:
    one = _refs(1)
    facts = [
        _fact(
            number, 10 * number, 10 * number + 10, one,
            levels={names.STEP_KV_USED_TOKENS: used, names.STEP_KV_VISUAL_TOKENS: visual},
        )
        for number, (used, visual) in enumerate([(10, 9), (41, 4), (12, 9)], start=1)
    ]  # fmt: skip
    (window,) = _fold(facts)
    (step,) = _fold([replace(facts[0], mixed=True)])
    # The mean of 10, 41 and 12 is 21.
    assert window.attributes[names.STEP_KV_USED_TOKENS] == 21
    assert window.attributes[names.STEP_KV_USED_TOKENS_MAX] == 41
    assert window.attributes[names.STEP_KV_VISUAL_TOKENS_MAX] == 4
    assert step.attributes[names.STEP_KV_USED_TOKENS_MAX] == 10
    assert step.attributes[names.STEP_KV_VISUAL_TOKENS_MAX] == 9


def test_a_kv_peak_that_the_engine_does_not_tell_is_absent() -> None:
    (untold,) = _fold([_fact(1, 0, 10, _refs(1))])
    (no_visual,) = _fold([_fact(1, 0, 10, _refs(1), levels={names.STEP_KV_USED_TOKENS: 5})])
    assert names.STEP_KV_USED_TOKENS_MAX not in untold.attributes
    assert no_visual.attributes[names.STEP_KV_USED_TOKENS_MAX] == 5
    assert names.STEP_KV_VISUAL_TOKENS_MAX not in no_visual.attributes


def test_prefill_steps_stand_alone_and_close_the_window() -> None:
    one = _refs(1)
    found = _fold([_fact(1, 0, 10, one), _fact(2, 10, 20, one, mixed=True), _fact(3, 20, 30, one)])
    assert [(span.name, span.start_ns) for span in found] == [
        (names.SPAN_WINDOW, 0), (names.SPAN_STEP, 10), (names.SPAN_WINDOW, 20),
    ]  # fmt: skip


def test_a_change_of_composition_and_a_full_second_close_the_window() -> None:
    one, two = _refs(1), _refs(1, 2)
    found = _fold(
        [
            _fact(1, 0, 10, one),
            _fact(2, 10, 20, two),
            _fact(3, 20, 30, two),
            _fact(4, 10 + SECOND, 11 + SECOND, two),
        ]
    )
    assert [(span.sequence, span.attributes[names.STEP_COUNT]) for span in found] == [(1, 1), (2, 2), (4, 1)]


def test_links_name_who_joined_or_left_and_everybody_once_a_second() -> None:
    found = _fold(
        [
            _fact(1, 0, 1, _refs(1, 2), mixed=True),
            _fact(2, 1, 2, _refs(1, 2), mixed=True),
            _fact(3, 2, 3, _refs(2, 3), mixed=True),
            _fact(4, SECOND, SECOND + 1, _refs(2, 3), mixed=True),
        ]
    )
    assert [tuple(ref.sequence for ref in span.links) for span in found] == [(1, 2), (), (3, 1), (2, 3)]


@pytest.mark.parametrize("seed", range(20))
def test_an_agent_that_goes_on_differs_in_the_links_of_its_first_second_alone(seed: int) -> None:
    chance, at, facts = Random(seed), 0, []
    for number in range(1, 21):
        at += chance.randrange(1, SECOND // 2)
        who = _refs(*chance.sample(range(1, 6), chance.randint(1, 5)))
        facts.append(_fact(number, at, at + 1, who, mixed=True))
    exported = chance.randint(1, 10)
    again = Folding(skip_through=exported)
    for fact in facts:
        again.add(fact)
    repeated, original = again.take(), _fold(facts)[exported:]
    assert [replace(span, links=()) for span in repeated] == [replace(span, links=()) for span in original]
    assert repeated[0].links == facts[exported].requests, "the first names everybody"
    whole_s = original[0].start_ns // SECOND + 1
    alike = [
        (mine, its) for mine, its in zip(repeated, original, strict=True) if its.start_ns >= whole_s * SECOND
    ]
    assert alike and all(mine == its for mine, its in alike)


def test_more_than_64_links_go_on_in_continuations_without_length_or_iterations() -> None:
    found = _fold([_fact(1, 0, 10, _refs(*range(1, 151)), mixed=True)])
    assert [len(span.links) for span in found] == [64, 64, 22]
    assert [span.part for span in found] == [0, 1, 2]
    assert [(span.start_ns, span.end_ns) for span in found[1:]] == [(10, 10), (10, 10)]
    assert [span.attributes[names.STEP_COUNT] for span in found] == [1, 0, 0]
    assert len({ref for span in found for ref in span.links}) == 150


def test_gpu_time_is_stated_only_when_every_step_has_it() -> None:
    one = _refs(1)
    gpu = {names.GPU_TIME_NS: 4}
    (whole,) = _fold([_fact(1, 0, 10, one, sums=gpu), _fact(2, 10, 20, one, sums=gpu)])
    (part,) = _fold([_fact(1, 0, 10, one, sums=gpu), _fact(2, 10, 20, one)])
    assert whole.attributes[names.GPU_TIME_NS] == 8
    assert names.GPU_TIME_NS not in part.attributes


def test_steps_that_an_earlier_agent_exported_are_left_out() -> None:
    folding = Folding(skip_through=2)
    for sequence in (1, 2, 3):
        folding.add(_fact(sequence, sequence, sequence + 1, _refs(1)))
    folding.close()
    (window,) = folding.take()
    assert (window.sequence, window.attributes[names.STEP_COUNT]) == (3, 1)


def test_an_idle_window_closes_when_its_second_is_over() -> None:
    folding = Folding()
    folding.add(_fact(1, 5, 10, _refs(1)))
    folding.close_stale(4 + SECOND)
    assert folding.take() == []
    folding.close_stale(5 + SECOND)
    assert len(folding.take()) == 1
