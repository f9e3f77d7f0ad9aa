"""What is slow or failed is always kept, the rest by a fair draw whose ratio makes weighted sums unbiased."""

import math
import random
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_agent import tail_sampling
from vtprof_agent.facts import FinishedRequest, RequestRef, Value
from vtprof_agent.tail_sampling import LEAST_REQUESTS, WINDOW_REQUESTS, TailSampling, position
from vtprof_schemas import names

MS = 1_000_000


def request(
    ttft_ms: float | None = 1.0, status: str = names.STATUS_OK, image_tokens: int = 0
) -> FinishedRequest:
    first = None if ttft_ms is None else 5 + round(ttft_ms * MS)
    attributes: dict[str, Value] = {names.REQUEST_STATUS: status, names.TOKENS_IMAGE: image_tokens}
    return FinishedRequest(RequestRef(1), 5, 10**12, first, attributes, ())


def warm(sampling: TailSampling, ttft_ms: float = 1.0, image_tokens: int = 0) -> None:
    """Fill the window of a stratum with one value."""
    for number in range(LEAST_REQUESTS):
        sampling.ratio(request(ttft_ms, image_tokens=image_tokens), number + 1)


def test_a_ratio_of_one_keeps_all() -> None:
    sampling = TailSampling(1.0)
    assert [sampling.ratio(request(), trace_id) for trace_id in range(1, 50)] == [1.0] * 49
    assert sampling.left_out == 0


@pytest.mark.parametrize("status", [names.STATUS_ERROR, names.STATUS_REJECTED, names.STATUS_ABORTED])
@pytest.mark.parametrize("ttft_ms", [1.0, None])
def test_what_failed_is_always_kept(status: str, ttft_ms: float | None) -> None:
    sampling = TailSampling(1e-9, slow_ttft_s=1.0)
    assert {sampling.ratio(request(ttft_ms, status), trace_id) for trace_id in range(1, 200)} == {1.0}


def test_from_the_given_ttft_on_a_request_is_slow() -> None:
    sampling = TailSampling(1e-9, slow_ttft_s=0.25)
    assert sampling.ratio(request(250.0), 1) == 1.0
    assert sampling.ratio(request(249.999), 1) is None
    assert sampling.ratio(request(None), 1) is None
    assert sampling.left_out == 2


def test_without_it_the_slowest_twentieth_of_the_stratum_is() -> None:
    sampling = TailSampling(1e-9)
    ids = count(1)
    for ttft_ms in range(LEAST_REQUESTS):
        assert sampling.ratio(request(ttft_ms), next(ids)) == 1.0, "too few to tell"
    # Of the TTFTs 0 to 99 ms those of 95 ms on are the slowest twentieth.
    assert sampling.ratio(request(94.0), next(ids)) is None
    assert sampling.ratio(request(96.5), next(ids)) == 1.0
    # Another stratum has a window of its own: a TTFT that is slow for text is ordinary with 5,000 visual tokens.
    warm(sampling, 500.0, image_tokens=5000)
    assert sampling.ratio(request(499.0, image_tokens=5000), next(ids)) is None
    assert sampling.ratio(request(499.0), next(ids)) == 1.0


def test_equal_ttfts_are_not_slow_and_the_window_forgets() -> None:
    sampling = TailSampling(1e-9)
    warm(sampling, 1000.0)
    assert sampling.ratio(request(1000.0), 1) is None
    for number in range(WINDOW_REQUESTS):
        sampling.ratio(request(1.0), number + 1)
    assert sampling.ratio(request(2.0), 1) == 1.0, "the long ones are forgotten"
    (window,) = sampling._windows.values()
    assert len(window._by_age) == len(window._sorted) == WINDOW_REQUESTS


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=300))
def test_the_window_is_what_sorting_the_last_ones_gives(ttfts_ns: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail_sampling, "WINDOW_REQUESTS", 40)
        patch.setattr(tail_sampling, "LEAST_REQUESTS", 10)
        window = tail_sampling._Window()
        for number, ttft_ns in enumerate(ttfts_ns):
            before = ttfts_ns[max(0, number - 40) : number]
            faster = sum(one < ttft_ns for one in before)
            assert window.take(ttft_ns) == (len(before) < 10 or faster >= 0.95 * len(before))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**128 - 1))
def test_a_trace_id_has_one_place(trace_id: int) -> None:
    assert 0.0 <= position(trace_id) < 1.0
    assert position(trace_id) == position(trace_id)


def test_the_draw_is_fair_for_random_and_for_counted_trace_ids() -> None:
    """The share below p of n ids is within 4 standard errors sqrt(p (1 - p) / n)."""
    source, n = random.Random(1), 20_000
    for ids in ([source.getrandbits(128) for _ in range(n)], range(1, n + 1)):
        places = [position(trace_id) for trace_id in ids]
        for p in (0.01, 0.1, 0.5, 0.9):
            share = sum(place < p for place in places) / n
            assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_a_repeat_is_drawn_alike_by_another_agent_and_a_higher_ratio_keeps_what_a_lower_one_did() -> None:
    first, second, wider = (TailSampling(ratio, slow_ttft_s=1.0) for ratio in (0.2, 0.2, 0.4))
    kept = [first.ratio(request(), trace_id) for trace_id in range(1, 2000)]
    assert kept == [second.ratio(request(), trace_id) for trace_id in range(1, 2000)]
    more = [wider.ratio(request(), trace_id) for trace_id in range(1, 2000)]
    assert all(wide is not None for narrow, wide in zip(kept, more, strict=True) if narrow is not None)
    assert first.left_out == kept.count(None)


@pytest.mark.parametrize("slow_ttft_s", [None, 0.35])
@pytest.mark.parametrize("keep_ratio", [0.05, 0.3])
def test_weighted_counts_and_means_are_unbiased(keep_ratio: float, slow_ttft_s: float | None) -> None:
    """Over 60 seeds the mean of (estimate - truth) is within 4 of its standard errors of 0: count, and sum of TTFT."""
    count_errors, ttft_errors = [], []
    for seed in range(60):
        source = random.Random(seed)
        sampling = TailSampling(keep_ratio, slow_ttft_s)
        weights = weighted = truth = 0.0
        for _ in range(1000):
            # A slow tail, a drift over time, and failures that depend on the TTFT.
            ttft_ms = source.lognormvariate(5.0, 0.6) * (1 + weights / 2000)
            status = names.STATUS_ERROR if source.random() < min(0.2, ttft_ms / 5000) else names.STATUS_OK
            ratio = sampling.ratio(request(ttft_ms, status), source.getrandbits(128))
            truth += ttft_ms
            if ratio is not None:
                weights += 1 / ratio
                weighted += ttft_ms / ratio
        count_errors.append(weights - 1000)
        ttft_errors.append(weighted - truth)
    for errors in (count_errors, ttft_errors):
        mean = sum(errors) / len(errors)
        variance = sum((error - mean) ** 2 for error in errors) / (len(errors) - 1)
        assert abs(mean) < 4 * math.sqrt(variance / len(errors))
        assert variance > 0


def test_of_copies_from_two_agents_the_largest_ratio_counts_each_request_once() -> None:
    """The second agent's window is empty, and keeps all that is read again: with the larger ratio the sum is exact."""
    first, second = TailSampling(0.1), TailSampling(0.1)
    warm(first)
    repeated = [first.ratio(request(), trace_id) for trace_id in range(1000, 1050)]
    again = [second.ratio(request(), trace_id) for trace_id in range(1000, 1050)]
    largest = [max(one or 0.0, other or 0.0) for one, other in zip(repeated, again, strict=True)]
    assert sum(1 / ratio for ratio in largest) == 50
