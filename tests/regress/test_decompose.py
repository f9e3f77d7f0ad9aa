"""Why the mean TTFT changed: the parts add up, and what changed alone is the only part."""

import math
from collections.abc import Sequence
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from tables import MODEL, served, table, without

from vtprof_analyzer.regress.comparison import Decomposition
from vtprof_analyzer.regress.decompose import Changed, decompose
from vtprof_analyzer.regress.estimate import Sides
from vtprof_analyzer.regress.fitted import Fitted, fit
from vtprof_analyzer.regress.load import load_of
from vtprof_analyzer.regress.requests import Requests

PHASES = ("preprocess", "encode", "prefill")


def changed(base: Requests, new: Requests, **ratios: float) -> list[Changed]:
    """Return the phases' models, with these changes at like work."""
    sides = Sides(MODEL, (base, new), (load_of(base), load_of(new)), 1)
    found = []
    for phase in PHASES:
        fitted = fit(phase, sides)
        assert isinstance(fitted, Fitted)
        found.append(Changed(fitted, sides, math.log(ratios.get(phase, 1.0))))
    return found


def parts(told: Decomposition | None) -> dict[str, float]:
    assert told is not None
    return {part.part: part.change_ms for part in told.parts}


def mean(requests: Requests, name: str) -> float:
    return float(np.average(np.nan_to_num(getattr(requests, name)), weights=requests.weight))


def adds_up(told: Decomposition | None) -> None:
    assert told is not None
    whole = sum(part.change_ms for part in told.parts)
    size = sum(abs(part.change_ms) for part in told.parts) + told.base_ms + told.new_ms
    assert abs(told.base_ms + whole - told.new_ms) <= 1e-12 * size


def test_of_the_same_requests_a_slower_phase_is_the_only_part() -> None:
    base = served(800, noise=0.05)
    new = served(800, noise=0.05, slower={"encode": 1.3})
    told = decompose([base], [new], changed(base, new, encode=1.3))
    found = parts(told)
    assert found["encode"] == pytest.approx(0.3 * mean(base, "encode_ms"), rel=0.02)
    for name in ("mix", "load", "preprocess", "prefill", "queue", "residual"):
        assert abs(found[name]) < 0.02 * found["encode"], name
    assert told is not None
    assert (told.base_ms, told.new_ms) == (
        pytest.approx(mean(base, "ttft_ms")),
        pytest.approx(mean(new, "ttft_ms")),
    )
    adds_up(told)


def test_of_other_requests_at_the_same_speed_the_mix_is_the_only_part() -> None:
    base, new = served(1_500, 1, noise=0.02), served(1_500, 2, noise=0.02, visual_scale=1.5, text_scale=1.5)
    told = decompose([base], [new], changed(base, new))
    found = parts(told)
    whole = mean(new, "ttft_ms") - mean(base, "ttft_ms")
    assert whole > 10
    assert found["mix"] == pytest.approx(whole, rel=0.05)
    for name in ("load", *PHASES, "queue", "residual"):
        assert abs(found[name]) < 0.05 * whole, name
    adds_up(told)


def test_a_part_of_both_is_shared_out_evenly() -> None:
    # One phase, no noise: BASE's requests cost 10 ms, NEW's 20 at BASE's speed, and it became half as fast again.
    base, new = (
        table(400, text_tokens=tokens, visual_tokens=0, prefill_ms=ms, ttft_ms=ms, queue_ms=0.0)
        for tokens, ms in (
            (np.where(np.arange(400) % 2, 100, 200), np.where(np.arange(400) % 2, 8.0, 12.0)),
            (np.where(np.arange(400) % 4, 200, 100), np.where(np.arange(400) % 4, 18.0, 12.0)),
        )
    )
    sides = Sides(MODEL, (base, new), (load_of(base), load_of(new)), 1)
    fitted = fit("prefill", sides)
    assert isinstance(fitted, Fitted)
    found = parts(decompose([base], [new], [Changed(fitted, sides, math.log(1.5))]))
    # At BASE's speed NEW's cost (3 * 12 + 8) / 4 = 11, BASE's 10: 1 more, at a mean speed of 1.25.
    assert found["mix"] == pytest.approx(1.25 * 1.0, rel=0.01)
    assert found["prefill"] == pytest.approx((10 + 11) / 2 * 0.5, rel=0.01)
    assert found["residual"] == pytest.approx(0, abs=0.05)
    assert found["load"] == pytest.approx(0, abs=0.01)


def test_a_longer_queue_is_its_own_part() -> None:
    base = served(500, queue_ms=5.0)
    new = replace(base, queue_ms=base.queue_ms + 7.0, ttft_ms=base.ttft_ms + 7.0)
    found = parts(decompose([base], [new], changed(base, new)))
    assert found["queue"] == pytest.approx(7.0)
    assert found["residual"] == pytest.approx(0.0, abs=0.05)


def test_what_no_phase_tells_is_the_residual() -> None:
    base, new = table(10, ttft_ms=100.0, queue_ms=5.0), table(20, ttft_ms=130.0, queue_ms=15.0)
    told = decompose([base], [new], [])
    assert parts(told) == {"queue": 10.0, "residual": 20.0}
    assert told is not None
    assert (told.base_ms, told.new_ms) == (100.0, 130.0)


def test_unexplained_time_is_a_part_where_it_changed() -> None:
    base, new = table(10, ttft_ms=100.0, unexplained_ms=1.0), table(10, ttft_ms=103.0, unexplained_ms=4.0)
    assert parts(decompose([base], [new], [])) == {"unexplained": 3.0, "residual": 0.0}


def test_a_cache_that_answers_less_is_a_part() -> None:
    def hits(share: float, seed: int) -> Requests:
        """Return requests of which the encoder's cache answered a share."""
        requests = served(1_500, seed, noise=0.02)
        hit = (np.random.default_rng(seed).random(1_500) < share) & (requests.visual_tokens > 0)
        encode = np.where(hit, 0.1, requests.encode_ms)
        return replace(
            requests, encoder_hit=np.where(requests.visual_tokens > 0, hit, np.nan).astype(float),
            encode_ms=encode, ttft_ms=requests.ttft_ms - requests.encode_ms + encode,
        )  # fmt: skip

    base, new = hits(0.6, 1), hits(0.2, 2)
    told = decompose([base], [new], changed(base, new))
    found = parts(told)
    # 40 % of those with images encode again.
    encoded = np.concatenate([one.encode_ms[one.encoder_hit == 0] for one in (base, new)]).mean()
    assert found["cache"] == pytest.approx(0.4 * 0.6 * encoded, rel=0.15)
    assert abs(found["mix"]) < 0.2 * found["cache"]
    assert abs(found["residual"]) < 0.1 * found["cache"]
    adds_up(told)


def test_what_others_do_beside_is_load() -> None:
    def beside(seed: int, rate_per_s: float) -> Requests:
        """Return requests of which prefill takes a tenth longer for each that decodes beside it."""
        requests = served(1_500, seed, noise=0.02, rate_per_s=rate_per_s)
        more = 0.1 * np.nan_to_num(load_of(requests).prefill_decodes) * requests.prefill_ms
        return replace(requests, prefill_ms=requests.prefill_ms + more, ttft_ms=requests.ttft_ms + more)

    base, new = beside(1, 4.0), beside(1, 7.0)
    told = decompose([base], [new], changed(base, new))
    found = parts(told)
    whole = mean(new, "ttft_ms") - mean(base, "ttft_ms")
    assert whole > 5
    assert found["load"] == pytest.approx(whole, rel=0.15)
    assert abs(found["mix"]) < 0.1 * whole
    assert abs(found["residual"]) < 0.1 * whole


def test_requests_without_a_ttft_are_left_out() -> None:
    # Of BASE those with the most visual tokens: what is left asks for less than NEW.
    new = served(1_500, 1, noise=0.02)
    large = new.visual_tokens > np.quantile(new.visual_tokens, 0.7)
    base = replace(new, ttft_ms=np.where(large, np.nan, new.ttft_ms))
    told = decompose([base], [new], changed(base, new))
    assert told is not None
    assert told.base_ms == pytest.approx(np.nanmean(base.ttft_ms))
    whole = told.new_ms - told.base_ms
    assert whole > 10
    assert parts(told)["mix"] == pytest.approx(whole, rel=0.1)
    adds_up(told)


def test_a_request_counts_as_the_requests_that_it_stands_for() -> None:
    base, new = (
        table(2, ttft_ms=[10, 20], queue_ms=0.0, weight=[1, 3]),
        table(2, ttft_ms=[10, 20], queue_ms=[0, 8], weight=[3, 1]),
    )
    told = decompose([base], [new], [])
    assert told is not None
    assert (told.base_ms, told.new_ms) == (17.5, 12.5)
    assert parts(told) == {"queue": 2.0, "residual": -7.0}


@pytest.mark.parametrize("side", [0, 1])
def test_a_side_without_a_ttft_has_no_decomposition(side: int) -> None:
    sides = [served(300), served(300)]
    sides[side] = without(sides[side], "ttft_ms")
    assert decompose(sides[:1], sides[1:], []) is None
    sides[side] = table(0)
    assert decompose(sides[:1], sides[1:], []) is None


BASE, NEW = served(600, 1, queue_ms=5.0), served(600, 2, visual_scale=1.2, queue_ms=50.0, rate_per_s=5.0)
CHANGED = changed(BASE, NEW)


@settings(max_examples=50)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.integers(0, 1_000))
def test_the_parts_add_up_whatever_changed(changes: Sequence[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    base, new = (
        replace(one, ttft_ms=np.where(rng.random(600) < 0.1, np.nan, rng.lognormal(4, 1, 600)))
        for one in (BASE, NEW)
    )
    adds_up(
        decompose([base], [new], [replace(one, change=by) for one, by in zip(CHANGED, changes, strict=True)])
    )
