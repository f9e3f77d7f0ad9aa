"""Counterfactual facts: what the cost model says of one prompt alone, scaled by what prefill took in the run.

The model here is small enough to count by hand: FLOPs of a prompt of n tokens are 2 P n + 4 L d n (n + 1) / 2 + 2 H.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from facts_fixture import MS, chosen, facts
from otlp_builder import document, request, span, write
from store_fixture import loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.physics import find_physics
from vtprof_schemas import names

HIDDEN, LAYERS, HEADS, INNER, WORDS = 64, 2, 4, 128, 100
CONFIG = {
    "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS, "intermediate_size": INNER, "vocab_size": WORDS, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "max_position_embeddings": 100_000,
}  # fmt: skip
WEIGHTS = LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER)
PEAK = 1e12


def _flops(tokens: float) -> float:
    """Return the FLOPs of prefilling a prompt: linear layers, attention of causal pairs, the head once."""
    pairs = tokens * (tokens + 1) / 2
    return 2 * WEIGHTS * tokens + 4 * LAYERS * HIDDEN * pairs + 2 * HIDDEN * WORDS


def _found(folder: Path, spans: list[dict[str, Any]], **resource: Any) -> dict[str, Any]:
    about = {
        names.SERVICE_INSTANCE_ID: "a",
        names.MODEL_CONFIG: json.dumps(CONFIG),
        names.WEIGHTS_DTYPE: "bfloat16",
        **resource,
    }
    path = write(folder / "t.jsonl", document(*spans, resource=about))
    with loaded(path) as db:
        physics = find_physics(db, None, None)
        pipeline.run(db, physics.settings, {step_cost.STAGE: physics.step_cost_stage, **physics.fact_stages})
        return facts(db)


def _asked(trace: int, tokens: int, image: int, prefill_ms: int, images: int = 1) -> list[dict[str, Any]]:
    attrs = {
        names.TTFT_NS: 2 * prefill_ms * MS, names.INPUT_TOKENS: tokens, names.TOKENS_IMAGE: image,
        names.ITEMS_IMAGE: images, names.OUTPUT_TOKENS: 5,
    }  # fmt: skip
    end = 2 * prefill_ms * MS
    return request(0, end + 40 * MS, attrs, trace=trace, encode=(0, end // 2), prefill=(end // 2, end))


def test_fewer_visual_tokens_save_what_the_model_gives_for_them(tmp_path: Path) -> None:
    # Two prompts, of 6000 tokens with 5000 of one image and of 200 without; both prefilled for 10 ms.
    spans = [*_asked(1, 6000, 5000, 10), *_asked(2, 200, 0, 10, images=0)]
    measured_per_flop = 20 / (_flops(6000) + _flops(200))
    expected = {
        "prefill_saved_ms_keep50_mean": (_flops(6000) - _flops(3500)) * measured_per_flop / 2,
        "prefill_saved_ms_keep25_mean": (_flops(6000) - _flops(2250)) * measured_per_flop / 2,
        # Beyond 4096 are 904 of 5000: that part of 10 ms of encoding, and of prefill by the model.
        "capped_encode_saved_ms_mean": 10 * 904 / 5000 / 2,
        "capped_saved_ms_mean": 10 * 904 / 5000 / 2 + (_flops(6000) - _flops(5096)) * measured_per_flop / 2,
        "weight_bytes": 2.0 * (WEIGHTS + 2 * HIDDEN * WORDS + LAYERS * 2 * HIDDEN + HIDDEN),  # matrices, tables and norms
        "encoder_weight_bytes": 0.0, "weight_dtype": "bfloat16", "moe_ms": None, "verify_cost_ratio": None,
    }  # fmt: skip
    assert chosen(_found(tmp_path, spans), expected) == pytest.approx(expected)


def test_drafts_cost_what_their_tokens_add_to_a_decode_step(tmp_path: Path) -> None:
    # One request at a context of 1000 tokens, ten steps of which five verify three drafts each; 1 FLOP is 1e-12 s.
    spans = _asked(1, 1000, 0, 10, images=0)
    for number in range(10):
        tokens = 4 if number < 5 else 1
        attrs = {
            names.STEP_COUNT: 1, names.STEP_DECODE_REQUESTS: 1, names.STEP_DECODE_TOKENS: tokens,
            names.STEP_DECODE_CONTEXT_TOKENS: 1000,
        }  # fmt: skip
        spans.append(
            span(names.SPAN_STEP, (20 + number) * MS, (21 + number) * MS, attrs, trace=9, span_id=number + 1)
        )
    roof = {names.DEVICE_PEAK_FLOPS: PEAK, names.DEVICE_BANDWIDTH: 1e15, names.ENGINE_NAME: "vllm"}

    def cost(tokens: int) -> float:
        pairs = 1000 * tokens + tokens * (tokens + 1) / 2
        return 2 * (WEIGHTS + HIDDEN * WORDS) * tokens + 4 * LAYERS * HIDDEN * pairs

    found = _found(tmp_path, spans, **roof)
    assert found["verify_cost_ratio"] == pytest.approx(cost(4) / cost(1))
    # Compute-bound here: bytes of any width cost nothing.
    assert found["tpot_saved_ms_kv_fp8_mean"] == pytest.approx(0.0)
    assert found["ridge_tokens"] == pytest.approx(PEAK / 1e15)  # x 2 B / 2


def test_values_of_one_byte_save_their_part_of_the_bytes_that_bind_decode(tmp_path: Path) -> None:
    spans = _asked(1, 1000, 0, 10, images=0)
    attrs = {names.STEP_COUNT: 4, names.STEP_DECODE_REQUESTS: 4, names.STEP_DECODE_CONTEXT_TOKENS: 4 * 1000}
    spans.append(span(names.SPAN_WINDOW, 20 * MS, 60 * MS, attrs, trace=9))
    roof = {names.DEVICE_PEAK_FLOPS: 1e18, names.DEVICE_BANDWIDTH: 1e9}
    found = _found(tmp_path, spans, **roof)
    # Time goes with bytes: half of the KV read, and of the weights read, of all bytes of the step; TPOT is 10 ms.
    assert found["tpot_saved_ms_kv_fp8_mean"] == pytest.approx(10 * found["kv_read_share"] / 2)
    assert found["tpot_saved_ms_weights_fp8_mean"] == pytest.approx(10 * found["weight_read_share"] / 2)
    kv_read = 2 * 2 * LAYERS * HIDDEN * 1000  # two bytes, keys and values
    weights = 2 * (WEIGHTS + HIDDEN * WORDS + LAYERS * 2 * HIDDEN + HIDDEN)
    assert found["kv_read_share"] / found["weight_read_share"] == pytest.approx(kv_read / weights)
    assert found["verify_cost_ratio"] == 1.0


def test_without_a_model_nothing_is_counterfactual(tmp_path: Path) -> None:
    expected = dict.fromkeys(
        ("capped_saved_ms_mean", "prefill_saved_ms_keep50_mean", "weight_bytes", "moe_ms", "ridge_tokens")
    )
    found = _found(tmp_path, _asked(1, 6000, 5000, 10), **{names.MODEL_CONFIG: "{}"})
    assert chosen(found, expected) == expected
    assert found["capped_encode_saved_ms_mean"] == pytest.approx(
        10 * 904 / 5000
    )  # encode alone needs no model


def test_routed_experts_answer_for_their_part_of_prefill_and_decode(tmp_path: Path) -> None:
    # Two of four experts a token, compute-bound: their part of the time is their part of the FLOPs.
    experts = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    spans = _asked(1, 100, 0, 10, images=0)  # 10 ms of prefill, 40 ms to the end
    prefill = {
        names.STEP_COUNT: 1, names.STEP_PREFILL_REQUESTS: 1, names.STEP_PREFILL_TOKENS: 100,
        names.STEP_PREFILL_ATTENTION_PAIRS: 5050,
    }  # fmt: skip
    decode = {names.STEP_COUNT: 1, names.STEP_DECODE_REQUESTS: 1, names.STEP_DECODE_CONTEXT_TOKENS: 100}
    spans += [
        span(names.SPAN_STEP, 10 * MS, 20 * MS, prefill, trace=9),
        span(names.SPAN_STEP, 20 * MS, 30 * MS, decode, trace=9, span_id=2),
    ]
    roof = {names.DEVICE_PEAK_FLOPS: PEAK, names.DEVICE_BANDWIDTH: 1e18}
    found = _found(tmp_path, spans, **roof, **{names.MODEL_CONFIG: json.dumps(CONFIG | experts)})
    routed = 2 * LAYERS * 2 * 3 * HIDDEN * INNER
    plain = 2 * LAYERS * (4 * HIDDEN * HIDDEN + 4 * HIDDEN)  # projections, and the router's four outputs
    prefilled = 100 * (routed + plain) + 4 * LAYERS * HIDDEN * 5050 + 2 * HIDDEN * WORDS
    decoded = routed + plain + 4 * LAYERS * HIDDEN * 101 + 2 * HIDDEN * WORDS
    assert found["moe_ms"] == pytest.approx(10 * 100 * routed / prefilled + 40 * routed / decoded)
