"""Synthetic days whose kernels are not the cost model's: what bounds each step is told right for 98 % of them.

Two truths: what architecture.md, section 7, makes of the true FLOPs, bytes and waits, whatever lies near; and what held most
of the kernels, which knows no ridge.
"""

from dataclasses import replace

import polars as pl
import pytest
from days_fixture import Analyzed, analyzed
from synthetic.day import make_day
from synthetic.kernels import COMPUTE_BOUND, MEMORY_BOUND
from synthetic.scenarios import CROWDED, SMALL_WORK, TEXT_ONLY, TWO_ENGINES, VISUAL

_RIGHT = 0.98
_HELD = 0.995
"""Of the steps with a sure verdict for one roof: those whose kernels that roof held."""
_ROOFS = (COMPUTE_BOUND, MEMORY_BOUND)
_CLEAR = 0.85
"""Of all steps: those that are near to nothing else."""
_SURE = 0.95
"""Of all steps: those of which no witness makes the verdict doubtful."""
_NEITHER_ROOF = ("latency_bound", "host_bound")
"""Other names for work that waits for its launches: which of them it is takes evidence that a step does not hold."""


@pytest.fixture(
    scope="module",
    params=[
        replace(TWO_ENGINES, seconds=12),
        replace(TEXT_ONLY, seconds=15),
        replace(VISUAL, seconds=20),
        replace(CROWDED, seconds=30),
        replace(SMALL_WORK, seconds=30),
    ],
    ids=lambda scenario: scenario.name,
)
def day(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Analyzed:
    return analyzed(make_day(request.param, 17, interference=False), tmp_path_factory.mktemp("day"))


def bounds(day: Analyzed, phase: str = "", where: str = "b.whole") -> pl.DataFrame:
    """Return the truth of the steps with the analyzer's bound of each beside it (``found``)."""
    rows = day.table(
        "SELECT r.service_instance_id AS instance, s.step_index AS index, b.bound AS found, b.confidence"
        " FROM roofline AS b JOIN steps AS t USING (step_id) JOIN spans AS s USING (trace_id, span_id)"
        f" JOIN resources AS r ON r.resource_id = s.resource_id WHERE {where}"
    )
    found = rows.select(
        # Without rows nothing has a type.
        pl.col("instance").cast(pl.String).str.split("-").list.first().alias("engine"),
        pl.col("index").cast(pl.Int64),
        pl.col("found").cast(pl.String).replace(dict.fromkeys(_NEITHER_ROOF, "overhead_bound")),
        pl.col("confidence").cast(pl.Float64),
    )
    truth = day.day.truth["steps"].filter(pl.col(f"{phase}bound") != "")
    joined = truth.join(found, on=["engine", "index"], how="left")
    assert len(joined) == len(truth)
    return joined.select(
        pl.col("found").fill_null("none"),
        pl.col("confidence").fill_null(0.0),
        *(pl.col(f"{phase}{name}").alias(name) for name in ("bound", "rival", "held")),
    )


def test_the_bound_of_nearly_every_step_is_right_and_of_all_that_are_near_to_nothing_else(
    day: Analyzed,
) -> None:
    rows = bounds(day)
    assert rows.select((pl.col("found") == pl.col("bound")).mean()).item() >= _RIGHT
    clear = rows.filter(pl.col("rival") == "")
    assert clear.filter(pl.col("found") != pl.col("bound")).is_empty()
    assert len(clear) >= _CLEAR * len(rows)


def test_a_roof_that_is_named_without_doubt_is_the_one_that_held_the_kernels(day: Analyzed) -> None:
    rows = bounds(day)
    sure = rows.filter(pl.col("confidence") >= 0.5)
    assert len(sure) >= _SURE * len(rows)
    named = sure.filter(pl.col("found").is_in(_ROOFS), pl.col("held").is_in(_ROOFS))
    assert not named.is_empty()
    assert named.select((pl.col("found") == pl.col("held")).mean()).item() >= _HELD


def test_the_bound_of_what_encodes_is_right_or_what_comes_near_to_it(day: Analyzed) -> None:
    rows = bounds(day, "encode_", "b.phase = 'encode'")
    assert rows.filter(pl.col("rival") == "", pl.col("found") != pl.col("bound")).is_empty()
    right = (pl.col("found") == pl.col("bound")) | (pl.col("found") == pl.col("rival"))
    assert rows.is_empty() or rows.select(right.mean()).item() >= _RIGHT
