"""The estimate of what image work costs text requests: by hand where the answer is known, and its reasons to refuse."""

from dataclasses import replace

import numpy as np
import pytest

from vtprof_analyzer.interference import (
    BLOCKS,
    MATCHED_STEPS,
    REQUEST_REGRESSION,
    Requests,
    Steps,
    estimate,
    student_975,
)

MS = 1e6


def steps(took_ms: tuple[float, ...] = (100.0, 100.0), speed: tuple[float, ...] = (1.0,)) -> Steps:
    """One cell of decode-only steps: in each block 50 controls of 100 ms, and one step of 160 ms that 2 requests wait for.

    ``took_ms``: of controls with 10 and with 20 decoding requests; the step with visual work has 20.
    """
    fast = np.resize(np.array(speed), BLOCKS)[:, None]
    n, x = np.full((BLOCKS, 1), 50.0), np.zeros((BLOCKS, 1, 3))
    x[..., 0] = 25 * 10 + 25 * 20
    low, high = (MS * took for took in took_ms)
    xx, xy = np.zeros((BLOCKS, 2, 3, 3)), np.zeros((BLOCKS, 2, 3))
    xx[:, 0, 0, 0] = 25 * 100 + 25 * 400
    xy[:, 0, 0] = (25 * 10 * low + 25 * 20 * high) * fast[:, 0]
    wx = np.zeros((BLOCKS, 1, 3))
    wx[..., 0] = 2 * 20
    return Steps(
        instance="p", mixed=np.zeros(1, np.int64), n=n, y=25 * (low + high) * fast, yy=25 * (low**2 + high**2) * fast**2,
        x=x, xx=xx, xy=xy, steps=np.ones((BLOCKS, 1)), weight=np.full((BLOCKS, 1), 2.0),
        wy=np.full((BLOCKS, 1), 2 * (high + 60 * MS)) * fast, wx=wx, ww=np.full((BLOCKS, 1), 4.0),
        alone=np.zeros(BLOCKS), alone_steps=np.zeros(BLOCKS),
    )  # fmt: skip


def without_controls() -> Steps:
    given = steps()
    return replace(
        given, **{name: np.zeros_like(getattr(given, name)) for name in ("n", "y", "yy", "x", "xx", "xy")}
    )


def requests(count: int = 4) -> Requests:
    """In each block so many text requests of 300 ms, beside no work that a regression could see."""
    ones = np.full(BLOCKS, float(count))
    return Requests(
        instance="p", requests=ones, time_ns=ones, known_ns=ones, weight=ones, value_ms=300 * ones,
        x=np.zeros((BLOCKS, 6)), xx=np.zeros((BLOCKS, 6, 6)), xy=np.zeros((BLOCKS, 6)),
    )  # fmt: skip


def test_the_effect_is_the_difference_to_like_steps_over_all_requests() -> None:
    found = estimate([steps()], [requests()])
    # 2 of 4 requests wait 160 instead of 100 ms: 30 ms each, of 300
    assert found.interval is not None
    assert found.interval.effect == pytest.approx(30)
    assert found.interval.low == pytest.approx(30, abs=1e-3) == found.interval.high
    assert (found.share, found.method, found.n_matched) == (pytest.approx(0.1), MATCHED_STEPS, BLOCKS)
    assert (found.matched_share, found.requests, found.why_not) == (1.0, 4 * BLOCKS, None)


def test_within_a_cell_a_larger_batch_is_no_image_work() -> None:
    found = estimate([steps((100.0, 140.0))], [requests()])
    # 200 ms against the 140 of 20 decoding requests, not the 120 of the cell's mean
    assert found.interval is not None and found.interval.effect == pytest.approx(30, rel=1e-3)


def test_a_machine_that_is_slow_for_a_while_is_no_image_work() -> None:
    hot = steps(speed=(1.0, 1.0, 2.0, 3.0))
    more = np.resize([1.0, 1.0, 1.0, 3.0], BLOCKS)[:, None]  # where it was slowest three times as many waited
    hot = replace(
        hot, weight=hot.weight * more, wy=hot.wy * more, wx=hot.wx * more[..., None], ww=hot.ww * more**2
    )
    found = estimate([hot], [requests()])
    # Each took 1.6 times what its block's controls did: 60 ms x (2 x 1 + 2 x 1 + 2 x 2 + 6 x 3) for 16 requests
    assert found.interval is not None and found.interval.effect == pytest.approx(60 * 26 / 16)


def test_steps_of_image_work_alone_would_not_have_been() -> None:
    alone = replace(steps(), alone=np.full(BLOCKS, 80 * MS), alone_steps=np.ones(BLOCKS))
    found = estimate([alone], [requests()])
    assert found.interval is not None and found.interval.effect == pytest.approx(30 + 80 / 4)
    assert found.n_matched == 2 * BLOCKS


def test_processes_add_up() -> None:
    found = estimate(
        [steps(), replace(steps(), instance="q")], [requests(), replace(requests(), instance="q")]
    )
    assert found.interval is not None and found.interval.effect == pytest.approx(30)
    assert found.n_matched == 2 * BLOCKS


def test_what_was_not_recorded_can_only_be_more() -> None:
    half = replace(requests(), known_ns=requests().known_ns / 1.5)
    found = estimate([steps()], [half])
    assert found.interval is not None
    assert (found.interval.effect, found.interval.high) == (pytest.approx(30), pytest.approx(45, rel=1e-3))
    assert found.interval.low == pytest.approx(30, abs=1e-3)


def test_it_refuses_and_says_why() -> None:
    def why(given: Steps, asked: Requests) -> str:
        found = estimate([given], [asked])
        assert (found.interval, found.share, found.method) == (None, None, None)
        return str(found.why_not)

    few = replace(requests(), requests=np.eye(BLOCKS)[0] * 9)
    assert why(steps(), few).startswith("9 text-only requests have this time: at least 30")
    idle = {name: np.zeros_like(getattr(steps(), name)) for name in ("steps", "weight", "wy", "wx", "ww")}
    assert why(replace(steps(), **idle), requests()).startswith("no step with image work ran")
    first = np.eye(BLOCKS)[:, :1]
    rare = replace(steps(), steps=steps().steps * 19 / BLOCKS)
    assert why(rare, requests()).startswith("19 steps with image work")
    once = replace(
        steps(), steps=BLOCKS * first, weight=2 * first, wy=320 * MS * first, wx=steps().wx * first[..., None]
    )
    assert why(once, requests()).startswith("image work beside text-only requests lies in 1 of 40 parts")
    assert why(without_controls(), requests()) == (
        "only 0% of the time that text requests spent in steps with image work has like steps without it:"
        " at least 80% are needed"
    )
    assert estimate([], []).why_not == "0 text-only requests have this time: at least 30 are needed"


def test_where_steps_cannot_be_matched_requests_are_compared() -> None:
    #  A request waits 5 ms an iteration and 2 ms a visual token: 4 requests a block, with 0 or 3 visual tokens each
    x = np.zeros((BLOCKS, 6))
    xx, xy = np.zeros((BLOCKS, 6, 6)), np.zeros((BLOCKS, 6))
    for visual in (0, 0, 3, 3):
        one = np.array([10.0, 0, 0, 0, visual, 0])
        x += one
        xx += np.outer(one, one)
        xy += one * (5 * 10 + 2 * visual) * MS
    asked = replace(requests(), x=x, xx=xx, xy=xy)
    found = estimate([without_controls()], [asked])
    assert (found.method, found.n_matched, found.matched_share) == (REQUEST_REGRESSION, 4 * BLOCKS, 0.0)
    assert found.interval is not None and found.interval.effect == pytest.approx(2 * 6 / 4, rel=1e-4)
    both = estimate([steps()], [asked])
    assert both.regression is not None and both.regression.effect == pytest.approx(3, rel=1e-4)
    # 30 against 3 ms: they disagree, it is said, and the interval holds both.
    assert both.agrees is False and both.interval is not None
    assert (
        both.interval.effect == pytest.approx(30) and both.interval.low < 3.01 and both.interval.high > 29.9
    )


@pytest.mark.parametrize(("freedom", "expected"), [(7, 2.3646), (10, 2.2281), (39, 2.0227), (1000, 1.9623)])
def test_student(freedom: int, expected: float) -> None:
    assert student_975(freedom) == pytest.approx(expected, rel=1e-3)  # printed tables of Student's t
