"""Traces of several models and devices in one folder: each step is costed by its own, and the report says so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from otlp_builder import document, request, span, write
from qwen_configs import TINY_2_5
from store_fixture import fetch, loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.devices.roofs import ATTAINABLE, Roof
from vtprof_analyzer.physics import find_physics
from vtprof_analyzer.verdict import PhaseSteps
from vtprof_analyzer.verdict_phases import judge_phase
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
    roof = Roof(ATTAINABLE, 200e12, 1e12, "bfloat16", "test")
    # Ten steps of 100 FLOP/B at 60 % of their device: below a ridge of 200, above one of 20.
    bytes_ = np.full(10, 1e10)
    peak, bandwidth = np.full(10, 2e12), np.full(10, 1e11)
    seconds = bytes_ * 100 / peak / 0.6
    steps = PhaseSteps(
        "decode",
        bytes_ * 100,
        bytes_,
        seconds,
        np.ones(10),
        peak_flops_per_s=peak,
        bandwidth_bytes_per_s=bandwidth,
    )
    verdict = judge_phase(steps, roof)
    assert verdict.bound == "compute_bound"
    assert verdict.floor_ratio == pytest.approx(0.6)
    assert "a ridge of 20," in verdict.explanation
