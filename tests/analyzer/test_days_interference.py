"""Synthetic days: what images cost text requests in the same steps is within the interval that the analyzer gives.

The truth is by step: its time less that of the same step without encoding and without visual positions of prompts, by the
same kernels and the same noise. How such delays add up in queues, which a run of the day without images would show, no trace
can tell.
"""

from dataclasses import replace

import polars as pl
import pytest
from days_fixture import Analyzed, analyzed
from synthetic.day import make_day
from synthetic.scenarios import CACHES, ORDINARY, TEXT_ONLY, TWO_ENGINES

_TRUE = {"ttft_ms": "shared_ttft_ns", "tpot_ms": "shared_tpot_ns"}


@pytest.fixture(
    scope="module",
    params=[replace(ORDINARY, seconds=50), replace(TWO_ENGINES, seconds=40), replace(CACHES, seconds=40)],
    ids=lambda scenario: scenario.name,
)
def day(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Analyzed:
    return analyzed(make_day(request.param, 23, interference=False), tmp_path_factory.mktemp("day"))


@pytest.mark.parametrize("what", list(_TRUE))
def test_the_cost_of_images_is_within_its_interval(day: Analyzed, what: str) -> None:
    texts = day.day.truth["requests"].filter(pl.col("image_tokens") + pl.col("video_tokens") == 0)
    costs = texts[_TRUE[what]].drop_nulls().to_numpy()
    true = costs.mean() / 1e6
    effect, low, high, requests = day.table(
        f"SELECT effect, low, high, requests FROM interference WHERE what = '{what}'"
    ).row(0)
    assert requests == len(costs)
    assert low <= true <= high
    assert low > 0
    # An interval could be wide enough for anything: the estimate itself is near.
    assert effect == pytest.approx(true, rel=0.25)


def test_without_images_no_cost_is_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = make_day(replace(TEXT_ONLY, seconds=20), 23, interference=False)
    found = analyzed(made, tmp_path_factory.mktemp("day")).table(
        "SELECT effect, low, high, why_not FROM interference"
    )
    for effect, low, high, why_not in found.iter_rows():
        assert (effect is None and why_not) or effect == 0 or low <= 0 <= high


def test_only_the_first_token_can_wait_in_a_queue_whose_growth_is_not_counted(day: Analyzed) -> None:
    left_out = {row.what: row.excludes for row in day.report.interference}
    assert left_out == {"ttft_ms": "growth of the queue", "tpot_ms": None}
