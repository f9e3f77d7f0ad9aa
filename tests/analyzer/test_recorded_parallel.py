"""The parallel sizes that processes record reach the cost of their steps."""

import json
from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, request, span, write
from qwen_configs import TINY_2_5
from store_fixture import fetch, loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.cost.parallel import Parallel
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.physics import find_physics
from vtprof_analyzer.recorded_parallel import recorded_parallel
from vtprof_schemas import names

_TEXT = TINY_2_5["text_config"]
EXPERTS: dict[str, Any] = {
    "model_type": "qwen3_vl_moe",
    "text_config": _TEXT
    | {"head_dim": 16, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "vision_config": {
        "depth": 2, "hidden_size": 32, "intermediate_size": 72, "num_heads": 2, "in_channels": 3, "out_hidden_size": 64,
        "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "deepstack_visual_indexes": [0],
        "num_position_embeddings": 64,
    },
}  # fmt: skip


def costed(path: Path, config: dict[str, Any], **sizes: Any) -> tuple[float, float]:
    """Return bytes sent between devices and bytes read by a step that decodes one token for each of four requests."""
    resource = {
        names.SERVICE_INSTANCE_ID: "i", names.MODEL_CONFIG: json.dumps(config), names.WEIGHTS_DTYPE: "bfloat16",
        names.HW_NAME: "NVIDIA H200", **sizes,
    }  # fmt: skip
    step = {names.STEP_DECODE_REQUESTS: 4, names.STEP_DECODE_TOKENS: 4, names.STEP_DECODE_CONTEXT_TOKENS: 40}
    asked = {names.TTFT_NS: 5, names.INPUT_TOKENS: 10, names.OUTPUT_TOKENS: 2}
    lines = document(
        *request(0, 10, asked, decode=(5, 10)), span(names.SPAN_STEP, 5, 10, step, trace=9), resource=resource
    )
    with loaded(write(path / "t.jsonl", lines)) as db:
        physics = find_physics(db, None, None)
        pipeline.run(db, physics.settings, {step_cost.STAGE: physics.step_cost_stage})
        ((sent, read),) = fetch(db, "SELECT communication_bytes, bytes FROM step_cost")
    return sent, read


def test_pipeline_stages_pass_the_hidden_state_on(tmp_path: Path) -> None:
    alone, read = costed(tmp_path, TINY_2_5)
    assert alone == 0
    # Three stages pass 4 tokens x 64 values of 2 bytes on twice; what is read is the same.
    assert costed(tmp_path, TINY_2_5, **{names.PARALLEL_PP: 3}) == (2 * 4 * 64 * 2, read)


def test_experts_on_other_ranks_cost_the_way_there_and_back(tmp_path: Path) -> None:
    sizes = {names.PARALLEL_TP: 2, names.PARALLEL_DP: 2}
    reduced, read = costed(tmp_path, EXPERTS, **sizes)
    sent, spread = costed(tmp_path, EXPERTS, **sizes, **{names.PARALLEL_EP: 4})
    # 3 layers x 2 experts a token, 3 of 4 ranks away, there and back, of 4 x 64 x 2 bytes.
    assert sent - reduced == pytest.approx(2 * 0.75 * 3 * 2 * 4 * 64 * 2)
    # Four ranks hold the experts, and this replica's two read their part, which tokens of both replicas touch.
    one = 3 * 64 * 32 * 2
    apart = 3 * one * 8 * (1 - 0.75**4), 3 * one * 4 * (1 - 0.75**8)
    assert read - spread == pytest.approx(apart[0] - apart[1])


@pytest.mark.parametrize("setting", [{"mm_encoder_tp_mode": "data"}, {"mm_enable_dp_encoder": True}])
def test_an_encoder_with_replicas_is_one_of_data_parallelism(setting: dict[str, Any]) -> None:
    row = {"parallel_tp": 2, "engine_config": json.dumps(setting)}
    spec = load_spec(TINY_2_5)
    assert recorded_parallel(row, spec) == (Parallel(2, encoder="data"), [])
    # Of one rank there is nothing to replicate: processes that differ in it alone are alike.
    assert recorded_parallel(row | {"parallel_tp": 1}, spec) == (Parallel(), [])


@pytest.mark.parametrize("config", [None, "", "{", "[1]", '{"mm_encoder_tp_mode": "weights"}', "[" * 100_000])
def test_any_other_engine_config_splits_the_encoder(config: str | None) -> None:
    row = {"parallel_tp": 2, "engine_config": config}
    assert recorded_parallel(row, load_spec(TINY_2_5)) == (Parallel(2), [])


def test_expert_ranks_of_a_model_without_experts_are_none() -> None:
    row = {"parallel_tp": 2, "parallel_pp": 3, "parallel_ep": 2}
    assert recorded_parallel(row, load_spec(TINY_2_5)) == (Parallel(2, 3), [])


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"parallel_pp": 4}, "pp 4: the model has only 3 layers"),
        ({"parallel_dp": 10**9}, "dp 1000000000: must be from 1 to"),
        ({"parallel_ep": 3}, "ep 3: experts spread over the tensor x data ranks"),
        ({"parallel_tp": 3}, "tp 3: the model's 4 attention heads and 2 KV heads do not spread evenly"),
    ],
)
def test_sizes_that_contradict_the_model_leave_the_tensor_size(wrong: dict[str, int], fault: str) -> None:
    row = {"parallel_tp": 2, "parallel_pp": 2} | wrong
    found, (note,) = recorded_parallel(row, load_spec(EXPERTS))
    assert found == Parallel(row["parallel_tp"])
    assert note.startswith(f"recorded {fault}")
    assert note.endswith(f"roof and costs are of tp {row['parallel_tp']} all the same")


def test_the_report_says_that_recorded_sizes_contradict_the_model(tmp_path: Path) -> None:
    fault = "recorded tp 3: the model's 4 attention heads"
    costed(tmp_path, TINY_2_5, **{names.PARALLEL_TP: 3})
    notes = analyze(Options([tmp_path / "t.jsonl"])).deployment.notes
    assert len([note for note in notes if note.startswith(fault)]) == 1


def test_the_report_names_the_recorded_sizes(tmp_path: Path) -> None:
    sizes = {names.PARALLEL_TP: 2, names.PARALLEL_PP: 3, names.PARALLEL_DP: 4, names.PARALLEL_EP: 8}
    costed(tmp_path, EXPERTS, **sizes)
    found = analyze(Options([tmp_path / "t.jsonl"])).as_dict()["deployment"]
    assert [found[f"{kind}_parallel"] for kind in ("tensor", "pipeline", "data", "expert")] == [2, 3, 4, 8]
    costed(tmp_path, EXPERTS)
    found = analyze(Options([tmp_path / "t.jsonl"])).as_dict()["deployment"]
    assert [found[f"{kind}_parallel"] for kind in ("pipeline", "data", "expert")] == [None] * 3


def test_sizes_below_one_are_one() -> None:
    assert recorded_parallel({"parallel_tp": -1, "parallel_pp": -5}, load_spec(EXPERTS)) == (Parallel(), [])
