"""Requests that look like reading are told under advice that may change answers, from the facts to every format."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from report_samples import empty_run

from vtprof_analyzer.report import html, json_text, markdown, terminal
from vtprof_analyzer.report.build_findings import Judgement, build_findings
from vtprof_analyzer.report.model import Finding, Report
from vtprof_rules.build import RuleBuilder
from vtprof_rules.evaluate import evaluate
from vtprof_rules.fact_rows import FactRow
from vtprof_rules.load import LoadedRules
from vtprof_rules.rule import Scalar

RULE = """
vtprof_rule = 1
id = "MM001"
title = "A resolution cap would help"
phase = "encode"
severity = "high"
accuracy = ACCURACY
description = "A rule of this test, so that those that are shipped can change."
facts = "model_facts"
when = "encode_ms_p50 >= $min_ms"
[applies]
min_requests = 20
[params.min_ms]
default = 50
unit = "ms"
source = "made up for this test"
[evidence]
from = "requests"
where = "encode_ms > 0"
order_by = "encode_ms DESC"
columns = ["trace_id", "encode_ms"]
[[recommend]]
action = "Cap the size of images"
[[references]]
title = "none"
url = "https://example.org"
"""
CAVEAT = (
    "of the requests with images look like reading (documents, OCR), which loses most from fewer visual tokens: "
    "measure those by themselves."
)
WRITERS: dict[str, Callable[[Report], str]] = {
    "terminal": terminal.render,
    "html": html.render,
    "markdown": lambda report: markdown.render(report).replace("\\", ""),
}


def finding(
    *shares: float | None,
    accuracy: bool = True,
    others: dict[str, Scalar] | None = None,
    rule_id: str = "MM001",
) -> Finding:
    """Return what the rule finds on one model for each of these shares of requests that look like reading.

    ``others`` are the facts of one more model, on which it does not fire.
    """
    text = RULE.replace("ACCURACY", str(accuracy).lower()).replace("MM001", rule_id)
    rule = RuleBuilder(Path(f"{rule_id}.toml"), tomllib.loads(text))
    rules = LoadedRules((rule.build(),))
    heavy = {"n_requests": 100, "encode_ms_p50": 60.0}
    rows = [FactRow(f"m{n}", {**heavy, "ocr_like_share": share}) for n, share in enumerate(shares)]
    if others is not None:
        rows.append(FactRow("other", {**heavy, "encode_ms_p50": 1.0, **others}))
    facts = {"model_facts": rows}
    with duckdb.connect(":memory:") as source:
        source.execute("CREATE VIEW requests AS SELECT 't' AS trace_id, 60.0 AS encode_ms, 'm0' AS model")
        (found,) = build_findings(Judgement(tuple(rules), facts, evaluate(rules, facts, source)))
    return found


def written(writer: str, found: Finding) -> str:
    return " ".join(WRITERS[writer](replace(empty_run(), findings=[found])).split())


def in_json(found: Finding) -> float | None:
    document = json.loads(json_text.render(replace(empty_run(), findings=[found])))
    share: float | None = document["findings"][0]["ocr_like_share"]
    return share


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(("share", "told"), [(0.34, "34 %"), (0.3, "30 %"), (1.0, "100 %")])
def test_a_share_from_three_tenths_on_is_told(writer: str, share: float, told: str) -> None:
    text = written(writer, finding(share))
    assert text.count(f"{told} {CAVEAT}") == 1
    assert f"Up to {told}" not in text


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    ("share", "accuracy"), [(0.29, True), (0.0, True), (None, True), (float("nan"), True), (0.34, False)]
)
def test_nothing_is_said_below_of_the_unknown_or_where_answers_stay(
    writer: str, share: float | None, accuracy: bool
) -> None:
    text = written(writer, finding(share, accuracy=accuracy))
    assert "A resolution cap would help" in text
    assert "look like reading" not in text


@pytest.mark.parametrize(
    ("share", "accuracy", "told"),
    [
        (0.34, True, 0.34),
        (0.3, True, 0.3),
        (0.29, True, None),
        (None, True, None),
        (0.34, False, None),
    ],
)
def test_json_has_the_share_where_the_others_tell_it(
    share: float | None, accuracy: bool, told: float | None
) -> None:
    assert in_json(finding(share, accuracy=accuracy)) == told


@pytest.mark.parametrize("writer", WRITERS)
def test_of_several_models_the_largest_share_is_a_limit(writer: str) -> None:
    found = finding(0.32, 0.41, 0.1, None)
    assert in_json(found) == 0.41
    assert f"Up to 41 % {CAVEAT}" in written(writer, found)


def test_a_model_that_the_finding_is_not_about_has_no_say() -> None:
    assert in_json(finding(0.1, others={"ocr_like_share": 0.9})) is None
    told = finding(0.4, others={"ocr_like_share": 0.9})
    assert in_json(told) == 0.4
    assert told.subjects == ["m0"]
    assert f"Up to 40 % {CAVEAT}" not in written("markdown", told)
    assert f"40 % {CAVEAT}" in written("markdown", told)


@pytest.mark.parametrize(
    ("rule_id", "told"), [("DEC002", None), ("KV001", None), ("MM002", 0.4), ("MY001", 0.4)]
)
def test_fewer_bits_take_no_visual_tokens_away(rule_id: str, told: float | None) -> None:
    """The methods of the first two rules halve weights and KV; of a user's rule none are known."""
    assert in_json(finding(0.4, rule_id=rule_id)) == told
