"""``vtprof estimate``: the numbers of the golden rows through the command, and one line for contradictory questions."""

import importlib.resources
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from qwen_configs import QWEN2_5_VL_7B, QWEN2_5_VL_72B

LINEAR_7B = 28 * (3584 * (2 * 3584 + 2 * 512) + 3 * 3584 * 18944)
HEAD_7B = 3584 * 152_064
LANGUAGE_7B = 8_292_166_656 - 676_550_144
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
    "vocab_size": 32000, "torch_dtype": "bfloat16",
}  # fmt: skip


def vtprof(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", "from vtprof_analyzer.cli import main; main()", *words],
                          capture_output=True, text=True, check=False)  # fmt: skip


def document(config: Path, *words: str) -> dict[str, Any]:
    done = vtprof("estimate", str(config), *words, "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    schema = importlib.resources.files("vtprof_schemas").joinpath("estimate.schema.json").read_text("utf-8")
    jsonschema.validate(found, json.loads(schema))
    return found


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(QWEN2_5_VL_7B | {"max_position_embeddings": 128_000}))
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.json"
    path.write_text(json.dumps(QWEN2_5_VL_72B))
    return path


@pytest.fixture
def mixtral(tmp_path: Path) -> Path:
    path = tmp_path / "mixtral.json"
    path.write_text(json.dumps(MIXTRAL))
    return path


def test_prefill_and_decode_by_hand(small: Path) -> None:
    found = document(small, "--text", "100", "--visual", "400", "--context", "1000")
    prefill, decode = found["phases"]["prefill"], found["phases"]["decode"]
    pairs = 500 * 501 // 2
    assert found["params"] == {
        "total": 8_292_166_656, "vision": 676_550_144, "language": LANGUAGE_7B, "active": 8_292_166_656, "audio": 0,
    }  # fmt: skip
    assert found["kv_bytes_per_token"] == 57_344
    assert (found["text_tokens"], found["visual_tokens"]) == (100, 400)
    assert prefill["flops_attention"] == 4 * 28 * 3584 * pairs
    assert prefill["flops"] == 2 * LINEAR_7B * 500 + 4 * 28 * 3584 * pairs + 2 * HEAD_7B
    assert prefill["bytes_weights"] == 2 * (LANGUAGE_7B - HEAD_7B)
    assert prefill["bytes_kv"] == 2 * 500 * 57_344  # written, and read once
    assert decode["flops_attention"] == 4 * 28 * 3584 * 1001
    assert decode["bytes_weights"] == 2 * (LANGUAGE_7B - HEAD_7B)
    assert decode["bytes_kv"] == 1001 * 57_344
    assert decode["bytes_kv_visual"] == 400 * 57_344


def test_full_attention_counts_the_whole_square(small: Path) -> None:
    causal = document(small, "--text", "999", "--visual", "1")["phases"]["prefill"]
    full = document(small, "--text", "999", "--visual", "1", "--attention", "full")["phases"]["prefill"]
    assert full["flops_attention"] == 4 * 28 * 3584 * 1000**2
    assert full["flops"] - causal["flops"] == 4 * 28 * 3584 * (1000 * 999 // 2)


def test_images_are_counted_by_the_models_own_rule_and_encoded(small: Path) -> None:
    found = document(small, "--text", "10", "--image", "512x512", "--image", "280x280")
    # 18^2 and 10^2 cells of four patches; windows of 8 patches cut 36 into 4 x 8 + 4, 20 into 2 x 8 + 4.
    assert found["visual_tokens"] == 324 + 100
    full, windowed = 1296**2 + 400**2, (4 * 64 + 16) ** 2 + (2 * 64 + 16) ** 2
    assert found["phases"]["encode"]["flops_attention"] == 4 * 1280 * (4 * full + 28 * windowed)


def test_ridge_bound_and_floor_of_a_device(large: Path) -> None:
    found = document(
        large, "--text", "0", "--visual", "40000", "--context", "40000", "--device", "A100-SXM4-80GB"
    )
    prefill, decode = found["phases"]["prefill"], found["phases"]["decode"]
    assert prefill["ridge"] == pytest.approx(153.016, abs=0.05)  # G003
    assert (prefill["bound"], decode["bound"]) == ("compute_bound", "memory_bound")
    # G171, G172: 6.72 s of causal attention and 18.0 s of GEMM at the datasheet's peak.
    assert prefill["flops_attention"] / 312e12 == pytest.approx(6.722, abs=0.01)
    assert prefill["floor_seconds"] == pytest.approx(6.722 + 18.0, rel=0.005)
    assert decode["floor_seconds"] == pytest.approx(decode["bytes"] / 2039e9)
    # G175: the cache is 8.3 % of what a decode step reads at batch 1.
    assert decode["bytes_kv"] / (decode["bytes_kv"] + 145e9) == pytest.approx(0.083, abs=0.005)
    assert found["max_batch"] == 0  # 145 GB of weights in one of 80 GiB
    assert any("do not fit" in note for note in found["notes"])


def test_requests_that_fit_by_hand(large: Path) -> None:
    found = document(
        large,
        "--text",
        "0",
        "--visual",
        "40000",
        "--device",
        "A100-SXM4-80GB",
        "--tp",
        "4",
        "--memory-ratio",
        "0.9",
    )
    params = found["params"]["total"]
    left = 4 * 80 * 2**30 * 0.9 - 2 * params
    assert found["max_batch"] == left // (40_000 * 327_680)
    assert found["kv_bytes_per_request"] == 40_000 * 327_680
    twice = document(
        large, "--text", "0", "--visual", "40000", "--device", "A100-SXM4-80GB", "--tp", "4", "--dp", "2"
    )
    assert twice["max_batch"] == 2 * found["max_batch"]


def test_blocks_round_a_request_up(small: Path) -> None:
    found = document(small, "--text", "17", "--block-tokens", "16")
    assert found["kv_bytes_per_request"] == 32 * 57_344


def test_ten_times_the_tokens_hold_a_tenth_of_the_requests_only_where_kv_bounds_them(small: Path) -> None:
    def fit(tokens: int) -> int:
        words = ("--text", "0", "--visual", str(tokens), "--device", "H100 SXM", "--block-tokens", "1")
        return int(document(small, *words)["max_batch"])

    assert fit(2_000) / fit(20_000) == pytest.approx(10, rel=0.02)
    with_text = [
        int(document(small, "--text", "8000", "--visual", str(v), "--device", "H100 SXM")["max_batch"])
        for v in (200, 2_000)
    ]
    assert with_text[0] / with_text[1] == pytest.approx(10_000 / 8_200, rel=0.02)


def test_kv_dtype_and_ranks_change_the_cache(small: Path) -> None:
    assert document(small, "--text", "9", "--kv-dtype", "fp8")["kv_bytes_per_token"] == 57_344 / 2
    # 4 KV heads on 28 ranks: seven copies of each.
    copied = document(small, "--text", "9", "--tp", "28")
    assert copied["kv_bytes_per_token"] == 57_344 * 7
    assert any("copies" in note for note in copied["notes"])


def test_all_reduces_are_counted_as_communication(small: Path) -> None:
    prefill = document(small, "--text", "1000", "--tp", "2")["phases"]["prefill"]
    # Two all-reduces a layer; over a ring of n ranks 2 (n - 1) messages in all.
    assert prefill["bytes_communication"] == 28 * 2 * 2 * (1000 * 3584 * 2)
    assert document(small, "--text", "1000")["phases"]["prefill"]["bytes_communication"] == 0


def test_context_share_of_an_image(small: Path) -> None:
    found = document(small, "--text", "0", "--visual", "2900")
    assert found["context_share"] == pytest.approx(2900 / 128_000)
    assert found["images_in_context"] == 44


def test_output_and_tags_take_cache(small: Path) -> None:
    found = document(small, "--text", "10", "--image", "280x280", "--output", "50", "--block-tokens", "1")
    # 10 of text, 100 cells, begin and end; the last of 50 generated tokens is never read.
    assert (found["prompt_tokens"], found["extra_tokens"], found["text_tokens"]) == (112, 2, 10)
    assert found["kv_bytes_per_request"] == (112 + 49) * 57_344


def test_at_best_the_first_token_takes_encode_and_prefill(small: Path) -> None:
    found = document(small, "--text", "10", "--image", "512x512", "--device", "h200")
    encode, prefill, decode = (
        found["phases"][name]["floor_seconds"] for name in ("encode", "prefill", "decode")
    )
    assert found["ttft_floor_seconds"] == pytest.approx(encode + prefill)
    assert found["tpot_floor_seconds"] == decode


def test_a_time_below_a_microsecond_is_told_in_nanoseconds(tmp_path: Path) -> None:
    tiny = {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 100, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(tiny))
    told = vtprof("estimate", str(tmp_path), "--text-only", "--text", "10", "--device", "h200").stdout
    # 17,000 weights of two bytes at 4.8 TB/s: some seven nanoseconds.
    assert re.search(r"TPOT \d\.\d+ ns", told)
    assert " 0.00" not in told


def test_an_encoder_that_is_not_quantised_computes_at_its_own_peak(tmp_path: Path) -> None:
    packed = {
        "quant_method": "fp8", "activation_scheme": "dynamic", "modules_to_not_convert": ["visual", "lm_head"],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(QWEN2_5_VL_7B | {"quantization_config": packed}))
    found = document(
        tmp_path / "config.json", "--text", "4000", "--image", "2000x2000", "--device", "H100 SXM"
    )
    encode, prefill = found["phases"]["encode"], found["phases"]["prefill"]
    assert encode["floor_seconds"] == pytest.approx(encode["flops"] / 989e12)
    assert prefill["floor_seconds"] == pytest.approx(prefill["flops"] / 1979e12)


def test_a_window_as_long_as_the_context_is_none(small: Path) -> None:
    config = QWEN2_5_VL_7B | {
        "max_position_embeddings": 4096, "use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 0,
    }  # fmt: skip
    small.write_text(json.dumps(config))
    found = document(small, "--text", "9")
    assert (found["kv_bytes_per_token"], found["kv_fixed_bytes"]) == (57_344, 0)


def test_what_does_not_fit_says_what_would(large: Path) -> None:
    notes = document(large, "--text", "9", "--device", "H100 SXM")["notes"]
    # 146.8 GB of weights; 0.9 of one device's 85.5 GB are 76.9 GB.
    assert any("from --tp 2 on" in note for note in notes)
    batch = document(large, "--text", "30000", "--device", "H100 SXM", "--tp", "2", "--batch", "500")
    assert any("more than fit" in note for note in batch["notes"])


def test_a_chip_of_several_cards_is_the_usual_one_and_said(small: Path) -> None:
    found = document(small, "--text", "9", "--device", "h100")
    assert found["device"] == "NVIDIA H100 SXM 80GB"
    assert any("H100 PCIe" in note for note in found["notes"])


def test_a_cpu_that_is_named_is_a_whole_one(small: Path) -> None:
    found = document(small, "--text", "9", "--device", "AMD EPYC 9654")
    assert found["roof"]["peak_flops_per_s"] == pytest.approx(14.7e12)


def test_a_context_shorter_than_the_prompt_is_said(small: Path) -> None:
    assert any(
        "less than the prompt" in n for n in document(small, "--text", "100", "--context", "5")["notes"]
    )


def test_strict_refuses_what_was_assumed(small: Path) -> None:
    done = vtprof("estimate", str(small), "--strict")
    assert (done.returncode, done.stdout) == (2, "")
    assert "assumed" in done.stderr


def test_any_number_of_heads_is_answered_at_once(tmp_path: Path) -> None:
    config = {
        "model_type": "llava",
        "text_config": {
            "model_type": "llama", "num_attention_heads": 2**31, "num_key_value_heads": 1, "head_dim": 1, "hidden_size": 8,
        },
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = vtprof("estimate", str(tmp_path), "--text", "5", "--tp", "3")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_names_from_files_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    config = {
        "model_type": "evil\x1b]0;pwn\x07\nnote: forged",
        "text_config": {"model_type": "llama"}, "vision_config": {"model_type": "siglip_vision_model"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = vtprof("estimate", str(tmp_path), "--text", "5")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "\nnote: forged" not in done.stdout + done.stderr


def test_without_a_workload_one_is_assumed_and_said(small: Path) -> None:
    found = document(small)
    assert found["text_tokens"] == 100
    assert found["visual_tokens"] > 0
    assert any("assumed" in note for note in found["notes"])


def test_terminal_shows_phases_and_batch(small: Path) -> None:
    shown = vtprof("estimate", str(small), "--text", "100", "--image", "512x512", "--device", "h200").stdout
    for word in (
        "8.29 B total",
        "57,344 B a token",
        "ridge 206",
        "max batch",
        "compute bound",
        "memory bound",
    ):
        assert word in shown


def test_experts_are_read_as_they_are_touched(mixtral: Path) -> None:
    one = document(mixtral, "--text", "1", "--context", "1", "--text-only")
    many = document(mixtral, "--text", "1", "--context", "1", "--text-only", "--batch", "1000")
    expert = 3 * 4096 * 14336
    dense = one["params"]["total"] - 32 * 8 * expert - 2 * 4096 * 32_000  # embedding and head apart
    # At one token two of eight experts; at a thousand all of them.
    assert one["phases"]["decode"]["bytes_weights"] == 2 * (dense + 32 * 2 * expert + 4096 * 32_000)
    assert many["phases"]["decode"]["bytes_weights"] == pytest.approx(
        2 * (dense + 32 * 8 * expert + 4096 * 32_000)
    )
    assert one["params"]["total"] - one["params"]["active"] == 32 * 6 * expert
    assert one["params"]["active"] == pytest.approx(12.9e9, rel=0.005)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dtype", "posit8"), "unknown data type"),
        (("--kv-dtype", "int3"), "unknown data type"),
        (("--device", "H999"), "not one device"),
        (("--tp", "5"), "by its heads 1, 2, 4, 28 would do"),
        (("--tp", "7"), "by its heads 1, 2, 4, 28 would do"),
        (("--tp", "0"), "must be from 1"),
        (("--pp", "29"), "only 28 layers"),
        (("--dp", "-1"), "must be from 1"),
        (("--ep", "2"), "no experts"),
        (("--visual", "5", "--image", "9x9"), "give either"),
        (("--text", "10", "--cached", "10"), "at least one is computed"),
        (("--text", "-1"), "--text"),
        (("--memory-ratio", "nan"), "at most 1"),
        (("--memory-ratio", "0"), "--memory-ratio"),
        (("--batch", "0"), "--batch"),
        (("--image", "0x0"), "both sides"),
        (("--audio", "3"), "takes no audio"),
    ],
)
def test_contradictory_questions_are_one_line_and_exit_2(
    small: Path, words: tuple[str, ...], said: str
) -> None:
    done = vtprof("estimate", str(small), *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"), [(("--ep", "3"), "3 does not divide"), (("--tp", "3", "--ep", "3"), "32")]
)
def test_experts_spread_over_ranks_that_are_there(mixtral: Path, words: tuple[str, ...], said: str) -> None:
    done = vtprof("estimate", str(mixtral), "--text-only", *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_text_only_model_needs_to_be_asked_for(mixtral: Path) -> None:
    done = vtprof("estimate", str(mixtral), "--text", "5")
    assert done.returncode == 2
    assert "text-only" in done.stderr
    assert "--text-only" in done.stderr
    assert document(mixtral, "--text", "5", "--text-only")["params"]["vision"] == 0
