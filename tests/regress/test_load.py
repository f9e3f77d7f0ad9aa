"""Load on a request: what others did beside it, against overlaps added up by hand and pair by pair."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from tables import START_NS, served, table, without

from vtprof_analyzer.regress.load import Load, load_of, no_flights, with_known_flights
from vtprof_analyzer.regress.requests import Requests

NAMES = tuple(Load.__dataclass_fields__)
Span = tuple[float, float]


def three(**given: Any) -> Requests:
    """Return requests at 0, 60 and 150 ms that compute 1000, 500 and 100 prompt tokens.

    prefill: 50 to 150, 100 to 200 and 150 to 170 ms; decode: 150 to 190, 200 to 240 and 170 to 210 ms.
    """
    columns = {
        "start_ms": [0, 60, 150],
        "text_tokens": [1000, 500, 100],
        "output_tokens": [5, 5, 5],
        "prefill_ms": [100, 100, 20],
        "ttft_ms": [150, 140, 20],
        "tpot_ms": [10, 10, 10],
    }
    return table(**(columns | given))


def test_prefill_counts_the_others_that_prefill_for_the_part_of_the_time_that_they_do() -> None:
    load = load_of(three())
    # First: second beside it for 50 of 100 ms. Second: first for 50, third for 20 of 100. Third: second all the time.
    assert load.prefill_prompts == pytest.approx([0.5, 0.7, 1.0])
    assert load.prefill_tokens == pytest.approx([0.5 * 500, 0.5 * 1000 + 0.2 * 100, 500])


def test_prefill_counts_those_that_decode_beside_it_and_their_tokens() -> None:
    load = load_of(three())
    # Second prefills until 200: the first decodes 40 of its 100 ms, the third 30.
    assert load.prefill_decodes == pytest.approx([0.0, 0.7, 1.0])
    assert load.prefill_context == pytest.approx([0.0, 0.4 * 1002.5 + 0.3 * 102.5, 1002.5])


def test_decode_counts_others_that_decode_and_the_prompts_that_arrive() -> None:
    load = load_of(three())
    # The first decodes 150 to 190: the third 20 ms of it; the third 170 to 210: the first 20, the second 10 of 40.
    assert load.decode_decodes == pytest.approx([0.5, 0.25, 0.75])
    assert load.decode_context == pytest.approx([0.5 * 102.5, 0.25 * 102.5, 0.5 * 1002.5 + 0.25 * 502.5])
    # The second's 500 tokens take 100 ms: 200 of them in the first's 40 ms, and all 100 of the third's.
    assert load.decode_prompt_tokens == pytest.approx([300 / 0.040, 0.0, 150 / 0.040])


def test_encoding_counts_visual_tokens_of_those_that_encode_and_prompts_of_those_that_prefill() -> None:
    # They encode 0 to 100 and 50 to 150 and prefill until 200 and 250; the third only decodes, 40 to 140.
    load = load_of(
        table(
            start_ms=[0, 50, 0],
            text_tokens=[10, 20, 5],
            visual_tokens=[300, 700, 0],
            output_tokens=[1, 1, 11],
            encode_ms=[100, 100, 0],
            prefill_ms=[100, 100, 40],
            ttft_ms=[200, 200, 40],
            tpot_ms=[np.nan, np.nan, 10],
        )
    )
    # The third prefills 0 to 40.
    assert load.encode_prompts[:2] == pytest.approx([0.5 + 0.4, 0.5 + 0.5])
    assert load.encode_tokens[:2] == pytest.approx([0.5 * 700 + 0.4 * 5, 0.5 * 300 + 0.5 * 310])
    assert load.encode_decodes[:2] == pytest.approx([0.6, 0.9])
    assert np.isnan(load.encode_prompts[2])
    assert load.prefill_encodes == pytest.approx([0.5 * 700, 0.0, 300])
    assert load.decode_encodes[2] == pytest.approx(0.6 * 300 + 0.9 * 700)


def test_what_the_prefix_cache_held_is_not_prefilled() -> None:
    load = load_of(three(cached_tokens=[900, np.nan, 100]))
    # At least one token is.
    assert load.prefill_tokens == pytest.approx([250, 0.5 * 100 + 0.2 * 1, 500])


def test_what_is_served_when_a_request_begins_to_wait_is_beside_it() -> None:
    # Preprocessing ends at 10, 20, 30 and 200; they wait until 110, 25, 130 and 201.
    load = load_of(
        table(
            start_ms=[0, 10, 20, 190],
            text_tokens=[100, 200, 300, 50],
            output_tokens=1,
            preprocess_ms=10,
            queue_ms=[100, 5, 100, 1],
            prefill_ms=10,
            ttft_ms=[120, 25, 120, 21],
        )
    )
    # Of the second, served from 25 to 35, the third sees that.
    assert load.serving == pytest.approx([0, 0, 1, 0])


def test_a_request_that_does_not_wait_is_no_load_on_itself() -> None:
    # The second arrives where the first waits, and is served at once.
    load = load_of(
        table(
            start_ms=[0, 50],
            text_tokens=[100, 200],
            output_tokens=1,
            preprocess_ms=10,
            queue_ms=[100, 0],
            prefill_ms=10,
            ttft_ms=[120, 20],
        )
    )
    assert load.serving == pytest.approx([0, 0])


def test_preprocessing_counts_what_is_preprocessed_beside_it() -> None:
    load = load_of(table(start_ms=[0, 5, 100], preprocess_ms=[10, 20, 1]))
    assert load.preprocess_beside == pytest.approx([0.5, 0.25, 0.0])


@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_a_request_alone_has_no_load_however_many_it_stands_for(weight: float) -> None:
    alone = table(
        start_ms=[0, 10_000],
        text_tokens=100,
        visual_tokens=50,
        output_tokens=5,
        preprocess_ms=5,
        queue_ms=5,
        encode_ms=20,
        prefill_ms=30,
        ttft_ms=60,
        tpot_ms=10,
        in_flight=0,
        weight=weight,
    )
    load = load_of(alone)
    for name in NAMES:
        assert getattr(load, name) == pytest.approx([0.0, 0.0]), name


def test_a_request_that_stands_for_ten_is_ten_on_another() -> None:
    load = load_of(three(weight=[1, 10, 1]))
    assert load.prefill_prompts[[0, 2]] == pytest.approx([5.0, 10.0])
    assert load.prefill_tokens[[0, 2]] == pytest.approx([2500, 5000])


def test_an_interval_that_is_empty_or_not_known_has_no_mean() -> None:
    load = load_of(three(prefill_ms=[0, np.nan, 20]))
    assert np.isnan(load.prefill_prompts[:2]).all()
    assert load.prefill_prompts[2] == 0


def test_requests_in_flight_are_what_was_recorded_where_all_runs_recorded_them() -> None:
    told, partly, none = (load_of(three(in_flight=one)) for one in ([3, 4, 5], [3, np.nan, 5], np.nan))
    (alone,) = with_known_flights([told])
    assert alone.in_flight.tolist() == [3, 4, 5]
    for other in (partly, none):
        for load in with_known_flights([told, other]):
            assert load.in_flight.tolist() == [0, 0, 0]
            assert np.array_equal(load.prefill_prompts, told.prefill_prompts)
    # A run without requests recorded nothing else.
    first, _ = with_known_flights([told, load_of(table(0))])
    assert first.in_flight.tolist() == [3, 4, 5]
    assert no_flights(told).in_flight.tolist() == [0, 0, 0]


def test_no_requests_have_no_load() -> None:
    for name in NAMES:
        assert len(getattr(load_of(table(0)), name)) == 0


def test_some_rows_have_the_load_that_they_have_in_the_whole_table() -> None:
    requests = served(200, rate_per_s=30.0, queue_ms=20.0)
    rows = np.array([3, 4, 50, 199])
    whole, part = load_of(requests), load_of(requests, rows)
    for name in NAMES:
        assert np.array_equal(getattr(whole.select(rows), name), getattr(part, name), equal_nan=True), name


@pytest.mark.parametrize("away_days", [1, 365, 20_000])
def test_a_request_with_a_wrong_clock_changes_no_load_of_others(away_days: float) -> None:
    requests = served(300, rate_per_s=30.0)
    start = np.concatenate([[START_NS - away_days * 86_400_000_000_000], requests.start_ns[1:]])
    wrong = table(
        start_ms=(start - START_NS) / 1e6,
        **{name: getattr(requests, name) for name in ("text_tokens", "visual_tokens", "output_tokens")},
        **{name: getattr(requests, name) for name in ("encode_ms", "prefill_ms", "ttft_ms", "tpot_ms")},
    )
    right = wrong.select(slice(1, None))
    there, here = load_of(wrong), load_of(right)
    for name in ("prefill_prompts", "prefill_tokens", "decode_decodes", "decode_context", "encode_tokens"):
        assert np.allclose(
            getattr(there, name)[1:], getattr(here, name), rtol=1e-3, atol=0.5, equal_nan=True
        ), name


def overlap(one: Span, other: Span) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def spans_of(q: Requests, at: int) -> dict[str, Span]:
    """Return when a request is in each phase [ms]: phases follow each other up to its first token."""
    begin = float(q.start_ns[at] - q.start_ns[0]) * 1e-6
    parts = (
        np.nan_to_num([q.preprocess_ms[at], q.queue_ms[at], q.encode_ms[at], q.transfer_ms[at]]).sum()
        + q.prefill_ms[at]
    )
    first = begin + (q.ttft_ms[at] if np.isfinite(q.ttft_ms[at]) else parts)
    prefill = first - q.prefill_ms[at]
    wait = begin + q.preprocess_ms[at]
    return {
        "preprocess": (begin, wait),
        "queue": (wait, wait + q.queue_ms[at]),
        "encode": (prefill - q.encode_ms[at], prefill),
        "prefill": (prefill, first),
        "decode": (first, first + q.tpot_ms[at] * (q.output_tokens[at] - 1)),
    }


def pairwise(q: Requests) -> dict[str, list[float]]:
    """Return the loads that are sums over pairs of requests: for each of the others its overlap, by its weight."""
    spans = [spans_of(q, at) for at in range(len(q))]
    visual = np.nan_to_num(q.visual_tokens)
    prompt = visual + np.nan_to_num(q.text_tokens) + np.nan_to_num(q.audio_tokens)
    computed = np.maximum(prompt - np.nan_to_num(q.cached_tokens), 1)
    context = prompt + np.nan_to_num(q.output_tokens) / 2
    one = np.ones(len(q))
    sums = {
        "preprocess_beside": ("preprocess", [("preprocess", one)]),
        "encode_decodes": ("encode", [("decode", one)]),
        "encode_prompts": ("encode", [("encode", one), ("prefill", one)]),
        "encode_tokens": ("encode", [("encode", visual), ("prefill", computed)]),
        "prefill_decodes": ("prefill", [("decode", one)]),
        "prefill_context": ("prefill", [("decode", context)]),
        "prefill_prompts": ("prefill", [("prefill", one)]),
        "prefill_tokens": ("prefill", [("prefill", computed)]),
        "prefill_encodes": ("prefill", [("encode", visual)]),
        "decode_decodes": ("decode", [("decode", one)]),
        "decode_context": ("decode", [("decode", context)]),
        "decode_encodes": ("decode", [("encode", visual)]),
    }
    found = {}
    for name, (phase, parts) in sums.items():
        found[name] = []
        for at in range(len(q)):
            own = spans[at][phase]
            whole = 0.0
            for other in range(len(q)):
                for what, amount in parts:
                    span = spans[other][what]
                    if other != at and span[1] > span[0]:
                        whole += q.weight[other] * amount[other] * overlap(own, span)
            found[name].append(whole / (own[1] - own[0]) if own[1] > own[0] else np.nan)
    return found


def values(most: int, count: int) -> st.SearchStrategy[list[float]]:
    number = st.one_of(st.integers(0, most).map(float), st.sampled_from([0.0, np.nan]))
    return st.lists(number, min_size=count, max_size=count)


@st.composite
def small_tables(draw: st.DrawFn) -> Requests:
    count = draw(st.integers(1, 6))
    columns = {
        name: draw(values(40, count))
        for name in ("preprocess_ms", "queue_ms", "encode_ms", "prefill_ms", "ttft_ms", "tpot_ms")
    }
    columns |= {
        name: draw(values(9, count))
        for name in ("text_tokens", "visual_tokens", "audio_tokens", "output_tokens", "cached_tokens")
    }
    start = sorted(draw(st.lists(st.integers(0, 60), min_size=count, max_size=count)))
    weight = draw(st.lists(st.sampled_from([1.0, 4.0]), min_size=count, max_size=count))
    return table(start_ms=start, weight=weight, **columns)


@settings(max_examples=120)
@given(small_tables())
def test_loads_are_the_sums_over_pairs(requests: Requests) -> None:
    load = load_of(requests)
    for name, expected in pairwise(requests).items():
        assert getattr(load, name) == pytest.approx(expected, abs=1e-6, nan_ok=True), name


def test_loads_of_a_long_run_are_as_exact_as_of_a_short_one() -> None:
    requests = served(30_000, rate_per_s=0.35)  # a day
    last = np.arange(len(requests) - 40, len(requests))
    long, short = load_of(requests, last[20:]), load_of(requests.select(last), np.arange(20, 40))
    for name in NAMES:
        assert np.allclose(getattr(long, name), getattr(short, name), rtol=1e-6, atol=1e-4, equal_nan=True), (
            name
        )


def test_what_is_not_recorded_of_tokens_counts_as_none() -> None:
    requests = without(three(), "text_tokens")
    assert load_of(requests).prefill_tokens == pytest.approx([0.5, 0.7, 1.0])
