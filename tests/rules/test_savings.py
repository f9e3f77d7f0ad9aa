"""Savings put together: by hand for two phases, and bounds that hold for any findings."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtprof_rules.fact_rows import FactRow, FactRows
from vtprof_rules.outcome import Outcome, Saving
from vtprof_rules.rule import Basis
from vtprof_rules.savings import best_of_groups, combine

FACTS: FactRows = {
    "deployment_facts": [
        FactRow(
            None,
            {
                "n_requests": 100,
                "encode_ms_mean": 100.0,
                "encode_floor_ratio": 0.6,
                "prefill_ms_mean": 50.0,
                "tpot_ms_mean": 20.0,
            },
        )
    ],
    "model_facts": [FactRow("a", {"n_requests": 25}), FactRow("b", {"n_requests": 75})],
}


def finding(
    rule: str,
    low: float,
    high: float,
    *phases: str,
    basis: Basis = "bound",
    less_work: bool = False,
    group: str | None = None,
) -> Outcome:
    """Return a finding that saves these shares of its phases."""
    metric = "tpot_ms" if phases == ("decode",) else "ttft_ms"
    saving = Saving(metric, "ms", None, None, None, basis, "made up", phases)
    saving = replace(saving, low_phase_share=low, high_phase_share=high, less_work=less_work)
    return Outcome(rule, "fired", rule, phases[0], "", saving=saving, group=group)


def test_two_findings_of_one_phase_do_not_add_up() -> None:
    (row,) = combine([finding("A", 0.1, 0.2, "encode"), finding("B", 0.2, 0.25, "encode")], FACTS)
    # 100 ms x (1 - 0.9 x 0.8) and 100 ms x (1 - 0.8 x 0.75); the roof leaves 40.
    assert (row.low_ms, row.high_ms, row.limit_ms) == pytest.approx((28.0, 40.0, 40.0))
    assert row.rules == ("A", "B")


def test_the_roofline_caps_what_is_only_faster() -> None:
    (row,) = combine([finding("A", 0.3, 0.5, "encode"), finding("B", 0.2, 0.5, "encode")], FACTS)
    assert (row.low_ms, row.high_ms) == pytest.approx((40.0, 40.0))


def test_less_work_lowers_the_floor_too() -> None:
    (row,) = combine(
        [finding("A", 0.3, 0.5, "encode"), finding("B", 0.5, 0.5, "encode", less_work=True)], FACTS
    )
    # Half of the work is left, of which the roof leaves 60 %: 100 - 100 x 0.5 x 0.7 and 100 - 100 x 0.5 x 0.6.
    assert (row.low_ms, row.high_ms) == pytest.approx((65.0, 70.0))


def test_a_saving_in_two_phases_is_taken_from_both() -> None:
    rows = combine([finding("MM001", 0.2, 0.4, "encode", "prefill", less_work=True)], FACTS)
    assert [row.phase for row in rows] == ["encode", "prefill"]
    assert [end for row in rows for end in (row.low_ms, row.high_ms)] == pytest.approx(
        [20.0, 40.0, 10.0, 20.0]
    )


def test_decode_counts_the_time_of_a_token() -> None:
    (row,) = combine([finding("DEC002", 0.1, 0.3, "decode", less_work=True)], FACTS)
    assert row.phase == "decode"
    assert (row.time_ms, row.low_ms, row.high_ms) == pytest.approx((20.0, 2.0, 6.0))


def test_heuristics_and_all_but_the_best_of_a_group_are_left_out() -> None:
    fired = [
        finding("A", 0.2, 0.2, "encode", group="visual-tokens", less_work=True),
        finding("B", 0.1, 0.1, "encode", group="visual-tokens", less_work=True),
        finding("C", 0.5, 0.5, "encode", basis="heuristic"),
    ]
    assert best_of_groups(fired) == {"B": "A"}
    (row,) = combine(fired, FACTS)
    assert row.high_ms == pytest.approx(20.0)
    assert row.rules == ("A",)


def test_a_finding_of_one_model_counts_by_its_requests() -> None:
    of_a = replace(finding("A", 0.4, 0.4, "encode", less_work=True), subjects=("a",), view="model_facts")
    (row,) = combine([of_a], FACTS)
    assert row.high_ms == pytest.approx(10.0)  # a quarter of the requests save 40 of 100 ms


def test_nothing_is_said_where_the_time_is_not_known() -> None:
    assert combine([finding("Q", 0.2, 0.5, "queue")], FACTS) == []


shares = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@given(st.lists(st.tuples(shares, st.booleans()), min_size=1, max_size=6))
def test_the_whole_is_no_less_than_any_part_and_no_more_than_the_phase(
    parts: list[tuple[list[float], bool]],
) -> None:
    fired = [
        finding(f"R{number}", low, high, "prefill", less_work=less)
        for number, ((low, high), less) in enumerate(parts)
    ]
    rows = combine(fired, FACTS)
    assert len(rows) == 1
    row = rows[0]
    assert 0 <= row.low_ms <= row.high_ms + 1e-9
    assert row.high_ms <= min(50.0, 50.0 * sum(high for (_, high), _ in parts)) + 1e-9
    assert row.high_ms >= 50.0 * max(high for (_, high), _ in parts) - 1e-9
