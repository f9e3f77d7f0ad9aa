"""The whole comparison: what holds whatever the tables are, and what is found where one thing alone is different."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from regress_days.cases import Case, Label, cases
from tables import MODEL, NUMBERS, START_NS, garbage, run, served, table, without

from vtprof_analyzer.regress import thin
from vtprof_analyzer.regress.compare import Options, compare
from vtprof_analyzer.regress.comparison import Comparison, Effect
from vtprof_analyzer.regress.noise import RUN_NOISE
from vtprof_analyzer.regress.requests import Requests, Run

COUNT = 600
DEFAULT = Options()
PHASES = ("preprocess", "encode", "prefill", "decode", "kv")


def one(base: Requests, new: Requests, options: Options = DEFAULT) -> Comparison:
    return compare([run(base, "base")], [run(new, "new")], options)


@cache
def slower(phase: str, ratio: float = 1.3) -> Comparison:
    """Compare other requests of an engine of which a phase became slower."""
    return one(served(COUNT, 1, noise=0.05), served(COUNT, 2, noise=0.05, slower={phase: ratio}))


def effect(told: Comparison, phase: str, kind: str = "shift", model: str | None = None) -> Effect:
    (found,) = [
        each
        for each in told.effects
        if (each.phase, each.kind) == (phase, kind) and model in (None, each.model)
    ]
    return found


def numbers(told: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Return every number of a comparison and where it is."""
    if dataclasses.is_dataclass(told):
        for field in dataclasses.fields(told):
            yield from numbers(getattr(told, field.name), f"{path}.{field.name}")
    elif isinstance(told, dict):
        for key, value in told.items():
            yield from numbers(value, f"{path}[{key}]")
    elif isinstance(told, tuple):
        for value in told:
            yield from numbers(value, f"{path}[]")
    elif told is not None and not isinstance(told, str):
        # No number of numpy's: JSON would not take it.
        assert type(told) in (float, int, bool), path
        yield path, told


def holds_together(told: Comparison, new: list[Run]) -> None:
    """Assert what is true of every comparison."""
    for path, value in numbers(told):
        assert math.isfinite(value), path
    assert set(told.causes) == {each for each in told.effects if each.outcome == "regression"}
    assert set(told.improvements) == {each for each in told.effects if each.outcome == "improvement"}
    if told.causes:
        assert told.verdict == "regression"
    elif told.verdict != "insufficient_data":
        assert told.verdict == ("improvement" if told.improvements else "no_change")
    assert not (told.masked and not told.causes)
    ids = {str(name) for each in new for name in each.requests.ids}
    for each in told.effects:
        assert set(each.evidence) <= ids
        assert (each.why_not is not None) or each.outcome != "insufficient_data"
        if each.p_value is not None:
            assert 0 <= each.p_value <= 1
        if each.ci_low is not None and each.effect_ratio is not None and each.ci_high is not None:
            assert each.ci_low <= each.effect_ratio <= each.ci_high
        if each.outcome in ("regression", "improvement"):
            assert each.effect_ratio is not None
            assert (each.effect_ratio > 0) == (each.outcome == "regression")
    if told.decomposition:
        parts = [part.change_ms for part in told.decomposition.parts]
        size = sum(map(abs, parts)) + told.decomposition.base_ms + told.decomposition.new_ms
        assert abs(told.decomposition.base_ms + sum(parts) - told.decomposition.new_ms) <= 1e-9 * size
    assert told.workload_shift == any(shift.kind == "mix" for shift in told.shifts)
    assert told.new.requests == sum(len(each.requests) for each in new)


@st.composite
def any_side(draw: st.DrawFn) -> list[Run]:
    """Return runs of tables that a reader would let pass: nothing but garbage, or some in what a service recorded."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    models = draw(st.sampled_from([("a",), ("a", "b"), ("",), ("a", "b", "a")]))
    kind = draw(st.sampled_from(["garbage", "mild garbage", "service", "service and garbage", "no noise"]))
    runs = []
    for number, count in enumerate(draw(st.lists(st.sampled_from([0, 1, 2, 15, 40, 130, 300]), max_size=3))):
        wild = garbage(rng, count, models=models)
        if kind == "mild garbage":
            wild = garbage(
                rng, count, models=models, unknown=0.02, constant=0.5, largest_ms=1e4, largest_count=1e5
            )
        if kind.startswith("service") or kind == "no noise":
            requests = served(count, number, models=models, noise=0.0 if kind == "no noise" else 0.1)
            replaced = rng.choice(NUMBERS, 3) if kind == "service and garbage" else ()
            wild = replace(requests, **{name: getattr(wild, name) for name in replaced})
        runs.append(run(wild, f"run {number}"))
    return runs


@settings(max_examples=30)
@given(any_side(), any_side(), st.booleans())
@pytest.mark.filterwarnings("error")
def test_no_table_makes_it_raise_or_warn_or_say_what_does_not_hold_together(
    base: list[Run], new: list[Run], expect_change: bool
) -> None:
    holds_together(compare(base, new, Options(expect_change=expect_change)), new)


@pytest.mark.filterwarnings("error")
def test_requests_that_are_all_alike_are_compared() -> None:
    alike = table(
        300, text_tokens=100, visual_tokens=500, output_tokens=10, images=1, encoder_hit=0, preprocess_ms=5,
        queue_ms=0, encode_ms=20, prefill_ms=30, unexplained_ms=0, ttft_ms=55, tpot_ms=10, kv_bytes=1e6,
    )  # fmt: skip
    told = one(alike, alike)
    assert told.verdict == "no_change"
    told = one(alike, replace(alike, encode_ms=alike.encode_ms * 1.3))
    assert [each.phase for each in told.causes] == ["encode"]
    assert told.causes[0].effect_ratio == pytest.approx(0.3)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_too_few_requests_are_an_outcome_and_say_what_is_missing(count: int) -> None:
    for base, new in ((count, COUNT), (COUNT, count), (count, count)):
        told = one(served(base, 1), served(new, 2))
        assert told.verdict == "insufficient_data"
        assert told.causes == ()
        assert told.requests_needed is None
        for each in told.effects:
            assert each.outcome == "insufficient_data"
            assert each.why_not
    assert compare([], []).verdict == "insufficient_data"
    assert compare([], [run(served(COUNT))]).verdict == "insufficient_data"


def test_a_side_and_itself_differ_in_nothing() -> None:
    same = served(COUNT, 1)
    told = one(same, same)
    assert told.verdict == "no_change"
    assert (told.workload_shift, told.load_increase, told.masked, told.shifts) == (False, False, False, ())
    for each in told.effects:
        assert each.effect_ratio == pytest.approx(0.0, abs=1e-9)
        assert each.outcome == "no_change"
    assert told.decomposition is not None
    for part in told.decomposition.parts:
        assert part.change_ms == pytest.approx(0.0, abs=1e-6)
    for metric in told.metrics:
        assert metric.change_ratio in (0.0, None)


def test_other_requests_of_the_same_engine_are_no_change() -> None:
    told = slower("none")
    assert (told.verdict, told.causes, told.improvements) == ("no_change", (), ())
    assert {each.phase for each in told.effects if each.outcome == "no_change"} >= set(PHASES)


@pytest.mark.parametrize("phase", PHASES)
def test_a_slower_phase_is_the_cause_and_no_other_is(phase: str) -> None:
    told = slower(phase)
    assert told.verdict == "regression"
    assert [(each.phase, each.kind) for each in told.causes] == [(phase, "shift")]
    for other in PHASES:
        found = effect(told, other)
        assert found.effect_ratio == pytest.approx(0.3 if other == phase else 0.0, abs=0.035), other
    cause = told.causes[0]
    assert cause.ci_low is not None
    assert 0 < cause.ci_low < 0.3 < (cause.ci_high or 0) < 0.5
    assert cause.evidence
    assert cause.base_value
    holds_together(told, [run(served(COUNT, 2))])


def test_of_the_same_requests_a_slower_phase_is_found_exactly() -> None:
    base = served(COUNT, 1)
    told = one(
        base, replace(base, encode_ms=1.3 * base.encode_ms, ttft_ms=base.ttft_ms + 0.3 * base.encode_ms)
    )
    # Its load is not the same: who encodes longer is longer beside others.
    assert effect(told, "encode").effect_ratio == pytest.approx(0.3, abs=0.01)
    assert [each.phase for each in told.causes] == ["encode"]
    assert told.decomposition is not None
    parts = {part.part: part.change_ms for part in told.decomposition.parts}
    assert parts["encode"] == pytest.approx(0.3 * base.encode_ms.mean(), rel=0.05)


@pytest.mark.parametrize("phase", ["encode", "decode"])
def test_the_other_way_round_is_the_other_sign(phase: str) -> None:
    base, new = served(COUNT, 1, noise=0.05), served(COUNT, 2, noise=0.05, slower={phase: 1.3})
    there, back = slower(phase), one(new, base)
    assert (there.verdict, back.verdict) == ("regression", "improvement")
    assert [each.phase for each in back.improvements] == [phase]
    for other in PHASES:
        one_way, other_way = effect(there, other), effect(back, other)
        assert np.log1p(one_way.effect_ratio or 0) == pytest.approx(
            -np.log1p(other_way.effect_ratio or 0), abs=0.004
        )
        assert one_way.p_value == pytest.approx(other_way.p_value, rel=0.3, abs=1e-9)


def test_the_same_tables_give_the_same_answer() -> None:
    base, new = served(COUNT, 1, noise=0.05), served(COUNT, 2, noise=0.05, slower={"encode": 1.3})
    assert one(base, new) == slower("encode")


def test_names_and_places_of_models_and_requests_change_no_number() -> None:
    base, new = (served(COUNT, seed, models=("a", "b"), noise=0.05) for seed in (1, 2))

    def renamed(requests: Requests) -> Requests:
        return replace(
            requests, models=("b", "unused", "a"), model=np.where(requests.model == 0, 2, 0),
            ids=np.array([f"x{number}" for number in range(len(requests))])[::-1],
        )  # fmt: skip

    told, other = one(base, new), one(renamed(base), renamed(new))

    def all_of(comparison: Comparison) -> list[Effect]:
        return [replace(each, evidence=()) for each in comparison.effects]

    assert all_of(told) == all_of(other)
    assert told.strata == other.strata
    assert told.decomposition == other.decomposition


def test_which_of_two_requests_that_start_at_once_comes_first_does_not_matter() -> None:
    def twins(seed: int, swapped: bool, **given: Any) -> Requests:
        requests = served(COUNT, seed, noise=0.05, **given)
        start = np.repeat(requests.start_ns[::2], 2)
        order = np.arange(COUNT).reshape(-1, 2)[:, ::-1].ravel() if swapped else np.arange(COUNT)
        return replace(requests, start_ns=start).select(order)

    told, other = (
        one(twins(1, swapped), twins(2, swapped, slower={"prefill": 1.3})) for swapped in (False, True)
    )
    for phase in PHASES:
        assert effect(told, phase).effect_ratio == pytest.approx(effect(other, phase).effect_ratio, abs=1e-3)
    assert told.verdict == other.verdict == "regression"


def test_columns_that_have_nothing_to_do_with_a_phase_change_nothing_of_it() -> None:
    names = ("kv_bytes", "transfer_ms", "unexplained_ms", "audio_tokens", "queue_ms")
    base, new = (
        without(each, *names)
        for each in (served(COUNT, 1, noise=0.05), served(COUNT, 2, noise=0.05, slower={"encode": 1.3}))
    )
    told = one(base, new)
    assert told.verdict == "regression"
    for phase in ("encode", "prefill", "decode", "preprocess"):
        assert effect(told, phase).effect_ratio == pytest.approx(effect(slower("encode"), phase).effect_ratio)


def test_a_phase_that_one_side_did_not_record_is_told_and_others_are_judged() -> None:
    told = one(served(COUNT, 1), without(served(COUNT, 2), "prefill_ms"))
    missing = effect(told, "prefill")
    assert missing.outcome == "insufficient_data"
    assert missing.why_not is not None
    assert missing.why_not == "only BASE recorded it"
    assert told.verdict == "insufficient_data"
    assert effect(told, "decode").outcome == "no_change"


def test_only_the_model_that_became_slower_is_the_cause() -> None:
    base, new = (served(2 * COUNT, seed, models=("a", "b"), noise=0.05) for seed in (1, 2))
    told = one(base, replace(new, prefill_ms=np.where(new.model == 1, 1.3, 1.0) * new.prefill_ms))
    assert [(each.phase, each.model) for each in told.causes] == [("prefill", "b")]


def test_bigger_images_are_a_shift_of_the_workload_and_no_regression() -> None:
    told = one(served(COUNT, 1), served(COUNT, 2, visual_scale=1.6))
    assert (told.verdict, told.workload_shift, told.load_increase) == ("no_change", True, False)
    assert "visual tokens of requests that have them" in {shift.what for shift in told.shifts}
    assert told.decomposition is not None
    parts = {part.part: part.change_ms for part in told.decomposition.parts}
    assert parts["mix"] == pytest.approx(told.decomposition.new_ms - told.decomposition.base_ms, rel=0.15)


def test_more_arrivals_are_load_and_no_regression() -> None:
    told = one(served(COUNT, 1, rate_per_s=1.0, queue_ms=1.0), served(COUNT, 2, rate_per_s=1.6, queue_ms=3.0))
    assert (told.verdict, told.workload_shift, told.load_increase) == ("no_change", False, True)


def test_a_slower_encoder_behind_smaller_images_is_masked() -> None:
    base = served(1_500, 1, noise=0.05)
    told = one(base, served(1_500, 2, noise=0.05, visual_scale=0.6, slower={"encode": 1.2}))
    assert told.decomposition is not None
    assert told.decomposition.new_ms < told.decomposition.base_ms
    assert (told.verdict, told.masked, told.workload_shift) == ("regression", True, True)
    assert [each.phase for each in told.causes] == ["encode"]
    assert told.causes[0].effect_ratio == pytest.approx(0.2, abs=0.05)
    # The same without smaller images hides nothing.
    assert slower("encode").masked is False


def test_a_few_requests_that_take_four_times_as_long_are_a_tail() -> None:
    base, new = served(1_500, 1, vision_share=1.0), served(1_500, 2, vision_share=1.0)
    slow = np.random.default_rng(1).random(1_500) < 0.04
    told = one(base, replace(new, encode_ms=np.where(slow, 4.0, 1.0) * new.encode_ms))
    assert ("encode", "tail") in {(each.phase, each.kind) for each in told.causes}
    found = effect(told, "encode", "tail")
    assert found.new_value == pytest.approx(0.015 + 0.04, abs=0.015)
    # Their 99th percentile is among those four times as slow.
    assert found.effect_ratio is not None
    assert 1.5 < found.effect_ratio < 5
    assert set(found.evidence) <= set(new.ids[slow].tolist())
    assert effect(told, "encode").effect_ratio == pytest.approx(0.0, abs=0.03)


def hits(seed: int, share: float) -> Requests:
    """Return requests of which the encoder's cache answered a share, and the prefix cache none."""
    requests = served(1_500, seed)
    hit = (np.random.default_rng([seed, 3]).random(1_500) < share).astype(float)
    return replace(
        requests, encode_ms=np.where(hit > 0, 0.05, requests.encode_ms),
        encoder_hit=np.where(requests.visual_tokens > 0, hit, np.nan),
    )  # fmt: skip


@pytest.mark.parametrize(("share", "ratio"), [(0.03, 8.0), (0.5, 5.0)])
def test_requests_that_became_slower_make_no_cache_hits_of_the_others(share: float, ratio: float) -> None:
    # What the cache held was not recorded: it shows by requests that take next to no time.
    base, new = (without(served(1_500, seed), "encoder_hit") for seed in (1, 2))
    slow = np.random.default_rng(1).random(1_500) < share
    told = one(base, replace(new, encode_ms=np.where(slow, ratio, 1.0) * new.encode_ms))
    assert {each.phase for each in told.causes} == {"encode"}
    assert told.improvements == ()


def test_an_encoder_cache_that_answers_less_is_the_cause() -> None:
    told = one(hits(1, 0.6), hits(2, 0.3))
    assert [(each.phase, each.what) for each in told.causes] == [("cache", "encoder cache")]
    cause = told.causes[0]
    assert (cause.base_value, cause.new_value) == (pytest.approx(0.6, abs=0.04), pytest.approx(0.3, abs=0.04))
    # From 40 to 70 % of misses.
    assert cause.effect_ratio == pytest.approx(0.75, abs=0.15)
    assert effect(told, "encode").outcome == "no_change"


def test_a_prefix_cache_that_answers_less_is_the_cause() -> None:
    def cached(seed: int, share: float) -> Requests:
        requests = served(1_000, seed, vision_share=0.0)
        return replace(requests, cached_tokens=np.round(share * requests.text_tokens))

    told = one(cached(1, 0.5), cached(2, 0.2))
    assert ("cache", "prefix cache") in {(each.phase, each.what) for each in told.causes}


def queued(seed: int, longer: dict[str, float] | None = None, **given: Any) -> Requests:
    """Return requests of two models, most of which wait beside others; ``longer`` has factors of a model's queue."""
    requests = served(1_000, seed, models=("a", "b"), rate_per_s=40.0, queue_ms=300.0, noise=0.05, **given)
    factor = np.array([(longer or {}).get(name, 1.0) for name in requests.models])[requests.model]
    return replace(requests, queue_ms=requests.queue_ms * factor)


def test_a_queue_that_a_slower_phase_of_its_model_explains_is_no_cause() -> None:
    base, new = queued(1), queued(2, {"a": 20.0, "b": 20.0})
    alone = one(base, new)
    assert {(each.phase, each.model) for each in alone.causes} == {("queue", "a"), ("queue", "b")}
    slow = replace(new, encode_ms=np.where(new.model == 0, 1.5, 1.0) * new.encode_ms)
    told = one(base, slow)
    # Engines of other models do not make it wait.
    assert {(each.phase, each.model) for each in told.causes} == {("encode", "a"), ("queue", "b")}
    follower = effect(told, "queue", model="a")
    assert follower.outcome == "no_change"
    assert follower.why_not is not None
    assert "encode" in follower.why_not


def test_noise_from_run_to_run_is_the_default_or_told_by_replicas() -> None:
    told = slower("none")
    assert (told.run_noise_ratio, told.run_noise_source) == (pytest.approx(RUN_NOISE), "default")
    rng = np.random.default_rng(3)
    levels = np.exp(rng.normal(0, 0.05, 6))
    runs = [
        run(served(300, seed, noise=0.05, slower={"decode": float(level)}))
        for seed, level in enumerate(levels)
    ]
    told = compare(runs[:3], runs[3:])
    assert told.run_noise_source == "replicas"
    variance = sum(float(np.var(np.log(side), ddof=1)) * 2 for side in (levels[:3], levels[3:]))
    assert told.run_noise_ratio == pytest.approx(math.sqrt((8 * RUN_NOISE**2 + variance) / 12), rel=0.2)
    # Of one run a side the same difference would be a cause.
    assert "decode" not in {each.phase for each in told.causes}


def test_runs_of_unequal_size_tell_the_noise_that_was_assumed() -> None:
    told = compare([run(served(300, 1))], [run(served(900, 2))])
    assert told.run_noise_ratio == pytest.approx(RUN_NOISE)


def test_a_run_that_was_broken_off_beside_others_spoils_nothing() -> None:
    base, new = run(served(COUNT, 1, noise=0.05)), run(served(COUNT, 2, noise=0.05, slower={"encode": 1.3}))
    for count in (0, 10):
        told = compare([base, run(served(count, 3))], [new])
        assert [each.phase for each in told.causes] == ["encode"]


def test_more_requests_find_less() -> None:
    few, many = (one(served(count, 1), served(count, 2)) for count in (400, 1_600))
    for phase in ("prefill", "decode"):
        assert many.mde[phase] < few.mde[phase]
    assert few.requests_needed is not None
    # They are as many as they are, however many were given.
    assert many.requests_needed == pytest.approx(few.requests_needed, rel=0.8)


def test_what_is_asked_for_is_kept_to() -> None:
    base, new = served(COUNT, 1, noise=0.05), served(COUNT, 2, noise=0.05, slower={"encode": 1.3})
    told = one(base, new, Options(alpha=0.05, min_effect=0.5))
    assert (told.alpha, told.min_effect) == (0.05, 0.5)
    assert told.verdict == "no_change"
    assert effect(told, "encode").effect_ratio == pytest.approx(0.3, abs=0.03)
    narrow, wide = effect(told, "encode"), effect(slower("encode"), "encode")
    assert (narrow.ci_high or 0) - (narrow.ci_low or 0) < (wide.ci_high or 0) - (wide.ci_low or 0)


def test_another_model_is_compared_where_it_is_the_change_under_test_alone() -> None:
    base = served(COUNT, 1, noise=0.05, models=("a",))
    new = served(COUNT, 2, noise=0.05, models=("b",), slower={"prefill": 1.3})
    told = one(base, new)
    assert told.verdict == "insufficient_data"
    assert told.warnings
    told = one(base, new, Options(expect_change=True))
    assert [(each.phase, each.model) for each in told.causes] == [("prefill", "a -> b")]
    assert (told.base.models, told.new.models) == (("a",), ("b",))


def test_sides_are_summed_up() -> None:
    first = replace(run(served(20, 1), "first"), skipped={"aborted": 2}, engine="vllm 0.33.0")
    second = replace(
        run(served(30, 2), "second"), skipped={"aborted": 1, "negative duration": 4}, engine=None
    )
    new = replace(run(served(10, 3), "third"), device=None)
    told = compare([first, second], [new])
    assert told.base.runs == ("first", "second")
    assert told.base.requests == 50
    assert told.base.skipped == {"aborted": 3, "negative duration": 4}
    assert told.base.engines == ("vllm 0.33.0",)
    assert told.base.models == (MODEL,)
    assert told.new.devices == ()
    starts = [each.requests.start_ns for each in (first, second)]
    assert told.base.begin_unix_nano == min(start[0] for start in starts) > START_NS
    assert told.base.end_unix_nano == max(start[-1] for start in starts)
    empty = compare([run(table(0))], [new]).base
    assert (empty.begin_unix_nano, empty.end_unix_nano, empty.models) == (None, None, ())


def test_of_large_sides_some_requests_are_judged_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = slower("encode")
    monkeypatch.setattr(thin, "MOST_REQUESTS", 500)
    told = one(served(COUNT, 1, noise=0.05), served(COUNT, 2, noise=0.05, slower={"encode": 1.3}))
    assert [each.phase for each in told.causes] == ["encode"]
    assert effect(told, "prefill").requests_new == 500
    assert told.base.requests == COUNT
    assert effect(told, "encode").effect_ratio == pytest.approx(
        effect(whole, "encode").effect_ratio, abs=0.02
    )
    # Raw figures are of all.
    assert told.metrics == whole.metrics


def labelled(label: Label, count: int = 3_000) -> Case:
    """Return a pair of the simulated days, one run a side, of another seed than the benches use."""
    found = [case for case in cases(4_711, 0.3) if case.label == label and case.kind != "another model mix"]
    case = min(found, key=lambda each: len(each.base.models))
    base, new = (replace(side, requests=count, runs=1) for side in (case.base, case.new))
    return replace(case, base=base, new=new)


@pytest.mark.parametrize(
    "label", ["encode slower", "mix only", "load only", "masked", "kv", "cache", "improvement"]
)
def test_a_simulated_day_is_what_its_label_says(label: Label) -> None:
    case = labelled(label)
    base, new = case.runs()
    told = compare(base, new)
    if case.phase:
        assert told.verdict == "regression"
        assert case.phase in {each.phase for each in told.causes}
    else:
        assert told.verdict == ("improvement" if label == "improvement" else "no_change")
    if label == "improvement":
        assert {each.phase for each in told.improvements} == {"encode"}
    assert told.workload_shift == (label in ("mix only", "masked"))
    assert told.load_increase == (label == "load only")
    assert told.masked or label != "masked"
    holds_together(told, new)
