"""Burn-rate alerts: the workbook's rules on counts that can be added up by hand, with bounded memory, over restarts."""

import json

import numpy as np
import pytest
from watch_fakes import DAY0_NS, MINUTE_NS, requests_at

from vtprof_analyzer.regress.requests import no_requests
from vtprof_analyzer.watch.slo import ENDS_AFTER_MINUTES, Burn, BurnOver, Objective
from vtprof_analyzer.watch.wording import Labels, slo_burn


def steady(
    minutes: int, a_minute: int, bad_a_minute: int, from_minute: int = 0
) -> tuple[list[int], list[float]]:
    """Return starts and TTFTs: so many requests each minute, so many of them over 1 s."""
    starts, ttfts = [], []
    for minute in range(from_minute, from_minute + minutes):
        for number in range(a_minute):
            starts.append(DAY0_NS + minute * MINUTE_NS + number * 1_000_000)
            ttfts.append(2000.0 if number < bad_a_minute else 100.0)
    return starts, ttfts


def fed(objective: Objective, *parts: tuple[list[int], list[float]], until: int) -> list[Burn | BurnOver]:
    starts = [start for part in parts for start in part[0]]
    ttfts = [ttft for part in parts for ttft in part[1]]
    return objective.add(requests_at(starts, ttfts), DAY0_NS + until * MINUTE_NS)


def test_the_burn_rate_is_the_bad_share_over_the_allowed_share() -> None:
    objective = Objective("ttft", 1000.0, 0.99)
    assert fed(objective, steady(60, 50, 1), until=60) == []  # less than 6 times; a ticket needs six hours
    rates = objective.burn_rates()
    assert rates == pytest.approx({"5m": 2.0, "30m": 2.0, "1h": 2.0, "6h": 2.0, "3d": 2.0})  # 2 % over 1 %
    # Of 30 days an hour was seen: 2 x 60 / 43,200.
    assert objective.budget_left() == pytest.approx(1 - 2.0 * 60 / 43_200)


def test_a_quarter_of_an_hour_of_an_outage_spends_what_the_sentence_says() -> None:
    told = fed(Objective("ttft", 1000.0, 0.99), steady(15, 100, 68), until=15)
    burn = next(one for one in told if isinstance(one, Burn))
    assert burn.burn_seen == pytest.approx(68.0)
    left = 1 - 68 * burn.seen_minutes / 43_200
    assert burn.budget_left_ratio == pytest.approx(left)
    alert = slo_burn(Labels("chat", {}), burn)
    assert f"burned at 68: x {burn.seen_minutes} min / 43,200 min of 30 days" in alert.description
    assert "overspent" not in alert.description
    whole = Objective("ttft", 1000.0, 0.99)
    fed(whole, steady(31 * 1440, 1, 0), steady(1, 1, 1, 31 * 1440), until=31 * 1440 + 1)
    # Of 30 days all was seen: no more than those count.
    assert whole.budget_left() == pytest.approx(1 - 1 / 43_200 / 0.01, rel=0.01)


def test_the_fast_rule_fires_at_14_4_times_and_names_both_windows() -> None:
    objective = Objective("ttft", 1000.0, 0.99)
    # An hour of 100 requests a minute without a slow one, then 20 of 100 slow.
    told = fed(objective, steady(60, 100, 0), steady(60, 100, 20, 60), until=120)
    first = next(one for one in told if isinstance(one, Burn) and one.severity == "critical")
    # n minutes of 20 slow ones in the hour: 20 n / 6000 >= 14.4 % needs n = 43.2, that is the 44th; the 6 x rule over what
    # was seen in 6 h: 20 n / (6000 + 100 n) >= 6 % needs n = 25.7, the 26th, and comes first.
    assert first.time_unix_nano == DAY0_NS + (60 + 26) * MINUTE_NS
    assert first.rule.burn_rate == 6.0
    assert first.burn_long == pytest.approx(20 * 26 / 8600 / 0.01)
    assert first.burn_short == pytest.approx(20 * 26 / 3000 / 0.01)
    assert first.bad_requests == 520


def test_a_sudden_outage_is_told_by_the_one_hour_rule_within_minutes() -> None:
    objective = Objective("ttft", 1000.0, 0.99)
    told = fed(objective, steady(360, 100, 0), steady(30, 100, 100, 360), until=390)
    first = next(one for one in told if isinstance(one, Burn) and one.severity == "critical")
    # 100 n / 6000 >= 14.4 % at n = 8.64.
    assert first.time_unix_nano == DAY0_NS + (360 + 9) * MINUTE_NS
    assert first.rule.burn_rate == 14.4


def test_exactly_the_limit_fires_and_just_below_does_not() -> None:
    for bad, fires in ((144, True), (143, False)):
        objective = Objective("ttft", 1000.0, 0.99)
        told = fed(objective, steady(60, 1000, bad), until=60)
        fast = [one for one in told if isinstance(one, Burn) and one.rule.burn_rate == 14.4]
        assert bool(fast) == fires, bad


def test_one_slow_request_of_three_at_night_tells_nobody() -> None:
    objective = Objective("ttft", 1000.0, 0.99)
    assert fed(objective, steady(60, 1, 0), steady(3, 1, 1, 60), until=70) == []
    # Nor do nine of nine; ten do.
    assert fed(Objective("ttft", 1000.0, 0.99), steady(9, 1, 1), until=9) == []
    assert fed(Objective("ttft", 1000.0, 0.99), steady(10, 1, 1), until=10) != []


def test_it_ends_once_when_the_short_windows_are_calm_for_five_minutes() -> None:
    objective = Objective("ttft", 1000.0, 0.99)
    told = fed(objective, steady(60, 100, 100), steady(120, 100, 0, 60), until=180)
    critical = [one for one in told if one.severity == "critical"]
    assert [type(one) for one in critical] == [Burn, BurnOver]
    # In the 30 minutes before minute m after the trouble are 30 - m slow ones: 6 % until m = 28.2.
    assert critical[1].time_unix_nano == DAY0_NS + (60 + 28 + ENDS_AFTER_MINUTES) * MINUTE_NS


def test_it_ends_when_nothing_arrives_any_more() -> None:
    objective = Objective("ttft", 1000.0, 0.99)
    fed(objective, steady(60, 100, 100), until=60)
    told = objective.add(no_requests(), DAY0_NS + 200 * MINUTE_NS)
    assert [(type(one), one.severity) for one in told] == [(BurnOver, "critical")]


def test_batches_of_any_size_tell_the_same() -> None:
    parts = (steady(200, 20, 0), steady(50, 20, 9, 200), steady(3000, 20, 0, 250), steady(400, 20, 3, 3250))
    at_once = fed(Objective("ttft", 1000.0, 0.99), *parts, until=3650)
    starts = np.array([start for part in parts for start in part[0]])
    ttfts = np.array([ttft for part in parts for ttft in part[1]])
    piecewise = Objective("ttft", 1000.0, 0.99)
    told: list[Burn | BurnOver] = []
    for minute in range(0, 3650, 7):
        upto = DAY0_NS + (minute + 7) * MINUTE_NS
        chosen = (starts >= DAY0_NS + minute * MINUTE_NS) & (starts < upto)
        told += piecewise.add(
            requests_at(starts[chosen], ttfts[chosen]), min(upto, DAY0_NS + 3650 * MINUTE_NS)
        )
    assert [(type(one), one.severity, one.time_unix_nano) for one in told] == [
        (type(one), one.severity, one.time_unix_nano) for one in at_once
    ]
    assert len(at_once) >= 4


def test_a_sampled_request_counts_as_often_as_it_stands_for_others() -> None:
    objective = Objective("ttft", 1000.0, 0.99)
    starts = [DAY0_NS + minute * MINUTE_NS for minute in range(60) for _ in range(2)]
    # A slow one that stands for two, beside one of eighteen others.
    table = requests_at(starts, [2000.0, 100.0] * 60, weight=[2.0, 18.0] * 60)
    objective.add(table, DAY0_NS + 60 * MINUTE_NS)
    assert objective.burn_rates()["1h"] == pytest.approx(10.0)  # 2 of 20 over 1 %


def test_time_per_output_token_counts_requests_with_two_tokens_or_more_when_they_end() -> None:
    objective = Objective("tpot", 20.0, 0.99)
    # 100 ms to the first token and 600 further ones of 100 ms: it ends in the next minute.
    table = requests_at([DAY0_NS] * 20, 100.0, tpot_ms=100.0, output_tokens=601)
    objective.add(table, DAY0_NS + MINUTE_NS)
    assert objective.burn_rates().get("5m", 0.0) == 0.0
    objective.add(no_requests(), DAY0_NS + 2 * MINUTE_NS)
    assert objective.burn_rates()["5m"] == pytest.approx(100.0)
    alone = Objective("tpot", 20.0, 0.99)
    alone.add(requests_at([DAY0_NS] * 20, 100.0, tpot_ms=100.0, output_tokens=1), DAY0_NS + 2 * MINUTE_NS)
    assert alone.burn_rates().get("5m", 0.0) == 0.0


def test_an_objective_that_no_burn_rate_can_reach_fires_at_nine_of_ten() -> None:
    for bad, fires in ((89, False), (90, True)):
        objective = Objective("ttft", 1000.0, 0.5)
        told = fed(objective, steady(60, 100, bad), until=60)
        assert any(isinstance(one, Burn) and one.severity == "critical" for one in told) == fires


def test_three_days_of_slightly_too_many_slow_ones_make_a_ticket_and_no_page() -> None:
    objective = Objective("ttft", 1000.0, 0.99)
    told = fed(objective, steady(4 * 1440, 25, 0), steady(2880, 25, 1, 4 * 1440), until=6 * 1440)
    assert [(type(one), one.severity) for one in told] == [(Burn, "warning")]
    # 4 % slow for n minutes of the last 4320: n / 4320 * 4 % >= 1 % at n = 1080.
    assert told[0].time_unix_nano == DAY0_NS + (4 * 1440 + 1080) * MINUTE_NS


def test_memory_is_bounded_and_old_and_future_requests_are_counted_out() -> None:
    objective = Objective("ttft", 1000.0, 0.99)
    fed(objective, steady(1, 5, 0), until=1)
    objective.add(requests_at([DAY0_NS + 10 * 1440 * MINUTE_NS]), DAY0_NS + (10 * 1440 + 1) * MINUTE_NS)
    objective.add(requests_at([DAY0_NS]), DAY0_NS + (10 * 1440 + 2) * MINUTE_NS)
    assert objective.late == 1
    objective.add(requests_at([DAY0_NS + 100 * 1440 * MINUTE_NS]), DAY0_NS + (10 * 1440 + 2) * MINUTE_NS)
    assert objective.late == 2
    assert len(json.dumps(objective.state())) < 2000
    assert objective.budget_left() == 1.0


def test_a_restart_goes_on_as_if_there_was_none() -> None:
    parts = (steady(100, 20, 0), steady(100, 20, 5, 100), steady(300, 20, 0, 200))
    whole = fed(Objective("ttft", 1000.0, 0.99), *parts, until=500)
    before = Objective("ttft", 1000.0, 0.99)
    told = fed(before, parts[0], steady(60, 20, 5, 100), until=160)
    after = Objective("ttft", 1000.0, 0.99)
    assert after.restore(json.loads(json.dumps(before.state())))
    told += fed(after, steady(40, 20, 5, 160), parts[2], until=500)
    assert told == whole


def test_a_state_of_another_objective_is_left_and_a_damaged_one_refused() -> None:
    state = Objective("ttft", 1000.0, 0.99).state()
    assert not Objective("ttft", 500.0, 0.99).restore(state)
    for name, value in (
        ("minutes", [[99999, 1, 1, 1]]),
        ("minutes", [[1, -1, 0, 0]]),
        ("fires", {}),
        ("hours", 3),
    ):
        with pytest.raises((ValueError, KeyError, TypeError)):
            Objective("ttft", 1000.0, 0.99).restore({**state, name: value})
