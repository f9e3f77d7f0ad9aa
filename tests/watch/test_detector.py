"""Requests held against BASE: what is an alarm, what is not, in which order they are judged, and what a restart keeps."""

import json
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from vtprof_analyzer.regress.base_model import Compared, CostModel, Noise
from vtprof_analyzer.regress.requests import Flags, Floats, Requests, joined, no_requests
from vtprof_analyzer.watch.detector import Detector
from vtprof_analyzer.watch.events import FOREVER_NS, Alarm, Event, Over
from vtprof_analyzer.watch.requests_state import packed, unpacked

BEGIN_NS = 1_795_000_000_000_000_000
SECOND_NS = 1_000_000_000
PREFILL_MS = 100.0
REQUEST_SD = 0.15
HUGE = 10_000
"""Visual tokens that BASE has nothing like."""
CROWDED = 1_000
"""Visual tokens of requests that meet more load than any of BASE."""


class Base:
    """BASE in which prefill takes 100 ms and encode 50 ms, whatever is asked for."""

    phases = ("encode", "prefill")
    models = ("m", "other")

    def noise_of(self, phase: str, model: str) -> Noise | None:
        return Noise(REQUEST_SD / 60**0.5, 0.0, 0.0075, 100) if model in self.models else None

    def spread(self, phase: str, model: str) -> float:
        return REQUEST_SD

    def hits(self, requests: Requests) -> Flags:
        return np.zeros(len(requests), np.bool_)

    def part(self, phase: str, model: str) -> float:
        return 1.0

    def residuals(self, requests: Requests) -> dict[str, Floats]:
        return {phase: one.residual for phase, one in self.compared(requests).items()}

    def compared(self, requests: Requests) -> dict[str, Compared]:
        unlike = requests.visual_tokens >= HUGE
        found = {"encode": requests.encode_ms / 50, "prefill": requests.prefill_ms / PREFILL_MS}
        with np.errstate(divide="ignore"):
            return {
                phase: Compared(np.where(unlike, np.nan, np.log(value)), requests.visual_tokens == CROWDED)
                for phase, value in found.items()
            }


def requests(
    count: int,
    seed: int = 1,
    first: int = 0,
    prefill: float = 1.0,
    visual: float = 0.0,
    model: str = "m",
    every_ms: float = 100.0,
) -> Requests:
    """Return requests that begin 100 ms after each other, the ``first``-th of a stream first."""
    rng = np.random.default_rng([seed, first])
    noise = np.exp(REQUEST_SD * rng.standard_normal((2, count)))
    unknown = np.full(count, np.nan)
    number = np.arange(first, first + count)
    return Requests(
        ids=np.array([f"r{one}" for one in number]),
        start_ns=BEGIN_NS + (number * every_ms * 1e6).astype(np.int64),
        model=np.zeros(count, np.int64),
        models=(model,),
        text_tokens=np.full(count, 50.0),
        visual_tokens=np.full(count, visual),
        audio_tokens=np.ones(count),  # what is encoded: visual tokens stand for other things here
        output_tokens=np.full(count, 1.0),
        cached_tokens=unknown,
        images=np.zeros(count),
        encoder_hit=unknown,
        in_flight=unknown,
        preprocess_ms=unknown,
        queue_ms=unknown,
        encode_ms=50 * noise[0],
        transfer_ms=unknown,
        prefill_ms=PREFILL_MS * prefill * noise[1],
        unexplained_ms=unknown,
        ttft_ms=50 * noise[0] + PREFILL_MS * prefill * noise[1],
        tpot_ms=unknown,
        kv_bytes=unknown,
        weight=np.ones(count),
    )


def detector(runs: Sequence[Requests] = (), length: float = 2e5) -> Detector:
    return Detector(cast("CostModel", Base()), length, runs)


def stream(*parts: tuple[int, float], seed: int = 1) -> Requests:
    """Return requests in parts of so many, each with its factor on prefill."""
    made, first = [], 0
    for count, factor in parts:
        made.append(requests(count, seed, first, factor))
        first += count
    return joined(made)


def number_at(time_ns: int) -> int:
    return round((time_ns - BEGIN_NS) / SECOND_NS * 10)


def test_a_slower_phase_is_told_with_its_size_begin_and_requests() -> None:
    (alarm,) = detector().add(stream((6000, 1.0), (6000, 1.08)), FOREVER_NS)
    assert isinstance(alarm, Alarm)
    assert (alarm.phase, alarm.kind, alarm.model) == ("prefill", "shift", "m")
    assert 6000 < number_at(alarm.time_unix_nano) < 7200
    assert abs(number_at(alarm.began_unix_nano) - 6000) <= 180
    assert alarm.ci_low < alarm.effect_ratio < alarm.ci_high
    assert alarm.effect_ratio == pytest.approx(0.08, abs=0.04)
    # The newest request seen is the last of a block of 60.
    assert (number_at(alarm.time_unix_nano) + 1) % 60 == 0
    assert all(6000 - 180 <= int(one[1:]) <= number_at(alarm.time_unix_nano) for one in alarm.evidence)
    assert 1 <= len(alarm.evidence) <= 5
    assert alarm.statistic >= alarm.threshold


def test_without_a_change_nothing_is_told() -> None:
    for seed in range(5):
        one = detector()
        assert one.add(stream((12_000, 1.0), seed=seed), FOREVER_NS) == []
        assert one.counts["judged"] == 12_000
        assert one.counts["blocks"] == 400  # of two phases


def test_the_end_of_a_regression_is_told() -> None:
    events = detector().add(stream((3000, 1.0), (3000, 1.15), (3000, 1.0)), FOREVER_NS)
    assert [type(one) for one in events] == [Alarm, Over]
    over = events[1]
    assert isinstance(over, Over)
    assert (over.phase, over.kind, over.model) == ("prefill", "shift", "m")
    assert abs(number_at(over.ended_unix_nano) - 6000) <= 180
    assert over.ended_unix_nano < over.time_unix_nano


def test_requests_unlike_base_are_counted_and_not_judged() -> None:
    one = detector()
    # Three times as slow: were they judged, this would be an alarm.
    unlike = requests(3000, prefill=3.0, visual=HUGE)
    assert one.add(unlike, FOREVER_NS) == []
    assert one.counts["not comparable"] == 3000
    assert one.counts["blocks not comparable"] == 100
    assert one.counts["blocks"] == 0


def test_a_block_of_which_less_than_half_is_unlike_is_judged_by_the_others() -> None:
    one = detector()
    unlike = np.arange(6000) % 3 == 0
    mixed = joined([requests(6000).select(~unlike), requests(6000, prefill=3.0, visual=HUGE).select(unlike)])
    assert one.add(mixed, FOREVER_NS) == []
    assert one.counts["not comparable"] == 2000
    assert (one.counts["blocks"], one.counts["blocks not comparable"]) == (2 * (4000 // 60), 0)


def test_models_are_judged_apart() -> None:
    slow = requests(6000, prefill=1.2, model="other")
    events = detector().add(joined([requests(6000), slow]), FOREVER_NS)
    assert {(one.phase, one.model) for one in events} == {("prefill", "other")}


def test_a_model_that_base_has_not_is_counted() -> None:
    one = detector()
    assert one.add(requests(600, prefill=3.0, model="third"), FOREVER_NS) == []
    assert one.counts["unknown model"] == 600
    assert one.counts["judged"] == 0
    assert one.unknown_models == {"third": 600}


def test_requests_are_judged_when_they_are_settled_and_late_ones_are_counted() -> None:
    one = detector()
    given = requests(1200)
    # A request takes 150 ms or so: the one that starts after 59.9 s is not over after 60 s.
    one.add(given.select(slice(0, 1100)), BEGIN_NS + 60 * SECOND_NS)
    assert 590 <= one.counts["judged"] <= 599
    judged = one.counts["judged"]
    one.add(given.select(np.array([5, 1150])), BEGIN_NS + 60 * SECOND_NS)
    assert (one.counts["late"], one.counts["judged"]) == (1, judged)
    one.add(no_requests(), FOREVER_NS)
    assert one.counts["judged"] == 1101


def settled(given: Requests) -> int:
    return int(given.start_ns.max()) - SECOND_NS if len(given) else 0


@pytest.mark.parametrize("seed", [3, 4])
def test_how_requests_are_split_and_when_it_is_restarted_changes_nothing(seed: int) -> None:
    given = stream((2000, 1.0), (2000, 1.12), (2000, 1.0), seed=seed)
    whole = detector([given])
    expected = whole.add(given, FOREVER_NS)
    rng = np.random.default_rng(seed)
    # Requests of a second may come in any order: so long it is waited for.
    order = np.argsort(given.start_ns + rng.integers(0, SECOND_NS, len(given)), kind="stable")
    one = detector([given])
    found: list[Event] = []
    for part in np.array_split(order, 40):
        found += one.add(given.select(part), settled(given.select(part)))
        if rng.random() < 0.3:
            state: dict[str, Any] = json.loads(json.dumps(one.state()))
            one = detector([given])
            one.restore(state)
            assert json.loads(json.dumps(one.state())) == state
    found += one.add(no_requests(), FOREVER_NS)
    assert found == expected
    assert len(expected) >= 2
    assert one.counts == whole.counts


def test_memory_is_bounded_by_what_is_being_served() -> None:
    one = detector()
    for number in range(10):
        given = requests(3000, first=3000 * number)
        one.add(given, settled(given))
    # 1 s of requests is not settled, and 0.15 s is beside them.
    assert len(one.state()["waiting"]["ids"]) <= 15
    assert len(one.state()["beside"]["ids"]) <= 5
    assert len(json.dumps(one.state())) < 300_000


def test_more_requests_far_out_are_a_tail_although_the_typical_one_is_as_before() -> None:
    base = [requests(6000, seed=20)]
    given = stream((3000, 1.0), (9000, 1.0), seed=21)
    far = (np.arange(12_000) % 25 == 7) & (np.arange(12_000) >= 3000)
    slow = np.where(far, 4.0, 1.0)
    given.prefill_ms[:] *= slow
    events = detector(base).add(given, FOREVER_NS)
    tails = [one for one in events if isinstance(one, Alarm) and one.kind == "tail"]
    assert [one.phase for one in tails] == ["prefill"]
    assert all(int(one[1:]) % 25 == 7 for one in tails[0].evidence)
    assert tails[0].evidence
    assert tails[0].effect_ratio > 1
    # 1 of 25 put there, and BASE's own 1.5 % as far as these are others.
    assert tails[0].share_ratio == pytest.approx(0.04, abs=0.02)
    assert tails[0].base_share_ratio is not None and tails[0].base_share_ratio < 0.02
    assert detector(base).add(requests(12_000, seed=22), FOREVER_NS) == []


def test_levels_tell_how_each_test_stands() -> None:
    one = detector([requests(6000, seed=20)])
    one.add(stream((3000, 1.0), (3000, 1.15)), FOREVER_NS)
    levels = {(level.phase, level.kind, level.model): level for level in one.levels()}
    assert set(levels) == {(phase, kind, "m") for phase in Base.phases for kind in ("shift", "tail")}
    assert levels["prefill", "shift", "m"].effect_ratio == pytest.approx(0.15, abs=0.05)
    assert levels["encode", "shift", "m"].effect_ratio is None
    assert levels["encode", "shift", "m"].statistic < levels["encode", "shift", "m"].threshold


def test_an_effect_is_that_of_all_blocks_since_and_so_is_the_last_word_at_its_end() -> None:
    one = detector()
    first = one.add(stream((3000, 1.0), (600, 1.15)), FOREVER_NS)[0]
    assert isinstance(first, Alarm)
    one.add(requests(2400, 1, 3600, 1.3), FOREVER_NS)
    (now,) = one.firing()
    # 600 of 1.15 and 2400 of 1.3, in logarithms: 1.269; 0.15 / sqrt(3000) is 0.003.
    assert now.effect_ratio == pytest.approx(1.15**0.2 * 1.3**0.8 - 1, abs=0.03)
    assert now.requests >= 2900 > first.requests
    assert now.ci_high - now.ci_low < first.ci_high - first.ci_low
    assert (now.began_unix_nano, now.evidence) == (first.began_unix_nano, first.evidence)
    over = one.add(requests(3000, 1, 6000), FOREVER_NS)[0]
    assert isinstance(over, Over) and over.last is not None
    # Blocks after the end are left out of it.
    since = number_at(over.ended_unix_nano) - number_at(over.last.began_unix_nano)
    assert over.last.requests == since
    assert over.last.effect_ratio == pytest.approx(now.effect_ratio, abs=0.02)
    assert one.firing() == []


@pytest.mark.parametrize("factor", [3.0, 10.0, 1000.0])
def test_a_large_effect_is_told_whole_and_as_a_lower_bound(factor: float) -> None:
    (alarm,) = detector().add(stream((3000, 1.0), (3000, factor)), FOREVER_NS)
    assert isinstance(alarm, Alarm)
    assert alarm.effect_ratio == pytest.approx(factor - 1, rel=0.1)
    assert alarm.at_least


def test_a_small_effect_under_more_load_than_base_met_is_told_as_a_lower_bound() -> None:
    for visual, at_least in ((0.0, False), (CROWDED, True)):
        alarm = detector().add(requests(3000, prefill=1.2, visual=visual), FOREVER_NS)[0]
        assert isinstance(alarm, Alarm)
        assert alarm.at_least == at_least


@pytest.mark.parametrize(("slow", "told"), [(0.03, False), (0.30, True)])
def test_a_few_slow_requests_of_a_crowd_are_left_out_and_many_are_not(slow: float, told: bool) -> None:
    # A third meet more load than any of BASE. Of those, what load may explain comes as not comparable.
    draw = np.random.default_rng(1).random(12_000)
    given = requests(12_000, seed=21)
    given.visual_tokens[draw < 0.33] = HUGE
    given.visual_tokens[draw < slow] = CROWDED
    given.prefill_ms[draw < slow] *= 4
    events = detector([requests(6000, seed=20)]).add(given, FOREVER_NS)
    assert {one.phase for one in events} == ({"prefill"} if told else set())


def test_standings_tell_of_each_phase_what_is_known_without_an_alarm() -> None:
    one = detector()
    one.add(requests(6000), FOREVER_NS)
    found = {standing.phase: standing for standing in one.standings()}
    assert set(found) == set(Base.phases)
    for standing in found.values():
        assert (standing.blocks, standing.blocks_not_comparable) == (100, 0)
        assert standing.ci_low is not None and standing.ci_high is not None
        assert standing.ci_low < 0 < standing.ci_high
        # sd: sqrt(2 x 0.0075^2 + 2 x 0.0194^2 / 100), about 0.011.
        assert 0.03 < standing.ci_high - standing.ci_low < 0.06


def test_requests_are_kept_bit_by_bit() -> None:
    given = requests(50)
    for kept in (given, no_requests()):
        again = unpacked(json.loads(json.dumps(packed(kept))))
        assert packed(again) == packed(kept)
        assert again.ids.tolist() == kept.ids.tolist()
        assert again.prefill_ms.tobytes() == kept.prefill_ms.tobytes()


@pytest.mark.parametrize(
    "change",
    [{"ids": ["a"]}, {"numbers": "AAAA"}, {"numbers": "?"}, {"columns": ["start_ns"]}, {"models": []}],
)
def test_a_damaged_state_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        unpacked(packed(requests(3)) | change)


def test_a_fitted_base_and_a_stream_of_its_kind_agree() -> None:
    rng = np.random.default_rng(30)

    def served(count: int, factor: float, seed: int) -> Requests:
        given = requests(count, seed=seed)
        given.text_tokens[:] = rng.integers(20, 400, count)
        given.prefill_ms[:] *= factor * (1 + given.text_tokens / 100)
        given.ttft_ms[:] = given.encode_ms + given.prefill_ms
        return given

    base = served(6000, 1.0, 31)
    model = CostModel.fit([base])
    slower = joined([served(3000, 1.0, 32), replace_start(served(6000, 1.08, 33), 3000)])
    events = Detector(model, runs=[base]).add(slower, FOREVER_NS)
    assert [(one.phase, one.kind) for one in events] == [("prefill", "shift")]
    assert 3000 <= number_at(events[0].time_unix_nano) <= 4500
    assert Detector(model, runs=[base]).add(served(9000, 1.0, 34), FOREVER_NS) == []


def replace_start(given: Requests, number: int) -> Requests:
    given.start_ns[:] += int(number * 0.1 * SECOND_NS)
    return given
