"""What an engine says of itself, sampled by the agent, is summed up over the run and shown in every report."""

from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, metric_document, request, write
from store_fixture import fetch, loaded

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report import html, markdown, terminal
from vtprof_analyzer.report.engine_phrases import TITLE
from vtprof_schemas import names

SPANS = document(*request(0, 1_000, {names.INPUT_TOKENS: 5}, queue=(10, 20), prefill=(20, 50)))
S = 1_000_000_000


def said(rank: int = 0, name: str = "vllm", **series: list[tuple[int, float]]) -> list[dict[str, Any]]:
    """Return metric lines of one rank: constant of ``names`` to [(second, value)]."""
    resource = {
        names.SERVICE_INSTANCE_ID: f"http://h/metrics#{rank}", names.ENGINE_NAME: name, names.ENGINE_VERSION: "0.32.0",
    }  # fmt: skip
    return [
        metric_document(getattr(names, constant), [(at * S, value) for at, value in points], resource)
        for constant, points in series.items()
    ]


def report_of(folder: Path, *lines: dict[str, Any]) -> Any:
    return analyze(Options([write(folder / "t.jsonl", SPANS, *lines)]))


def test_states_are_medians_and_peaks_and_totals_are_what_grew(tmp_path: Path) -> None:
    engine = report_of(
        tmp_path,
        *said(
            ENGINE_KV_USED_RATIO=[(0, 0.1), (5, 0.5), (10, 0.2)],
            ENGINE_RUNNING=[(0, 1), (5, 4), (10, 3)],
            ENGINE_PREEMPTIONS=[(0, 7), (5, 8), (10, 8)],
            ENGINE_PROMPT_TOKENS=[(0, 1000), (5, 1500), (10, 3000)],
            ENGINE_PREFIX_QUERIED_TOKENS=[(0, 1000), (10, 3000)],
            ENGINE_PREFIX_HIT_TOKENS=[(0, 900), (10, 1400)],
            ENGINE_MM_QUERIED_ITEMS=[(0, 0), (10, 8)],
            ENGINE_MM_HIT_ITEMS=[(0, 0), (10, 2)],
        ),
    ).engine
    assert (engine.name, engine.version, engine.ranks, engine.readings) == ("vllm", "0.32.0", 1, 3)
    assert (engine.kv_used_ratio_p50, engine.kv_used_ratio_max) == (0.2, 0.5)
    assert (engine.running_p50, engine.running_max) == (3, 4)
    assert (engine.preemptions, engine.prompt_tokens) == (1, 2000)
    assert engine.prefix_hit_rate == 500 / 2000, "of what was looked up meanwhile, not before"
    assert engine.mm_cache_hit_rate == 0.25
    assert engine.waiting_max is engine.output_tokens is engine.encoder_cache_hit_rate is None


def test_an_engine_that_was_started_again_counts_on(tmp_path: Path) -> None:
    engine = report_of(tmp_path, *said(ENGINE_OUTPUT_TOKENS=[(0, 100), (5, 160), (10, 20), (15, 50)])).engine
    assert engine.output_tokens == 60 + 20 + 30


def test_totals_from_the_engines_start_are_whole_and_the_zero_is_no_reading(tmp_path: Path) -> None:
    """14 requests were served before the first reading: the agent says that the engine began at zero."""
    found = report_of(
        tmp_path,
        *said(ENGINE_RUNNING=[(60, 0), (65, 0)], ENGINE_PROMPT_TOKENS=[(0, 0), (60, 3677), (65, 3677)]),
    )
    engine = found.engine
    assert (engine.prompt_tokens, engine.readings, engine.seconds, engine.since_start) == (3677, 2, 5.0, True)
    assert "start was not seen" not in " ".join(terminal.render(found).split())


def test_where_the_engine_was_there_before_the_agent_totals_say_what_they_are(tmp_path: Path) -> None:
    found = report_of(
        tmp_path, *said(ENGINE_RUNNING=[(60, 0), (65, 0)], ENGINE_PROMPT_TOKENS=[(60, 3677), (65, 3700)])
    )
    assert (found.engine.prompt_tokens, found.engine.since_start) == (23, False)
    text = " ".join(terminal.render(found).split())
    assert (
        "2 readings of its metrics page; its start was not seen: totals are what grew within 5.00 s" in text
    )
    once = report_of(tmp_path, *said(ENGINE_RUNNING=[(60, 0)], ENGINE_PROMPT_TOKENS=[(60, 3677)]))
    assert once.engine.prompt_tokens is None
    assert "1 reading of its metrics page; its start was not seen: no totals" in " ".join(
        terminal.render(once).split()
    )


def test_ranks_are_added_and_the_fullest_cache_counts(tmp_path: Path) -> None:
    lines = []
    for rank, running, used, tokens in ((0, 2, 0.1, 10), (1, 5, 0.9, 7)):
        lines += said(
            rank,
            ENGINE_RUNNING=[(0, 1), (5, running)],
            ENGINE_KV_USED_RATIO=[(0, 0.1), (5, used)],
            ENGINE_PROMPT_TOKENS=[(0, 0), (5, tokens)],
        )
    engine = report_of(tmp_path, *lines).engine
    assert (engine.ranks, engine.running_max, engine.kv_used_ratio_max, engine.prompt_tokens) == (
        2,
        7,
        0.9,
        17,
    )


def test_sglang_hits_are_cached_of_prompt_tokens(tmp_path: Path) -> None:
    lines = said(
        name="sglang", ENGINE_PROMPT_TOKENS=[(0, 0), (5, 400)], ENGINE_CACHED_TOKENS=[(0, 0), (5, 100)]
    )
    assert report_of(tmp_path, *lines).engine.prefix_hit_rate == 0.25


def test_the_mean_of_a_histogram_is_over_the_run(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    seconds, requests = names.ENGINE_TIMES["ttft"]
    points = ((seconds, [(0, 1.0), (S, 4.0)]), (requests, [(0, 10), (S, 16)]))
    write(path, SPANS, *(metric_document(name, values) for name, values in points))
    assert analyze(Options([path])).engine.ttft_ms_mean == pytest.approx(500)  # type: ignore[union-attr]


def test_it_is_shown_everywhere_and_only_where_it_was_read(tmp_path: Path) -> None:
    without = report_of(tmp_path)
    assert without.engine is None
    assert without.as_dict()["engine"] is None
    lines = said(ENGINE_KV_USED_RATIO=[(0, 0.25)], ENGINE_WAITING=[(0, 2)])
    found = report_of(tmp_path, *lines)
    for render in (terminal.render, markdown.render, html.render):
        assert TITLE not in render(without)
        text = " ".join(render(found).split())
        assert TITLE in text
        assert "vLLM 0.32.0, 1 reading of its metrics page" in text or "vLLM 0\\.32\\.0" in text
        assert "KV in use p50 25 %, most 25 %" in text
        assert "waiting p50 2" in text


def test_its_samples_are_rows_of_a_documented_view(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl", *said(ENGINE_RUNNING=[(0, 2)]), metric_document(names.GPU_POWER_MW, [(0, 5.0)])
    )
    with loaded(path) as db:
        assert fetch(db, "SELECT instance, engine_name, name, value FROM engine_samples") == [
            ("http://h/metrics#0", "vllm", names.ENGINE_RUNNING, 2.0)
        ]
        assert fetch(db, "SELECT count(*) FROM metric_samples") == [(2,)]
