"""Synthetic days with known truth: times of phases within 1 %, tokens exact, whatever the engine did that day."""

from dataclasses import replace

import polars as pl
import pytest
from days_fixture import TOKENS, Analyzed, analyzed, requests
from synthetic.day import make_day
from synthetic.scenarios import (
    CACHES,
    CROWDED,
    GAPS,
    ORDINARY,
    SKEWED,
    TWO_ENGINES,
    Scenario,
)

PHASES = ("preprocess", "queue", "encode", "prefill", "decode")
_WITHIN = 0.01
"""Of the true time of a phase."""


def shorter(scenario: Scenario, seconds: float) -> Scenario:
    return replace(scenario, seconds=seconds)


@pytest.fixture(
    scope="module",
    params=[
        shorter(ORDINARY, 12), shorter(CACHES, 22), shorter(CROWDED, 40), shorter(TWO_ENGINES, 10), shorter(GAPS, 8),
        shorter(SKEWED, 10),
    ],
    ids=lambda scenario: scenario.name,
)  # fmt: skip
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Analyzed:
    """A day of which nothing is missing."""
    day = make_day(request.param, 11, interference=False)
    return analyzed(day, tmp_path_factory.mktemp("day"))


def test_tokens_of_every_request_are_exact(whole: Analyzed) -> None:
    joined = requests(whole)
    for column in TOKENS:
        assert joined[column].to_list() == joined[f"{column}_found"].to_list(), column
    summary = whole.report.summary
    assert summary.input_tokens == joined["input_tokens"].sum()
    assert summary.output_tokens == joined["output_tokens"].sum()
    assert summary.visual_tokens == (joined["image_tokens"] + joined["video_tokens"]).sum()


def test_times_of_every_request_and_phase_are_right(whole: Analyzed) -> None:
    joined = requests(whole)
    assert joined["ttft_ns"].to_list() == joined["ttft_ns_found"].to_list()
    for true, found in joined.select("tpot_ns", "tpot_ns_found").drop_nulls().iter_rows():
        assert found == pytest.approx(true, rel=1e-9)
    phases = whole.table("SELECT request_number, phase, duration_ns FROM phases")
    for phase in PHASES:
        of_phase = phases.filter(pl.col("phase") == phase)
        both = joined.join(of_phase, on="request_number", how="left", suffix="_phase")
        true, found = both[f"{phase}_ns"], both["duration_ns"].fill_null(0)
        assert found.sum() == pytest.approx(true.sum(), rel=_WITHIN), phase
        assert ((true - found).abs() <= _WITHIN * true).all(), phase


def test_time_to_first_token_is_divided_as_it_was_spent(whole: Analyzed) -> None:
    budget = whole.table("FROM request_budget")
    both = requests(whole).join(budget, on="request_number", suffix="_budget").drop_nulls("ttft_ns")
    for phase in (*PHASES[:-1], "unexplained"):
        true, found = both[f"ttft_{phase}_ns"], both[f"{phase}_ns_budget"]
        assert ((true - found).abs() <= _WITHIN * true).all(), phase
    shares = {part.phase: part.share for part in whole.report.ttft_budget.phases}
    ttft_ns = both["ttft_ns"].to_numpy().sum()
    for phase in (*PHASES[:-1], "unexplained"):
        true_share = both[f"ttft_{phase}_ns"].to_numpy().sum() / ttft_ns
        assert shares[phase] == pytest.approx(true_share, abs=_WITHIN * true_share + 1e-9), phase


def test_nothing_is_found_wrong_with_a_whole_day(whole: Analyzed) -> None:
    integrity = whole.report.integrity
    for fault in (
        "orphans",
        "duplicates",
        "end_missing",
        "negative_duration",
        "malformed_lines",
        "unknown_attributes",
    ):
        assert getattr(integrity, fault) == 0, fault
    # Those of the gateway, where there is one.
    gateway = len(whole.day.truth["requests"]) if whole.day.scenario.recording.gateway else 0
    assert integrity.ignored_spans == gateway


def test_iterations_and_device_time_add_up(whole: Analyzed) -> None:
    steps = whole.day.truth["steps"]
    found = whole.table(
        "SELECT sum(steps) AS n, sum(gpu_time_ns) AS device, sum(preemptions) AS lost FROM steps"
    ).row(0)
    assert found[0] == steps["count"].sum()
    assert found[1] == pytest.approx(
        steps.select(pl.sum_horizontal("encode_s", "prefill_s", "decode_s").sum()).item() * 1e9
    )
    assert found[2] == steps["preemptions"].sum()
