"""Decode with speculation costs by the tokens that are verified: sums written out token by token, and from a trace."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from otlp_builder import document, request, span, write
from qwen_configs import QWEN2_5_VL_7B, TINY_2_5
from store_fixture import fetch, loaded
from test_cost_attention_kinds import HIDDEN, LINEAR, NORMS, PAIR, VOCABULARY, model, plain, prompt, step
from test_physics_groups import process

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.cost.steps import step_costs
from vtprof_analyzer.cost.work import Precision, StepWork
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.spec import Experts
from vtprof_analyzer.physics import find_physics
from vtprof_schemas import names

SMALL = load_spec(QWEN2_5_VL_7B)
GEMM_7B = 28 * (3584 * (2 * 3584 + 2 * 512) + 3 * 3584 * 18944)
HEAD_7B = 3584 * 152_064
KV_7B = 57_344


def decode(**columns: Any) -> Any:
    return step_costs(SMALL, StepWork.of(**columns), Precision(2.0, 2.0, 2.0)).decode


def test_drafts_cost_flops_and_activations_and_leave_the_reads_as_they_are() -> None:
    """Two requests at a context of 1,000 verify four tokens each."""
    plain_step = decode(decode_requests=2, decode_context_tokens=2000)
    part = decode(decode_requests=2, decode_tokens=8, decode_context_tokens=2000)
    # Each of four tokens sees the 1,000 cached, those before it and itself: 4 x 1,000 + 1 + 2 + 3 + 4, twice.
    attention = 4 * 28 * 3584 * 2 * (4 * 1000 + 10)
    assert part.flops_attention[0] == attention
    assert part.flops[0] == 2 * 8 * (GEMM_7B + HEAD_7B) + attention
    assert part.bytes_kv_read[0] == plain_step.bytes_kv_read[0] == 2000 * KV_7B
    assert part.bytes_kv_written[0] == 8 * KV_7B
    assert part.bytes_weights[0] == plain_step.bytes_weights[0]
    assert part.bytes_activations[0] == 4 * plain_step.bytes_activations[0]
    # Reads of weights and cache stay, work is four times as much: so is the intensity, but for activations.
    assert part.intensity[0] / plain_step.intensity[0] == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize(
    "told", [{}, {"decode_tokens": float("nan")}, {"decode_tokens": 0}, {"decode_tokens": 3}]
)
def test_where_nothing_is_told_each_request_computes_one_token(told: dict[str, float]) -> None:
    one = decode(decode_requests=3, decode_context_tokens=300, **told)
    # 100 cached and itself, three times.
    assert one.flops_attention[0] == 4 * 28 * 3584 * 3 * 101
    assert one.flops[0] == 2 * 3 * (GEMM_7B + HEAD_7B) + one.flops_attention[0]


@given(st.integers(1, 9), st.integers(0, 80), st.integers(1, 4))
def test_verifying_tokens_attends_like_a_chunk_of_a_prompt(each: int, context: int, requests: int) -> None:
    """The same queries on the same keys, whatever the step calls them."""
    spec = model(plain())
    verified = step(
        spec,
        decode_requests=requests,
        decode_tokens=requests * each,
        decode_context_tokens=requests * context,
    ).decode
    assert verified.flops_attention[0] == pytest.approx(
        step(spec, **prompt(each, context, requests)).prefill.flops_attention[0]
    )


@given(st.integers(1, 9), st.integers(40, 80))
def test_a_window_bounds_what_each_token_sees(each: int, context: int) -> None:
    spec = model(plain(window_tokens=40))
    part = step(spec, decode_requests=1, decode_tokens=each, decode_context_tokens=context).decode
    assert part.flops_attention[0] == PAIR * each * 40


def test_blocks_of_attention_are_seen_by_each_token() -> None:
    """Positions 11 and 12 lie in the block from 8: they see 8 to 11, and 8 to 12."""
    spec = model(plain(window_tokens=8, chunked=True))
    part = step(spec, decode_requests=1, decode_tokens=2, decode_context_tokens=11).decode
    assert part.flops_attention[0] == PAIR * (4 + 5)


def test_cross_attention_is_computed_for_each_token_and_read_once() -> None:
    spec = model(plain(cross=True))
    columns = {"decode_requests": 2, "decode_context_tokens": 10, "decode_cross_tokens": 14}
    one, four = step(spec, **columns).decode, step(spec, decode_tokens=8, **columns).decode
    assert (one.flops_attention[0], four.flops_attention[0]) == (PAIR * 14, PAIR * 14 * 4)
    assert one.bytes_kv_read[0] == four.bytes_kv_read[0] > 0


def test_drafts_touch_experts_like_any_tokens() -> None:
    spec = model(plain(), experts=Experts(4, 1, 1000))
    part = step(spec, count=10, decode_requests=10, decode_tokens=30, decode_context_tokens=10).decode
    # Three tokens an iteration miss an expert with (3 / 4)^3.
    touched = 4 * (1 - 0.75**3)
    each = 2 * (LINEAR + NORMS + HIDDEN * VOCABULARY + touched * 1000)
    assert part.bytes_weights[0] == pytest.approx(10 * each)


def test_weights_of_a_mixed_step_are_split_by_the_tokens_computed() -> None:
    work = {**prompt(12), "decode_requests": 1, "decode_tokens": 4, "decode_context_tokens": 5}
    costs = step(model(plain()), **work)
    whole = 2 * (LINEAR + NORMS + HIDDEN * VOCABULARY)
    assert costs.prefill.bytes_weights[0] == pytest.approx(whole * 12 / 16)
    assert costs.decode.bytes_weights[0] == pytest.approx(whole * 4 / 16)


def costed(path: Path) -> tuple[float, float, float]:
    with loaded(path) as db:
        physics = find_physics(db, None, None)
        pipeline.run(db, physics.settings, {step_cost.STAGE: physics.step_cost_stage})
        ((flops, tokens, weights),) = fetch(db, "SELECT flops, tokens, weight_bytes FROM step_cost")
    return flops, tokens, weights


def speculative(tokens: int | None) -> dict[str, Any]:
    """A window of four steps of one request at a context of ten, as ``process`` makes it, that told its tokens."""
    made = process(1, TINY_2_5)
    if tokens is None:
        return made
    for scope in made["resourceSpans"][0]["scopeSpans"]:
        for one in scope["spans"]:
            if one["name"] == names.SPAN_WINDOW:
                one["attributes"].append(
                    {"key": names.STEP_DECODE_TOKENS, "value": {"intValue": str(tokens)}}
                )
    return made


def test_a_trace_that_tells_drafts_is_costed_by_them(tmp_path: Path) -> None:
    untold = costed(write(tmp_path / "a.jsonl", speculative(None)))
    assert costed(write(tmp_path / "b.jsonl", speculative(4))) == untold
    drafted = costed(write(tmp_path / "c.jsonl", speculative(12)))
    spec = load_spec(TINY_2_5)
    language, group = spec.language, spec.language.groups[0]
    pair = sum(one.layers * one.attention.pair_flops for one in language.groups)
    # Four times a request that verifies three tokens at a context of ten: 3 x 10 + 1 + 2 + 3 pairs.
    assert group.attention.window_tokens is None
    linear = 2 * (language.linear_params + language.head_params)
    assert drafted == (12 * linear + 4 * 36 * pair, 12, untold[2])
    assert untold[:2] == (4 * linear + 4 * 11 * pair, 4)


def test_tokens_out_are_those_of_the_requests(tmp_path: Path) -> None:
    attrs = {names.TTFT_NS: 5, names.INPUT_TOKENS: 10, names.OUTPUT_TOKENS: 7}
    window = {names.STEP_COUNT: 3, names.STEP_DECODE_REQUESTS: 3, names.STEP_DECODE_TOKENS: 12}
    spans = [*request(0, 20, attrs, decode=(5, 20)), span(names.SPAN_WINDOW, 5, 20, window, trace=9)]
    report = analyze(Options([write(tmp_path / "t.jsonl", document(*spans))]))
    assert report.summary.output_tokens == 7
