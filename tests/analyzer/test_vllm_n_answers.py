"""The spans that vLLM sends for the n answers to one request are one request; others with its id are their own."""

from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, span, write
from stage_fixture import staged
from store_fixture import fetch

from vtprof_analyzer import pipeline
from vtprof_analyzer.analyze import Options, analyze
from vtprof_schemas import names

MS = 1_000_000


def answer(
    trace: int, start_ms: int, ttft: float, e2e: float, output: int, decode: float = 0.01
) -> dict[str, Any]:
    """Return the span of one answer to the request ``r``, whose prompt has 116 tokens; times in s."""
    attrs = {
        "gen_ai.request.id": "r", "gen_ai.usage.prompt_tokens": 116, "gen_ai.usage.completion_tokens": output,
        "gen_ai.latency.time_to_first_token": ttft, "gen_ai.latency.e2e": e2e,
        "gen_ai.latency.time_in_queue": 0.001, "gen_ai.latency.time_in_model_prefill": 0.02,
        "gen_ai.latency.time_in_model_decode": decode,
    }  # fmt: skip
    return span("llm_request", start_ms * MS, start_ms * MS + int(e2e * 1e9), attrs, trace=trace)


TWO = [answer(1, 0, 0.039, 0.10, 12), answer(2, 0, 0.029, 0.09, 11)]


def test_the_prompt_counts_once_the_outputs_together_and_the_first_token_is_the_first(tmp_path: Path) -> None:
    with staged(tmp_path, TWO, settings=pipeline.Settings(kv_bytes_per_token=2, kv_fixed_bytes=5)) as db:
        told = "n_prompt_tokens, n_output_tokens, ttft_ms, e2e_ms, trace_id[-1:], kv_bytes, tpot_ms"
        (row,) = fetch(db, f"SELECT {told} FROM requests")
        assert row[:5] == (116, 23, pytest.approx(29), pytest.approx(100), "2")
        # Each answer has the prompt in its cache, and all of its output but the last token.
        assert row[5] == (116 + 11 + 116 + 10) * 2 + 2 * 5
        assert row[6] == pytest.approx((100 - 29) / (23 / 2 - 1))
        phases = fetch(db, "SELECT phase, duration_ns FROM phases ORDER BY first_ns")
        assert phases == [
            ("queue", MS),
            ("prefill", 20 * MS),
            ("decode", 71 * MS),
        ]  # until the last answer ended


def test_an_id_that_a_client_used_again_is_another_request(tmp_path: Path) -> None:
    with staged(tmp_path, [*TWO, answer(3, 500, 0.03, 0.1, 5)]) as db:
        assert fetch(db, "SELECT n_output_tokens FROM requests ORDER BY start_unix_nano") == [(23,), (5,)]


def test_requests_without_an_id_are_told_apart(tmp_path: Path) -> None:
    for made in (spans := [answer(1, 0, 0.03, 0.1, 3), answer(2, 0, 0.03, 0.1, 4)]):
        made["attributes"] = [a for a in made["attributes"] if a["key"] != "gen_ai.request.id"]
    with staged(tmp_path, spans) as db:
        assert fetch(db, "SELECT count(*), sum(input_tokens) FROM request_base") == [(2, 232)]


def test_the_report_says_that_who_has_no_span_is_in_no_number(tmp_path: Path) -> None:
    found = analyze(Options([write(tmp_path / "t.jsonl", document(*TWO))]))
    assert found.summary.requests == 1
    assert any("have no span at all in vLLM" in note for note in found.deployment.notes)


def test_workers_are_engines_and_not_the_api_processes_before_them(tmp_path: Path) -> None:
    def of(role: str, number: int, trace: int) -> dict[str, Any]:
        resource = {names.SERVICE_INSTANCE_ID: f"p{number}", names.ROLE: role}
        attrs = {names.REQUEST_ID: f"r{trace}"}
        return document(span(names.SPAN_REQUEST, 0, 10, attrs, trace=trace), resource=resource)

    lines = [of("api", 0, 1), of("engine", 1, 2), of("engine", 2, 3)]
    assert analyze(Options([write(tmp_path / "t.jsonl", *lines)])).deployment.workers == 2
    assert analyze(Options([write(tmp_path / "u.jsonl", lines[0])])).deployment.workers == 1
