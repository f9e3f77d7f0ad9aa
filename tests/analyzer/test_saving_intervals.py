"""Intervals of savings: as wide as the sample says, of the subject's requests only, and the same every time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import duckdb
import numpy as np
import pytest

from vtprof_analyzer.saving_intervals import with_intervals
from vtprof_rules.build import RuleBuilder
from vtprof_rules.evaluate import evaluate
from vtprof_rules.fact_rows import FactRow, FactRows
from vtprof_rules.load import CORE_PACK
from vtprof_rules.rule import Rule

REQUESTS = 400


def rule_saving(low: str, high: str) -> Rule:
    """Return a rule on models that always fires and saves this."""
    builder = RuleBuilder(
        CORE_PACK / "XAB001_made_up.toml",
        {
            "id": "XAB001",
            "title": "Made up for this test",
            "phase": "encode",
            "severity": "low",
            "description": "Made up for this test, and for nothing else in the world.",
            "facts": "model_facts",
            "when": "n_requests > 0",
            "evidence": {"from": "requests", "where": "true", "order_by": "ttft_ms", "columns": ["trace_id"]},
            "saving": {
                "metric": "ttft_ms",
                "unit": "ms",
                "low": low,
                "high": high,
                "relative_to": "ttft_ms_mean",
                "basis": "measured",
                "how": "made up for this test",
            },
            "recommend": [{"action": "nothing"}],
            "references": [{"title": "none", "url": "https://example.org"}],
        },
    )
    rule = builder.build()
    assert not builder.faults
    return rule


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as made:
        yield made


def fill(
    connection: duckdb.DuckDBPyConnection, encode_ms: Sequence[float], model: str = "a", weight: float = 1
) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS requests (request_number BIGINT, model VARCHAR, service_instance_id VARCHAR,"
        " weight DOUBLE, trace_id VARCHAR, ttft_ms DOUBLE, preprocess_ms DOUBLE, queue_ms DOUBLE, encode_ms DOUBLE,"
        " transfer_ms DOUBLE, prefill_ms DOUBLE, tpot_ms DOUBLE)"
    )
    (before,) = connection.execute("SELECT count(*) FROM requests").fetchall()[0]
    connection.executemany(
        "INSERT INTO requests VALUES (?, ?, NULL, ?, 't', ?, 0, 0, ?, 0, 0, NULL)",
        [[before + i, model, weight, 100 + value, value] for i, value in enumerate(encode_ms)],
    )


def interval_of(
    connection: duckdb.DuckDBPyConnection, rule: Rule, rows: Sequence[FactRow]
) -> tuple[float, float] | None:
    facts: FactRows = {"model_facts": rows}
    outcomes = evaluate([rule], facts, connection)
    (outcome,) = with_intervals(connection, outcomes, [rule], facts)
    assert outcome.saving is not None
    return outcome.saving.interval


def row(encode_ms: Sequence[float], subject: str | None = None) -> FactRow:
    mean, median = float(np.mean(encode_ms)), float(np.median(encode_ms))
    known = {"n_requests": len(encode_ms), "ttft_ms_mean": 100 + mean, "encode_ms_mean": mean}
    return FactRow(
        subject, known | {"encode_ms_p50": median, "encode_floor_ratio": 0.5, "encode_ideal_ms": median / 2}
    )


def test_the_interval_of_a_mean_is_that_of_its_standard_error(connection: duckdb.DuckDBPyConnection) -> None:
    times = np.random.default_rng(1).normal(50, 10, REQUESTS).tolist()
    fill(connection, times)
    found = interval_of(connection, rule_saving("encode_ms_mean", "encode_ms_mean"), [row(times)])
    assert found is not None
    # 90 % of a normal mean lies within 1.645 standard errors; 200 draws know the tails to some 15 %.
    expected = 2 * 1.645 * float(np.std(times)) / math.sqrt(REQUESTS)
    assert found[1] - found[0] == pytest.approx(expected, rel=0.3)
    assert found[0] < np.mean(times) < found[1]


def test_more_requests_than_are_drawn_make_it_narrower_still(connection: duckdb.DuckDBPyConnection) -> None:
    times = np.random.default_rng(2).normal(50, 10, 8_000).tolist()
    fill(connection, times)
    found = interval_of(connection, rule_saving("encode_ms_mean", "encode_ms_mean"), [row(times)])
    assert found is not None
    expected = 2 * 1.645 * float(np.std(times)) / math.sqrt(8_000)
    assert found[1] - found[0] == pytest.approx(expected, rel=0.3)


def test_requests_that_are_all_alike_leave_the_formula_as_it_is(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    times = [60.0] * REQUESTS
    fill(connection, times)
    found = interval_of(
        connection, rule_saving("encode_ms_p50 * 0.15", "encode_ms_p50 - encode_ideal_ms"), [row(times)]
    )
    assert found == pytest.approx((9.0, 30.0))


def test_only_requests_of_the_model_count(connection: duckdb.DuckDBPyConnection) -> None:
    fill(connection, [10.0] * 50, "a")
    fill(connection, [10.0, 1000.0] * 200, "b")
    rows = [row([10.0] * 50, "a"), replace(row([1.0]), values={})]
    assert interval_of(connection, rule_saving("encode_ms_mean", "encode_ms_mean"), rows) == pytest.approx(
        (10.0, 10.0)
    )


def test_a_request_that_stands_for_many_is_drawn_as_often(connection: duckdb.DuckDBPyConnection) -> None:
    fill(connection, [10.0] * 100, weight=99)
    fill(connection, [1000.0] * 100, weight=1)
    known = replace(row([10.0]), values={**row([10.0]).values, "encode_ms_mean": 19.9, "n_requests": 200})
    found = interval_of(connection, rule_saving("encode_ms_mean", "encode_ms_mean"), [known])
    assert found is not None
    # The share of slow ones is binomial: 1 % of 200 draws, 0.7 % standard deviation, of 990 ms.
    assert found[1] - found[0] == pytest.approx(2 * 1.645 * 990 * math.sqrt(0.01 * 0.99 / 200), rel=0.4)


def test_a_saving_that_no_time_decides_has_no_interval(connection: duckdb.DuckDBPyConnection) -> None:
    fill(connection, [10.0] * 10)
    assert interval_of(connection, rule_saving("n_requests", "n_requests * 2"), [row([10.0])]) is None


def test_the_same_traces_give_the_same_interval(connection: duckdb.DuckDBPyConnection) -> None:
    times = np.random.default_rng(3).exponential(50, REQUESTS).tolist()
    fill(connection, times)
    rule = rule_saving("encode_ms_p50", "encode_ms_mean")
    assert interval_of(connection, rule, [row(times)]) == interval_of(connection, rule, [row(times)])
