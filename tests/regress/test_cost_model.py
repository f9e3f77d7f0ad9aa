"""The model of a phase's time: costs that are known are found again, and no input makes it say what is no number."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from tables import garbage, served

from vtprof_analyzer.regress.cost_model import FEWEST, PhaseModel
from vtprof_analyzer.regress.load import load_of
from vtprof_analyzer.regress.phases import COMPARED, Given, PhaseData, phase_data
from vtprof_analyzer.regress.requests import Floats, Integers


def work(
    count: int = 2_000, seed: int = 1, noise: float = 0.1, level: float = 1.0, **given: Floats
) -> PhaseData:
    """Return a phase that costs 5 ms, 0.02 ms a token and 4e-6 ms a token squared, and ``others`` that cost nothing."""
    rng = np.random.default_rng(seed)
    tokens = np.round(rng.lognormal(6.5, 1.0, count))
    others = rng.integers(0, 5, count).astype(float)
    columns = {"tokens": tokens, "others": others} | given
    tokens, others = columns["tokens"], columns["others"]
    value = level * true_ms(tokens) * rng.lognormal(0, noise, count) if noise else level * true_ms(tokens)
    return PhaseData(
        value,
        np.full(count, True),
        {"1": np.ones(count), "T": tokens, "TT": tokens**2, "T others": tokens * others},
        {"T": tokens},
        {"others": others},
    )


def true_ms(tokens: Floats) -> Floats:
    return 5 + 0.02 * tokens + 4e-6 * tokens**2


def all_of(data: PhaseData) -> Integers:
    return np.arange(len(data.value))


def fitted(*tables: PhaseData) -> PhaseModel:
    model = PhaseModel.fit([(data, all_of(data)) for data in tables], "prefill")
    assert model is not None
    return model


def test_a_known_cost_is_found_within_its_noise() -> None:
    data = work(4_000)
    model = fitted(data)
    away = model.predict(data, all_of(data)) - np.log(true_ms(data.costs["T"]))
    # 50 numbers from 4,000 requests of noise 0.1: 0.1 * sqrt(50 / 4000) is 0.011.
    assert np.sqrt(np.mean(away**2)) < 0.02
    assert abs(away.mean()) < 0.01


def test_a_cost_without_noise_is_found_to_half_a_percent() -> None:
    data = work(1_000, noise=0.0)
    away = fitted(data).predict(data, all_of(data)) - np.log(true_ms(data.costs["T"]))
    assert np.sqrt(np.mean(away**2)) < 0.005


def test_a_model_of_some_work_holds_for_other_work() -> None:
    data, other = work(3_000), work(500, seed=9)
    away = fitted(data).predict(other, all_of(other)) - np.log(true_ms(other.costs["T"]))
    inside = (other.costs["T"] > 50) & (other.costs["T"] < 10_000)
    assert np.abs(away[inside]).max() < 0.08


def test_factors_are_never_negative() -> None:
    # A cost that falls with others: a factor of its own would be below zero.
    data = work(1_000)
    falling = replace(data, value=data.value / (1 + data.load["others"]))
    for one in (data, falling):
        assert (fitted(one).factors >= 0).all()


def test_factors_are_those_of_the_cost() -> None:
    model = fitted(work(1_000, noise=0.0))
    assert model.cost_names == ("1", "T", "TT", "T others")
    assert model.factors == pytest.approx([5, 0.02, 4e-6, 0], rel=0.05, abs=1e-5)


def test_a_slower_run_is_not_taken_for_more_work() -> None:
    # The slower run has larger requests: without levels of runs, tokens would seem to cost more.
    rng = np.random.default_rng(2)
    small, large = rng.lognormal(6.0, 0.6, 2_000), rng.lognormal(7.0, 0.6, 2_000)
    base, new = work(tokens=small), work(seed=3, level=1.5, tokens=large)
    model = fitted(base, new)
    middle = np.quantile(np.concatenate([small, large]), [0.1, 0.9])
    points = work(2, noise=0.0, tokens=middle, others=np.ones(2))
    growth = np.diff(model.predict(points, np.arange(2)))[0]
    assert growth == pytest.approx(np.log(true_ms(middle[1]) / true_ms(middle[0])), abs=0.08)


def test_the_intercept_is_the_mean_level_of_the_runs() -> None:
    base, new = work(), work(seed=2, level=1.5)
    residual = [np.log(one.value) - fitted(base, new).predict(one, all_of(one)) for one in (base, new)]
    assert residual[1].mean() - residual[0].mean() == pytest.approx(np.log(1.5), abs=0.015)
    assert residual[0].mean() + residual[1].mean() == pytest.approx(0, abs=0.02)


def test_a_few_requests_that_took_ten_times_as_long_change_little() -> None:
    data = work()
    value = data.value.copy()
    value[::33] *= 10
    there, here = fitted(data), fitted(replace(data, value=value))
    rows = all_of(data)
    assert np.abs(there.predict(data, rows) - here.predict(data, rows)).mean() < 0.03


def test_the_scale_is_the_spread_of_residuals() -> None:
    data = work(4_000, noise=0.2)
    model = fitted(data)
    assert model.scale(model.predict(data, all_of(data))) == pytest.approx(np.full(4_000, 0.2), rel=0.3)
    assert np.mean(model.scale(model.predict(data, all_of(data)))) == pytest.approx(0.2, rel=0.08)


def test_only_the_rows_are_fitted() -> None:
    data = work(1_000)
    value = data.value.copy()
    value[500:] = 1e6
    wrong = replace(data, value=value)
    rows = np.arange(500)
    model = PhaseModel.fit([(wrong, rows)], "prefill")
    right = PhaseModel.fit([(data, rows)], "prefill")
    assert model is not None
    assert right is not None
    assert np.array_equal(model.coefficients, right.coefficients)


def test_too_few_requests_have_no_model() -> None:
    data = work(FEWEST)
    assert PhaseModel.fit([(data, all_of(data))], "prefill") is not None
    assert PhaseModel.fit([(data, all_of(data)[1:])], "prefill") is None
    assert PhaseModel.fit([], "prefill") is None
    assert PhaseModel.fit([(data, np.zeros(0, np.int64))], "prefill") is None


def test_a_run_without_requests_changes_nothing() -> None:
    data = work(500)
    none = np.zeros(0, np.int64)
    one = PhaseModel.fit([(data, all_of(data))], "prefill")
    two = PhaseModel.fit([(data, none), (data, all_of(data))], "prefill")
    assert one is not None
    assert two is not None
    assert two.predict(data, all_of(data)) == pytest.approx(one.predict(data, all_of(data)))


@settings(max_examples=30)
@given(st.integers(0, 100_000), st.sampled_from(COMPARED))
@pytest.mark.filterwarnings("error")
def test_predictions_are_numbers_whatever_the_table_holds(seed: int, phase: str) -> None:
    rng = np.random.default_rng(seed)
    requests = garbage(rng, 300, unknown=0.0, largest_count=float(rng.choice([10.0, 1e6, 1e18])))
    data = phase_data(phase, requests, load_of(requests), Given(offset_ms=1.0))
    rows = np.flatnonzero(data.valid)
    model = PhaseModel.fit([(data, rows)], phase)
    if model is not None:
        predicted = model.predict(data, rows)
        assert np.isfinite(predicted).all()
        assert (model.scale(predicted) > 0).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("constant", ["tokens", "others", "value", "all"])
def test_columns_that_never_change_are_no_trouble(constant: str) -> None:
    count = 300
    fixed = {name: np.full(count, 8.0) for name in ("tokens", "others") if constant in (name, "all")}
    data = work(count, **fixed)
    if constant in ("value", "all"):
        data = replace(data, value=np.full(count, 20.0))
    model = fitted(data)
    predicted = model.predict(data, all_of(data))
    assert np.isfinite(predicted).all()
    if constant in ("value", "all"):
        assert predicted == pytest.approx(np.full(count, np.log(20.0)), abs=1e-3)


def test_a_million_tokens_where_thousands_were_seen_cost_a_finite_time() -> None:
    model = fitted(work())
    far = work(3, noise=0.0, tokens=np.array([0.0, 1e6, 1e18]), others=np.array([0.0, 1e3, 1e9]))
    assert np.isfinite(model.predict(far, np.arange(3))).all()


def test_phases_of_a_service_are_explained_to_their_noise() -> None:
    requests = served(1_500, noise=0.05)
    load = load_of(requests)
    for phase in ("preprocess", "encode", "prefill", "decode"):
        data = phase_data(phase, requests, load)
        rows = np.flatnonzero(data.valid)
        model = PhaseModel.fit([(data, rows)], phase)
        assert model is not None
        assert (np.log(data.value[rows]) - model.predict(data, rows)).std() < 0.06, phase
