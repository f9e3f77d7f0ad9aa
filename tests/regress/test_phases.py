"""What is compared of each phase: which requests have it, and what it is judged by."""

from dataclasses import replace

import numpy as np
import pytest
from tables import served, table, without

from vtprof_analyzer.regress.load import load_of
from vtprof_analyzer.regress.phases import (
    COMPARED,
    NOTHING_GIVEN,
    Given,
    PhaseData,
    given_of,
    looks_like_hit,
    phase_data,
)
from vtprof_analyzer.regress.requests import Requests


def data(phase: str, requests: Requests, given: Given = NOTHING_GIVEN) -> PhaseData:
    return phase_data(phase, requests, load_of(requests), given)


def hits(requests: Requests, base: Requests | None = None) -> np.ndarray:
    """Return what looks like a hit of a table that is BASE, or of NEW beside a BASE."""
    given = given_of("encode", [base or requests], [] if base is None else [requests])
    return looks_like_hit(requests, given.hit_below)


TIMED = {
    "preprocess": "preprocess_ms",
    "encode": "encode_ms",
    "transfer": "transfer_ms",
    "prefill": "prefill_ms",
    "decode": "tpot_ms",
}


@pytest.mark.parametrize("phase", TIMED)
def test_a_phase_is_valid_where_its_time_and_the_tokens_are_known_and_it_took_any(phase: str) -> None:
    took = [5.0, 0.0, np.nan, 5.0, 5.0]
    requests = table(
        start_ms=np.arange(5) * 1e4,
        text_tokens=[10, 10, 10, np.nan, 10],
        visual_tokens=[100, 100, 100, 100, np.nan],
        output_tokens=5,
        encoder_hit=0,
        ttft_ms=50,
        **{TIMED[phase]: took},
    )
    found = data(phase, requests)
    assert found.valid.tolist() == [True, False, False, False, False]
    assert found.value[0] == 5.0


def test_media_are_what_encodes_unless_the_cache_had_them() -> None:
    requests = table(
        start_ms=np.arange(5) * 1e4,
        text_tokens=10,
        visual_tokens=[100, 0, 0, 100, 100],
        audio_tokens=[np.nan, np.nan, 30, np.nan, np.nan],
        encoder_hit=[0, np.nan, np.nan, 1, 0.4],
        encode_ms=20,
        prefill_ms=20,
        ttft_ms=50,
    )
    assert data("encode", requests).valid.tolist() == [True, False, True, False, True]


def test_decode_needs_a_second_token() -> None:
    requests = table(
        start_ms=np.arange(4) * 1e4, text_tokens=10, visual_tokens=0, ttft_ms=50, prefill_ms=20, tpot_ms=10,
        output_tokens=[0, 1, 2, np.nan],
    )  # fmt: skip
    assert data("decode", requests).valid.tolist() == [False, False, True, False]


def test_kv_is_bytes_per_token_that_is_held() -> None:
    requests = table(
        start_ms=np.arange(4) * 1e4, text_tokens=[10, 10, 0, 10], visual_tokens=[90, 90, 0, 90],
        output_tokens=[11, 11, 1, np.nan], kv_bytes=[11_000, 0, 5_000, 11_000],
    )  # fmt: skip
    found = data("kv", requests)
    # 10 + 90 + 11 less the last token, which is answered and not cached.
    assert found.value[0] == pytest.approx(11_000 / 110)
    assert found.valid.tolist() == [True, False, False, False]


def test_prefill_is_judged_by_what_the_prefix_cache_lacked() -> None:
    requests = table(
        start_ms=[0, 1e4],
        text_tokens=100,
        visual_tokens=400,
        cached_tokens=[300, np.nan],
        prefill_ms=5,
        ttft_ms=9,
    )
    found = data("prefill", requests)
    assert found.costs["U"].tolist() == [200, 500]
    assert found.costs["UU"].tolist() == [200 * 500, 500 * 500]
    assert found.workload["U"].tolist() == [200, 500]


def test_without_a_number_of_images_a_request_with_visual_tokens_has_one() -> None:
    requests = table(
        start_ms=[0, 1e4, 2e4], text_tokens=1, visual_tokens=[400, 0, 400], images=[np.nan, np.nan, 2],
        encode_ms=5, ttft_ms=9, preprocess_ms=1,
    )  # fmt: skip
    assert data("preprocess", requests).costs["images"].tolist() == [1, 0, 2]
    assert data("encode", requests).costs["VV"].tolist() == [160_000, 0, 80_000]


def test_unexplained_time_is_judged_with_a_share_of_ttft_beside_it() -> None:
    requests = table(
        start_ms=np.arange(4) * 1e4, text_tokens=10, visual_tokens=0, ttft_ms=[100, 200, 300, np.nan],
        queue_ms=[20, np.nan, 100, 5], unexplained_ms=[4, 0, np.nan, 1],
    )  # fmt: skip
    # Medians of 80, 200 and 200 are 200.
    assert given_of("unexplained", [requests], []).offset_ms == 50
    found = data("unexplained", requests, Given(offset_ms=50.0))
    assert found.value[:2].tolist() == [54, 50]
    assert found.valid.tolist() == [True, True, False, True]


def test_without_a_ttft_the_offset_is_a_millisecond() -> None:
    assert given_of("unexplained", [table(3)], [table(0)]).offset_ms == 1.0


def cached(
    share: float, ratio: float, count: int = 400, seed: int = 3, noise: float = 0.15
) -> tuple[Requests, np.ndarray]:
    """Return requests of which a share took less time by a factor, for want of work, and which those are."""
    rng = np.random.default_rng(seed)
    visual = rng.integers(200, 4_000, count).astype(float)
    hit = np.arange(count) < share * count
    encode = (visual + 64) * 0.02 * rng.lognormal(0, noise, count) / np.where(hit, ratio, 1.0)
    return table(start_ms=np.arange(count) * 1e4, visual_tokens=visual, text_tokens=10, encode_ms=encode), hit


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_hits_that_were_not_recorded_show_by_their_time(share: float) -> None:
    requests, hit = cached(share, 30.0)
    assert np.array_equal(hits(requests), hit)
    # Those that were recorded are no guess.
    assert not hits(replace(requests, encoder_hit=np.zeros(len(requests)))).any()


@pytest.mark.parametrize(("share", "ratio"), [(0.0, 1.0), (0.3, 1.5), (0.3, 2.5)])
def test_times_that_lie_less_than_threefold_apart_are_no_hits(share: float, ratio: float) -> None:
    requests, _ = cached(share, ratio, noise=0.05)
    assert not hits(requests).any()


def test_a_few_slow_requests_make_no_hits_of_all_others() -> None:
    requests, _ = cached(0.0, 1.0, seed=5)
    encode = requests.encode_ms.copy()
    encode[::70] *= 6
    assert not hits(replace(requests, encode_ms=encode)).any()


def test_a_cache_that_only_new_has_shows_beside_base() -> None:
    base, _ = cached(0.0, 1.0, seed=5)
    new, hit = cached(0.6, 30.0)
    assert np.array_equal(hits(new, base), hit)


def test_a_part_of_new_that_became_slower_makes_no_hits_of_the_rest() -> None:
    base, _ = cached(0.0, 1.0, seed=5)
    for share in (0.03, 0.5, 0.9):
        new, slow = cached(1 - share, 1.0)
        assert not hits(replace(new, encode_ms=np.where(slow, 1.0, 8.0) * new.encode_ms), base).any()


def test_few_requests_tell_of_no_hits() -> None:
    requests, _ = cached(0.5, 30.0, count=38)
    assert not hits(requests).any()


@pytest.mark.parametrize("phase", COMPARED)
def test_every_number_that_a_phase_is_judged_by_is_known_where_it_is_valid(phase: str) -> None:
    requests = served(300, rate_per_s=40.0, queue_ms=30.0)
    requests = replace(requests, transfer_ms=np.ones(300))
    for table_ in (requests, without(requests, "audio_tokens", "images", "cached_tokens", "encoder_hit")):
        found = data(phase, table_, Given(offset_ms=1.0))
        assert found.valid.any()
        for column in (*found.costs.values(), *found.workload.values(), *found.load.values()):
            assert len(column) == len(table_)
            assert np.isfinite(column[found.valid]).all()
            assert (column[found.valid] >= 0).all()
