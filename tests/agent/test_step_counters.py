"""Counters of steps reach step and window spans and the phases of the requests in them; every number is worked by hand."""

import pytest
from counted_steps import (
    DRAM,
    ENERGY,
    GPUS,
    TWO,
    FakeMeter,
    Given,
    counter,
    energy,
    fold,
    one_by_one,  # noqa: F401  # a fixture
    run,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_records import (
    Row,
    arrived,
    finished,
    make,
    only,
    preempted,
    prefill,
    prompt,
    queue,
    step,
)

from vtprof_agent import step_work
from vtprof_agent.counters.meter import StepCounters, Work
from vtprof_schemas import names, records

TENSOR = names.GPU_TENSOR_ACTIVE_RATIO


def test_the_meter_is_told_the_work_of_each_step_once_and_in_order() -> None:
    meter = FakeMeter({})
    run(TWO, meter)
    # Pairs: 30² + 10² = 1000, and 10·11/2 + 30·31/2 = 520.
    assert meter.added == [
        (GPUS, Work(0, 100, 40, 1000, 40, 520, 0, 0, encode_ns=40)),
        (GPUS, Work(100, 120, decode_requests=2, decode_context_tokens=40)),
        (GPUS, Work(120, 140, decode_requests=2, decode_context_tokens=42)),
    ]


def test_a_step_span_has_the_mean_over_its_time_and_gpus_and_the_energy() -> None:
    _, facts = run(TWO, FakeMeter({0: {DRAM: (40.0, 80.0, 0.0), ENERGY: (3.0, 5.0, 0.0)}}))
    image_step = fold(facts)[0]
    # 120 / (100 ns x 2 GPUs), its ends half and twice that, but a ratio is at most 1.
    assert counter(image_step, DRAM) == pytest.approx((0.6, 0.3, 1.0, names.QUALITY_ATTRIBUTED))
    assert counter(image_step, ENERGY) == pytest.approx((8.0, 4.0, 16.0, names.QUALITY_ATTRIBUTED))
    assert all(isinstance(value, float) for value in counter(image_step, ENERGY)[:3])


def test_a_window_adds_up_its_steps_and_takes_the_mean_over_its_own_time() -> None:
    table: dict[int, Given] = {
        100: {DRAM: (0.0, 0.0, 10.0), ENERGY: (0.0, 0.0, 2.0)},
        120: {DRAM: (0.0, 0.0, 30.0), ENERGY: (0.0, 0.0, 4.0)},
    }
    _, facts = run(TWO, FakeMeter(table))
    window = fold(facts)[1]
    # 40 / (40 ns x 2 GPUs); 2 + 4.
    assert counter(window, DRAM)[:3] == pytest.approx((0.5, 0.25, 1.0))
    assert counter(window, ENERGY)[:3] == pytest.approx((6.0, 3.0, 12.0))


@pytest.mark.usefixtures("one_by_one")
def test_a_counter_that_one_step_of_a_window_lacks_is_left_out_of_the_window() -> None:
    table: dict[int, Given] = {100: {DRAM: (0, 0, 10.0), ENERGY: (0, 0, 2.0)}, 120: {ENERGY: (0, 0, 4.0)}}
    _, facts = run(TWO, FakeMeter(table))
    window = fold(facts)[1]
    assert counter(window, DRAM) == (None, None, None, None)
    assert counter(window, ENERGY)[0] == 6.0
    _, facts = run(TWO, FakeMeter({100: {ENERGY: (0, 0, 2.0)}}))
    assert not any(key.startswith(ENERGY) for key in fold(facts)[1].attributes)


def test_the_worst_quality_stands_on_a_window() -> None:
    meter = FakeMeter({100: {ENERGY: (0, 0, 2.0)}, 120: {ENERGY: (0, 0, 4.0)}}, names.QUALITY_MEASURED)
    _, facts = run(TWO, meter)
    assert counter(fold(facts)[1], ENERGY)[3] == names.QUALITY_MEASURED
    facts[2].counters = StepCounters(facts[2].counters.shares, {ENERGY: names.QUALITY_ESTIMATED}, 2)  # type: ignore[union-attr]
    assert counter(fold(facts)[1], ENERGY)[3] == names.QUALITY_ESTIMATED


def test_steps_of_decoding_that_are_alike_are_given_their_counters_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of all energy each request has its part by the tokens cached over all of them; a window its part of the steps."""
    monkeypatch.setattr(step_work, "RUN_NS", 500)
    end = 120 + step_work.RUN_NS
    rows = [
        *TWO[:10], step(3, 120, 140, decoders=2, decode_context_tokens=42),
        step(4, end, end + 20, decoders=2, decode_context_tokens=44), finished(1, end + 20, 4), finished(2, end + 20, 4),
    ]  # fmt: skip
    meter = FakeMeter({100: {ENERGY: (0, 0, 4.0)}, 120: {ENERGY: (0, 0, 42.0)}, end: {ENERGY: (0, 0, 9.0)}})
    requests, facts = run(rows, meter)
    # 10 + 11 and 30 + 31 tokens of 82; the third step is too late for the run: 12 and 32 of 44.
    expected = (46 * 21 / 82 + 9 * 12 / 44, 46 * 61 / 82 + 9 * 32 / 44)
    found = tuple(energy(requests[name], names.DECODE) for name in ("1", "2"))
    assert found == pytest.approx(expected)
    assert counter(only(requests["1"], names.DECODE), ENERGY)[3] == names.QUALITY_ATTRIBUTED
    assert facts[1].counters is facts[2].counters
    assert counter(fold(facts[2:3])[0], ENERGY)[:3] == pytest.approx((23.0, 11.5, 46.0))
    assert counter(fold(facts[1:])[0], ENERGY)[:3] == pytest.approx((55.0, 27.5, 110.0))


@pytest.mark.usefixtures("one_by_one")
def test_energy_goes_by_patches_by_tokens_and_by_cached_tokens() -> None:
    table: dict[int, Given] = {
        0: {ENERGY: (8.0, 20.0, 0.0)}, 100: {ENERGY: (0.0, 0.0, 4.0)}, 120: {ENERGY: (0.0, 0.0, 42.0)},
    }  # fmt: skip
    requests, _ = run(TWO, FakeMeter(table))
    one, two = requests["1"], requests["2"]
    assert (energy(one, names.ENCODE), energy(two, names.ENCODE)) == pytest.approx((6.0, 2.0))
    assert (energy(one, names.PREFILL), energy(two, names.PREFILL)) == pytest.approx((5.0, 15.0))
    # 4 by 10:30, then 42 by 11:31 of the 42 that are cached by then.
    assert (energy(one, names.DECODE), energy(two, names.DECODE)) == pytest.approx((1 + 11, 3 + 31))
    assert counter(only(one, names.DECODE), ENERGY)[1:] == pytest.approx((6, 24, names.QUALITY_ATTRIBUTED))


def test_decode_energy_is_shared_alike_where_a_prompt_is_unknown() -> None:
    rows = [row for row in TWO if row != prompt(2, 30)]
    requests, _ = run(rows, FakeMeter({100: {ENERGY: (0.0, 0.0, 4.0)}, 120: {ENERGY: (0.0, 0.0, 42.0)}}))
    assert energy(requests["1"], names.DECODE) == energy(requests["2"], names.DECODE) == 23.0


def test_ratios_of_phases_are_means_over_the_encoders_part_and_over_the_rest_of_their_steps() -> None:
    table: dict[int, Given] = {
        0: {DRAM: (20.0, 60.0, 0.0)}, 100: {DRAM: (0.0, 0.0, 10.0)}, 120: {DRAM: (0.0, 0.0, 30.0)},
    }  # fmt: skip
    requests, _ = run(TWO, FakeMeter(table))
    for request in requests.values():
        # 20 / (40 x 2), 60 / (60 x 2), (10 + 30) / ((20 + 20) x 2)
        assert counter(only(request, names.ENCODE), DRAM)[:3] == pytest.approx((0.25, 0.125, 0.5))
        assert counter(only(request, names.PREFILL), DRAM)[:3] == pytest.approx((0.5, 0.25, 1.0))
        assert counter(only(request, names.DECODE), DRAM)[:3] == pytest.approx((0.5, 0.25, 1.0))


def test_a_decode_phase_counts_the_mixed_steps_that_it_lay_in() -> None:
    rows = [
        arrived(1, 0), prompt(1, 10), prefill(1, 1, tokens=10), step(1, 0, 10, prefill_tokens=10),
        arrived(2, 5), prompt(2, 30), prefill(2, 2, tokens=30),
        step(2, 10, 20, decoders=1, prefill_tokens=30, decode_context_tokens=10),
        finished(1, 20, 2), finished(2, 20, 1),
    ]  # fmt: skip
    requests, facts = run(rows, FakeMeter({10: {DRAM: (0.0, 6.0, 4.0), ENERGY: (0.0, 9.0, 1.0)}}))
    decode, second = only(requests["1"], names.DECODE), only(requests["2"], names.PREFILL)
    # Both lay in the same 10 ns, and each has what its own work took: 4 and 6 of (10 x 2). The energy likewise.
    assert counter(decode, DRAM)[:3] == pytest.approx((0.2, 0.1, 0.4))
    assert counter(second, DRAM)[:3] == pytest.approx((0.3, 0.15, 0.6))
    assert (decode.attributes[ENERGY], second.attributes[ENERGY]) == (1.0, 9.0)
    assert DRAM not in only(requests["1"], names.PREFILL).attributes
    (mixed,) = [span for span in fold(facts) if span.start_ns == 10]
    assert mixed.attributes[DRAM] == pytest.approx(0.2 + 0.3)


@pytest.mark.usefixtures("one_by_one")
def test_a_decode_phases_ratios_hold_nothing_of_the_prompts_in_its_steps() -> None:
    rows = [
        arrived(1, 0), prompt(1, 10), prefill(1, 1, tokens=10), step(1, 0, 10, prefill_tokens=10),
        arrived(2, 5), prompt(2, 30), prefill(2, 2, tokens=30),
        step(2, 10, 50, decoders=1, prefill_tokens=30, decode_context_tokens=10),
        step(3, 50, 60, decoders=2, decode_context_tokens=41),
        finished(1, 60, 3), finished(2, 60, 2),
    ]  # fmt: skip
    table: dict[int, Given] = {
        10: {TENSOR: (0.0, 60.0, 4.0), DRAM: (0.0, 24.0, 12.0)}, 50: {TENSOR: (0.0, 0.0, 1.0), DRAM: (0.0, 0.0, 14.0)},
    }  # fmt: skip
    requests, _ = run(rows, FakeMeter(table))
    first, second = (only(requests[number], names.DECODE) for number in "12")
    # Of 40 and 10 ns on two GPUs: (4 + 1) / 100 and (12 + 14) / 100; who came later had the last 10 ns alone.
    assert (first.attributes[TENSOR], first.attributes[DRAM]) == pytest.approx((0.05, 0.26))
    assert (second.attributes[TENSOR], second.attributes[DRAM]) == pytest.approx((0.05, 0.7))


def test_a_share_of_what_two_classes_took_is_not_measured() -> None:
    rows = [
        arrived(1, 0), prompt(1, 10), prefill(1, 1, tokens=10), step(1, 0, 10, prefill_tokens=10),
        arrived(2, 5), prompt(2, 30), prefill(2, 2, tokens=30),
        step(2, 10, 20, decoders=1, prefill_tokens=30, decode_context_tokens=10),
        finished(1, 20, 2), finished(2, 20, 1),
    ]  # fmt: skip
    table: dict[int, Given] = {0: {DRAM: (0.0, 5.0, 0.0)}, 10: {DRAM: (0.0, 9.9, 0.1)}}
    requests, _ = run(rows, FakeMeter(table, names.QUALITY_MEASURED))
    found = [
        (number, phase.phase, phase.attributes[f"{DRAM}.quality"])
        for number in "12"
        for phase in requests[number].phases
    ]
    # The prompt that ran alone is; 99 % of a step is not all of it, and the other 1 % is a guess by the fit.
    assert found == [
        ("1", "prefill", "measured"),
        ("1", "decode", "attributed"),
        ("2", "prefill", "attributed"),
    ]


def test_what_several_share_is_not_measured_and_what_one_has_alone_is() -> None:
    table: dict[int, Given] = {
        0: {ENERGY: (8.0, 20.0, 0.0)}, 100: {ENERGY: (0.0, 0.0, 4.0)}, 120: {ENERGY: (0.0, 0.0, 42.0)},
    }  # fmt: skip
    requests, _ = run(TWO, FakeMeter(table, names.QUALITY_MEASURED))
    assert counter(only(requests["1"], names.DECODE), ENERGY)[3] == names.QUALITY_ATTRIBUTED
    alone = [
        arrived(1, 0), prompt(1, 10), prefill(1, 1, tokens=10), step(1, 0, 100, prefill_tokens=10),
        step(2, 100, 120, decoders=1, decode_context_tokens=10), finished(1, 150, 2),
    ]  # fmt: skip
    requests, _ = run(alone, FakeMeter(table, names.QUALITY_MEASURED))
    assert counter(only(requests["1"], names.DECODE), ENERGY)[3] == names.QUALITY_MEASURED


@pytest.mark.usefixtures("one_by_one")
def test_a_phase_that_misses_a_step_is_estimated_and_one_without_any_carries_nothing() -> None:
    requests, _ = run(TWO, FakeMeter({120: {ENERGY: (0.0, 0.0, 42.0)}}))
    decode = only(requests["1"], names.DECODE)
    assert counter(decode, ENERGY) == pytest.approx((11.0, 5.5, 22.0, names.QUALITY_ESTIMATED))
    assert not any(key.startswith("vtprof.gpu.") for key in only(requests["1"], names.PREFILL).attributes)


def test_after_a_preemption_each_stretch_of_decoding_has_its_own_counters() -> None:
    rows = [
        arrived(1, 0), prompt(1, 10),
        prefill(1, 1, tokens=10), step(1, 0, 10, prefill_tokens=10),
        step(2, 10, 20, decoders=1, decode_context_tokens=10),
        preempted(1, 3, 20), queue(1, 20, 30),
        prefill(3, 1, tokens=11), step(3, 30, 40, prefill_tokens=11, preemptions=1),
        step(4, 40, 50, decoders=1, decode_context_tokens=11),
        finished(1, 50, 3),
    ]  # fmt: skip
    table: dict[int, Given] = {
        0: {ENERGY: (0, 5.0, 0)}, 10: {ENERGY: (0, 0, 2.0)}, 30: {ENERGY: (0, 7.0, 0)}, 40: {ENERGY: (0, 0, 3.0)},
    }  # fmt: skip
    requests, _ = run(rows, FakeMeter(table))
    found = [(phase.phase, phase.attributes.get(ENERGY)) for phase in requests["1"].phases]
    assert found == [("prefill", 5.0), ("decode", 2.0), ("queue", None), ("prefill", 7.0), ("decode", 3.0)]


def test_unknown_counts_are_no_work() -> None:
    meter = FakeMeter({})
    unknown = make(records.STEP, step=1, start_ns=0, end_ns=10)
    run([arrived(1, 0), prefill(1, 1, tokens=7), unknown, finished(1, 10, 1)], meter)
    assert meter.added == [(GPUS, Work(0, 10, prefill_tokens=7, prefill_pairs=28))]


@st.composite
def _batches(draw: st.DrawFn) -> list[list[int]]:
    """Draw for each decode step which of five requests decode on; who has left stays away."""
    present = [1, 2, 3, 4, 5]
    steps = []
    for _ in range(draw(st.integers(1, 12))):
        present = draw(st.lists(st.sampled_from(present), min_size=1, unique=True).map(sorted))
        steps.append(present)
    return steps


@settings(max_examples=80, deadline=None)
@given(_batches(), st.lists(st.integers(1, 500), min_size=5, max_size=5), st.data())
def test_the_shares_of_all_requests_add_up_to_the_steps(
    batches: list[list[int]], prompts: list[int], data: st.DataObject
) -> None:
    rows: list[Row] = [row for n in range(1, 6) for row in (arrived(n, 0), prompt(n, prompts[n - 1]))]
    rows += [prefill(0, n, tokens=prompts[n - 1]) for n in range(1, 6)]
    rows += [step(0, 0, 10, prefill_tokens=sum(prompts))]
    present = [1, 2, 3, 4, 5]
    for index, batch in enumerate(batches, start=1):
        rows += [finished(n, index * 10, 2) for n in present if n not in batch]
        rows += [step(index, index * 10, index * 10 + 10, decoders=len(batch), decode_context_tokens=1)]
        present = batch
    rows += [finished(n, 10**6, 2) for n in present]
    amounts = {
        (index * 10): {ENERGY: (0.0, 0.0, data.draw(st.floats(0, 1e6)))}
        for index in range(1, len(batches) + 1)
    }
    requests, facts = run(rows, FakeMeter(amounts))
    given_away = sum(
        float(phase.attributes.get(ENERGY, 0.0))
        for request in requests.values()
        for phase in request.phases
        if phase.phase == names.DECODE
    )
    assert given_away == pytest.approx(sum(a[ENERGY][2] for a in amounts.values()), abs=1e-6)
    spans = sum(float(span.attributes.get(ENERGY, 0.0)) for span in fold(facts))
    assert spans == pytest.approx(given_away, abs=1e-6)
