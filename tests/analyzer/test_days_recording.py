"""Synthetic days of which a part is missing: what was recorded is right, and what is missing is counted."""

from dataclasses import replace

import polars as pl
import pytest
from days_fixture import Analyzed, analyzed, requests
from synthetic.day import make_day
from synthetic.scenarios import LOSSY, SAMPLED, SKEWED, Scenario


def day(scenario: Scenario, seconds: float, paths: pytest.TempPathFactory) -> Analyzed:
    return analyzed(make_day(replace(scenario, seconds=seconds), 11, interference=False), paths.mktemp("day"))


def test_lost_spans_are_missed_and_the_rest_is_right(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = day(LOSSY, 12, tmp_path_factory)
    faults = found.day.truth["faults"].group_by("kind").agg(pl.col("count").sum())
    counts = dict(faults.iter_rows())
    assert found.report.integrity.duplicates == counts["duplicate"]
    assert found.report.integrity.orphans == counts["orphan"]
    joined = requests(found)
    assert len(joined) < len(found.day.truth["requests"])
    for column in ("input_tokens", "output_tokens", "image_tokens", "ttft_ns"):
        assert joined[column].to_list() == joined[f"{column}_found"].to_list(), column


def test_sampled_requests_stand_for_all(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = day(SAMPLED, 40, tmp_path_factory)
    truth = found.day.truth["requests"]
    ratios = truth.filter(pl.col("recorded"))["sampling_ratio"].to_list()
    assert found.report.integrity.estimated_requests == round(sum(1 / ratio for ratio in ratios))
    assert found.report.integrity.sampled_requests == sum(ratio < 1 for ratio in ratios)
    kept = requests(found)
    weights = kept["weight"].to_list()
    assert weights == pytest.approx([1 / ratio for ratio in kept["sampling_ratio"].to_list()])
    # The mean over all requests from those that were kept: within what so few of them allow.
    mean = sum(map(float.__mul__, weights, map(float, kept["input_tokens"].to_list()))) / sum(weights)
    every = truth["input_tokens"].to_list()
    assert mean == pytest.approx(sum(every) / len(every), rel=0.15)


def test_clocks_that_are_apart_are_found_within_their_bounds(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    found = day(SKEWED, 10, tmp_path_factory)
    offsets = dict(found.day.truth["clocks"].iter_rows())
    rows = found.table(
        "SELECT host_name, offset_ns, low_ns, high_ns FROM clock_offsets WHERE against = 'gateway'"
    )
    assert {row[0] for row in rows.iter_rows()} == set(offsets)
    for host, offset_ns, low_ns, high_ns in rows.iter_rows():
        # A request begins after its caller, by the way there: 0.2 to 2 ms, and less than that beyond the bound's percentile.
        assert high_ns is None or offsets[host] <= high_ns <= offsets[host] + 2_000_000
        assert low_ns is None or low_ns <= offsets[host]
        assert offset_ns == 0 or abs(offset_ns - offsets[host]) <= 2_000_000
