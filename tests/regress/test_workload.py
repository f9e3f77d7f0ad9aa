"""Mix and load: what is beyond its threshold is told, what is not is not, and chance alone is neither."""

from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from tables import served, table

from vtprof_analyzer.regress.requests import Floats, Requests
from vtprof_analyzer.regress.workload import Changed, changes

COUNT = 4_000
VISUAL = "share of requests with images or video"


def even(share: float, count: int = COUNT) -> Floats:
    """Return ones for a share of requests, evenly spread, else zeros."""
    return (np.arange(count) * 0.618034 % 1 < share).astype(float)


def sizes(middle: float, sd: float = 0.5, count: int = COUNT) -> Floats:
    """Return tokens of which the logarithm is normal, without chance but for their order."""
    quantiles = np.array([NormalDist().inv_cdf((place + 0.5) / count) for place in range(count)])
    return middle * np.exp(sd * np.random.default_rng(1).permutation(quantiles))


def plain(count: int = COUNT, gap_ms: float = 100.0, **given: Any) -> Requests:
    columns = {"text_tokens": 100, "visual_tokens": 0, "output_tokens": 50, "ttft_ms": 80, "tpot_ms": 10}
    return table(count, start_ms=np.arange(count) * gap_ms, **(columns | given))


def told(base: Requests, new: Requests, costs: list[Floats] | None = None) -> list[str]:
    return [shift.what for shift in changes([base], [new], costs).shifts]


def test_like_requests_are_no_shift() -> None:
    assert changes([served(2_000, 1)], [served(2_000, 2)], None) == Changed(())


def test_a_share_is_told_beyond_eight_points() -> None:
    base = plain(visual_tokens=500 * even(0.5))
    assert told(base, plain(visual_tokens=500 * even(0.57))) == []
    assert told(base, plain(visual_tokens=500 * even(0.59))) == [VISUAL]
    assert told(base, plain(visual_tokens=500 * even(0.43))) == []
    (shift,) = changes([base], [plain(visual_tokens=500 * even(0.4))], None).shifts
    assert (shift.base, shift.new) == (pytest.approx(0.5, abs=0.001), pytest.approx(0.4, abs=0.001))
    assert (shift.unit, shift.kind) == ("share", "mix")


@pytest.mark.parametrize(
    ("column", "what"),
    [
        ("visual_tokens", "visual tokens of requests that have them"),
        ("text_tokens", "text tokens per request"),
        ("audio_tokens", "audio tokens of requests that have them"),
        ("output_tokens", "output tokens per request"),
        ("images", "images per request that has them"),
    ],
)
def test_sizes_are_told_beyond_a_fifth_of_their_standard_deviation(column: str, what: str) -> None:
    base = plain(**{column: sizes(300)})
    assert told(base, plain(**{column: sizes(300 * np.exp(0.19 * 0.5))})) == []
    assert told(base, plain(**{column: sizes(300 * np.exp(0.21 * 0.5))})) == [what]
    assert told(base, plain(**{column: sizes(300 * np.exp(-0.21 * 0.5))})) == [what]


def test_sizes_are_told_as_means_of_those_that_have_any() -> None:
    some = even(0.5)
    (shift,) = changes([plain(visual_tokens=400 * some)], [plain(visual_tokens=800 * some)], None).shifts
    assert (shift.base, shift.new, shift.unit, shift.kind) == (
        pytest.approx(400),
        pytest.approx(800),
        "tokens",
        "mix",
    )


def test_where_all_requests_are_alike_two_percent_are_no_shift() -> None:
    assert told(plain(text_tokens=1_000), plain(text_tokens=1_015)) == []
    assert told(plain(text_tokens=1_000), plain(text_tokens=1_030)) == ["text tokens per request"]


def test_work_is_told_beyond_eight_percent() -> None:
    base, new = plain(), plain()
    for factor, expected in ((1.07, []), (1.09, ["work per request"]), (0.91, ["work per request"])):
        assert told(base, new, [sizes(50), factor * sizes(50)]) == expected
    (shift,) = changes([base], [new], [sizes(50), 2 * sizes(50)]).shifts
    assert shift.new == pytest.approx(2 * shift.base)
    assert shift.unit == "ms of work at BASE's speed"


def test_another_mix_of_models_is_told_of_each() -> None:
    def of(share: float) -> Requests:
        return plain(models=("a", ""), model=even(share).astype(int))

    assert told(of(0.3), of(0.36)) == []
    assert told(of(0.3), of(0.5)) == ["share of model without a name", "share of model a"]
    # Names count, not their places.
    other = plain(models=("", "a"), model=1 - even(0.3).astype(int))
    assert told(of(0.3), other) == []


def test_what_chance_may_have_done_is_no_shift() -> None:
    base, new = (plain(60, visual_tokens=500 * even(share, 60)) for share in (0.4, 0.55))
    assert told(base, new) == []
    # Of as many as before it is.
    assert told(plain(visual_tokens=500 * even(0.4)), plain(visual_tokens=500 * even(0.55))) == [VISUAL]


def test_waves_of_like_requests_are_no_more_sure_than_their_number() -> None:
    # Eight waves of 500 requests with images or without, by a coin each: 5 of 8 against 3 of 8.
    def waves(*with_images: int) -> Requests:
        return plain(visual_tokens=500.0 * np.isin(np.arange(COUNT) // 500, with_images))

    assert told(waves(0, 1, 4, 6, 7), waves(2, 3, 6)) == []


def test_requests_count_as_many_as_they_stand_for() -> None:
    whole = served(COUNT, 5)
    kept = (whole.visual_tokens > 0) | (np.arange(COUNT) % 10 == 0)
    sampled = whole.select(kept)
    weight = np.where(sampled.visual_tokens > 0, 1.0, 10.0)
    assert changes([served(COUNT, 4)], [replace(sampled, weight=weight)], None).mix is False
    assert changes([served(COUNT, 4)], [sampled], None).mix is True


def test_a_broken_off_run_hides_no_shift() -> None:
    base, new = plain(visual_tokens=500 * even(0.5)), plain(visual_tokens=500 * even(0.8))
    for count in (0, 1, 5):
        few = plain(count, visual_tokens=0)
        assert [shift.what for shift in changes([base, few], [new], None).shifts] == [VISUAL]


def loaded(factor: float, queue_ms: float, ttft_ms: float = 80.0, **given: Any) -> Requests:
    """Return requests that come so many times as often, and wait so long."""
    return plain(gap_ms=100.0 / factor, queue_ms=queue_ms, ttft_ms=ttft_ms, **given)


def test_load_is_arrivals_up_by_a_tenth_and_the_queue_by_15_percent() -> None:
    base = loaded(1.0, 10.0)
    assert changes([base], [loaded(1.09, 20.0)], None).shifts == ()
    found = changes([base], [loaded(1.17, 12.0)], None)
    assert [shift.what for shift in found.shifts] == [
        "arrivals",
        "time in queue, mean",
        "requests in flight, mean",
    ]
    assert (found.more_load, found.less_load, found.mix) == (True, False, False)
    assert found.shifts[0].base == pytest.approx(10.0, rel=1e-3)
    assert found.shifts[0].new == pytest.approx(11.7, rel=1e-3)
    assert {shift.kind for shift in found.shifts} == {"load"}


def test_more_arrivals_that_wait_no_longer_are_load_where_more_are_served_at_a_time() -> None:
    base, new = loaded(1.0, np.nan), loaded(1.3, np.nan)
    assert [shift.what for shift in changes([base], [new], None).shifts] == [
        "arrivals",
        "requests in flight, mean",
    ]
    # Each is served so much faster that no more are there at a time: nobody meets more load.
    faster = loaded(1.3, np.nan, tpot_ms=7.5, ttft_ms=61.0)
    assert changes([base], [faster], None).shifts == ()


def test_a_longer_queue_at_the_same_rate_is_no_load() -> None:
    assert changes([loaded(1.0, 10.0)], [loaded(1.0, 30.0)], None).shifts == ()


def test_less_load_is_a_shift_and_no_increase() -> None:
    found = changes([loaded(1.5, 15.0)], [loaded(1.0, 10.0)], None)
    assert (found.more_load, found.less_load, found.mix) == (False, True, False)


def test_bursts_are_no_load() -> None:
    def bursts(*places: int, queue_ms: float) -> Requests:
        """Return forty parts of ten seconds, of 50 requests each or, in a burst, 500."""
        starts = [
            10_000.0 * part + np.linspace(0, 9_999, 500 if part in places else 50) for part in range(40)
        ]
        start = np.concatenate(starts)
        return table(start_ms=start, queue_ms=queue_ms, ttft_ms=80.0 + queue_ms)

    base, new = bursts(3, 14, 20, 31, queue_ms=10.0), bursts(2, 9, 15, 21, 30, 38, queue_ms=20.0)
    assert len(new) > 1.2 * len(base)
    assert changes([base], [new], None).shifts == ()


def test_arrivals_are_those_that_requests_stand_for() -> None:
    every_second = loaded(1.0, 10.0).select(slice(None, None, 2))
    base = replace(every_second, weight=np.full(COUNT // 2, 2.0))
    assert changes([base], [loaded(1.0, 20.0)], None).shifts == ()
    assert changes([every_second], [loaded(1.0, 20.0)], None).more_load


def test_a_few_requests_that_stand_for_nearly_all_are_a_few() -> None:
    def weighty(with_images: int) -> Requests:
        """Return requests of which twelve stand for 1,000 each, and so many of these have images."""
        places = np.arange(COUNT)
        heavy = places % 333 == 5
        visual = np.where(heavy, places // 333 < with_images, even(0.5) > 0)
        return plain(visual_tokens=500.0 * visual, weight=np.where(heavy, 1_000.0, 1.0))

    assert told(weighty(5), weighty(8)) == []


@pytest.mark.parametrize("count", [0, 1])
def test_a_side_of_no_or_one_request_has_no_shift(count: int) -> None:
    few = plain(count)
    assert changes([few], [plain()], None) == Changed(())
    assert changes([plain()], [few], None) == Changed(())
    assert changes([few], [few], None) == Changed(())


def test_what_is_not_known_is_no_shift() -> None:
    assert changes([table(500)], [table(500)], None) == Changed(())
    assert changes([table(500)], [served(500)], None).mix is False
