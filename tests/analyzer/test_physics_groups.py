"""Traces of several models and devices in one folder: each step is costed by its own, and the report says so."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from otlp_builder import attributes, document, request, span, write
from qwen_configs import TINY_2_5
from roofline_fixture import ROOF, judged
from store_fixture import fetch, loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.devices.roofs import ATTAINABLE, Roof
from vtprof_analyzer.physics import find_physics
from vtprof_schemas import names

DOUBLE_VOCABULARY = TINY_2_5 | {"text_config": TINY_2_5["text_config"] | {"vocab_size": 1024}}


def process(number: int, config: dict[str, Any], model: str = "", **more: Any) -> dict[str, Any]:
    """One server: a request for its model and a window of four decode steps at a context of ten tokens."""
    resource = {
        names.SERVICE_INSTANCE_ID: f"i{number}", names.MODEL_CONFIG: json.dumps(config),
        names.WEIGHTS_DTYPE: "bfloat16", names.HW_NAME: "NVIDIA H200", **more,
    }  # fmt: skip
    attrs = {names.STEP_COUNT: 4, names.STEP_DECODE_REQUESTS: 4, names.STEP_DECODE_CONTEXT_TOKENS: 40}
    asked = {
        names.TTFT_NS: 5, names.INPUT_TOKENS: 10, names.OUTPUT_TOKENS: 2, names.REQUEST_MODEL: model or f"m{number}"
    }  # fmt: skip
    return document(
        *request(0, 10, asked, trace=number, decode=(5, 10)),
        span(names.SPAN_WINDOW, 5, 10, attrs, trace=100 + number),
        resource=resource,
    )


def costs(*paths: Path) -> list[tuple[Any, ...]]:
    with loaded(*paths) as db:
        physics = find_physics(db, None, None)
        pipeline.run(db, physics.settings, {step_cost.STAGE: physics.step_cost_stage})
        return fetch(
            db,
            "SELECT flops, bytes, kv_read_bytes, floor_s, peak_flops_per_s FROM step_cost JOIN steps USING (step_id)"
            " ORDER BY trace_id",
        )


def test_each_step_costs_what_it_costs_alone(tmp_path: Path) -> None:
    peak = {names.DEVICE_PEAK_FLOPS: 1e12, names.DEVICE_BANDWIDTH: 1e10}
    one = write(tmp_path / "a.jsonl", process(1, TINY_2_5))
    two = write(tmp_path / "b.jsonl", process(2, DOUBLE_VOCABULARY, **{names.HW_NAME: "AMD EPYC", **peak}))
    alone = costs(one) + costs(two)
    assert costs(one, two) == alone
    # The head is the only difference: 512 more rows of 64, a multiply-add each, for four tokens.
    assert alone[1][0] - alone[0][0] == 2 * 512 * 64 * 4
    assert [row[4] for row in alone] == [pytest.approx(989e12, rel=0.01), 1e12]


def test_the_report_names_what_is_mixed_and_gives_no_size_that_differs(tmp_path: Path) -> None:
    lines = [
        process(1, TINY_2_5, **{names.KV_BYTES_PER_TOKEN: 512, names.ENGINE_NAME: "vllm"}),
        process(2, DOUBLE_VOCABULARY, **{names.KV_BYTES_PER_TOKEN: 256, names.ENGINE_NAME: "sglang"}),
        process(3, DOUBLE_VOCABULARY, **{names.KV_BYTES_PER_TOKEN: 256, names.HW_NAME: "NVIDIA L4"}),
    ]
    report = analyze(Options([write(tmp_path / "t.jsonl", *lines)]))
    notes = report.deployment.notes
    assert any("2 engines in these traces: " in note and "sglang (4 steps)" in note for note in notes)
    assert any(
        "2 devices in these traces: NVIDIA H200 (8 steps), NVIDIA L4 (4 steps)" in note for note in notes
    )
    assert any("m1 (4 steps)" in note and "models in these traces" in note for note in notes)
    assert report.kv.bytes_per_token is None
    # 11 tokens each: 11 x 512 + 2 x 11 x 256.
    assert report.kv.bytes_total == 11 * 512 + 2 * 11 * 256


def test_the_report_holds_the_roof_of_each_device_the_first_ones_before(tmp_path: Path) -> None:
    peaks = {names.DEVICE_PEAK_FLOPS: 1e12, names.DEVICE_BANDWIDTH: 1e10}
    other = {names.HW_NAME: "NVIDIA L4", names.PARALLEL_TP: 2, **peaks}
    lines = [process(1, TINY_2_5), process(2, TINY_2_5), process(3, TINY_2_5, **other)]
    told = analyze(Options([write(tmp_path / "t.jsonl", *lines)])).deployment
    # Two ranks share each step: twice the ceilings of one.
    assert [(roof.device, roof.kind, roof.peak_flops_per_s) for roof in told.roofs] == [
        ("NVIDIA H200", "datasheet", pytest.approx(989e12, rel=0.01)),
        ("2 × NVIDIA L4", "attainable", 2e12),
    ]
    assert told.roof == replace(told.roofs[0], device=None)
    alike = analyze(Options([write(tmp_path / "u.jsonl", *lines[:2])])).deployment
    assert [roof.device for roof in alike.roofs] == [None]


def test_kv_that_was_not_recorded_is_derived_from_each_processs_own_model(tmp_path: Path) -> None:
    deeper = TINY_2_5 | {
        "text_config": TINY_2_5["text_config"]
        | {"num_hidden_layers": 2 * TINY_2_5["text_config"]["num_hidden_layers"]}
    }
    with loaded(write(tmp_path / "t.jsonl", process(1, TINY_2_5), process(2, deeper))) as db:
        physics = find_physics(db, None, None)
        pipeline.run(db, physics.settings, {step_cost.STAGE: physics.step_cost_stage})
        (small,), (large,) = fetch(db, "SELECT kv_bytes FROM requests ORDER BY model")
        assert large == 2 * small > 0


def test_processes_that_are_alike_say_nothing_of_mixtures(tmp_path: Path) -> None:
    report = analyze(
        Options([write(tmp_path / "t.jsonl", process(1, TINY_2_5, "m"), process(2, TINY_2_5, "m"))])
    )
    assert not [note for note in report.deployment.notes if "in these traces" in note]
    assert report.deployment.cost_model


def test_a_recorded_model_that_cannot_be_read_costs_only_its_own_steps(tmp_path: Path) -> None:
    lines = [process(1, TINY_2_5), process(2, {"model_type": "unheard_of"})]
    path = write(tmp_path / "t.jsonl", *lines)
    assert len(costs(path)) == 1
    notes = analyze(Options([path])).deployment.notes
    assert any("m2: 4 steps without cost" in note and "unheard_of" in note for note in notes)


def test_ranks_beyond_the_kv_heads_read_copies_of_them(tmp_path: Path) -> None:
    heads = TINY_2_5["text_config"]["num_key_value_heads"]
    one = costs(write(tmp_path / "a.jsonl", process(1, TINY_2_5)))
    more = costs(write(tmp_path / "b.jsonl", process(1, TINY_2_5, **{names.PARALLEL_TP: 2 * heads})))
    assert more[0][2] == 2 * one[0][2]


def test_steps_are_judged_each_under_its_own_roof() -> None:
    # Ten steps of 100 FLOP/B at 60 % of their device: below a ridge of 200, above one of 20.
    bytes_ = np.full(10, 1e10)
    own = Roof(ATTAINABLE, 2e12, 1e11, "bfloat16", "test")
    seconds = bytes_ * 100 / own.peak_flops_per_s / 0.6
    verdict = judged(bytes_ * 100, bytes_, seconds, roof=own, run_roof=ROOF)
    assert verdict.bound == "compute_bound"
    assert verdict.floor_ratio == pytest.approx(0.6)
    assert "a ridge of 20," in verdict.explanation


def test_processes_that_are_bound_by_different_things_are_told_apart(tmp_path: Path) -> None:
    # The same work under a ridge of 0.01 FLOP/B, and of 100.
    slow = {names.DEVICE_PEAK_FLOPS: 1e10, names.DEVICE_BANDWIDTH: 1e12}
    fast = {names.DEVICE_PEAK_FLOPS: 1e12, names.DEVICE_BANDWIDTH: 1e10}
    report = analyze(
        Options([write(tmp_path / "t.jsonl", process(1, TINY_2_5, **slow), process(2, TINY_2_5, **fast))])
    )
    (decode,) = [row for row in report.phases if row.phase == names.DECODE]
    assert decode.bound in ("compute_bound", "memory_bound")
    other = "memory-bound" if decode.bound == "compute_bound" else "compute-bound"
    assert f"{other} in 1 of 2 processes (50 % of its time)" in decode.explanation
    steps = report.step_verdicts
    assert steps is not None
    assert (steps.steps, steps.not_judged, steps.mixed, steps.split) == (8, 0, None, None)
    told = {row.instance: (row.bound, row.time_share, row.model, row.steps) for row in steps.instances}
    assert told == {"i1": ("compute_bound", 0.5, "m1", 4), "i2": ("memory_bound", 0.5, "m2", 4)}
    assert {(row.bound, row.share) for row in steps.bounds} == {("compute_bound", 0.5), ("memory_bound", 0.5)}


def test_the_rule_for_mixed_steps_is_named_and_compared_with_the_agents_shares(tmp_path: Path) -> None:
    resource = {
        names.MODEL_CONFIG: json.dumps(TINY_2_5), names.WEIGHTS_DTYPE: "bfloat16", names.HW_NAME: "NVIDIA H200",
    }  # fmt: skip
    mixed = {
        names.STEP_COUNT: 1,
        names.STEP_PREFILL_TOKENS: 10,
        names.STEP_DECODE_REQUESTS: 1,
        names.GPU_TIME_NS: 80,
    }
    asked = request(0, 100, {names.TTFT_NS: 50}, prefill=(0, 50), decode=(50, 100))
    asked[1]["attributes"] += attributes({names.GPU_TIME_NS: 60, names.GPU_TIME_QUALITY: "attributed"})
    asked[2]["attributes"] += attributes({names.GPU_TIME_NS: 20, names.GPU_TIME_QUALITY: "attributed"})
    spans = [*asked, span(names.SPAN_STEP, 0, 100, mixed, trace=9)]
    steps = analyze(Options([write(tmp_path / "t.jsonl", document(*spans, resource=resource))])).step_verdicts
    assert steps is not None and steps.split is not None and steps.mixed is not None
    assert (steps.split.steps, steps.split.time_share, steps.split.agent) == (1, 1.0, "attributed")
    assert "each part's roofline floor" in steps.split.how
    assert {row.phase: row.agent_share for row in steps.split.phases} == pytest.approx(
        {"prefill": 0.75, "decode": 0.25}
    )
    assert sum(row.rule_share for row in steps.split.phases) == pytest.approx(1)
    assert (steps.mixed.steps, steps.mixed.time_share) == (1, 1.0)
    # Of requests that tell less than the steps' time no share can be compared.
    spans = [*asked, span(names.SPAN_STEP, 0, 100, {**mixed, names.GPU_TIME_NS: 90}, trace=9)]
    steps = analyze(Options([write(tmp_path / "u.jsonl", document(*spans, resource=resource))])).step_verdicts
    assert steps is not None and steps.split is not None
    assert (steps.split.agent, [row.agent_share for row in steps.split.phases]) == (None, [None, None])
