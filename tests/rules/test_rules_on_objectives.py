"""Findings on objectives and tails: they name the phase that is to blame, and no phase's usual time is counted for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from rule_helpers import read_rule, same_everywhere

from vtprof_rules.evaluate import evaluate
from vtprof_rules.load import load_packs
from vtprof_rules.outcome import Outcome
from vtprof_rules.savings import combine

MISSED: dict[str, Any] = {
    "n_requests": 400,
    "goodput_share": 0.8,
    "slo_recovered_share": 0.16,
    "slo_ttft_ms": 1000.0,
    # One replica of two queues 200 ms longer than both together, of requests that usually wait for 5 ms.
    "instances": 2,
    "instance_load_cv": 0.5,
    "queue_ms_mean": 5.0,
    "queue_ms_p50": 5.0,
    "queue_ms_p95": 100.0,
    "queue_ms_p95_worst": 300.0,
    "ttft_ms_p95": 1000.0,
}


@pytest.fixture
def empty() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as connection:
        connection.execute("CREATE TABLE requests (trace_id VARCHAR)")
        yield connection


def fired(facts: dict[str, Any], source: duckdb.DuckDBPyConnection) -> dict[str, Outcome]:
    outcomes = evaluate(load_packs(), same_everywhere(facts), source)
    return {outcome.rule: outcome for outcome in outcomes if outcome.status == "fired"}


def test_missed_objectives_name_the_phase_that_fails_them(empty: duckdb.DuckDBPyConnection) -> None:
    summary = fired({**MISSED, "slo_worst_phase": "queue"}, empty)["SLO001"].summary
    assert summary.endswith("requests within the objectives 80 %, phase that objectives fail by queue")


def test_a_phase_that_is_not_known_is_not_named(empty: duckdb.DuckDBPyConnection) -> None:
    assert fired(MISSED, empty)["SLO001"].summary.endswith("requests within the objectives 80 %")


def test_a_saving_of_the_tail_is_no_part_of_the_usual_time(empty: duckdb.DuckDBPyConnection) -> None:
    found = fired(MISSED, empty)["QUE003"]
    assert found.saving is not None
    assert (found.saving.low, found.saving.high) == (100.0, 200.0)
    assert combine([found], same_everywhere(MISSED)) == []


def test_a_rule_shows_known_facts_only(tmp_path: Path) -> None:
    rule = next(rule for rule in load_packs() if rule.id == "SLO001")
    text = rule.path.read_text("utf-8").replace('"slo_worst_phase"', '"slo_worst_phase", "slo_best_phase"')
    path = tmp_path / rule.path.name
    path.write_text(text, "utf-8")
    _, faults = read_rule(path)
    assert [(fault.key, fault.message) for fault in faults] == [
        ("shows[1]", "'slo_best_phase' is no known fact")
    ]
