"""From estimates to outcomes: shares of alpha, floors, what would have been found, and how much more is needed."""

import math
from dataclasses import replace

import pytest

from vtprof_analyzer.regress.decide import Bar, bars, decide, needed
from vtprof_analyzer.regress.estimate import Estimate
from vtprof_analyzer.regress.noise import critical

POWER_Z = 0.841621
"""Of 80 %."""


def shift(difference: float = 0.0, sd: float = 0.01, phase: str = "encode", **given: object) -> Estimate:
    """Return a shift of which half of the variance is noise from run to run."""
    made = Estimate(
        phase, "shift", "m", difference, sd**2 / 2, sd**2 / 2, math.inf,
        requests=(1_000, 1_000), overlap=1.0, values=(10.0, 10.0 * math.exp(difference)), evidence=("r1",),
    )  # fmt: skip
    return replace(made, **given)  # type: ignore[arg-type]


def tail(difference: float, sd: float, change: float, change_sd: float) -> Estimate:
    return replace(
        shift(difference, sd), kind="tail", tail=(change, change_sd), values=(0.015, 0.015 + difference)
    )


def cache(difference: float, sd: float, base_rate: float = 0.6) -> Estimate:
    return replace(
        shift(difference, sd, "cache"),
        kind="cache",
        what="encoder cache",
        values=(base_rate, base_rate - difference),
    )


BAR = Bar(0.001, 0.02)
Z = critical(0.001, math.inf)


def test_the_levels_of_all_estimates_add_up_to_alpha() -> None:
    estimates = [
        *(shift(phase=phase) for phase in ("preprocess", "queue", "encode", "prefill", "decode", "kv")),
        shift(phase="unexplained"), tail(0.0, 0.01, 0.0, 0.1), cache(0.0, 0.01),
    ]  # fmt: skip
    levels = [bar.level for bar in bars(estimates, 0.01, 0.02, moved=False)]
    assert sum(levels) == pytest.approx(0.01)
    # Shifts of phases that all requests have take most.
    assert levels[0] == levels[2] == levels[3] == levels[4] == max(levels)
    assert sum(bar.level for bar in bars(estimates, 0.05, 0.02, moved=False)) == pytest.approx(0.05)


def test_where_the_workload_moved_less_than_alpha_is_used() -> None:
    estimates = [shift(), tail(0.0, 0.01, 0.0, 0.1), cache(0.0, 0.01)]
    still, moved = (bars(estimates, 0.01, 0.02, moved=one) for one in (False, True))
    assert sum(bar.level for bar in moved) < sum(bar.level for bar in still)
    assert len({one.level / other.level for one, other in zip(moved, still, strict=True)}) == 1


def test_what_could_not_be_estimated_takes_no_share() -> None:
    judged, not_judged = shift(), Estimate("decode", "shift", "m", why_not="no request has it")
    alone, _ = bars([judged, not_judged], 0.01, 0.02, moved=False)
    assert alone.level == pytest.approx(0.01)
    assert decide(not_judged, _).outcome == "insufficient_data"
    assert decide(not_judged, _).why_not == "no request has it"
    assert bars([], 0.01, 0.02, moved=False) == []
    assert 0 < bars([not_judged], 0.01, 0.02, moved=False)[0].level <= 0.01


def test_a_shift_is_found_where_it_is_beyond_the_critical_value_and_the_floor() -> None:
    sd = 0.01
    assert decide(shift(1.01 * Z * sd, sd), BAR).outcome == "regression"
    assert decide(shift(0.99 * Z * sd, sd), BAR).outcome == "no_change"
    assert decide(shift(-1.01 * Z * sd, sd), BAR).outcome == "improvement"
    # Sure, but too small to matter: 2 % is log 1.02.
    assert decide(shift(0.99 * math.log(1.02), 1e-4), BAR).outcome == "no_change"
    assert decide(shift(1.01 * math.log(1.02), 1e-4), BAR).outcome == "regression"
    assert decide(shift(math.log(1.05), 1e-4), Bar(0.001, 0.06)).outcome == "no_change"


def test_few_degrees_of_freedom_ask_for_more() -> None:
    found = shift(1.1 * Z * 0.01, 0.01)
    assert decide(found, BAR).outcome == "regression"
    assert decide(replace(found, freedom=8.0), BAR).outcome == "no_change"


@pytest.mark.parametrize("phase", ["queue", "unexplained"])
def test_small_changes_of_waiting_and_of_what_is_not_explained_do_not_matter(phase: str) -> None:
    assert decide(shift(math.log(1.09), 1e-4, phase), BAR).outcome == "no_change"
    assert decide(shift(math.log(1.11), 1e-4, phase), BAR).outcome == "regression"


def test_ratio_and_interval_are_of_the_logarithm() -> None:
    effect = decide(shift(math.log(1.08), 0.01), BAR)
    assert effect.effect_ratio == pytest.approx(0.08)
    assert effect.ci_low == pytest.approx(1.08 * math.exp(-Z * 0.01) - 1)
    assert effect.ci_high == pytest.approx(1.08 * math.exp(Z * 0.01) - 1)
    assert effect.p_value == pytest.approx(7.0e-15, rel=0.02)  # of 7.696 standard deviations: the normal tail
    assert (effect.base_value, effect.new_value) == (10.0, pytest.approx(10.8))
    assert effect.evidence == ("r1",)
    assert decide(shift(0.0), BAR).evidence == ()


def test_the_interval_holds_no_zero_where_a_change_was_found() -> None:
    for difference in (-0.2, -0.04, -0.02, 0.0, 0.02, 0.04, 0.2):
        effect = decide(shift(difference), BAR)
        assert effect.ci_low is not None
        assert effect.ci_high is not None
        if effect.outcome != "no_change":
            assert effect.ci_low * effect.ci_high > 0
        assert effect.ci_low <= effect.effect_ratio <= effect.ci_high  # type: ignore[operator]


def test_the_minimum_detectable_effect_is_the_critical_value_and_the_power_in_standard_deviations() -> None:
    effect = decide(shift(0.0, 0.01), BAR)
    assert effect.mde == pytest.approx(math.expm1((Z + POWER_Z) * 0.01), rel=1e-4)
    # Of little noise, the floor is what has to be passed.
    assert decide(shift(0.0, 0.001), BAR).mde == pytest.approx(
        math.expm1(math.log(1.02) + POWER_Z * 0.001), rel=1e-4
    )


def test_a_comparison_that_would_miss_half_as_much_again_is_none() -> None:
    sd = math.log(1.5) / (Z + POWER_Z)
    wide = decide(shift(0.0, 1.02 * sd), BAR)
    assert wide.outcome == "insufficient_data"
    assert wide.why_not is not None
    assert "52 %" in wide.why_not or "51 %" in wide.why_not
    assert decide(shift(0.0, 0.98 * sd), BAR).outcome == "no_change"
    # What is found is found.
    assert decide(shift(2.0, 1.02 * sd), BAR).outcome == "regression"


def test_a_tail_needs_more_requests_beyond_the_limit_and_a_99th_percentile_that_moved() -> None:
    assert decide(tail(0.01, 0.001, 1.0, 0.1), BAR).outcome == "regression"
    assert decide(tail(0.004, 0.0001, 1.0, 0.1), BAR).outcome == "no_change"
    assert decide(tail(0.01, 0.001, 0.05, 0.001), BAR).outcome == "no_change"
    assert decide(tail(0.01, 0.001, -1.0, 0.1), BAR).outcome == "no_change"
    assert decide(tail(0.01, 0.01, 1.0, 1.0), BAR).outcome == "no_change"
    assert decide(tail(-0.01, 0.001, -1.0, 0.1), BAR).outcome == "improvement"


def test_a_tails_ratio_is_of_its_99th_percentile() -> None:
    effect = decide(tail(0.01, 0.001, math.log(2.0), 0.1), BAR)
    assert effect.kind == "tail"
    assert effect.effect_ratio == pytest.approx(1.0)
    assert effect.ci_low == pytest.approx(2 * math.exp(-1.96 * 0.1) - 1, rel=1e-4)
    assert effect.ci_high == pytest.approx(2 * math.exp(1.96 * 0.1) - 1, rel=1e-4)
    assert (effect.base_value, effect.new_value) == (0.015, 0.025)


@pytest.mark.parametrize("difference", [0.0, 0.02])
def test_what_never_varied_is_decided_without_a_division_by_zero(difference: float) -> None:
    for estimate in (
        tail(difference, 0.0, difference, 0.0),
        shift(difference, 0.0),
        cache(difference, 0.0),
        replace(shift(difference, 0.0), freedom=7.0),
    ):
        effect = decide(estimate, BAR)
        for value in (effect.effect_ratio, effect.ci_low, effect.ci_high, effect.p_value):
            assert value is not None
            assert math.isfinite(value)


def test_a_caches_ratio_is_of_its_misses() -> None:
    # 60 % hit before, 50 % now: 0.1 of all is a quarter more of the misses.
    effect = decide(cache(0.1, 0.01), BAR)
    assert effect.outcome == "regression"
    assert (effect.phase, effect.kind, effect.what) == ("cache", "shift", "encoder cache")
    assert effect.effect_ratio == pytest.approx(0.25)
    assert (effect.base_value, effect.new_value) == (0.6, pytest.approx(0.5))
    assert decide(cache(0.049, 0.001), BAR).outcome == "no_change"
    assert decide(cache(-0.1, 0.01), BAR).outcome == "improvement"


def test_of_unexplained_time_the_ratio_is_of_its_own_without_what_was_added() -> None:
    # 5 ms unexplained beside an offset of 20: a sum 20 % larger is 5 ms more, twice as much.
    estimate = replace(shift(math.log(1.2), 0.01, "unexplained"), offset=20.0, values=(5.0, 10.0))
    assert decide(estimate, BAR).effect_ratio == pytest.approx(1.0)


def test_effects_that_are_beyond_all_bounds_stay_numbers() -> None:
    effect = decide(shift(700.0, 10.0), BAR)
    assert effect.outcome == "regression"
    for value in (effect.effect_ratio, effect.ci_low, effect.ci_high, effect.mde):
        assert value is not None
        assert math.isfinite(value)


def test_requests_needed_are_those_that_leave_an_effect_of_five_percent_visible() -> None:
    estimate = replace(shift(), block_variance=4e-4, run_variance=1e-4)
    # The standard deviation has to be below log 1.05 / (z + z of 80 %), and what the floor leaves: both, so the lower.
    sd = min(math.log(1.05) / (Z + POWER_Z), (math.log(1.05) - math.log(1.02)) / POWER_Z)
    expected = math.ceil(1_000 * 4e-4 / (sd**2 - 1e-4))
    assert needed([(estimate, BAR)], (1, 1)) == (pytest.approx(expected, abs=2), None)
    # With as many, an effect of 5 % is the smallest that is found.
    many = replace(estimate, block_variance=4e-4 * 1_000 / expected)
    assert BAR.least_found(many) == pytest.approx(math.log(1.05), rel=1e-3)


def test_where_noise_from_run_to_run_is_too_much_runs_are_needed() -> None:
    estimate = replace(shift(), block_variance=1e-5, run_variance=9e-4)
    sd = math.log(1.05) / (Z + POWER_Z)
    requests, runs = needed([(estimate, BAR), (shift(), BAR)], (2, 1))
    assert requests is None
    assert runs == math.ceil(2 * 9.1e-4 / sd**2)


def test_the_phase_that_needs_most_decides_how_many_are_needed() -> None:
    few, many = (replace(shift(), block_variance=one, run_variance=1e-5) for one in (1e-5, 4e-4))
    assert needed([(few, BAR), (many, BAR)], (1, 1)) == needed([(many, BAR)], (1, 1))
    assert needed([(few, BAR)], (1, 1))[0] < needed([(many, BAR)], (1, 1))[0]  # type: ignore[operator]


def test_without_estimates_nothing_is_known_to_be_needed() -> None:
    assert needed([], (1, 1)) == (None, None)
