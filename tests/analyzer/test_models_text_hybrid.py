"""Decoders with layers of constant state: parameters as transformers builds them, state and cache, FLOPs as run."""

from typing import Any

import pytest
from oracle_models import build, flops, params
from oracle_text import check_published, decoder, expected_flops, prompt_flops, tiny

from vtprof_analyzer.cost.kv import request_cache
from vtprof_schemas.errors import DataError

pytestmark = pytest.mark.torch

NEXT_80B = {"model_type": "qwen3_next"}
QWEN35_9B = {"model_type": "qwen3_5_text"}
QWEN35_35B = {"model_type": "qwen3_5_moe_text", "mamba_ssm_dtype": "float32"}
LFM2_FULL = [2, 5, 8, 10, 12, 14]
LFM2 = {
    "model_type": "lfm2", "hidden_size": 2048, "num_hidden_layers": 16, "block_ff_dim": 12288,
    "layer_types": ["full_attention" if index in LFM2_FULL else "conv" for index in range(16)],
}  # fmt: skip
"""LFM2-1.2B, as published: the MLP's width is 2/3 of 12288."""
LFM2_8B = {
    "model_type": "lfm2_moe", "num_hidden_layers": 24,
    "layer_types": ["full_attention" if index in (2, 6, 10, 14, 18, 21) else "conv" for index in range(24)],
}  # fmt: skip
KIMI = {
    "model_type": "kimi_linear", "qk_rope_head_dim": 64, "num_experts": 256, "num_experts_per_token": 8,
    "num_shared_experts": 1, "first_k_dense_replace": 1,
    "linear_attn_config": {
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
        "kda_layers": [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 21, 22, 23, 25, 26],
        "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4,
    },
}  # fmt: skip
"""Kimi-Linear-48B-A3B as published."""
MINIMAX_LAYERS = ["full_attention" if index % 8 == 7 else "linear_attention" for index in range(80)]
MINIMAX = {
    "model_type": "minimax", "hidden_size": 6144, "intermediate_size": 9216, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 32,
    "num_experts_per_tok": 2, "vocab_size": 200064, "layer_types": MINIMAX_LAYERS,
}  # fmt: skip
GRANITE = {
    "model_type": "granitemoehybrid", "num_hidden_layers": 4, "attention_bias": True, "mamba_proj_bias": True,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
}  # fmt: skip
BAMBA = {"model_type": "bamba", "attn_layer_indices": [9, 18, 27]}
FALCON = {"model_type": "falcon_h1", "num_hidden_layers": 3}
JAMBA = {"model_type": "jamba"}
NEMOTRON = {"model_type": "nemotron_h", "hybrid_override_pattern": "M-M*ME-"}
CASES: list[tuple[dict[str, Any], str]] = [
    (NEXT_80B, "Qwen3NextForCausalLM"),
    (
        {**NEXT_80B, "mlp_only_layers": [0, 3], "attention_bias": True, "num_hidden_layers": 8},
        "Qwen3NextForCausalLM",
    ),
    (QWEN35_9B, "Qwen3_5ForCausalLM"),
    (QWEN35_35B, "Qwen3_5MoeForCausalLM"),
    ({**QWEN35_35B, "full_attention_interval": 5, "linear_num_value_heads": 64}, "Qwen3_5MoeForCausalLM"),
    (LFM2, "Lfm2ForCausalLM"),
    ({**LFM2, "conv_bias": True, "block_ffn_dim_multiplier": 1.3}, "Lfm2ForCausalLM"),
    ({**LFM2, "block_auto_adjust_ff_dim": False}, "Lfm2ForCausalLM"),
    ({"model_type": "lfm2", "full_attn_idxs": [1, 4]}, "Lfm2ForCausalLM"),
    (LFM2_8B, "Lfm2MoeForCausalLM"),
    (KIMI, "KimiLinearForCausalLM"),
    ({"model_type": "kimi_linear", "qk_rope_head_dim": 64, "attention_bias": True}, "KimiLinearForCausalLM"),
    (MINIMAX, "MiniMaxForCausalLM"),
    ({"model_type": "minimax"}, "MiniMaxForCausalLM"),
    (GRANITE, "GraniteMoeHybridForCausalLM"),
    ({**GRANITE, "layer_types": ["mamba", "attention", "mamba", "attention"]}, "GraniteMoeHybridForCausalLM"),
    ({**GRANITE, "num_local_experts": 0}, "GraniteMoeHybridForCausalLM"),
    (BAMBA, "BambaForCausalLM"),
    (FALCON, "FalconH1ForCausalLM"),
    (
        {
            **FALCON,
            "mamba_rms_norm": True,
            "projectors_bias": True,
            "mamba_proj_bias": True,
            "mlp_bias": True,
        },
        "FalconH1ForCausalLM",
    ),
    (JAMBA, "JambaForCausalLM"),
    ({**JAMBA, "mamba_proj_bias": True, "num_experts": 1, "num_experts_per_tok": 1}, "JambaForCausalLM"),
    (NEMOTRON, "NemotronHForCausalLM"),
    ({**NEMOTRON, "use_bias": True, "mlp_bias": True, "moe_latent_size": 512}, "NemotronHForCausalLM"),
]


@pytest.mark.parametrize(
    ("config", "architecture"), CASES, ids=[f"{c[0]['model_type']}-{i}" for i, c in enumerate(CASES)]
)
def test_parameters_are_those_that_transformers_builds(config: dict[str, Any], architecture: str) -> None:
    assert decoder(config).params == params(build(config, architecture))


# Billions, and how many of embedding and head the published active number leaves out.
PUBLISHED = {
    # Model cards.
    "Qwen3-Next-80B-A3B": (NEXT_80B, 80, 3, 2),
    "LFM2-8B-A1B": (LFM2_8B, 8, 2, 0),
    # arXiv 2510.26692.
    "Kimi-Linear-48B-A3B": (KIMI, 49, 3, 0),
    # arXiv 2501.08313.
    "MiniMax-Text-01": (MINIMAX, 456, 45.9, 2),
    # arXiv 2403.19887.
    "Jamba": (JAMBA, 52, 12, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_total_and_active_billions_round_to_the_published_ones(name: str) -> None:
    check_published(*PUBLISHED[name])


def test_lfm2_has_the_published_number_of_parameters() -> None:
    # Model card of LFM2-1.2B: 1,170,340,608.
    assert decoder(LFM2).params == 1_170_340_608


@pytest.mark.parametrize(
    ("config", "cached", "state"),
    [
        # 12 of 48 layers cache 2 heads x 256, key and value; 36 keep 32 x 128 x 128 and 3 inputs of 2 x 2048 + 4096.
        (NEXT_80B, 12 * 2 * 2 * 256, 36 * (32 * 128 * 128 + 3 * 8192)),
        (QWEN35_9B, 8 * 2 * 4 * 256, 24 * (32 * 128 * 128 + 3 * 8192)),
        # 6 of 16 layers cache 8 heads x 64; the others keep 2 inputs of a convolution of 3 taps.
        (LFM2, 6 * 2 * 8 * 64, 10 * 2 * 2048),
        # 7 of 27 layers cache 512 + 64; 20 keep 32 x 128 x 128 and 3 inputs of 3 x 4096.
        (KIMI, 7 * 576, 20 * (32 * 128 * 128 + 3 * 12288)),
        (MINIMAX, 10 * 2 * 8 * 128, 70 * 64 * 128 * 128),
        # Every layer caches 8 heads x 128, and keeps 1024 x 256 and 3 inputs of 1024 + 2 x 256.
        (FALCON, 3 * 2 * 8 * 128, 3 * (1024 * 256 + 3 * 1536)),
        # 4 of 32 layers cache 8 heads x 128; 28 keep 8192 x 16 and 3 inputs of 8192.
        (JAMBA, 4 * 2 * 8 * 128, 28 * (8192 * 16 + 3 * 8192)),
    ],
    ids=["qwen3-next", "qwen3.5", "lfm2", "kimi", "minimax", "falcon", "jamba"],
)
def test_only_attention_layers_have_a_cache_that_grows(
    config: dict[str, Any], cached: int, state: int
) -> None:
    groups = decoder(config).groups
    assert sum(group.layers * group.attention.kv_values_per_token for group in groups) == cached
    assert sum(group.layers * group.attention.state_values for group in groups) == state


def test_a_longer_sequence_grows_the_cache_of_attention_layers_alone() -> None:
    """S134: the slope is that of 12 layers of 48, the rest of the cache a constant state."""
    language = decoder(NEXT_80B)
    kept = [request_cache(language, 2.0, tokens).bytes for tokens in (1000, 2000, 3000)]
    slope = 12 * 2 * 2 * 256 * 2
    assert kept[1] - kept[0] == kept[2] - kept[1] == 1000 * slope
    assert kept[0] - 1000 * slope == 36 * (32 * 128 * 128 + 3 * 8192) * 2


def test_a_state_in_float32_takes_four_bytes_but_its_convolution_two() -> None:
    state = decoder(QWEN35_35B).groups[0].attention
    assert state.state_bytes_per_value is not None
    assert state.state_values * state.state_bytes_per_value == pytest.approx(
        32 * 128 * 128 * 4 + 3 * 8192 * 2
    )
    # Without the field the state has the cache's data type.
    assert decoder(NEXT_80B).groups[0].attention.state_bytes_per_value is None
    assert (decoder(KIMI).groups[0].attention.state_bytes_per_value or 0) > 3.8


def test_minimax_published_list_of_kinds_is_the_same_model() -> None:
    kinds = [int(kind == "full_attention") for kind in MINIMAX_LAYERS]
    published = {key: value for key, value in MINIMAX.items() if key != "layer_types"}
    model = decoder({**published, "model_type": "minimax_text_01", "attn_type_list": kinds})
    assert model.groups == decoder(MINIMAX).groups


SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50, "head_dim": 16, "pad_token_id": 0,
}  # fmt: skip
DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 16,
}  # fmt: skip
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40}


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ({"model_type": "qwen3_5_text", **SMALL, **DELTA}, "Qwen3_5ForCausalLM"),
        (
            {"model_type": "qwen3_next", **SMALL, **DELTA, **EXPERTS, "shared_expert_intermediate_size": 24},
            "Qwen3NextForCausalLM",
        ),
        (
            {
                "model_type": "qwen3_5_moe_text",
                **SMALL,
                **DELTA,
                **EXPERTS,
                "shared_expert_intermediate_size": 24,
            },
            "Qwen3_5MoeForCausalLM",
        ),
    ],
)
def test_flops_of_a_delta_net_are_the_librarys_less_its_products_within_chunks(
    config: dict[str, Any], architecture: str
) -> None:
    model = tiny(config, architecture)
    ours = decoder(config)
    assert ours.params == params(model)
    # Of 3 layers, 4 heads each, chunks of 64 tokens: K K^T and Q K^T within a chunk, and their product with the values.
    # The triangular system is solved by a routine that the counter does not know.
    within = 3 * 128 * 4 * 64 * (2 * 32 + 2 * 32 + 2 * 16)
    assert expected_flops(ours, 128) + within == pytest.approx(prompt_flops(model, 128, 50), rel=0.01)


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ({"model_type": "lfm2", **SMALL, "full_attn_idxs": [1, 2]}, "Lfm2ForCausalLM"),
        (
            {
                "model_type": "lfm2_moe", **SMALL, **EXPERTS, "num_dense_layers": 1,
                "layer_types": ["conv", "full_attention", "conv", "conv"],
            },
            "Lfm2MoeForCausalLM",
        ),
    ],
)  # fmt: skip
def test_flops_of_short_convolutions_are_those_of_a_real_run(
    config: dict[str, Any], architecture: str
) -> None:
    config = {key: value for key, value in config.items() if key != "head_dim"}
    model = tiny(config, architecture)
    assert expected_flops(decoder(config), 128) == pytest.approx(prompt_flops(model, 128, 50), rel=0.01)


def test_flops_of_lightning_attention_are_the_librarys_less_its_products_within_blocks() -> None:
    config = {
        "model_type": "minimax", **SMALL, "num_local_experts": 8, "num_experts_per_tok": 3, "block_size": 32
    }  # fmt: skip
    model = tiny(config, "MiniMaxForCausalLM")
    # Of 2 layers, 4 heads of 16, blocks of 32 tokens: Q K^T and its product with the values.
    within = 2 * 128 * 4 * 32 * (2 * 16 + 2 * 16)
    assert expected_flops(decoder(config), 128) + within == pytest.approx(
        prompt_flops(model, 128, 50), rel=0.01
    )


def test_a_step_of_a_recurrence_costs_what_its_matrices_do() -> None:
    """Write the delta rule and Mamba-2 down as matrix products of one token, and count those."""
    import torch

    key, value, query = torch.ones(1, 128), torch.ones(1, 128), torch.ones(1, 128)
    state = torch.zeros(128, 128)

    def delta_rule() -> None:
        read = key @ state
        written = state + key.T @ (value - read)
        assert (query @ written).shape == (1, 128)

    def step(config: dict[str, Any]) -> float:
        return next(
            group.attention.token_flops for group in decoder(config).groups if not group.attention.softmax
        )

    # Four taps over query, key and value of all heads.
    assert step(NEXT_80B) == 32 * flops(delta_rule) + 2 * 4 * 8192
    assert step(KIMI) == 32 * flops(delta_rule) + 2 * 4 * 3 * 4096
    assert step(LFM2) == 2 * 3 * 2048

    def linear_attention() -> None:
        written = state + key.T @ value
        assert (query @ written).shape == (1, 128)

    assert step(MINIMAX) == 64 * flops(linear_attention)

    channels, shared = torch.ones(1, 1024), torch.ones(1, 256)

    def state_space() -> None:
        written = torch.zeros(1024, 256) + channels.T @ shared
        assert (shared @ written.T).shape == (1, 1024)

    assert decoder(FALCON).groups[0].attention.token_flops == flops(state_space) + 2 * 4 * 1536
    # Mamba: 8192 channels with a state of 16 each, written and read.
    assert step(JAMBA) == 2 * 2 * 8192 * 16 + 2 * 4 * 8192


def test_activations_of_a_linear_layer_are_its_products_in_and_outputs() -> None:
    delta = decoder(QWEN35_9B).groups[0]
    # In: hidden state. Out: query, key and value, a gate, two values a head. In: value. Out: hidden state.
    mixer = 4096 + (8192 + 4096 + 2 * 32) + 4096 + 4096
    mlp = 4096 + 2 * 12288 + 12288 + 4096
    assert delta.activation_values == mixer + mlp + 4 * 4096
    convolution = decoder(LFM2).groups[0]
    assert convolution.activation_values == (2048 + 3 * 2048 + 2048 + 2048) + (2 * 2048 + 3 * 8192) + 4 * 2048


@pytest.mark.parametrize(
    ("config", "change", "named"),
    [
        (NEXT_80B, {"full_attention_interval": 0}, "full_attention_interval"),
        (NEXT_80B, {"layer_types": ["linear_attention"] * 47}, "layer_types"),
        (NEXT_80B, {"layer_types": ["quadratic"] * 48}, "layer_types"),
        (NEXT_80B, {"num_hidden_layers": 2**40}, "num_hidden_layers"),
        (NEXT_80B, {"num_experts": 0}, "num_experts"),
        (NEXT_80B, {"num_experts_per_tok": 513}, "num_experts_per_tok"),
        (NEXT_80B, {"linear_num_value_heads": 33}, "linear_num_value_heads"),
        (NEXT_80B, {"linear_conv_kernel_dim": 0}, "linear_conv_kernel_dim"),
        (LFM2, {"block_ffn_dim_multiplier": 0}, "block_ffn_dim_multiplier"),
        (LFM2, {"block_ffn_dim_multiplier": float("nan")}, "block_ffn_dim_multiplier"),
        (LFM2, {"conv_L_cache": None}, "conv_L_cache"),
        ({"model_type": "lfm2"}, {"full_attn_idxs": "all"}, "full_attn_idxs"),
        (KIMI, {"linear_attn_config": [1]}, "linear_attn_config"),
        (KIMI, {"linear_attn_config": {"full_attn_layers": 4}}, "linear_attn_config.full_attn_layers"),
        ({**MINIMAX, "layer_types": None}, {"attn_type_list": [1]}, "attn_type_list"),
        (GRANITE, {"mamba_n_heads": 3}, "mamba_n_heads"),
        (GRANITE, {"mamba_d_head": 7}, "mamba_d_head"),
        (GRANITE, {"layer_types": ["moe"] * 4}, "layer_types"),
        (JAMBA, {"attn_layer_period": 0}, "attn_layer_period"),
        (JAMBA, {"mamba_dt_rank": "much"}, "mamba_dt_rank"),
        (NEMOTRON, {"hybrid_override_pattern": "MX"}, "hybrid_override_pattern"),
        (NEMOTRON, {"hybrid_override_pattern": ["M"]}, "hybrid_override_pattern"),
        (NEMOTRON, {"hybrid_override_pattern": "M" * 10**6}, "hybrid_override_pattern"),
        (NEMOTRON, {"layers_block_type": []}, "layers_block_type"),
    ],
)
def test_a_field_at_fault_is_named_in_one_line(
    config: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    with pytest.raises(DataError, match=rf"^model config: {named} ") as raised:
        decoder({**config, **change})
    assert "\n" not in str(raised.value)
