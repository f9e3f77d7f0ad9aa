"""Synthetic days whose kernels are not the cost model's: what bounds each step is told right for 98 % of them."""

from dataclasses import replace

import polars as pl
import pytest
from days_fixture import Analyzed, analyzed
from synthetic.day import make_day
from synthetic.scenarios import CROWDED, SMALL_WORK, TWO_ENGINES, VISUAL

_RIGHT = 0.98
_CLEAR = 0.85
"""Of all steps: those that are near to nothing else. In the others either name is right."""
_NEITHER_ROOF = ("latency_bound", "host_bound")
"""Other names for work that waits for its launches: which of them it is takes evidence that a step does not hold."""


@pytest.fixture(
    scope="module",
    params=[
        replace(TWO_ENGINES, seconds=12),
        replace(VISUAL, seconds=20),
        replace(CROWDED, seconds=30),
        replace(SMALL_WORK, seconds=30),
    ],
    ids=lambda scenario: scenario.name,
)
def day(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Analyzed:
    return analyzed(make_day(request.param, 17, interference=False), tmp_path_factory.mktemp("day"))


def bounds(day: Analyzed, phase: str, where: str) -> pl.DataFrame:
    """Return the truth of the steps with the analyzer's bound of each beside it (``found``)."""
    rows = day.table(
        "SELECT r.service_instance_id AS instance, s.step_index AS index, b.bound AS found"
        " FROM roofline AS b JOIN steps AS t USING (step_id) JOIN spans AS s USING (trace_id, span_id)"
        f" JOIN resources AS r ON r.resource_id = s.resource_id WHERE {where}"
    )
    engine = pl.col("instance").str.split("-").list.first()
    found = rows.with_columns(
        engine.alias("engine"), pl.col("found").replace(dict.fromkeys(_NEITHER_ROOF, "overhead_bound"))
    )
    truth = day.day.truth["steps"].filter(pl.col(f"{phase}bound") != "")
    joined = truth.join(found, on=["engine", "index"], how="left")
    assert len(joined) == len(truth)
    return joined.select(
        pl.col("found").fill_null("none"),
        pl.col(f"{phase}bound").alias("bound"),
        pl.col(f"{phase}rival").alias("rival"),
    )


@pytest.mark.parametrize(
    ("phase", "where"), [("", "b.whole"), ("encode_", "b.phase = 'encode'")], ids=["step", "encode"]
)
def test_the_bound_of_nearly_every_step_is_right(day: Analyzed, phase: str, where: str) -> None:
    rows = bounds(day, phase, where).rows()
    right = [found in (bound, rival) for found, bound, rival in rows]
    assert sum(right) >= _RIGHT * len(rows)
    clear = [found == bound for found, bound, rival in rows if not rival]
    assert sum(clear) >= _RIGHT * len(clear)
    if not phase:
        assert len(clear) >= (0.7 if day.day.scenario.name == SMALL_WORK.name else _CLEAR) * len(rows)
