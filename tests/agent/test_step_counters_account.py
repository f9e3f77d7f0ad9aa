"""The running sums of decoding against the plain sum over every step and request that they stand for."""

from collections import defaultdict
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtprof_agent import step_counters
from vtprof_agent.counters.meter import Share, StepCounters
from vtprof_agent.step_counters import Counted, DecodeAccount
from vtprof_schemas import names

SM, ENERGY = names.GPU_SM_ACTIVE_RATIO, names.GPU_ENERGY_MJ
_STEPS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), min_size=1, max_size=5),  # who decodes; twice: in two sequences
        st.integers(0, 2),  # strangers
        st.integers(1, 3),  # steps that are told together
        st.one_of(st.none(), st.tuples(st.floats(0, 1e4), st.floats(0, 1e4))),  # energy, ratio's integral
    ),
    min_size=1,
    max_size=25,
)


def _counters(energy: float, integral: float) -> StepCounters:
    none, prompt = Share(0.0, 0.0, 0.0), Share(1.0, 1.0, 1.0)
    shares = {
        ENERGY: (none, none, Share(energy, energy / 2, energy * 3)),
        SM: (none, prompt, Share(integral, 0.0, integral)),
    }
    return StepCounters(shares, dict.fromkeys(shares, names.QUALITY_ATTRIBUTED), 1)


def _over(context: int | None, steps: int) -> int | None:
    return None if context is None else sum(context + step for step in range(steps))


@settings(max_examples=200, deadline=None)
@given(
    _STEPS, st.lists(st.one_of(st.none(), st.integers(1, 10**6)), min_size=4, max_size=4), st.integers(1, 7)
)
def test_each_request_gets_its_share_of_every_step_that_it_was_in(
    steps: list[tuple[list[int], int, int, tuple[float, float] | None]],
    prompts: list[int | None],
    rebase: int,
) -> None:
    pieces = [Counted() for _ in range(4)]
    account = DecodeAccount()
    cached = list(prompts)
    expected: list[defaultdict[str, float]] = [defaultdict(float) for _ in pieces]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_counters, "REBASE_STEPS", rebase)
        for who, strangers, count, given_ in steps:
            present = [pieces[number] for number in who]
            contexts = {pieces[number]: cached[number] for number in who}
            counters = None if given_ is None else _counters(*given_)
            account.add(present, lambda now=contexts: now, strangers, counters, 10.0, True, count)
            # Each has one more cached with each step; over the steps together it counts with the sum.
            known = [_over(cached[number], count) for number in who]
            whole = sum(context for context in known if context is not None)
            by_context = not strangers and None not in known
            for number in who:
                if given_ is not None:
                    mine = _over(cached[number], count) or 0
                    weight = mine / whole if by_context else 1 / (len(who) + strangers)
                    expected[number]["energy"] += given_[0] * weight
            for number in set(who):
                context = cached[number]
                cached[number] = None if context is None else context + count
                if given_ is not None:
                    expected[number]["integral"] += given_[1]  # the prompt's is its own
                    expected[number]["time"] += 10
                expected[number]["steps"] += count
    for piece, sums in zip(pieces, expected, strict=True):
        piece.close_account()
        if not sums["steps"]:
            assert piece.tally is None
            continue
        assert piece.tally is not None and not piece.accounts
        assert piece.tally.steps == sums["steps"]
        found = piece.tally.attributes()
        if not sums["time"]:
            assert found == {}
            continue
        assert found[ENERGY] == pytest.approx(sums["energy"], abs=1e-6, rel=1e-9)
        assert found[ENERGY + ".high"] == pytest.approx(sums["energy"] * 3, abs=1e-6, rel=1e-9)
        assert found[SM] == pytest.approx(sums["integral"] / sums["time"], abs=1e-9, rel=1e-9)


def test_a_request_that_has_left_gets_nothing_more() -> None:
    one, two = Counted(), Counted()
    account = DecodeAccount()
    for present in ([one, two], [one, two], [two], [two]):
        account.add(present, lambda: {one: 5, two: 5}, 0, _counters(12.0, 0.0), 10.0, True)
    one.close_account()
    two.close_account()
    assert one.tally is not None and two.tally is not None
    assert one.tally.attributes()[ENERGY] == 12.0
    assert two.tally.attributes()[ENERGY] == 36.0
    assert list(accumulate([one.tally.steps, two.tally.steps])) == [2, 6]


def test_values_that_are_no_numbers_become_no_attribute() -> None:
    piece = Counted()
    account = DecodeAccount()
    account.add([piece], lambda: {piece: 5}, 0, _counters(float("inf"), 3.0), 10.0, False)
    piece.close_account()
    assert piece.tally is not None
    found = piece.tally.attributes()
    assert ENERGY not in found
    assert found[SM] == pytest.approx(0.3)


def test_a_request_that_was_closed_and_decodes_on_joins_again() -> None:
    one, two = Counted(), Counted()
    account = DecodeAccount()
    for cached in (5, 6):
        account.add([one, two], lambda now=cached: {one: now, two: now}, 0, _counters(12.0, 0.0), 10.0, True)
        one.close_account()
    two.close_account()
    assert one.tally is not None and two.tally is not None
    assert one.tally.attributes()[ENERGY] == two.tally.attributes()[ENERGY] == 12.0
