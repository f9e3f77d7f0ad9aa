"""A run of which sampling kept a part: its report tells of all requests, by hand arithmetic, or says that it does not."""

import json
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from otlp_builder import document, request, write
from store_fixture import loaded

import vtprof_schemas
from vtprof_analyzer import pipeline
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report import html, json_text, markdown, terminal
from vtprof_analyzer.report.model import Report
from vtprof_schemas import names

MS = 1_000_000
SCHEMA = json.loads((Path(vtprof_schemas.__file__).parent / "analyze_report.schema.json").read_text("utf-8"))


def run(folder: Path, *kept: tuple[float, float | None], visual: Sequence[int] = ()) -> Report:
    """Return the report of requests by TTFT [ms] and sampling ratio, each of 2 s; objective: 10 ms."""
    spans = []
    for trace, (ttft_ms, ratio) in enumerate(kept, start=1):
        tokens = visual[trace - 1] if visual else 0
        attrs = {
            names.TTFT_NS: int(ttft_ms * MS), names.INPUT_TOKENS: 10 + tokens, names.TOKENS_TEXT: 10,
            names.TOKENS_IMAGE: tokens, names.OUTPUT_TOKENS: 2, **({} if ratio is None else {names.SAMPLING_RATIO: ratio}),
        }  # fmt: skip
        spans += request(
            0,
            2_000 * MS,
            attrs,
            trace=trace,
            queue=(0, MS),
            prefill=(MS, int(ttft_ms * MS)),
            decode=(int(ttft_ms * MS), 9 * MS),
        )
    report = analyze(Options([write(folder / "t.jsonl", document(*spans))], slo_ttft_ms=10.0))
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json_text.render(report)))
    return report


def said(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").replace("\\", "").split())


SLOW_AND_ORDINARY = [(2.0, 0.1)] * 9 + [(100.0, 1.0)] * 10
"""Nine that stand for ten each, and all ten slow ones: 19 kept of 100."""


def test_percentiles_are_of_all_requests_and_not_of_the_kept_ones(tmp_path: Path) -> None:
    summary = run(tmp_path, *SLOW_AND_ORDINARY).summary
    assert (summary.requests, summary.weighted) == (19, True)
    assert summary.ttft_ms.p50 == pytest.approx(2.0), "of the kept ones alone it would be 100"
    assert summary.ttft_ms.p95 == pytest.approx(100.0)
    rare = run(tmp_path, *[(2.0, 0.1)] * 99, *[(100.0, 1.0)] * 10).summary  # ten slow ones in a thousand
    assert rare.ttft_ms.p95 == pytest.approx(2.0), "of the kept ones alone it would be 100"


def test_attainment_and_goodput_are_of_all_requests(tmp_path: Path) -> None:
    slo = run(tmp_path, *SLOW_AND_ORDINARY).slo
    assert slo.ttft_attainment == pytest.approx(90 / 100), "of the kept ones 9 / 19"
    assert slo.goodput_share == pytest.approx(90 / 100)
    assert slo.goodput_per_s == pytest.approx(90 / 2.0), "in two seconds; of the kept ones 4.5"


def test_parts_of_ttft_strata_and_prompt_tokens_are_of_all_requests(tmp_path: Path) -> None:
    report = run(tmp_path, *SLOW_AND_ORDINARY, visual=[0] * 9 + [90] * 10)
    shares = {row.phase: row.share for row in report.ttft_budget.phases}
    assert shares["queue"] == pytest.approx((90 * 1 + 10 * 1) / (90 * 2 + 10 * 100))
    assert {row.phase: row.p50_ms for row in report.ttft_budget.phases}["prefill"] == pytest.approx(1.0)
    assert report.dominance.prompt_tokens.share == pytest.approx(10 * 90 / (90 * 10 + 10 * 100))
    mixed = run(tmp_path, (2.0, 0.1), (4.0, 1.0))
    assert [row.ttft_ms_p50 for row in mixed.strata] == [pytest.approx(2.0)], "ten of 2 ms and one of 4"


def test_every_number_has_its_mark_beside_it_in_every_format(tmp_path: Path) -> None:
    report = run(tmp_path, *SLOW_AND_ORDINARY)
    for text in map(said, (terminal.render(report, width=110), markdown.render(report), html.render(report))):
        assert "19 of about 100 requests kept, the slow ones over-represented" in text
        assert "of about 100 requests, 45 requests/s" in text
        assert (
            "10 requests kept at or above p95, weighted" in text
            or "19 requests kept with a first token" in text
        )
        assert "KV of the requests kept" in text or "KV footprint" in text
    assert "TTFT, p95 (for all)" in said(html.render(report))
    assert "of the requests kept" in said(terminal.render(report, width=110))
    assert json.loads(json_text.render(report))["summary"]["weighted"] is True


def test_a_run_that_kept_all_has_no_mark(tmp_path: Path) -> None:
    report = run(tmp_path, (2.0, 1.0), (4.0, None))
    assert report.summary.weighted is False
    assert report.summary.ttft_ms.p50 == pytest.approx(3.0), "linear between both"
    for text in map(said, (terminal.render(report), markdown.render(report), html.render(report))):
        assert "requests kept" not in text
        assert "(for all)" not in text


@pytest.mark.parametrize("seed", range(5))
def test_a_weighted_quantile_is_that_of_its_values_repeated(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    values, weights = random.normal(size=40).round(1), random.integers(1, 30, size=40)
    with loaded(write(tmp_path / "t.jsonl", document())) as db:
        pipeline.run_sql_stage(db, "05_weighted_quantiles.sql")
        db.execute("CREATE TABLE given (what VARCHAR, value DOUBLE, weight DOUBLE)")
        db.executemany(
            "INSERT INTO given VALUES (?, ?, ?)",
            [("a", float(v), float(w)) for v, w in zip(values, weights, strict=True)]
            + [("b", 7.0, 1.0), ("b", None, 9.0)],
        )
        answer = db.execute("FROM weighted_quantiles('given')").fetchall()
    found = {(what, quantile): value for what, quantile, value in answer}
    for quantile in (0.5, 0.95, 0.99):
        assert found["a", quantile] == pytest.approx(np.quantile(np.repeat(values, weights), quantile))
        assert found["b", quantile] == 7.0


def test_a_weighted_quantile_lies_on_the_line_to_the_next_value_however_far_that_is(tmp_path: Path) -> None:
    with loaded(write(tmp_path / "t.jsonl", document())) as db:
        pipeline.run_sql_stage(db, "05_weighted_quantiles.sql")
        db.execute(
            "CREATE TABLE given AS FROM (VALUES ('a', -1e6, 2), ('a', 1e9, 2)) AS given (what, value, weight)"
        )
        answer = db.execute("SELECT quantile, value FROM weighted_quantiles('given') ORDER BY 1").fetchall()
    # Places 0 and 1 are the first value's, 2 and 3 the second's: place 1.5 is in the middle between them.
    assert answer == [(0.5, (1e9 - 1e6) / 2), (0.95, 1e9), (0.99, 1e9)]
