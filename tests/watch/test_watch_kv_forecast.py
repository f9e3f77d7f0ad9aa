"""The forecast of a full KV cache: growth is told in time, noise and the usual up and down are not."""

import json
import math

import numpy as np
import pytest
from watch_fakes import DAY0_NS

from vtprof_analyzer.watch.events import KvSample
from vtprof_analyzer.watch.kv_forecast import (
    LEAST_BUCKETS,
    MOST_INSTANCES,
    WINDOW_BUCKETS,
    Exhaustion,
    ExhaustionOver,
    KvForecast,
    trend,
)

STEP_NS = 10_000_000_000
CAPACITY = 1_000_000.0


def samples(values: np.ndarray, instance: str = "a", first: int = 0) -> list[KvSample]:
    return [
        KvSample(DAY0_NS + (first + at) * STEP_NS, instance, float(value) * CAPACITY, CAPACITY)
        for at, value in enumerate(np.clip(values, 0, 1))
    ]


def hours(count: float) -> np.ndarray:
    """Return times in hours, every 10 s."""
    return np.arange(int(count * 360)) / 360


def fires(told: list[Exhaustion | ExhaustionOver]) -> list[Exhaustion]:
    return [one for one in told if isinstance(one, Exhaustion)]


def test_a_straight_growth_is_forecast_to_the_minute() -> None:
    # 50 % an hour from 40 %, without noise: full after 72 minutes.
    found = fires(KvForecast().add(samples(0.4 + 0.5 * hours(1.1))))
    assert len(found) == 1
    told = found[0]
    full_ns = DAY0_NS + 72 * 60 * 1_000_000_000
    assert told.time_unix_nano / 1e9 + told.seconds == pytest.approx(full_ns / 1e9, abs=60)
    assert told.growth_per_hour_ratio == pytest.approx(0.5, rel=0.01)
    assert told.seconds <= 30 * 60
    assert told.used_ratio > 0.5


def test_the_interval_holds_the_truth_and_lies_about_the_forecast() -> None:
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(40):
        noise = np.zeros(WINDOW_BUCKETS)
        for at in range(1, WINDOW_BUCKETS):
            noise[at] = 0.8 * noise[at - 1] + random.normal(0, 0.01)
        buckets = np.arange(WINDOW_BUCKETS)
        found = trend(buckets, 0.5 + buckets / 360 * 0.5 + noise)
        assert found is not None
        inside += found.growth_low_per_s <= 0.5 / 3600 <= found.growth_high_per_s
    assert inside >= 36  # 95 % of 40 is 38


def test_noise_about_a_level_has_no_trend_even_where_neighbours_are_alike() -> None:
    random = np.random.default_rng(2)
    found = 0
    for _ in range(100):
        noise = np.zeros(WINDOW_BUCKETS)
        for at in range(1, WINDOW_BUCKETS):
            noise[at] = 0.95 * noise[at - 1] + random.normal(0, 0.02)
        told = trend(np.arange(WINDOW_BUCKETS), 0.7 + noise)
        assert told is not None
        found += told.growth_low_per_s > 0
    # 2.5 % are allowed; taken for independent, about a third would seem to grow.
    assert found <= 10


def test_days_of_noise_below_the_limit_tell_nobody() -> None:
    told = 0
    for seed in range(3):
        random = np.random.default_rng(seed)
        values, level = [], 0.0
        for _ in range(24 * 360):
            level = 0.95 * level + random.normal(0, 0.02)
            values.append(0.65 + level)
        told += len(fires(KvForecast().add(samples(np.array(values)))))
    assert told == 0  # in three days, at 65 % with a standard deviation of 6 points


@pytest.mark.parametrize("period_h", [0.5, 1.0, 4.0, 24.0])
def test_a_wave_does_not_go_on_telling(period_h: float) -> None:
    random = np.random.default_rng(3)
    times = hours(max(8.0, 1.5 * period_h))
    values = 0.55 + 0.3 * np.sin(2 * math.pi * times / period_h) + random.normal(0, 0.01, len(times))
    assert len(fires(KvForecast().add(samples(values)))) <= 3


def test_a_sawtooth_does_not_go_on_telling() -> None:
    random = np.random.default_rng(4)
    times = hours(8)
    values = 0.3 + 0.5 * (times / (1 / 3) % 1) + random.normal(0, 0.01, len(times))
    assert len(fires(KvForecast().add(samples(values)))) <= 3


def test_a_leak_is_told_although_the_use_has_waves() -> None:
    random = np.random.default_rng(5)
    times = hours(12)
    values = 0.5 + 0.1 * np.sin(2 * math.pi * times / 0.5) + random.normal(0, 0.01, len(times))
    values = values + np.maximum(times - 11, 0) * 0.6
    full = np.flatnonzero(values >= 1)[0] * STEP_NS + DAY0_NS
    found = fires(KvForecast().add(samples(values)))
    assert found and found[-1].time_unix_nano > DAY0_NS + 11 * 360 * STEP_NS
    assert found[-1].time_unix_nano < full


def test_little_use_is_never_forecast_and_slow_growth_waits() -> None:
    assert not KvForecast().add(samples(0.05 + 0.7 * hours(0.6)))  # ends at 47 %
    assert not KvForecast().add(samples(0.5 + 0.02 * hours(5)))  # 20 hours to go


def test_a_full_cache_is_told_without_a_trend() -> None:
    found = fires(KvForecast().add(samples(np.r_[np.full(200, 0.3), np.full(40, 1.0)])))
    assert len(found) == 1 and found[0].seconds == 0


def test_an_alert_ends_once_when_the_use_has_fallen_and_not_while_it_stays_full() -> None:
    up = np.r_[0.4 + 0.5 * hours(1.2), np.ones(360)]
    forecast = KvForecast()
    told = forecast.add(samples(up))
    assert [type(one) for one in told] == [Exhaustion]
    told = forecast.add(samples(np.full(360, 0.4), first=len(up)))
    assert [type(one) for one in told] == [ExhaustionOver]
    assert [one.why for one in told if isinstance(one, ExhaustionOver)] == ["recovered"]


def test_an_instance_that_has_gone_ends_its_alert() -> None:
    forecast = KvForecast()
    forecast.add(samples(0.4 + 0.5 * hours(1.1)))
    assert forecast.settle(DAY0_NS + 400 * STEP_NS) == []
    (gone,) = forecast.settle(DAY0_NS + 1000 * STEP_NS)
    assert (gone.instance, gone.why) == ("a", "no_longer_judged")
    assert forecast.instances == ()


def test_samples_without_capacity_or_with_wrong_values_are_counted() -> None:
    forecast = KvForecast()
    wrong = [(5.0, math.nan), (5.0, 0.0), (-1.0, 10.0), (math.nan, 10.0), (5.0, math.inf)]
    forecast.add([KvSample(DAY0_NS, "a", used, capacity) for used, capacity in wrong])
    assert forecast.unusable == len(wrong)
    assert forecast.instances == ()


def test_instances_are_bounded_and_the_one_that_was_silent_gives_way() -> None:
    forecast = KvForecast()
    forecast.add([KvSample(DAY0_NS + at * STEP_NS, f"i{at}", 1.0, 10.0) for at in range(MOST_INSTANCES + 3)])
    names = {one.name for one in forecast.instances}
    assert len(names) == MOST_INSTANCES and "i2" not in names and "i3" in names


def test_each_instance_is_told_of_by_its_name() -> None:
    quiet, rising = np.full(396, 0.6), 0.4 + 0.5 * hours(1.1)
    both = sorted([*samples(quiet, "quiet"), *samples(rising, "rising")], key=lambda one: one.time_ns)
    assert [one.instance for one in KvForecast().add(both)] == ["rising"]


def test_a_restart_goes_on_as_if_there_was_none() -> None:
    values = np.r_[0.4 + 0.5 * hours(1.1), np.full(300, 0.3)]
    whole = KvForecast().add(samples(values))
    before, after = KvForecast(), KvForecast()
    told = before.add(samples(values[:200]))
    after.restore(json.loads(json.dumps(before.state())))
    told += after.add(samples(values[200:], first=200))
    assert told == whole and len(whole) == 2


@pytest.mark.parametrize("buckets", [[[1, 2.0]], [[2, 0.5], [1, 0.5]], [[1]], 7, [["x", "y"]]])
def test_a_damaged_state_is_refused(buckets: object) -> None:
    forecast = KvForecast()
    forecast.add(samples(np.full(5, 0.5)))
    state = forecast.state()
    state["instances"]["a"]["buckets"] = buckets
    with pytest.raises((ValueError, TypeError)):
        KvForecast().restore(state)


def test_too_short_a_time_has_no_trend() -> None:
    assert trend(np.arange(LEAST_BUCKETS - 1), np.linspace(0.5, 0.9, LEAST_BUCKETS - 1)) is None
