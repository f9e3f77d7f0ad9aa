"""Rules on several models, processes or phases, and what a user changes about rules."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from rule_helpers import read_rule

from vtprof_rules.build import RuleBuilder
from vtprof_rules.evaluate import evaluate
from vtprof_rules.fact_rows import FactRow, FactRows
from vtprof_rules.load import LoadedRules
from vtprof_rules.outcome import Outcome
from vtprof_rules.overrides import switched_off, with_params
from vtprof_rules.rule import Scalar
from vtprof_schemas.errors import ConfigError

DOMINATES = """
vtprof_rule = 1
id = "ENC001"
title = "The encoder dominates TTFT"
phase = "encode"
severity = "high"
description = "A rule of this test, so that those that are shipped can change."
facts = "model_facts"
when = "encode_share_of_ttft_p50 >= $min_share AND encode_mfu >= 0.35"
[applies]
min_requests = 20
[params.min_share]
default = 0.35
source = "made up for this test"
[evidence]
from = "requests"
where = "encode_ms > 0"
order_by = "encode_ms DESC"
columns = ["trace_id", "encode_ms"]
[saving]
metric = "ttft_ms"
unit = "ms"
low = "encode_ms_p50 * 0.15"
high = "encode_ms_p50 * 0.5"
basis = "bound"
how = "made up for this test"
[[recommend]]
action = "Do something"
[[references]]
title = "none"
url = "https://example.org"
"""
ENC001 = LoadedRules((RuleBuilder(Path("ENC001_of_this_test.toml"), tomllib.loads(DOMINATES)).build(),))
HEAVY: dict[str, Scalar] = {
    "n_requests": 100,
    "ttft_ms_p50": 100.0,
    "encode_ms_p50": 60.0,
    "encode_share_of_ttft_p50": 0.6,
    "encode_mfu": 0.5,
}
LIGHT = HEAVY | {"encode_share_of_ttft_p50": 0.1}
HEAVIER = HEAVY | {"ttft_ms_p50": 70.0, "encode_share_of_ttft_p50": 0.85}


@pytest.fixture
def source() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as connection:
        connection.execute(
            "CREATE VIEW requests AS SELECT 't' || i AS trace_id, 60.0 + i AS encode_ms, 100.0 AS ttft_ms,"
            " CASE WHEN i < 10 THEN 'small' ELSE 'large' END AS model FROM range(30) AS numbers (i)"
        )
        yield connection


def judged(rows: list[FactRow], source: duckdb.DuckDBPyConnection) -> Outcome:
    view = next(iter(ENC001)).facts
    (outcome,) = evaluate(ENC001, {view: rows}, source)
    return outcome


def test_one_model_of_two_is_named_with_its_own_evidence(source: duckdb.DuckDBPyConnection) -> None:
    outcome = judged([FactRow("small", LIGHT), FactRow("large", HEAVY)], source)
    assert (outcome.status, outcome.subjects) == ("fired", ("large",))
    assert outcome.summary.startswith("model large: 20 of 20 requests; ")
    assert {row["trace_id"] for row in outcome.evidence} <= {f"t{i}" for i in range(10, 30)}


def test_of_several_models_the_one_that_gains_most_comes_first(source: duckdb.DuckDBPyConnection) -> None:
    outcome = judged([FactRow("large", HEAVY), FactRow("small", HEAVIER)], source)
    # The same milliseconds are more of 70 than of 100.
    assert outcome.subjects == ("small", "large")
    assert outcome.summary.startswith("model small (and 1 more): 10 of 10 requests; ")


def test_a_single_model_needs_no_name(source: duckdb.DuckDBPyConnection) -> None:
    outcome = judged([FactRow("large", HEAVY)], source)
    assert outcome.subjects == ()
    assert outcome.summary.startswith("30 of 30 requests; ")


def test_a_rule_ends_in_what_tells_most_of_its_rows(source: duckdb.DuckDBPyConnection) -> None:
    few = FactRow("few", HEAVY | {"n_requests": 1})
    unknown = FactRow("unknown", {"n_requests": 100})
    passed = FactRow("fine", LIGHT)
    assert judged([unknown, few], source).status == "insufficient_data"
    outcome = judged([unknown, few, passed], source)
    assert outcome.status == "passed"
    assert outcome.reason.startswith("model fine: median encode share of TTFT 10 %")


def test_a_view_without_rows_is_not_a_pass(source: duckdb.DuckDBPyConnection) -> None:
    assert judged([], source).status == "not_applicable"


def test_a_threshold_is_replaced_and_said(source: duckdb.DuckDBPyConnection) -> None:
    view = next(iter(ENC001)).facts
    rows: FactRows = {view: [FactRow(None, HEAVY)]}
    (rule,) = stricter = with_params(ENC001, ["enc001.min_share=0.7"])
    assert (rule.params["min_share"].default, rule.params["min_share"].source) == (
        0.7,
        "given by the user, not 0.35",
    )
    assert [outcome.status for outcome in evaluate(stricter, rows, source)] == ["passed"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ENC001", "write ID.name=value"),
        ("ENC999.min_share=1", "no rule 'ENC999'"),
        ("ENC001.most=1", "has no parameter 'most'; it has min_share"),
        ("ENC001.min_share=much", "takes a number below 2.63, as 0.35"),
        ("ENC001.min_share=nan", "takes a number below"),
    ],
)
def test_a_bad_threshold_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_params(ENC001, [text])


def test_a_rule_that_is_switched_off_is_suppressed_with_the_reason(source: duckdb.DuckDBPyConnection) -> None:
    view = next(iter(ENC001)).facts
    off = switched_off(ENC001, ["ENC001=the new encoder is on its way"])
    (outcome,) = evaluate(ENC001, {view: [FactRow(None, HEAVY)]}, source, off)
    assert (outcome.status, outcome.reason) == ("suppressed", "switched off: the new encoder is on its way")
    with pytest.raises(ConfigError, match="say why"):
        switched_off(ENC001, ["ENC001"])


def test_advice_that_is_in_force_already_is_left_out(
    tmp_path: Path, source: duckdb.DuckDBPyConnection
) -> None:
    path = tmp_path / "XAB001_lower.toml"
    path.write_text(LOWER, encoding="utf-8")
    rule, faults = read_rule(path)
    assert not faults
    assert rule is not None
    for tokens, expected in (
        (8192, ["Lower it", "Look elsewhere"]),
        (2048, ["Look elsewhere"]),
        (None, ["Lower it", "Look elsewhere"]),
    ):
        rows: FactRows = {"model_facts": [FactRow(None, {"n_requests": 5, "max_num_batched_tokens": tokens})]}
        (outcome,) = evaluate([rule], rows, source)
        assert [advice.action for advice in outcome.advice] == expected


LOWER = """
vtprof_rule = 1
id = "XAB001"
title = "The budget of a step is large"
phase = "prefill"
severity = "low"
description = "Made up for this test, and for nothing else in the world."
facts = "model_facts"
when = "n_requests > 0"
[evidence]
from = "requests"
where = "true"
order_by = "ttft_ms"
columns = ["trace_id"]
[[recommend]]
action = "Lower it"
when = "max_num_batched_tokens > 2048"
[[recommend]]
action = "Look elsewhere"
[[references]]
title = "none"
url = "https://example.org"
"""
