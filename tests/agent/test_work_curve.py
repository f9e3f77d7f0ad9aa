"""WorkCurve: what was done in a window is read off the same whatever was asked, flushed and moved before."""

from itertools import pairwise
from math import exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_agent.counters.meter import Work
from vtprof_agent.counters.work_curve import COLUMNS, WorkCurve, costs_of, row_of, shape, unknowns_of

KEEP_NS = 3_000_000
steps = st.lists(
    st.tuples(
        st.integers(0, 300),
        st.integers(1, 1000),
        st.integers(0, 3),
        st.integers(0, 2) | st.integers(100, 500),
        st.integers(0, 40) | st.integers(60, 300),
    ),
    min_size=2,
    max_size=60,
)


def lay(drawn: list[tuple[int, int, int, int, int]], times: int) -> list[Work]:
    """Lay steps one behind the other with gaps, all of them so many times."""
    made, now = [], 1000
    for gap, length, patches, tokens, requests in drawn * times:
        now += gap
        made.append(
            Work(
                now, now + length, patches, patches * 9, tokens, tokens, requests, requests * 70, length // 3
            )
        )
        now += length
    return made


def done(works: list[Work], start: float, end: float) -> np.ndarray:
    """Add up the parts of steps in a window: the encoder's columns over its part, the others over the rest."""
    whole = np.zeros(COLUMNS + 1)
    for work in works:
        middle = work.start_ns
        if work.patches and work.encode_ns:
            alone = not (work.prefill_tokens or work.decode_requests)
            middle = work.end_ns if alone else work.start_ns + work.encode_ns
        row = np.array((*row_of(work), 0.0))
        parts = ((work.start_ns, middle, slice(0, 3)), (middle, work.end_ns, slice(3, COLUMNS)))
        if middle == work.start_ns:
            parts = ((work.start_ns, work.end_ns, slice(0, COLUMNS)),)
        for begin, finish, columns in parts:
            inside = max(0.0, min(finish, end) - max(begin, start))
            if inside:
                whole[columns] += row[columns] * inside / (finish - begin)
                whole[COLUMNS] += inside
    return whole


@settings(max_examples=60, deadline=None)
@given(steps, st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(1, 40))
def test_windows_hold_the_work_that_overlaps_them(
    drawn: list[tuple[int, int, int, int, int]], cuts: list[float], times: int
) -> None:
    """Contiguous windows and the same one by one, asked again and again while the curve grows and moves."""
    works = lay(drawn, times)
    curve = WorkCurve(KEEP_NS, 100_000)
    for place, work in enumerate(works):
        assert curve.add(work)
        if place % 7 == 0:
            curve.between(np.array([float(work.start_ns)]), np.array([float(work.end_ns)]))
    last = works[-1].end_ns
    edges = np.unique(np.array(cuts) * min(last, KEEP_NS * 0.9) + last - min(last, KEEP_NS * 0.9))
    if len(edges) < 2:
        return
    expected = np.array([done(works, *pair) for pair in pairwise(edges)])
    for _ in range(2):
        np.testing.assert_allclose(curve.between(edges[:-1], edges[1:]), expected, rtol=1e-6, atol=1e-6)
    apart = [curve.between(edges[i : i + 1], edges[i + 1 : i + 2])[0] for i in range(len(edges) - 1)]
    np.testing.assert_allclose(apart, expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(steps)
def test_kinds_add_up_to_all_that_was_done(drawn: list[tuple[int, int, int, int, int]]) -> None:
    """Encoders, steps with prefill and others; nothing is dropped within the time that is kept."""
    works = [work for work in lay(drawn, 1) if any(row_of(work))]
    curve = WorkCurve(KEEP_NS, 100_000)
    for work in works:
        curve.add(work)
        curve.between(np.zeros(1), np.ones(1))
    expected = sum((done([work], 0.0, 1e9) for work in works), np.zeros(COLUMNS + 1))
    np.testing.assert_allclose(curve.kinds().sum(axis=0), expected)


def test_what_is_too_old_is_forgotten() -> None:
    """100 000 steps of 1000 ns with 3 ms kept: no more than that time stands in the kinds, give or take a turn."""
    curve = WorkCurve(KEEP_NS, 100_000)
    for place in range(100_000):
        curve.add(Work(place * 1000, place * 1000 + 1000, decode_requests=4, decode_context_tokens=100))
        if place % 100 == 0:
            curve.kinds()
    assert curve.begin_ns >= 100_000_000 - KEEP_NS - 100_000
    assert curve.kinds()[2][COLUMNS] == pytest.approx(KEEP_NS, rel=0.05)


def test_an_answer_is_not_given_again_when_more_work_has_come() -> None:
    """The same window holds one step, then two."""
    curve = WorkCurve(KEEP_NS, 100_000)
    for steps_in in (1, 2):
        begin = steps_in * 1000
        curve.add(Work(begin, begin + 1000, decode_requests=4, decode_context_tokens=100))
        asked = curve.between(np.array([0.0]), np.array([5000.0]))
        assert asked[0][COLUMNS] == steps_in * 1000


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (0, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)),
        (1, (1.0, 1 - exp(-1 / 4), 0.0, 0.0, 16.0, 0.0, 128.0)),
        (32, (1.0, 1 - exp(-8), 0.0, 0.0, 32.0, 0.0, 128.0)),
        (65, (1.0, 1 - exp(-65 / 4), 33.0, 0.0, 80.0, 1.0, 128.0)),
        (129, (1.0, 1.0, 97.0, 1.0, 144.0, 1.0, 256.0)),
    ],
)
def test_the_shape_of_a_step_s_kernels(tokens: int, expected: tuple[float, ...]) -> None:
    """Weights, a few experts, beyond 32 and 128 tokens, padded to 16, more than 64, padded to 128."""
    assert shape(tokens) == pytest.approx(expected)


def test_tokens_count_up_to_a_knee_and_beyond_it_and_alike_for_prefill_and_decode() -> None:
    """300 tokens, 240 of a prompt: the first 32 cost 5, the others 2; the other knee nothing. A fifth is decode's: 139.2."""
    row = np.array(row_of(Work(0, 10, prefill_tokens=240, prefill_pairs=9, decode_requests=60)))
    unknowns = np.zeros(len(unknowns_of(row)))
    unknowns[[6, 8]] = 5.0, 2.0
    assert unknowns_of(row)[6:10] == pytest.approx([32, 128, 268, 172])
    given = costs_of(unknowns) * row
    assert (given[3:12].sum(), given[12:].sum()) == pytest.approx((4 / 5 * 696, 1 / 5 * 696))


def test_no_tokens_beyond_a_knee_are_exactly_none() -> None:
    """Not a rounding error, which scaled to one would be a column like any other: behind sums of parts, in steps of 20."""
    curve, now = WorkCurve(10**12, 100_000), 1000
    for tokens in (0, 331, 577, 1013, 1999, *[0] * 40):
        requests = 7 if tokens else 20
        curve.add(Work(now, now + 1000, 0, 0, tokens, tokens, requests, 900))
        now += 1000
    edges = np.linspace(now - 39_000, now, 79)
    unknowns = unknowns_of(curve.between(edges[:-1], edges[1:])[:, :COLUMNS])
    assert not unknowns[:, [8, 9]].any()
    assert unknowns[:, 6] == pytest.approx(20 * 0.5)
