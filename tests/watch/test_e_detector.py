"""The sequential detectors: how long they run without a change, how soon they find one, and what they say of it."""

import json
import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from vtprof_analyzer.regress.base_model import Noise
from vtprof_analyzer.regress.requests import Floats
from vtprof_analyzer.watch.blocks import Tail
from vtprof_analyzer.watch.e_detector import Found, MeanDetector, ShareDetector, Spread
from vtprof_analyzer.watch.two_way import ShiftWatch, TailWatch, Thresholds

SD = 0.03
RUN_SD = 0.0075
ALLOWANCE = math.log(1.02)
RUN_LENGTH = 300.0


def spread(lag1: float = 0.0) -> Spread:
    return Spread(block_sd=SD, lag1=lag1, offset_sd=math.sqrt(2) * RUN_SD, blocks=60)


def detector(
    run_length: float = RUN_LENGTH, lag1: float = 0.0, head_start_ratio: float = 0.002
) -> MeanDetector:
    return MeanDetector(spread(lag1), ALLOWANCE, math.log(run_length), head_start_ratio * run_length)


def run(one: MeanDetector, values: Iterable[float]) -> tuple[int, Found | None]:
    """Return how many blocks it took, and what was found."""
    count = 0
    for value in values:
        count += 1
        if found := one.add(float(value)):
            return count, found
    return count, None


def normal(rng: np.random.Generator, count: int) -> Floats:
    return rng.standard_normal(count)


def heavy_tails(rng: np.random.Generator, count: int) -> Floats:
    return rng.standard_t(4, count) / math.sqrt(2)  # its variance is 4 / (4 - 2)


LAG1 = 0.8


def autocorrelated(rng: np.random.Generator, count: int) -> Floats:
    noise, value = rng.standard_normal(count), float(rng.standard_normal())
    found = np.empty(count)
    for place in range(count):
        found[place] = value = LAG1 * value + math.sqrt(1 - LAG1**2) * noise[place]
    return found


NOISES = [(normal, 0.0), (heavy_tails, 0.0), (autocorrelated, LAG1)]


@pytest.mark.parametrize(("noise", "lag1"), NOISES)
@pytest.mark.parametrize("offset", [0.0, RUN_SD])
def test_without_a_change_it_runs_as_long_as_stated_or_longer(
    noise: Callable[[np.random.Generator, int], Floats], lag1: float, offset: float
) -> None:
    rng = np.random.default_rng(7)
    # Longer runs count as four times the length, which can only make the mean too small.
    lengths = [run(detector(lag1=lag1), SD * noise(rng, int(4 * RUN_LENGTH)) + offset)[0] for _ in range(30)]
    assert np.mean(lengths) >= RUN_LENGTH


def test_false_alarms_at_the_begin_are_as_rare_as_the_head_start_says() -> None:
    rng = np.random.default_rng(8)
    # Each of 400 runs differs from BASE as runs do, and is followed for 10 blocks: at most (0.002 + 10 / 300) x 400 alarms
    # in the mean, by Markov's inequality on M(10).
    offsets = rng.normal(0, math.sqrt(2) * RUN_SD, 400)
    alarms = sum(run(detector(), SD * normal(rng, 10) + offset)[1] is not None for offset in offsets)
    assert alarms <= 14


@pytest.mark.parametrize("shift", [RUN_SD, 0.019])
def test_what_runs_differ_by_and_less_than_the_least_effect_never_adds_up(shift: float) -> None:
    values = [shift] * 5000
    assert run(detector(2e5), values) == (5000, None)
    assert run(detector(2e5), [0.0] * 100 + values) == (5100, None)


def test_a_change_is_found_when_its_evidence_is_enough_and_not_before() -> None:
    one = detector(2e5)
    # Without noise, after 1,000 blocks of 0 the mean is known; a shift of 8 % has (log 1.08 - log 1.02)^2 / 2 sd^2 a block.
    blocks, found = run(one, [0.0] * 1000 + [math.log(1.08)] * 200)
    sd = spread().long_run_sd
    needed = math.log(2e5) / ((math.log(1.08) - ALLOWANCE) ** 2 / (2 * sd**2))
    assert found is not None
    assert found.began == 1000
    assert found.blocks == blocks - 1000
    # A mixture of sizes costs log 8 at most, what is not known of the mean another tenth, and a sum of candidates gains.
    assert 0.5 * needed <= found.blocks <= 1.1 * (needed + math.log(8) / math.log(2e5) * needed) + 1
    assert found.effect == pytest.approx(math.log(1.08), abs=1e-9)


@pytest.mark.parametrize(("change", "most_blocks"), [(0.08, 40), (0.05, 250)])
def test_a_change_amid_noise_is_found_in_most_streams(change: float, most_blocks: int) -> None:
    rng = np.random.default_rng(9)
    delays, effects = [], []
    for _ in range(20):
        values = SD * normal(rng, 500) + rng.normal(0, RUN_SD)
        values[100:] += math.log1p(change)
        blocks, found = run(detector(2e5), values)
        delays.append(blocks - 100)
        if found:
            effects.append(math.expm1(found.effect))
    assert min(delays) > 0
    assert np.mean(np.array(delays) <= most_blocks) >= 0.8
    # The estimate is of the blocks since: it lies too high where luck helped, but not by much.
    assert 0.9 * change <= np.median(effects) <= 1.6 * change


def test_a_change_before_the_first_block_is_found() -> None:
    rng = np.random.default_rng(10)
    delays = [
        run(detector(2e5), SD * normal(rng, 300) + rng.normal(0, RUN_SD) + math.log1p(0.08))[0]
        for _ in range(20)
    ]
    assert np.mean(np.array(delays) <= 40) >= 0.8


def test_a_slow_change_is_found_although_the_mean_is_learned() -> None:
    # In the thousand blocks that the mean is learned from it moves by less than what is allowed; but no run lies so far off.
    values = [-0.02] * 500 + np.linspace(-0.02, math.log(1.2), 15_000).tolist()
    blocks, found = run(detector(2e5), values)
    assert found is not None
    assert values[blocks - 1] > ALLOWANCE


def test_a_single_block_far_out_is_no_change() -> None:
    values = [0.0] * 50
    values[30] = 5.0
    assert run(detector(2e5), values)[1] is None


def test_a_stream_that_is_less_steady_than_base_is_not_taken_for_changed() -> None:
    rng = np.random.default_rng(11)
    lengths = [run(detector(), 1.7 * SD * normal(rng, int(4 * RUN_LENGTH)))[0] for _ in range(30)]
    assert np.mean(lengths) >= RUN_LENGTH


def test_it_goes_on_from_its_state_as_if_nothing_was() -> None:
    rng = np.random.default_rng(12)
    values = SD * normal(rng, 260)
    values[200:] += 0.1
    whole, first = detector(2e5), detector(2e5)
    statistics = []
    for value in values[:210]:
        whole.add(value)
        first.add(value)
    second = detector(2e5)
    second.restore(json.loads(json.dumps(first.state())))
    for value in values[210:230]:
        statistics.append((whole.add(value), second.add(value)))
        assert whole.statistic == second.statistic
    assert all(one == other for one, other in statistics)
    assert whole.state() == second.state()


def shares(rng: np.random.Generator, share: float, blocks: int) -> list[int]:
    return rng.binomial(60, share, blocks).tolist()


def first_alarm(one: ShareDetector, counts: Iterable[int]) -> tuple[int, Found | None]:
    number = 0
    for count in counts:
        number += 1
        if found := one.add(count, 60):
            return number, found
    return number, None


def test_a_share_within_what_is_allowed_runs_as_long_as_stated() -> None:
    rng = np.random.default_rng(13)
    lengths = [
        first_alarm(ShareDetector(0.02, 1.0, math.log(RUN_LENGTH)), shares(rng, 0.02, 1200))[0]
        for _ in range(30)
    ]
    assert np.mean(lengths) >= RUN_LENGTH


def test_a_share_that_rose_is_found_with_its_size_and_begin() -> None:
    rng = np.random.default_rng(14)
    number, found = first_alarm(
        ShareDetector(0.01, 1.0, math.log(1e6)), [*shares(rng, 0.005, 200), *shares(rng, 0.03, 200)]
    )
    assert found is not None
    # Evidence of 0.03 against 0.01: 60 x (0.03 log 3 + 0.97 log(0.97 / 0.99)) = 0.79 a block; log 1e6 = 13.8.
    assert 200 < number <= 240
    assert 190 <= found.began <= 206
    assert found.effect == pytest.approx(0.03, abs=0.015)


NOISE = Noise(block_sd=SD, lag1=0.0, run_sd=RUN_SD, blocks=60)
LIMITS = Thresholds.of(6, 2e5, 0.02, tails=True)


def test_thresholds_share_the_run_length_over_all_phases_and_kinds() -> None:
    shares_of = [6 * math.exp(-LIMITS.shift), 6 * math.exp(-LIMITS.tail)]
    # M(n) / c adds up: its mean after n blocks is at most n / 2e5, what it began with included.
    assert sum(shares_of) == pytest.approx((1 - 0.002) / 2e5)
    assert LIMITS.head_start * sum(shares_of) == pytest.approx(0.002)
    with pytest.raises(ValueError, match="run length"):
        Thresholds.of(6, 0.5, 0.02, tails=True)


def test_an_alarm_is_told_once_and_its_end_once() -> None:
    watch = ShiftWatch("prefill", NOISE, LIMITS)
    rng = np.random.default_rng(15)
    values = SD * normal(rng, 1500)
    values[300:900] += 0.2
    turns, levels = [], []
    for place, value in enumerate(values):
        if turn := watch.add(float(value)):
            turns.append((place, turn))
            levels.append(watch.level[0])
    # What was found is not held against what comes after its end.
    assert levels[0] >= LIMITS.shift
    assert levels[1] == -math.inf
    assert [turn.raised for _, turn in turns] == [True, False]
    (raised, rise), (over, fall) = turns
    assert 300 <= raised <= 330
    assert 900 <= over <= 930
    assert abs(raised + 1 - rise.found.blocks - 300) <= 5
    assert abs(over + 1 - fall.found.blocks - 900) <= 5
    assert watch.effect is None


def test_an_alarm_goes_on_while_more_than_half_of_it_is_left() -> None:
    watch = ShiftWatch("prefill", NOISE, LIMITS)
    values = [0.0] * 300 + [0.2] * 50 + [0.13] * 2000
    turns = [turn for value in values if (turn := watch.add(value))]
    assert [turn.raised for turn in turns] == [True]


@pytest.mark.parametrize("change", [0.08, 0.26, 1.0])
def test_a_change_that_lasts_is_never_told_over(change: float) -> None:
    watch = ShiftWatch("encode", NOISE, LIMITS)
    values = change + SD * normal(np.random.default_rng(16), 1500)
    turns = [turn for value in values if (turn := watch.add(float(value)))]
    assert [turn.raised for turn in turns] == [True]


def test_a_tail_is_told_and_its_end() -> None:
    limit = (np.zeros(1), np.array([math.log(2)]))
    watch = TailWatch(Tail(limit, 0.005, 1.0), LIMITS)
    rng = np.random.default_rng(16)
    counts = [*shares(rng, 0.005, 200), *shares(rng, 0.04, 200), *shares(rng, 0.005, 400)]
    turns = [(place, turn) for place, count in enumerate(counts) if (turn := watch.add(count, 60))]
    assert [turn.raised for _, turn in turns] == [True, False]
    assert 200 <= turns[0][0] <= 260
    assert turns[1][0] >= 400
    state = json.loads(json.dumps(watch.state()))
    other = TailWatch(Tail(limit, 0.005, 1.0), LIMITS)
    other.restore(state)
    assert other.state() == watch.state()
