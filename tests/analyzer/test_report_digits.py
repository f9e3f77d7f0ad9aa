"""The same traces give the same report to the last digit, in whatever order threads add things up."""

from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from report_samples import gpu_run
from synthetic.day import make_day
from synthetic.scenarios import TWO_ENGINES

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report import json_text
from vtprof_analyzer.report.digits import in_digits


def test_any_number_of_threads_gives_the_same_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_day(replace(TWO_ENGINES, seconds=40), 1, interference=False).write(tmp_path / "traces")
    documents = set()
    for threads in (1, 2, 4):

        def use(connection: duckdb.DuckDBPyConnection, _: int, threads: int = threads) -> None:
            connection.execute("SET threads = ?", [threads])

        monkeypatch.setattr("vtprof_analyzer.analyze.use_few_threads", use)
        documents.add(json_text.render(analyze(Options([tmp_path / "traces"], cache=False))))
    assert len(documents) == 1


def test_floats_keep_ten_digits_wherever_they_are_and_all_else_is_as_it_was() -> None:
    summary = replace(gpu_run().summary, duration_s=1 / 3, input_tokens=12_345_678_901_234)
    strata = [replace(gpu_run().strata[0], ttft_ms_p50=263_868.99999999994)]
    report = in_digits(replace(gpu_run(), summary=summary, strata=strata))
    assert (report.summary.duration_s, report.summary.input_tokens) == (0.3333333333, 12_345_678_901_234)
    assert report.strata[0].ttft_ms_p50 == 263_869.0
    assert in_digits({"a": [True, None, "0.12345678901234", -1.23456789012e-300]}) == {
        "a": [True, None, "0.12345678901234", -1.234567890e-300]
    }
