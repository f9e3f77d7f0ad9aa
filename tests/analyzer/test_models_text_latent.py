"""Decoders with latent attention: parameters as transformers builds them, the published cache of a token, FLOPs as run."""

from typing import Any

import pytest
from oracle_models import build, params
from oracle_text import check_published, decoder, expected_flops, prompt_flops, tiny

from vtprof_schemas.errors import DataError

pytestmark = pytest.mark.torch

V3 = {"model_type": "deepseek_v3", "qk_rope_head_dim": 64}
V2 = {
    "model_type": "deepseek_v2", "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "num_hidden_layers": 60, "num_attention_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "n_routed_experts": 160,
    "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "vocab_size": 102400,
}  # fmt: skip
V2_LITE = {
    **V2, "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 27,
    "num_attention_heads": 16, "q_lora_rank": None, "n_routed_experts": 64,
}  # fmt: skip
VL2 = {
    **V2, "hidden_size": 2560, "num_hidden_layers": 30, "num_attention_heads": 32, "q_lora_rank": None,
    "n_routed_experts": 72, "vocab_size": 129280,
}  # fmt: skip
"""The language model of DeepSeek-VL2."""
VL2_TINY = {
    "model_type": "deepseek_v2", "hidden_size": 1280, "intermediate_size": 6848, "moe_intermediate_size": 896,
    "num_hidden_layers": 12, "num_attention_heads": 10, "num_key_value_heads": 10, "n_routed_experts": 64,
    "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "vocab_size": 129280,
    "use_mla": False, "kv_lora_rank": None, "q_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0,
    "v_head_dim": 0,
}  # fmt: skip
"""That of DeepSeek-VL2-Tiny and DeepSeek-OCR, without latent attention."""
MOONLIGHT = {
    **V3, "hidden_size": 2048, "intermediate_size": 11264, "moe_intermediate_size": 1408, "num_hidden_layers": 27,
    "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": None, "n_routed_experts": 64,
    "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "vocab_size": 163840,
}  # fmt: skip
"""Of Kimi-VL."""
KIMI_K2 = {
    "model_type": "kimi_k2", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 64, "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "n_routed_experts": 384,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 1, "vocab_size": 163840,
    "tie_word_embeddings": False,
}  # fmt: skip
MINICPM3 = {"model_type": "minicpm3", "qk_rope_head_dim": 32, "v_head_dim": 64}
MISTRAL4 = {"model_type": "mistral4", "qk_rope_head_dim": 64}
GLM_LITE = {"model_type": "glm4_moe_lite", "qk_rope_head_dim": 64}
YOUTU = {"model_type": "youtu", "qk_rope_head_dim": 64}
CASES: list[tuple[dict[str, Any], str]] = [
    (V3, "DeepseekV3ForCausalLM"),
    ({**V3, "attention_bias": True, "num_hidden_layers": 5}, "DeepseekV3ForCausalLM"),
    (V2, "DeepseekV2ForCausalLM"),
    (V2_LITE, "DeepseekV2ForCausalLM"),
    ({**V2_LITE, "attention_bias": True, "mlp_bias": True}, "DeepseekV2ForCausalLM"),
    (VL2, "DeepseekV2ForCausalLM"),
    (MOONLIGHT, "DeepseekV3ForCausalLM"),
    ({**KIMI_K2, "model_type": "deepseek_v3"}, "DeepseekV3ForCausalLM"),
    (MINICPM3, "MiniCPM3ForCausalLM"),
    ({**MINICPM3, "attention_bias": True}, "MiniCPM3ForCausalLM"),
    (MISTRAL4, "Mistral4Model"),
    (GLM_LITE, "Glm4MoeLiteForCausalLM"),
    ({**GLM_LITE, "mlp_layer_types": ["dense"] * 7 + ["sparse"] * 40}, "Glm4MoeLiteForCausalLM"),
    (YOUTU, "YoutuForCausalLM"),
]


@pytest.mark.parametrize(
    ("config", "architecture"), CASES, ids=[f"{c[0]['model_type']}-{i}" for i, c in enumerate(CASES)]
)
def test_parameters_are_those_that_transformers_builds(config: dict[str, Any], architecture: str) -> None:
    ours = decoder(config, tied=True if architecture.endswith("Model") else None)
    assert ours.params == params(build(config, architecture))


def test_kimi_k2_is_a_deepseek_v3_of_other_sizes() -> None:
    config = {**KIMI_K2, "max_position_embeddings": 131072}
    assert decoder(config) == decoder({**config, "model_type": "deepseek_v3"})


def test_without_latent_attention_heads_keep_keys_and_values_of_their_own() -> None:
    model = decoder(VL2_TINY)
    # The same decoder as transformers has it for DeepSeek-OCR 2.
    same = {key: value for key, value in VL2_TINY.items() if "rank" not in key and "head_dim" not in key}
    types = ["dense"] + ["sparse"] * 11
    built = build(
        {**same, "model_type": "deepseek_ocr2_text", "mlp_layer_types": types}, "DeepseekOcr2TextModel"
    )
    assert model.params == params(built) + 129280 * 1280
    attention = model.groups[0].attention
    assert (attention.latent_values, attention.kv_values_per_token) == (None, 2 * 10 * 128)
    # DeepSeek-OCR's paper, arXiv 2510.18234, calls it DeepSeek3B-MoE-A570M: without the embedding.
    assert round((model.active_params - model.embedding_params) / 1e6, -1) == 570
    null = {key: value for key, value in VL2_TINY.items() if key != "use_mla"}
    assert decoder(null) == model


@pytest.mark.parametrize(
    ("config", "cached"),
    [
        # arXiv 2505.09343, table 1: 70.272 KB a token in 16 bits, 61 layers x (512 + 64).
        (V3, 70272 // 2),
        (V2_LITE, 27 * 576),
        (VL2, 30 * 576),
        (MINICPM3, 62 * (256 + 32)),
    ],
)
def test_a_token_leaves_one_latent_vector_a_layer(config: dict[str, Any], cached: int) -> None:
    groups = decoder(config).groups
    assert sum(group.layers * group.attention.kv_values_per_token for group in groups) == cached


def test_pairs_are_computed_head_by_head_or_in_the_latent() -> None:
    attention = decoder(V3).groups[0].attention
    # 128 heads: 192 values of query and key, 128 of the value.
    assert attention.pair_flops == 2 * 128 * (128 + 64 + 128)
    assert (attention.latent_values, attention.latent_rank) == (512 + 64, 512)


def test_activations_of_latent_attention_are_its_products_in_and_outputs() -> None:
    dense = decoder(V3).groups[0]
    # Down: 7168 to 1536 and 576. Up: 1536 to 128 x 192, and 512 to 128 x 256. Out: 128 x 128 to 7168.
    attention = (7168 + 1536 + 576) + (1536 + 128 * 192) + (512 + 128 * 256) + (128 * 128 + 7168)
    assert dense.activation_values == attention + (2 * 7168 + 3 * 18432) + 4 * 7168


# Billions, and how many of embedding and head the published active number leaves out.
PUBLISHED = {
    # arXiv 2412.19437.
    "DeepSeek-V3": (V3, 671, 37, 1),
    # arXiv 2405.04434.
    "DeepSeek-V2": (V2, 236, 21, 0),
    # arXiv 2502.16982, table of sizes.
    "Moonlight-16B-A3B": (MOONLIGHT, 15.96, 2.24, 2),
    # Model card: 1T, 32B.
    "Kimi-K2": (KIMI_K2, 1026, 32, 1),
    "MiniCPM3-4B": (MINICPM3, 4, 4, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_total_and_active_billions_round_to_the_published_ones(name: str) -> None:
    check_published(*PUBLISHED[name])


SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 50, "kv_lora_rank": 24, "q_lora_rank": 20, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16, "v_head_dim": 12, "moe_intermediate_size": 40, "n_routed_experts": 8,
    "n_shared_experts": 2, "num_experts_per_tok": 3, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ({"model_type": "deepseek_v3", **SMALL}, "DeepseekV3ForCausalLM"),
        ({"model_type": "deepseek_v2", **SMALL, "q_lora_rank": None}, "DeepseekV2ForCausalLM"),
        ({"model_type": "minicpm3", **SMALL}, "MiniCPM3ForCausalLM"),
        ({"model_type": "glm4_moe_lite", **SMALL}, "Glm4MoeLiteForCausalLM"),
    ],
)
def test_flops_are_those_of_a_real_run(config: dict[str, Any], architecture: str) -> None:
    model = tiny(config, architecture)
    ours = decoder(config)
    assert ours.params == params(model)
    assert expected_flops(ours, 48) == pytest.approx(prompt_flops(model, 48, 50), rel=0.01)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_routed_experts": 0}, "n_routed_experts"),
        ({"num_experts_per_tok": 300}, "num_experts_per_tok"),
        ({"num_hidden_layers": 2**40}, "num_hidden_layers"),
        ({"kv_lora_rank": "512"}, "kv_lora_rank"),
        ({"kv_lora_rank": 0}, "kv_lora_rank"),
        ({"q_lora_rank": -1}, "q_lora_rank"),
        ({"qk_rope_head_dim": None}, "qk_rope_head_dim"),
        ({"v_head_dim": [128, 64]}, "v_head_dim"),
        ({"first_k_dense_replace": 1.5}, "first_k_dense_replace"),
        ({"use_mla": "no"}, "use_mla"),
        ({"num_attention_heads": float("inf")}, "num_attention_heads"),
    ],
)
def test_a_field_at_fault_is_named_in_one_line(change: dict[str, Any], named: str) -> None:
    with pytest.raises(DataError, match=rf"^model config: {named} ") as raised:
        decoder({**V3, **change})
    assert "\n" not in str(raised.value)
