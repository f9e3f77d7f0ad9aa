"""Traces of an agent that shed detail or sampled: nothing is judged on mixtures, and the report says what is missing."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from otlp_builder import document, request, span, write
from qwen_configs import QWEN2_5_VL_7B
from stage_fixture import staged
from store_fixture import fetch

import vtprof_schemas
from vtprof_analyzer import verdict as v
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.report import html, json_text, markdown, terminal
from vtprof_analyzer.report.model import PhaseRow, Report
from vtprof_analyzer.report.phrases import volume
from vtprof_analyzer.report.trust_phrases import trust
from vtprof_analyzer.verdict_folded import Folded, despite_folding
from vtprof_schemas import names

MS = 1_000_000
RESOURCE = {
    names.SERVICE_INSTANCE_ID: "ring-1", names.MODEL_CONFIG: json.dumps(QWEN2_5_VL_7B), names.DEVICE_KIND: "cuda",
    names.WEIGHTS_DTYPE: "bfloat16", names.KV_DTYPE: "bfloat16", names.HW_NAME: "NVIDIA H200",
}  # fmt: skip
PROMPT = 4000
SCHEMA = json.loads((Path(vtprof_schemas.__file__).parent / "analyze_report.schema.json").read_text("utf-8"))


def one_request(trace: int, **more: Any) -> list[dict[str, Any]]:
    attrs = {
        names.TTFT_NS: 160 * MS, names.INPUT_TOKENS: PROMPT, names.OUTPUT_TOKENS: 11, names.TOKENS_TEXT: PROMPT, **more,
    }  # fmt: skip
    return request(0, 260 * MS, attrs, trace=trace, prefill=(0, 160 * MS), decode=(160 * MS, 260 * MS))


def prefill_step(trace: int) -> dict[str, Any]:
    """4,000 tokens in 160 ms: some 60 TFLOP of the 7B model, near the roof."""
    work = {
        names.STEP_COUNT: 1, names.STEP_PREFILL_REQUESTS: 1, names.STEP_PREFILL_TOKENS: PROMPT,
        names.STEP_PREFILL_ATTENTION_PAIRS: PROMPT * (PROMPT + 1) // 2, names.GPU_TIME_NS: 160 * MS,
    }  # fmt: skip
    return span(names.SPAN_STEP, 0, 160 * MS, work, trace=1000 + trace)


def decode_window(trace: int, iterations: int = 10) -> dict[str, Any]:
    work = {
        names.STEP_COUNT: iterations, names.STEP_DECODE_REQUESTS: iterations, names.GPU_TIME_NS: iterations * 5 * MS,
        names.STEP_DECODE_CONTEXT_TOKENS: iterations * PROMPT,
    }  # fmt: skip
    return span(names.SPAN_WINDOW, 0, iterations * 5 * MS, work, trace=2000 + trace)


def mixed_window(trace: int, iterations: int, prompts: int = 1, **more: int) -> dict[str, Any]:
    """Iterations that mostly decode, with the prefill of whole prompts among them, all summed up."""
    work = {
        names.STEP_COUNT: iterations, names.STEP_DECODE_REQUESTS: iterations, names.GPU_TIME_NS: iterations * 9 * MS,
        names.STEP_DECODE_CONTEXT_TOKENS: iterations * PROMPT, names.STEP_PREFILL_REQUESTS: prompts,
        names.STEP_PREFILL_TOKENS: PROMPT * prompts,
        names.STEP_PREFILL_ATTENTION_PAIRS: prompts * PROMPT * (PROMPT + 1) // 2, **more,
    }  # fmt: skip
    return span(names.SPAN_WINDOW, 0, iterations * 9 * MS, work, trace=3000 + trace)


def reported(folder: Path, *spans: dict[str, Any]) -> Report:
    report = analyze(Options([write(folder / "t.jsonl", document(*spans, resource=RESOURCE))]))
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json_text.render(report)))
    return report


def phase(report: Report, name: str) -> PhaseRow:
    return next(row for row in report.phases if row.phase == name)


def detailed() -> list[dict[str, Any]]:
    spans = [s for trace in range(1, 11) for s in (*one_request(trace), prefill_step(trace))]
    return spans + [decode_window(trace) for trace in range(1, 11)]


def test_a_window_that_mixes_phases_changes_no_number_of_any_phase_and_is_counted(tmp_path: Path) -> None:
    full = reported(tmp_path, *detailed())
    shed = reported(tmp_path, *detailed(), mixed_window(1, 30))
    assert (phase(full, "prefill").steps, phase(full, "decode").steps) == (10, 100)
    assert phase(full, "prefill").bound == v.COMPUTE_BOUND
    assert shed.phases == full.phases
    assert shed.roofline == full.roofline
    assert (full.integrity.folded_iterations, shed.integrity.folded_iterations) == (0, 30)
    said = "iterations folded into mixed windows: 30, not judged: the agent had shed detail"
    assert said in trust(shed)
    assert "folded" not in trust(full)
    assert said in " ".join(terminal.render(shed).split())
    assert said in html.render(shed)


@pytest.mark.parametrize(
    ("window", "share"),
    [
        (mixed_window(1, 330), "75 % of all iterations"),  # 330 of 10 + 100 + 330
        (mixed_window(1, 20, prompts=30), "75 % of its work"),  # 30 of 10 + 30 prompts
    ],
)
def test_where_most_was_folded_a_verdict_is_no_more_than_a_tendency(
    tmp_path: Path, window: dict[str, Any], share: str
) -> None:
    before = phase(reported(tmp_path, *detailed()), "prefill")
    row = phase(reported(tmp_path, *detailed(), window), "prefill")
    assert before.confidence != v.LOW
    assert (row.bound, row.confidence, row.steps) == (before.bound, v.LOW, 10)
    assert f"{share} went into folded windows with other work, which are not judged" in row.explanation


def test_a_phase_of_which_all_was_folded_is_not_judged(tmp_path: Path) -> None:
    spans = [s for trace in range(1, 11) for s in one_request(trace)]
    report = reported(tmp_path, *spans, mixed_window(1, 200, prompts=10))
    for name in ("prefill", "decode"):
        row = phase(report, name)
        assert (row.bound, row.confidence, row.steps) == (v.INSUFFICIENT_DATA, v.LOW, None)
        assert "all 200 iterations that may hold it were folded" in row.explanation
    assert report.roofline == []


@pytest.mark.parametrize(
    ("count", "work", "folded"),
    [
        (1, {names.STEP_PREFILL_TOKENS: 5}, False),  # one iteration is itself, whatever it holds
        (7, {names.STEP_DECODE_REQUESTS: 7}, False),  # like work folded
        (7, {names.STEP_PREFILL_TOKENS: 5}, True),
        (7, {names.STEP_ENCODE_PATCHES: 5}, True),
        (7, {names.STEP_ENCODE_GPU_TIME_NS: 5}, True),
        (7, {names.STEP_PREFILL_TOKENS: 0, names.STEP_ENCODE_ITEMS: 0}, False),
    ],
)
def test_a_row_is_folded_when_several_iterations_hold_prefill_or_encode_work(
    tmp_path: Path, count: int, work: dict[str, int], folded: bool
) -> None:
    with staged(tmp_path, [span(names.SPAN_WINDOW, 0, 9, {names.STEP_COUNT: count, **work})]) as db:
        assert fetch(db, "SELECT folded FROM steps") == [(folded,)]
        assert fetch(db, "SELECT folded_iterations FROM integrity") == [(count if folded else 0,)]


@pytest.mark.parametrize(("count", "waits"), [(1, [(4.0,)]), (7, [])])
def test_when_the_encoder_ran_in_a_folded_window_is_not_guessed(
    tmp_path: Path, count: int, waits: list[tuple[float]]
) -> None:
    window = span(names.SPAN_WINDOW, 0, 20, {names.STEP_COUNT: count, names.STEP_ENCODE_NS: 4}, trace=9)
    with staged(tmp_path, [*request(0, 30, {names.TTFT_NS: 10}), window]) as db:
        assert fetch(db, "SELECT encode_ns FROM visual_waits") == waits


def test_half_is_not_most() -> None:
    verdict = v.Verdict(v.COMPUTE_BOUND, v.HIGH, "it is")
    assert despite_folding(verdict, Folded("prefill", 5, 5, 0.5, 0.5)) == verdict
    assert despite_folding(verdict, Folded("prefill", 5, 5, None, 0.51)).confidence == v.LOW
    assert despite_folding(verdict, None) == verdict


def test_a_sampled_run_says_how_many_requests_the_kept_ones_stand_for(tmp_path: Path) -> None:
    ratios = [1.0, 1.0, None, 0.1, 0.1, 0.4]  # 1 + 1 + 1 + 10 + 10 + 2.5 = 25.5, rounded 26
    spans = []
    for trace, ratio in enumerate(ratios, start=1):
        spans += one_request(trace, **({} if ratio is None else {names.SAMPLING_RATIO: ratio}))
    report = reported(tmp_path, *spans)
    integrity = report.integrity
    assert (report.summary.requests, integrity.sampled_requests, integrity.estimated_requests) == (6, 3, 26)
    said = (
        "sampled: 6 of about 26 requests kept, all slow and failed ones among them; TTFT, TPOT, end to end, objectives,"
        " parts of TTFT, the share of prompt tokens and findings are weighted to stand for all, everything else is of the"
        " kept ones"
    )
    assert said in trust(report)
    assert volume(report).startswith("6 requests (of about 26) · ")
    assert said in html.render(report).replace("\u00a0", " ")  # a number keeps its unit on its line
    assert "sampled: 6 of about 26 requests kept" in markdown.render(report)


def test_a_run_that_kept_every_request_says_nothing_of_sampling(tmp_path: Path) -> None:
    report = reported(tmp_path, *one_request(1, **{names.SAMPLING_RATIO: 1.0}), *one_request(2))
    assert (report.integrity.sampled_requests, report.integrity.estimated_requests) == (0, 2)
    assert "sampled" not in trust(report)
    assert "about" not in volume(report)
