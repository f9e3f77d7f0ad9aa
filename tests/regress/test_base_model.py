"""BASE as a yardstick: nothing is left of BASE, a slower phase shows by its logarithm, and what BASE lacks is not told."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from tables import MODEL, garbage, served, table, without

from vtprof_analyzer.regress.base_model import BLOCK_REQUESTS, CostModel
from vtprof_analyzer.regress.noise import PRIOR_RUNS, RUN_NOISE
from vtprof_analyzer.regress.phases import COMPARED
from vtprof_analyzer.regress.requests import Floats, Requests

PHASES = ("preprocess", "encode", "prefill", "decode")
BASE = served(3_000, 1, noise=0.1)
FITTED = CostModel.fit([BASE])


def known(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def test_the_phases_are_those_that_base_tells() -> None:
    assert FITTED.phases == ("preprocess", "encode", "prefill", "decode", "unexplained", "kv")
    assert FITTED.models == (MODEL,)
    assert CostModel.fit([without(BASE, "tpot_ms", "kv_bytes")]).phases == (
        "preprocess",
        "encode",
        "prefill",
        "unexplained",
    )


def test_base_less_itself_is_nothing() -> None:
    for phase, values in FITTED.residuals(BASE).items():
        assert len(values) == len(BASE)
        assert abs(known(values).mean()) < 1e-3, phase
        assert len(known(values)) > 1_500


def test_base_less_itself_is_nothing_though_some_of_it_hiccups() -> None:
    slow = np.where(np.arange(len(BASE)) % 6 == 0, 1.3, 1.0)
    base = replace(BASE, tpot_ms=BASE.tpot_ms * slow)
    assert abs(known(CostModel.fit([base]).residuals(base)["decode"]).mean()) < 1e-3


def test_other_requests_of_the_same_engine_are_nothing_too() -> None:
    residuals = FITTED.residuals(served(2_000, 2, noise=0.1))
    for phase in PHASES:
        # Of 1,200 requests or more: 0.1 / sqrt(1200) is 0.003.
        assert abs(known(residuals[phase]).mean()) < 0.012, phase


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_a_fifth_slower_shows_by_its_logarithm_and_no_other_does(phase: str) -> None:
    residuals = FITTED.residuals(served(2_000, 2, noise=0.1, slower={phase: 1.2}))
    for other in PHASES:
        expected = np.log(1.2) if other == phase else 0.0
        assert known(residuals[other]).mean() == pytest.approx(expected, abs=0.02), other


def test_bytes_per_token_twice_as_many_show_whole() -> None:
    residuals = FITTED.residuals(served(500, 2, slower={"kv": 2.0}))
    assert known(residuals["kv"]).mean() == pytest.approx(np.log(2.0), abs=1e-3)


def test_smaller_images_are_no_change() -> None:
    residuals = FITTED.residuals(served(2_000, 2, noise=0.1, visual_scale=0.6))
    for phase in PHASES:
        assert abs(known(residuals[phase]).mean()) < 0.02, phase


def test_a_request_that_took_a_thousand_times_as_long_shows_whole() -> None:
    encode = BASE.encode_ms.copy()
    at = int(np.flatnonzero(encode > 0)[5])
    encode[at] *= 1_000
    found = FITTED.residuals(replace(BASE, encode_ms=encode))["encode"]
    # Noise of 0.1, and what its own length does to its load.
    assert found[at] == pytest.approx(np.log(1_000), abs=0.5)


@pytest.mark.parametrize("factor", [10, 100, 1_000])
def test_an_engine_however_slow_stays_judged_though_its_load_is_then_beyond_that_of_base(factor: int) -> None:
    new = served(2_000, 2, noise=0.1)
    held = FITTED.compared(replace(new, encode_ms=new.encode_ms * factor))["encode"]
    kept = known(held.residual)
    assert len(kept) > 0.4 * np.count_nonzero(new.encode_ms > 0)
    # What load can explain is taken off, and never more than the whole.
    assert np.log(2) < np.median(kept) < np.log(factor) + 0.1
    if factor >= 100:
        assert held.at_least.any()


def test_a_crowd_at_an_engine_as_fast_as_before_is_not_comparable() -> None:
    new = served(2_000, 2, noise=0.1)
    begin = new.start_ns[0]
    crowd = replace(new, start_ns=begin + (new.start_ns - begin) // 20)
    held = FITTED.compared(replace(crowd, prefill_ms=crowd.prefill_ms * 3))["prefill"]
    # Twenty times the load, three times the time: load may explain that.
    assert len(known(held.residual)) < 0.05 * len(new)
    assert not held.at_least[np.isnan(held.residual)].any()


def test_unexplained_time_is_a_part_of_what_is_modelled_and_other_phases_are_all_of_it() -> None:
    # A quarter of the median TTFT is put to it.
    offset = np.median(BASE.ttft_ms - BASE.queue_ms) / 4
    expected = BASE.unexplained_ms.mean() / (BASE.unexplained_ms.mean() + offset)
    assert FITTED.part("unexplained", MODEL) == pytest.approx(expected, rel=0.01)
    assert FITTED.part("encode", MODEL) == FITTED.part("encode", "another") == 1.0


def test_what_is_unlike_all_of_base_is_not_told() -> None:
    # Fifty times the visual tokens of any request of BASE.
    requests = served(200, 3)
    large = replace(requests, visual_tokens=requests.visual_tokens * 50)
    found = FITTED.residuals(large)["encode"]
    assert np.isnan(found).all()
    assert np.isnan(FITTED.residuals(requests)["encode"][requests.visual_tokens == 0]).all()


def test_what_was_not_recorded_is_not_told() -> None:
    found = FITTED.residuals(without(served(200, 3), "prefill_ms"))
    assert np.isnan(found["prefill"]).all()
    assert np.isfinite(found["decode"]).sum() > 150


def test_each_model_has_its_own_yardstick() -> None:
    two = served(3_000, 1, models=("a", "b"))
    slow = np.where(two.model == 1, 3.0, 1.0)
    base = replace(two, encode_ms=two.encode_ms * slow, prefill_ms=two.prefill_ms * slow)
    fitted = CostModel.fit([base])
    assert fitted.models == ("a", "b")
    residuals = fitted.residuals(base)
    for place in (0, 1):
        assert abs(known(residuals["encode"][base.model == place]).mean()) < 0.01
    # The other's requests at this one's speed are three times as fast.
    swapped = fitted.residuals(replace(base, models=("b", "a")))
    assert known(swapped["encode"][base.model == 0]).mean() == pytest.approx(-np.log(3), abs=0.1)
    assert fitted.noise_of("encode", "a") is not None
    assert fitted.noise_of("encode", "c") is None
    assert np.isnan(fitted.spread("encode", "c"))


def test_a_model_that_base_lacks_is_not_told() -> None:
    found = FITTED.residuals(replace(served(300, 2), models=("another",)))
    assert all(np.isnan(values).all() for values in found.values())


def test_who_does_not_tell_of_the_prefix_cache_is_like_nothing_of_a_base_that_does() -> None:
    assert np.isfinite(BASE.cached_tokens).all()
    new = served(50, 2)
    assert np.isfinite(FITTED.residuals(new)["prefill"]).sum() > 25
    # Tables of `watch` are small: here nobody tells, and that is no cache that held nothing.
    assert np.isnan(FITTED.residuals(without(new, "cached_tokens"))["prefill"]).all()
    bare = CostModel.fit([without(BASE, "cached_tokens")])
    assert np.isfinite(bare.residuals(without(new, "cached_tokens"))["prefill"]).sum() > 25


def test_models_are_alike_where_a_phase_hangs_on_nothing_that_is_left_out() -> None:
    base = served(3_000, 1)
    bare = CostModel.fit([without(base, "tpot_ms")])
    assert bare.alike(CostModel.fit([base]), "preprocess", MODEL)
    assert not bare.alike(CostModel.fit([base]), "decode", MODEL)
    assert not bare.alike(CostModel.fit([base]), "prefill", MODEL)


def test_noise_of_blocks_is_that_of_independent_requests() -> None:
    noise = FITTED.noise["decode"]
    assert noise.block_sd == pytest.approx(0.1 / np.sqrt(BLOCK_REQUESTS), rel=0.35)
    assert noise.blocks == 3_000 // BLOCK_REQUESTS
    assert 0.0 <= noise.lag1 < 0.4
    assert noise.run_sd == pytest.approx(RUN_NOISE)


def test_noise_that_lasts_shows_in_blocks_and_from_one_to_the_next() -> None:
    # A clock that goes up and down by 5 %, each time for three blocks of 60.
    wave = np.where(np.arange(3_000) // 180 % 2, 1.05, 0.95)
    noise = CostModel.fit([replace(BASE, tpot_ms=BASE.tpot_ms * wave)]).noise["decode"]
    assert noise.block_sd == pytest.approx(0.05, rel=0.25)
    # Of three blocks two follow one like them, one another: a third.
    assert noise.lag1 == pytest.approx(1 / 3, abs=0.15)


def test_runs_tell_noise_from_run_to_run() -> None:
    levels = np.exp([0.0, 0.1, -0.1, 0.05])
    runs = [
        served(600, seed, noise=0.05, slower={"decode": float(level)}) for seed, level in enumerate(levels)
    ]
    noise = CostModel.fit(runs).noise["decode"]
    variance = float(np.var(np.log(levels), ddof=1))
    expected = np.sqrt((PRIOR_RUNS * RUN_NOISE**2 + 3 * variance) / (PRIOR_RUNS + 3))
    assert noise.run_sd == pytest.approx(expected, rel=0.15)


def test_too_few_requests_tell_no_phase() -> None:
    assert CostModel.fit([served(100)]).phases == ()
    assert CostModel.fit([]).phases == ()
    assert CostModel.fit([table(0)]).phases == ()
    assert CostModel.fit([]).residuals(served(10)) == {}
    assert all(len(values) == 0 for values in FITTED.residuals(table(0)).values())


def test_a_run_of_a_few_requests_beside_others_changes_little() -> None:
    both = CostModel.fit([BASE, served(5, 9)])
    assert both.phases == FITTED.phases
    for phase, values in both.residuals(BASE).items():
        assert abs(known(values).mean()) < 0.005, phase


def in_flight(requests: Requests, share: float = 1.0) -> Requests:
    rng = np.random.default_rng(5)
    told = rng.random(len(requests)) < share
    return replace(
        requests, in_flight=np.where(told, rng.integers(0, 9, len(requests)), np.nan).astype(float)
    )


def test_requests_in_flight_that_only_one_side_recorded_change_nothing() -> None:
    fitted = CostModel.fit([in_flight(BASE)])
    for requests in (BASE, in_flight(BASE, 0.5), in_flight(BASE)):
        for phase in PHASES:
            values = fitted.residuals(requests)[phase]
            assert abs(known(values).mean()) < 0.01, phase
            assert len(known(values)) > 1_500
    for phase in PHASES:
        assert abs(known(FITTED.residuals(in_flight(BASE))[phase]).mean()) < 0.01


@settings(max_examples=12)
@given(st.integers(0, 100_000))
@pytest.mark.filterwarnings("error")
def test_no_table_makes_a_residual_or_a_noise_that_is_no_number(seed: int) -> None:
    rng = np.random.default_rng(seed)
    models = (("a",), ("a", "b", "a"))[rng.integers(2)]
    base, new = (garbage(rng, 500, models=models, unknown=0.02) for _ in range(2))
    fitted = CostModel.fit([base, garbage(rng, 20, models=models)])
    for values in (*fitted.residuals(new).values(), *FITTED.residuals(new).values()):
        assert not np.isinf(values).any()
    for phase, noise in fitted.noise.items():
        assert phase in COMPARED
        assert np.isfinite([noise.block_sd, noise.lag1, noise.run_sd]).all()
        assert noise.block_sd > 0
