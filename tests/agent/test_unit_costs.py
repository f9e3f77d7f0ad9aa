"""UnitCosts: a step's shares are its work times what a unit was given; every number is worked by hand."""

from math import exp, sqrt

import pytest

from vtprof_agent.counters.meter import COUNTERS, Work
from vtprof_agent.counters.unit_costs import OFF, Trust, UnitCosts, join_parts
from vtprof_agent.counters.work_curve import COLUMNS
from vtprof_schemas import names

DRAM, ENERGY = names.GPU_DRAM_BANDWIDTH_RATIO, names.GPU_ENERGY_MJ
SURE = Trust.of((0.0,) * 3, (0.01,) * 3, (True,) * 3, (0.0,) * COLUMNS, (0.0,) * 3)
NONE = [0.0] * (OFF + 1)


def rows(
    costs: dict[int, float], given: tuple[float, float, float, float], covered: float, off: float = 0.0
) -> list[list[float]]:
    """Make the rows of a stretch in which one counter alone was read."""
    row = [costs.get(column, 0.0) for column in range(COLUMNS)] + [*given, covered, off]
    return [row if key == DRAM else NONE for key in COUNTERS]


def test_a_decode_step_is_given_by_context_requests_and_what_its_kernels_depend_on() -> None:
    """Two GPUs for 50 ns: costs are over 100 ns, so a unit is 2 / 100 of each. Of 6 requests and of 70, in turn.

    70 are 38 beyond 32 and none beyond 128, padded to 80 and to 128, and in larger tiles; 6 are padded to 16 and 128.
    """
    given = {
        12: 100.0,
        13: 200.0,
        14: 1000.0,
        15: 500.0,
        16: -50.0,
        17: 9000.0,
        18: 150.0,
        19: 2000.0,
        20: 300.0,
        21: 7e5,
    }
    costs = UnitCosts.of_stretch(rows(given, (0.0, 0.0, 90.0, 10.0), 100.0), 50.0, [SURE] * 4)
    assert costs is not None
    few = 300 * 2 + 6 * 4 + 20 + 10 * (1 - exp(-6 / 4)) + 16 * 3 + 128 * 6
    many = 900 * 2 + 70 * 4 + 20 + 10 * (1 - exp(-70 / 4)) - 38 + 80 * 3 + 40 + 128 * 6
    for requests, context, amount in ((6, 300, few), (70, 900, many), (6, 300, few)):
        work = Work(0, 1_000_000, decode_requests=requests, decode_context_tokens=context)
        encode, prefill, decode = costs.shares(work).shares[DRAM]
        assert (encode.amount, prefill.amount) == (0.0, 0.0)
        assert decode.amount == pytest.approx(amount)
    counters = costs.shares(work)
    # 1.8 standard deviations of 1 % on either side: no other class put anything in.
    assert (decode.low, decode.high) == pytest.approx((amount * (1 - 0.018), amount * (1 + 0.018)))
    assert (counters.quality, counters.gpus) == ({DRAM: names.QUALITY_ATTRIBUTED}, 2)


def test_other_classes_in_the_windows_widen_the_interval() -> None:
    """Shares of 10, 20 and 70 % known to 1, 2 and 3 %: beside its own, each has the others' x their share."""
    trust = Trust.of((0.0,) * 3, (0.01, 0.02, 0.03), (True,) * 3, (0.0,) * COLUMNS, (0.0,) * 3)
    stretch = rows({0: 50.0, 3: 50.0, 12: 50.0}, (10.0, 20.0, 70.0, 0.0), 50.0)
    costs = UnitCosts.of_stretch(stretch, 50.0, [trust] * 4)
    assert costs is not None
    work = Work(0, 1_000_000, patches=3, prefill_tokens=5, decode_requests=1, decode_context_tokens=100)
    found = [share.high / share.amount - 1 for share in costs.shares(work).shares[DRAM]]
    assert found == pytest.approx(
        [
            1.8 * sqrt(0.01**2 + 0.004**2 + 0.021**2),
            1.8 * sqrt(0.02**2 + 0.001**2 + 0.021**2),
            1.8 * sqrt(0.03**2 + 0.001**2 + 0.004**2),
        ]
    )


def test_a_step_smaller_than_the_typical_one_is_known_no_better() -> None:
    """100 beside a typical 1000: the interval is 1000 x 1.8 %, whether the step only decodes or not."""
    trust = Trust.of((0.0,) * 3, (0.01,) * 3, (True,) * 3, (0.0,) * COLUMNS, (0.0, 0.0, 1000.0))
    costs = UnitCosts.of_stretch(rows({12: 50.0}, (0.0, 0.0, 1.0, 0.0), 50.0), 50.0, [trust] * 4)
    assert costs is not None
    for tokens in (0, 5):
        work = Work(0, 1_000_000, prefill_tokens=tokens, decode_requests=1, decode_context_tokens=100)
        decode = costs.shares(work).shares[DRAM][2]
        assert (decode.low, decode.amount, decode.high) == pytest.approx((82.0, 100.0, 118.0))


def test_a_stretch_in_which_windows_miss_is_estimated_and_without_any_there_is_nothing() -> None:
    """90 % of one GPU's time; none at all."""
    costs = UnitCosts.of_stretch(rows({12: 45.0}, (0.0, 0.0, 9.0, 0.0), 45.0), 50.0, [SURE] * 4)
    assert costs is not None
    counters = costs.shares(Work(0, 10, decode_requests=1, decode_context_tokens=7))
    assert counters.shares[DRAM][2].amount == pytest.approx(7.0)
    assert counters.quality == {DRAM: names.QUALITY_ESTIMATED}
    assert UnitCosts.of_stretch([NONE] * 4, 50.0, [SURE] * 4) is None


def test_the_encoders_part_and_the_rest_have_each_their_own_costs() -> None:
    """A patch costs 3 in the first 10 ns and a token 5 in the other 40; where a part has no window, the whole's."""
    first = rows({0: 30.0, 3: 10.0}, (1.0, 0.0, 0.0, 0.0), 10.0)
    rest = rows({0: 40.0, 3: 200.0}, (0.0, 1.0, 0.0, 0.0), 40.0)
    whole = rows({0: 70.0, 3: 210.0}, (1.0, 1.0, 0.0, 0.0), 50.0)
    work = Work(0, 50, patches=2, prefill_tokens=7, encode_ns=10)
    for parts, amounts in (((first, rest), (6.0, 35.0)), (([NONE] * 4, rest), (2 * 70 / 50, 35.0))):
        costs = UnitCosts.of_stretch(join_parts(whole, *parts), 50.0, [SURE] * 4)
        assert costs is not None
        encode, prefill, _ = costs.shares(work).shares[DRAM]
        assert (encode.amount, prefill.amount) == pytest.approx(amounts)


def test_what_is_not_known_at_all_is_no_more_than_can_be() -> None:
    """A ratio's integral at most the time; energy three times the mean power over its windows, for a tenth of a second."""
    trust = Trust.of((float("inf"),) * 3, (0.01,) * 3, (True,) * 3, (0.0,) * COLUMNS, (0.0,) * 3)
    row = [1.0 if column == 14 else 0.0 for column in range(COLUMNS)] + [0.0, 0.0, 4e8, 1e8, 1e9, 0.0]
    stretch = [row if key in (DRAM, ENERGY) else NONE for key in COUNTERS]
    costs = UnitCosts.of_stretch(stretch, 1e9, [trust] * 4)
    assert costs is not None
    for end_ns, energy in ((10_000_000, 3 * 0.5 * 1e8), (400_000_000, 3 * 0.5 * 4e8)):
        work = Work(0, end_ns, decode_requests=1)
        both = costs.shares(work).shares, costs.run(2, 2.0 * end_ns, [0.0, 2.0, 2.0]).shares
        assert [shares[DRAM][2].high for shares in both] == [end_ns, 2 * end_ns]
        assert both[0][ENERGY][2].high == pytest.approx(energy)
        assert all(shares[ENERGY][2].low == 0.0 for shares in both)


@pytest.mark.parametrize(("off", "quality"), [(0.5, names.QUALITY_ESTIMATED), (0.01, names.QUALITY_MEASURED)])
def test_windows_far_from_what_was_predicted_are_estimated_and_the_interval_goes_there(
    off: float, quality: str
) -> None:
    """Half as much again as predicted: of 100 the prediction was 67, which 50 and the usual 1.8 % below reach."""
    stretch = rows({12: 50.0}, (0.0, 0.0, 100.0, 0.0), 50.0, off * 50.0)
    costs = UnitCosts.of_stretch(stretch, 50.0, [SURE] * 4)
    assert costs is not None
    counters = costs.shares(Work(0, 1_000, decode_requests=1, decode_context_tokens=100))
    decode = counters.shares[DRAM][2]
    assert (decode.amount, decode.low) == pytest.approx((100.0, 100.0 * (1 - 0.018 - off)))
    assert counters.quality[DRAM] == quality
    together = costs.run(2, 2_000.0, [200.0, 2.0, 2.0])
    assert together.quality[DRAM] == quality


def test_a_ratio_is_no_more_than_one_over_the_time_of_its_class() -> None:
    """300 ns of an encoder that ran for 200 of 1,000: wrong, so it is given 200 and the label says so; prefill has 800."""
    stretch = rows({0: 1.0, 3: 1.0}, (300.0, 300.0, 0.0, 0.0), 1.0)
    costs = UnitCosts.of_stretch(stretch, 1.0, [SURE] * 4)
    assert costs is not None
    wrong = costs.shares(Work(0, 1_000, patches=300, prefill_tokens=300, encode_ns=200))
    assert [share.amount for share in wrong.shares[DRAM]] == [200.0, 300.0, 0.0]
    assert wrong.quality[DRAM] == names.QUALITY_ESTIMATED
    right = costs.shares(Work(0, 1_000, patches=190, prefill_tokens=300, encode_ns=200))
    assert [share.amount for share in right.shares[DRAM]] == [190.0, 300.0, 0.0]
    assert right.quality[DRAM] == names.QUALITY_ATTRIBUTED
