"""Synthetic days: the time that requests queue is blamed on what their engine really did meanwhile."""

from dataclasses import replace

import pytest
from days_fixture import Analyzed, analyzed
from synthetic.day import make_day
from synthetic.scenarios import CACHES, CROWDED, GAPS

CAUSES = ("image_encode", "image_prefill", "text_prefill", "decode_batch", "capacity")
_WITHIN = 0.03
"""Of all time in the queue: within a step the spans do not tell when it computed what."""


@pytest.fixture(
    scope="module",
    params=[replace(CACHES, seconds=25), replace(CROWDED, seconds=40), replace(GAPS, seconds=10)],
    ids=lambda scenario: scenario.name,
)
def day(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Analyzed:
    return analyzed(make_day(request.param, 3, interference=False), tmp_path_factory.mktemp("day"))


def test_waiting_is_blamed_on_what_the_engine_did_meanwhile(day: Analyzed) -> None:
    found = dict(day.table("SELECT cause, sum(ns) FROM queue_blame GROUP BY cause").iter_rows())
    truth = day.day.truth["requests"]
    whole = truth["ttft_queue_ns"].drop_nulls().to_numpy().sum()
    assert float(sum(found.values())) == pytest.approx(whole, rel=1e-6)
    true = {cause: truth[f"queue_{cause}_ns"].drop_nulls().to_numpy().sum() for cause in CAUSES}
    # The rest is the gap between two steps.
    true["unexplained"] = whole - sum(true.values())
    for cause, amount in true.items():
        assert float(found.get(cause, 0)) == pytest.approx(amount, abs=_WITHIN * whole), cause
