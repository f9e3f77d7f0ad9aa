"""What becomes of steps at each level of detail, and of the phases where steps are not recorded."""

from ring_records import (
    Row,
    arrived,
    encode,
    finished,
    first_token,
    left,
    only,
    preempted,
    prefill,
    prompt,
    queue,
    shape,
    step,
    step_facts,
)

from vtprof_agent.assembly import Assembly, AssemblySettings
from vtprof_agent.facts import FinishedRequest, RequestRef, StepFact, StepSpan
from vtprof_agent.windows import Folding
from vtprof_schemas import names

SECOND = 1_000_000_000


def _refs(*numbers: int) -> tuple[RequestRef, ...]:
    return tuple(RequestRef(number) for number in numbers)


def _fact(sequence: int, start: int, end: int, requests: tuple[int, ...], **sums: int) -> StepFact:
    keys = {
        "gpu": names.GPU_TIME_NS, "prefills": names.STEP_PREFILL_REQUESTS, "tokens": names.STEP_PREFILL_TOKENS,
        "visual": names.STEP_PREFILL_VISUAL_TOKENS, "pairs": names.STEP_PREFILL_ATTENTION_PAIRS,
        "visual_pairs": names.STEP_PREFILL_VISUAL_ATTENTION_PAIRS, "decoding": names.STEP_DECODE_REQUESTS,
        "items": names.STEP_ENCODE_ITEMS, "encode_gpu": names.STEP_ENCODE_GPU_TIME_NS,
    }  # fmt: skip
    return StepFact(
        sequence=sequence, last_sequence=sequence, index=sequence, start_ns=start, end_ns=end,
        mixed="prefills" in sums or "items" in sums,
        requests=_refs(*requests), decode_requests=sums.get("decoding", 0), levels={},
        sums={keys[key]: value for key, value in sums.items()}, needs={0: sequence},
    )  # fmt: skip


PREFILL = {"prefills": 1, "tokens": 30, "visual": 20, "pairs": 465, "visual_pairs": 300}
FACTS = (
    _fact(1, 0, 10, (1,), decoding=1, gpu=5),
    _fact(2, 10, 30, (2, 1), decoding=1, gpu=15, **PREFILL),
    _fact(3, 30, 40, (1, 2), decoding=2, gpu=6),
    _fact(4, SECOND, SECOND + 10, (2,), decoding=1, gpu=4),
)


def fold(facts: tuple[StepFact, ...], detail: int) -> list[StepSpan]:
    folding = Folding(detail=detail)
    for fact in facts:
        folding.add(fact)
    folding.close()
    return folding.take()


def test_at_level_2_all_steps_of_a_second_are_one_window_with_every_sum() -> None:
    first, second = fold(FACTS, 2)
    assert (first.name, first.sequence, first.last_sequence) == (names.SPAN_WINDOW, 1, 3)
    assert (first.start_ns, first.end_ns) == (0, 40)
    assert {key: first.attributes[key] for key in first.attributes if key != names.GPU_TIME_QUALITY} == {
        names.STEP_INDEX: 1, names.STEP_COUNT: 3, names.GPU_TIME_NS: 26, names.STEP_DECODE_REQUESTS: 4,
        names.STEP_PREFILL_REQUESTS: 1, names.STEP_PREFILL_TOKENS: 30, names.STEP_PREFILL_VISUAL_TOKENS: 20,
        names.STEP_PREFILL_ATTENTION_PAIRS: 465, names.STEP_PREFILL_VISUAL_ATTENTION_PAIRS: 300,
    }  # fmt: skip
    assert (second.sequence, second.attributes[names.STEP_COUNT]) == (4, 1)


def test_a_window_of_level_2_links_everybody_in_it_and_the_next_one_who_changed() -> None:
    shorter = (*FACTS[:3], _fact(4, SECOND - 1, SECOND, (2, 3), decoding=2, gpu=4))
    (window,) = fold(shorter, 2)
    assert [ref.sequence for ref in window.links] == [1, 2, 3]
    first, second = fold(FACTS, 2)
    assert [ref.sequence for ref in first.links] == [1, 2]
    # Its second begins a second later, so it names everybody: request 2 alone.
    assert [ref.sequence for ref in second.links] == [2]


def test_level_3_is_as_ever() -> None:
    assert [(span.name, span.sequence) for span in fold(FACTS, 3)] == [
        (names.SPAN_WINDOW, 1), (names.SPAN_STEP, 2), (names.SPAN_WINDOW, 3), (names.SPAN_WINDOW, 4),
    ]  # fmt: skip


def test_at_level_1_and_0_there_are_no_step_or_window_spans() -> None:
    assert fold(FACTS, 1) == fold(FACTS, 0) == []


def test_sums_that_a_step_of_the_window_does_not_tell_are_left_out() -> None:
    unknown_pairs = {key: value for key, value in PREFILL.items() if key != "pairs"}
    facts = (
        *FACTS[:3], _fact(4, 50, 60, (3,), gpu=3, **unknown_pairs),
        _fact(5, 60, 70, (4,), gpu=3, items=1, encode_gpu=2), _fact(6, 70, 80, (4,), gpu=3, items=1),
    )  # fmt: skip
    (window,) = fold(facts, 2)
    assert window.attributes[names.STEP_PREFILL_TOKENS] == 60
    assert names.STEP_PREFILL_ATTENTION_PAIRS not in window.attributes
    assert names.STEP_ENCODE_GPU_TIME_NS not in window.attributes
    (window,) = fold(facts[:5], 2)
    # Only the steps that encode owe the encoder's GPU time.
    assert window.attributes[names.STEP_ENCODE_GPU_TIME_NS] == 2


def test_a_change_of_level_closes_the_open_window() -> None:
    folding = Folding()
    folding.add(FACTS[0])
    folding.set_detail(2)
    folding.add(FACTS[1])
    folding.add(FACTS[2])
    folding.set_detail(1)
    folding.add(FACTS[3])
    folding.set_detail(3)
    folding.close()
    spans = folding.take()
    assert [(span.name, span.sequence, span.last_sequence) for span in spans] == [
        (names.SPAN_WINDOW, 1, 1), (names.SPAN_WINDOW, 2, 3),
    ]  # fmt: skip


def test_setting_the_same_level_changes_nothing() -> None:
    folding = Folding()
    folding.add(FACTS[0])
    folding.set_detail(3)
    assert folding.take() == []


def test_steps_left_out_at_a_low_level_are_not_made_up_for_after_a_restart() -> None:
    folding = Folding(detail=1)
    for fact in FACTS[:3]:
        folding.add(fact)
    assert folding.take() == []
    assert folding.exported_through == 3
    again = Folding(folding.exported_through)
    for fact in FACTS:
        again.add(fact)
    again.close()
    assert [span.sequence for span in again.take()] == [4]


def test_an_open_window_of_level_2_needs_its_steps_and_the_arrivals_of_those_in_it() -> None:
    folding = Folding(skip_through=6, detail=2)
    for sequence, requests in ((10, (7,)), (11, (7, 4))):
        folding.add(_fact(sequence, sequence, sequence + 1, requests, decoding=len(requests)))
    assert folding.take() == []
    assert folding.exported_through == 6
    assert folding.open_needs == {0: 4}


def _run(rows: list[Row], *, joined: bool, detail: int = 3) -> FinishedRequest:
    made = Assembly(AssemblySettings(), expects_gpu_time=detail >= 2, joined=joined)
    made.times_steps = detail >= 2
    for sequence, (code, values) in enumerate(rows, start=1):
        made.feed(code, sequence, values, 0)
    made.requests.rounds += 3
    made.advance(10 * SECOND)
    (request,) = made.take_requests()
    return request


LEVEL_0 = [
    arrived(1, 0), prompt(1, 10, 20), queue(1, 0, 10), encode(1, 1, 10, 20, patches=80),
    prefill(1, 1, tokens=30), step(1, 10, 50, prefill_tokens=30), first_token(1, 51),
]  # fmt: skip
"""Up to its first token a request is recorded at every level; at level 0 no step follows that only decodes."""


def test_without_decode_steps_decode_runs_from_the_prompts_end_to_the_end() -> None:
    request = _run([*LEVEL_0, finished(1, 400, 9)], joined=False)
    assert shape(request)[-1] == ("decode", 50, 400)
    assert names.DECODE_STEPS not in only(request, names.DECODE).attributes
    served = _run([*LEVEL_0, left(1, 9, 390, 9), finished(1, 400, 9)], joined=True)
    # Where the scheduler says when it let go, that is the end: 400 is when the client had it.
    assert shape(served)[-1] == ("decode", 50, 390)
    assert names.DECODE_STEPS not in only(served, names.DECODE).attributes


def test_steps_of_others_prompts_do_not_end_a_decode_whose_own_steps_are_not_recorded() -> None:
    others = [prefill(5, 2, tokens=8), step(5, 200, 220, decoders=1, prefill_tokens=8)]
    served = _run([*LEVEL_0, *others, left(1, 9, 390, 9), finished(1, 400, 9)], joined=True)
    assert shape(served)[-1] == ("decode", 50, 390)
    assert names.DECODE_STEPS not in only(served, names.DECODE).attributes


def test_a_level_that_falls_or_rises_within_a_request_leaves_its_decode_whole() -> None:
    seen = [step(2, 50, 60, decoders=1), step(3, 60, 70, decoders=1)]
    for joined in (False, True):
        falls = _run([*LEVEL_0, *seen, *_leaves(joined, 12), finished(1, 400, 12)], joined=joined)
        assert shape(falls)[-1] == ("decode", 50, 390 if joined else 400)
        assert names.DECODE_STEPS not in only(falls, names.DECODE).attributes
        rises = [step(11, 300, 310, decoders=1), step(12, 310, 320, decoders=1)]
        rose = _run([*LEVEL_0, *rises, *_leaves(joined, 12, 321), finished(1, 330, 12)], joined=joined)
        assert shape(rose)[-1] == ("decode", 50, 320)
    assert names.DECODE_STEPS not in only(rose, names.DECODE).attributes


def _leaves(joined: bool, index: int, at: int = 390) -> list[Row]:
    return [left(1, index, at, 12)] if joined else []


def test_the_way_of_the_last_token_is_no_decode_where_every_step_was_recorded() -> None:
    seen = [step(2, 50, 60, decoders=1), step(3, 60, 70, decoders=1)]
    for joined in (False, True):
        told = [left(1, 3, 71, 3)] if joined else []
        request = _run([*LEVEL_0, *seen, *told, finished(1, 400, 3)], joined=joined)
        assert shape(request)[-1] == ("decode", 50, 70)
        assert only(request, names.DECODE).attributes[names.DECODE_STEPS] == 2


def test_a_preemption_ends_the_untold_decode_where_it_happened() -> None:
    rows = [
        *LEVEL_0, preempted(1, 20, 200), queue(1, 200, 250),
        prefill(20, 1, tokens=35), step(20, 250, 280, prefill_tokens=35),
        left(1, 40, 390, 20), finished(1, 400, 20),
    ]  # fmt: skip
    request = _run(rows, joined=True)
    assert shape(request)[-4:] == [
        ("decode", 50, 200), ("queue", 200, 250), ("prefill", 250, 280), ("decode", 280, 390),
    ]  # fmt: skip
    assert [p.attributes[names.DECODE_PREEMPTIONS] for p in request.phases if p.phase == "decode"] == [1, 0]


def test_where_gpu_times_are_not_recorded_no_step_waits_for_one() -> None:
    made = Assembly(AssemblySettings(), expects_gpu_time=True)
    made.times_steps = False
    for sequence, (code, values) in enumerate(LEVEL_0, start=1):
        made.feed(code, sequence, values, 0)
    made.advance(0)
    assert [fact.index for fact in step_facts(made)] == [1]
