"""Metrics of the sources: their identities, their units and what is undefined (F33 to F46, S172 to S182)."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_analyzer.cost import metrics
from vtprof_schemas.errors import ConfigError

NAN = math.nan


def test_ttft_runs_from_arrival_s172() -> None:
    # Arrival, queue 0.5 s, encode 0.2 s, prefill 0.3 s: the first token comes after all of them.
    assert metrics.ttft(10.0, 10.0 + 0.5 + 0.2 + 0.3) == pytest.approx(1.0)


def test_tpot_has_one_interval_less_than_tokens_s173() -> None:
    assert metrics.tpot(1.0, 3.0, 5) == pytest.approx(0.5)
    assert metrics.tpot(1.0, 1.0, 1) is None
    assert metrics.tpot(1.0, 1.0, 0) is None


def test_percentiles_show_the_stall_that_the_mean_hides_s173() -> None:
    times = [0.0, 0.1, 0.2, 0.3, 1.3]
    assert metrics.tpot(times[0], times[-1], len(times)) == pytest.approx(0.325)
    # Gaps 0.1, 0.1, 0.1, 1.0: the median is 0.1; the 95th lies 0.85 between the third and the fourth.
    found = metrics.inter_token_percentiles(times, (50.0, 95.0))
    assert found == pytest.approx({50.0: 0.1, 95.0: 0.1 + 0.85 * 0.9})
    assert metrics.inter_token_percentiles([1.0]) is None
    assert metrics.inter_token_percentiles([]) is None


def test_attainment_of_four_in_five_s174() -> None:
    met = metrics.meets_slo([0.1, 0.2, 0.3, 0.5, 0.6], ttft_limit=0.5)
    assert metrics.slo_attainment(met) == pytest.approx(0.8)


def test_a_joint_slo_asks_for_both_and_failed_requests_stay_s174() -> None:
    first = [0.1, 0.9, 0.1, NAN, 0.2]
    each = [0.02, 0.02, 0.09, NAN, NAN]  # the fourth failed, the fifth ended after one token
    met = metrics.meets_slo(first, each, ttft_limit=0.5, tpot_limit=0.05)
    assert met.tolist() == [True, False, False, False, True]
    assert metrics.slo_attainment(met) == pytest.approx(2 / 5)
    assert metrics.slo_attainment([]) is None
    with pytest.raises(ConfigError, match="TPOT"):
        metrics.meets_slo(first, tpot_limit=0.05)


@given(st.lists(st.booleans(), min_size=1, max_size=50), st.floats(0.001, 1e6))
def test_goodput_is_attainment_times_requests_over_time_s175(met: list[bool], duration: float) -> None:
    share = metrics.slo_attainment(met)
    assert share is not None
    assert metrics.goodput(met, duration) == pytest.approx(share * len(met) / duration)


@pytest.mark.parametrize("duration", [0.0, -1.0, NAN])
def test_goodput_over_no_time_is_refused(duration: float) -> None:
    with pytest.raises(ConfigError, match="duration"):
        metrics.goodput([True], duration)


def test_cost_per_successful_request_is_per_node_s176() -> None:
    # Two nodes of 10 USD an hour make 2 good requests a second together: 20 USD for 7200 requests.
    assert metrics.cost_per_successful_request(10.0, 2.0, 3600.0, nodes=2) == pytest.approx(20 / 7200)
    one = metrics.cost_per_successful_request(10.0, 1.0, 3600.0)
    assert metrics.cost_per_successful_request(10.0, 2.0, 3600.0, nodes=2) == pytest.approx(one)
    assert metrics.cost_per_successful_request(10.0, 0.0, 3600.0) == math.inf
    with pytest.raises(ConfigError):
        metrics.cost_per_successful_request(10.0, 1.0, 3600.0, nodes=0)


def test_scalability_efficiency_s177() -> None:
    assert metrics.scalability_efficiency(0.9, 0.9) == pytest.approx(1.0)
    assert metrics.scalability_efficiency(0.6, 0.8) == pytest.approx(0.75)
    assert metrics.scalability_efficiency(0.5, 0.0) is None
    assert metrics.goodput_scaling(7.0, 2.0, 4.0) == pytest.approx(0.875)
    assert metrics.goodput_scaling(7.0, 0.0, 4.0) is None


def test_three_hundred_watts_at_a_hundred_tokens_a_second_are_three_joules_s178() -> None:
    times = np.linspace(0.0, 10.0, 101)
    joules = metrics.energy_joules(times, np.full(101, 300.0))
    assert joules == pytest.approx(3000.0)
    assert metrics.energy_per_token(joules, 1000) == pytest.approx(3.0)
    assert metrics.energy_per_token(joules, 0) is None
    assert metrics.energy_per_token(None, 10) is None


def test_energy_integrates_trapezoids_in_time_order_s178() -> None:
    # 100 to 300 W over 2 s are 400 J; then 300 W for 1 s; an unknown sample between them does not count.
    assert metrics.energy_joules([3.0, 0.0, 2.5, 2.0], [300.0, 100.0, NAN, 300.0]) == pytest.approx(700.0)
    assert metrics.energy_joules([1.0], [300.0]) is None
    with pytest.raises(ConfigError, match="one each"):
        metrics.energy_joules([1.0, 2.0], [300.0])


def test_a_batch_shares_the_rated_power_and_devices_add_to_it_s178() -> None:
    one = metrics.energy_per_token_bound(700.0, 0.02)
    assert one == pytest.approx(14.0)
    assert metrics.energy_per_token_bound(700.0, 0.02, batch=7) == pytest.approx(2.0)
    assert metrics.energy_per_token_bound(700.0, 0.02, devices=4) == pytest.approx(56.0)
    with pytest.raises(ConfigError):
        metrics.energy_per_token_bound(700.0, 0.02, batch=0)


def test_dominance_names_its_denominator_s179() -> None:
    # 40,000 visual tokens of 327,680 B beside 145.4 GB of weights: 13.1 of 158.5 GB, while the prompt is visual.
    kv = 40_000 * 327_680.0
    decode = metrics.visual_share("decode_bytes", kv, kv + 145.4e9)
    prompt = metrics.visual_share("prompt_tokens", 40_000, 40_050)
    assert decode is not None
    assert prompt is not None
    assert decode.share == pytest.approx(0.0827, abs=0.0005)
    assert (decode.of, decode.dominant) == ("decode_bytes", False)
    assert (prompt.of, prompt.dominant) == ("prompt_tokens", True)
    assert metrics.visual_share("kv_bytes", 0.0, 0.0) is None


def test_the_memory_wall_is_claimed_only_where_kv_outweighs_weights_s180() -> None:
    kv = 40_000 * 327_680.0
    assert metrics.repeated_visual_kv_bytes(kv, 128) == kv * 128
    assert not metrics.is_visual_memory_wall(kv, 145.4e9)
    assert not metrics.is_visual_memory_wall(kv, 145.4e9, batch=11)
    assert metrics.is_visual_memory_wall(kv, 145.4e9, batch=12)


@pytest.mark.parametrize(
    ("alpha", "beta", "where"),
    [(0.4, 0.1, "fewest tokens"), (0.1, 0.4, "most tokens"), (0.2, 0.2, "any split")],
)
def test_direction_of_the_scaling_law_follows_the_exponents_s181(
    alpha: float, beta: float, where: str
) -> None:
    law = metrics.ScalingLaw(5.0, alpha, beta, 0.1)
    assert law.optimum() == where
    budget = 1e12
    few, many = (law.error(budget / tokens, tokens) for tokens in (1.0, 576.0))
    assert np.sign(many - few) == np.sign(alpha - beta)
    # An error: it falls with parameters and with tokens, and diverges without any.
    assert law.error(2e9, 100.0) < law.error(1e9, 100.0)
    assert law.error(1e9, 200.0) < law.error(1e9, 100.0)
    assert law.error(1e9, 0.0) == math.inf


def test_a_budget_line_is_parameters_times_tokens_f45() -> None:
    assert metrics.budget_cost(7e9, 50, 576) / metrics.budget_cost(7e9, 50, 1) == pytest.approx(626 / 51)


def test_budget_retention_counts_bytes_and_not_entries_f41() -> None:
    kept = metrics.budget_retention(0.40, 1.73, 42.08, 58.94)
    assert kept.memory_ratio == pytest.approx(0.2312, abs=1e-4)
    assert kept.speedup == pytest.approx(1.4007, abs=1e-4)
    assert kept.latency_cut == pytest.approx(1 - 42.08 / 58.94)
    with pytest.raises(ConfigError, match="latency"):
        metrics.budget_retention(0.4, 1.73, 0.0, 1.0)


def test_retention_of_two_runs_with_scores_s182() -> None:
    assert metrics.quality_retention([29.5 / 31.27, 1.87 / 1.93]) == pytest.approx(0.956, abs=0.0006)
    with pytest.raises(ConfigError, match="no measure"):
        metrics.quality_retention([NAN])


@given(st.floats(0.1, 20), st.floats(0.1, 20))
def test_cycle_cost_and_speedup_undo_each_other_f43(accepted: float, speedup: float) -> None:
    cycle = metrics.speculative_cycle_cost(accepted, speedup)
    assert metrics.speculative_speedup(accepted, cycle) == pytest.approx(speedup)
    # A cycle is a target step and ten drafts.
    assert 1 + 10 * metrics.draft_step_cost(cycle, 10) == pytest.approx(cycle)


def test_a_line_through_latencies_f24() -> None:
    slope, intercept = metrics.linear_fit([1, 2, 3], [2.5, 4.5, 6.5])
    assert (slope, intercept) == (pytest.approx(2.0), pytest.approx(0.5))
    with pytest.raises(ConfigError, match="two points"):
        metrics.linear_fit([1, 1], [1, 2])


def test_quantised_caches_shrink_by_bits_at_most() -> None:
    assert metrics.compression_ratio(16, 2) == 8
    with pytest.raises(ConfigError, match="stored bits"):
        metrics.compression_ratio(16, 0)
