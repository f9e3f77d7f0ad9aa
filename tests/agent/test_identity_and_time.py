"""Ids and times: repeated exports agree, spans keep their length, intervals never overlap, shares add up."""

from hypothesis import given
from hypothesis import strategies as st

from vtprof_agent.align import Alignment
from vtprof_agent.attribution import largest_remainder
from vtprof_agent.identifiers import REQUEST, STEP, Origin
from vtprof_agent.intervals import Timeline


def test_ids_are_the_same_again_and_differ_by_everything_they_name() -> None:
    origin = Origin(b"b" * 16, 42, 1000)
    same = Origin(b"b" * 16, 42, 1000)
    assert origin.trace_id(REQUEST, 7) == same.trace_id(REQUEST, 7)
    ids = {
        origin.span_id(REQUEST, 7), origin.span_id(REQUEST, 7, 1), origin.span_id(REQUEST, 8), origin.span_id(STEP, 7),
        Origin(b"c" * 16, 42, 1000).span_id(REQUEST, 7), Origin(b"b" * 16, 43, 1000).span_id(REQUEST, 7),
        Origin(b"b" * 16, 42, 1001).span_id(REQUEST, 7), Origin(b"b" * 16, 42, 1000, 5).span_id(REQUEST, 7),
    }  # fmt: skip
    assert len(ids) == 8
    assert all(0 < number < 2**64 for number in ids)
    assert 0 < origin.trace_id(STEP, 1) < 2**128


def test_a_step_of_the_wall_clock_moves_spans_and_does_not_bend_them() -> None:
    before = Alignment.from_anchor(monotonic_ns=100, unix_ns=5_000_000_100)
    assert before.unix_ns(350) - before.unix_ns(250) == 100
    slewed = before.refreshed(monotonic_ns=1_100, unix_ns=5_000_001_100 + 1_000_000)
    assert slewed is before
    stepped = before.refreshed(monotonic_ns=1_100, unix_ns=3_600_000_000_000)
    assert stepped.unix_ns(1_100) == 3_600_000_000_000
    assert stepped.unix_ns(1_300) - stepped.unix_ns(1_200) == 100


def test_times_outside_the_range_of_otlp_are_cut_to_it() -> None:
    assert Alignment(0).unix_ns(-5) == 0
    assert Alignment(2**62).unix_ns(2**63 - 1) == 2**63 - 1


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_shares_add_up_and_stay_within_one_of_exact(total: int, weights: list[int]) -> None:
    shares = largest_remainder(total, weights)
    assert sum(shares) == total
    if sum(weights):
        exact = [total * weight / sum(weights) for weight in weights]
        assert all(abs(share - value) <= 1 + 1e-6 * value for share, value in zip(shares, exact, strict=True))


@given(st.lists(st.tuples(st.integers(-5, 60), st.integers(-5, 60)), max_size=30))
def test_claims_on_a_timeline_cover_each_moment_once(claims: list[tuple[int, int]]) -> None:
    line = Timeline(0, 50)
    owned: list[int] = []
    for start, end in claims:
        for free_start, free_end in line.take(start, end):
            assert start <= free_start < free_end <= end
            owned += range(free_start, free_end)
    wanted = {moment for start, end in claims for moment in range(max(start, 0), min(end, 50))}
    assert len(owned) == len(set(owned))
    assert set(owned) == wanted
