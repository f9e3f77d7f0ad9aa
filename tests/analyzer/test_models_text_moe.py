"""Decoders with mixtures of experts: parameters as transformers builds them, active ones as published, FLOPs as run."""

from typing import Any

import pytest
from oracle_models import build, params
from oracle_text import decoder, expected_flops, prompt_flops, tiny

from vtprof_analyzer.cost.estimate import Workload, estimate
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.registry import load_spec
from vtprof_schemas.errors import DataError

pytestmark = pytest.mark.torch

QWEN3_VL_30B = {
    "model_type": "qwen3_vl_moe_text", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936,
}  # fmt: skip
QWEN3_VL_235B = {
    **QWEN3_VL_30B, "hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "num_hidden_layers": 94, "num_attention_heads": 64,
}  # fmt: skip
QWEN3_30B = {**QWEN3_VL_30B, "model_type": "qwen3_moe"}
QWEN3_OMNI_30B = {**QWEN3_VL_30B, "model_type": "qwen3_omni_moe_text", "vocab_size": 152064}
QWEN2_MOE = {"model_type": "qwen2_moe"}
"""Qwen1.5-MoE-A2.7B: the class's defaults."""
SCOUT = {"model_type": "llama4_text"}
MAVERICK = {"model_type": "llama4_text", "num_local_experts": 128, "interleave_moe_layer_step": 2}
GLM_45V = {"model_type": "glm4v_moe_text", "head_dim": 128}
GLM_45_AIR = {"model_type": "glm4_moe", "head_dim": 128, "attention_bias": True}
ERNIE_VL_28B = {"model_type": "ernie4_5_vl_moe_text"}
ERNIE_21B = {"model_type": "ernie4_5_moe"}
ARIA = {
    "model_type": "aria_text", "hidden_size": 2560, "intermediate_size": 1664, "num_hidden_layers": 28,
    "num_attention_heads": 20, "moe_num_experts": 64, "moe_topk": 6, "moe_num_shared_experts": 2,
    "vocab_size": 100352,
}  # fmt: skip
MIXTRAL = {"model_type": "mixtral"}
GPT_OSS_120B = {"model_type": "gpt_oss"}
GPT_OSS_20B = {"model_type": "gpt_oss", "num_hidden_layers": 24, "num_local_experts": 32}
PHI_MOE = {"model_type": "phimoe", "attention_bias": True, "lm_head_bias": True, "sliding_window": 131072}
DOTS = {
    "model_type": "dots1", "hidden_size": 4096, "num_hidden_layers": 62, "num_attention_heads": 32,
    "num_key_value_heads": 32, "n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6,
    "first_k_dense_replace": 1, "moe_intermediate_size": 1408, "intermediate_size": 10944, "sliding_window": None,
}  # fmt: skip
OLMOE = {"model_type": "olmoe", "num_experts": 64, "num_experts_per_tok": 8, "intermediate_size": 1024}
MINIMAX_M2 = {"model_type": "minimax_m2"}
HUNYUAN = {
    "model_type": "hunyuan_v1_moe", "num_experts": 64, "moe_topk": 8, "head_dim": 128, "num_key_value_heads": 8,
    "intermediate_size": 3072, "vocab_size": 128167, "tie_word_embeddings": True,
}  # fmt: skip
GRANITE = {"model_type": "granitemoeshared", "shared_intermediate_size": 100, "attention_bias": True}
OCR = {
    "model_type": "deepseek_ocr2_text", "hidden_size": 1280, "intermediate_size": 6848, "num_hidden_layers": 12,
    "num_attention_heads": 10, "moe_intermediate_size": 896, "num_experts_per_tok": 6, "vocab_size": 129280,
    "mlp_layer_types": ["dense"] + ["sparse"] * 11,
}  # fmt: skip
DBRX = {
    "model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40, "max_seq_len": 32768, "vocab_size": 100352,
    "attn_config": {"kv_n_heads": 8, "rope_theta": 500000},
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
}  # fmt: skip
DEEPSEEK_16B = {
    "model_type": "deepseek", "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 16, "n_routed_experts": 64,
    "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "vocab_size": 102400, "tie_word_embeddings": False,
}  # fmt: skip
"""DeepSeekMoE; its class is published with the checkpoint."""
CASES: list[tuple[dict[str, Any], str]] = [
    (QWEN3_VL_30B, "Qwen3VLMoeTextModel"),
    (QWEN3_VL_235B, "Qwen3VLMoeTextModel"),
    (QWEN3_OMNI_30B, "Qwen3OmniMoeThinkerTextModel"),
    (QWEN3_30B, "Qwen3MoeForCausalLM"),
    (
        {**QWEN3_30B, "decoder_sparse_step": 2, "mlp_only_layers": [1, 5], "attention_bias": True},
        "Qwen3MoeForCausalLM",
    ),
    (QWEN2_MOE, "Qwen2MoeForCausalLM"),
    (SCOUT, "Llama4ForCausalLM"),
    (MAVERICK, "Llama4ForCausalLM"),
    ({**SCOUT, "moe_layers": [3, 7], "attention_bias": True}, "Llama4ForCausalLM"),
    (GLM_45V, "Glm4vMoeTextModel"),
    ({**GLM_45V, "attention_bias": False, "first_k_dense_replace": 3}, "Glm4vMoeTextModel"),
    (GLM_45_AIR, "Glm4MoeForCausalLM"),
    ({**GLM_45_AIR, "use_qk_norm": True}, "Glm4MoeForCausalLM"),
    (ERNIE_VL_28B, "Ernie4_5_VLMoeTextModel"),
    ({**ERNIE_VL_28B, "use_bias": True, "moe_num_shared_experts": 0}, "Ernie4_5_VLMoeTextModel"),
    (ERNIE_21B, "Ernie4_5_MoeForCausalLM"),
    (
        {**ERNIE_21B, "use_bias": True, "moe_layer_interval": 2, "moe_layer_end_index": 20},
        "Ernie4_5_MoeForCausalLM",
    ),
    (ARIA, "AriaTextForCausalLM"),
    ({**ARIA, "attention_bias": True, "mlp_bias": True}, "AriaTextForCausalLM"),
    (MIXTRAL, "MixtralForCausalLM"),
    (GPT_OSS_120B, "GptOssForCausalLM"),
    (GPT_OSS_20B, "GptOssForCausalLM"),
    (PHI_MOE, "PhimoeForCausalLM"),
    ({"model_type": "granitemoe"}, "GraniteMoeForCausalLM"),
    (GRANITE, "GraniteMoeSharedForCausalLM"),
    (DOTS, "Dots1ForCausalLM"),
    (OLMOE, "OlmoeForCausalLM"),
    ({**OLMOE, "num_key_value_heads": 4, "attention_bias": True}, "OlmoeForCausalLM"),
    ({"model_type": "flex_olmo"}, "FlexOlmoForCausalLM"),
    (MINIMAX_M2, "MiniMaxM2ForCausalLM"),
    (HUNYUAN, "HunYuanMoEV1ForCausalLM"),
    (OCR, "DeepseekOcr2TextModel"),
    (DBRX, "DbrxForCausalLM"),
]


@pytest.mark.parametrize(
    ("config", "architecture"), CASES, ids=[f"{c[0]['model_type']}-{i}" for i, c in enumerate(CASES)]
)
def test_parameters_are_those_that_transformers_builds(config: dict[str, Any], architecture: str) -> None:
    built = build(config, architecture)
    ours = decoder(config, tied=True if architecture.endswith("TextModel") else None)
    assert ours.params == params(built)


PUBLISHED = {
    # arXiv 2401.04088 and the announcement.
    "Mixtral-8x7B": (MIXTRAL, 46.7, 12.9),
    # Model card, table 1: 5.13 and 3.61 active with the output head and without the embedding of 201088 x 2880 = 0.58.
    "gpt-oss-120b": (GPT_OSS_120B, 116.83, 5.71),
    "gpt-oss-20b": (GPT_OSS_20B, 20.91, 4.19),
    # arXiv 2409.02060, table 1.
    "OLMoE-1B-7B": (OLMOE, 6.9, 1.3),
    # arXiv 2404.14219.
    "Phi-3.5-MoE": (PHI_MOE, 42, 6.6),
    # arXiv 2505.09388.
    "Qwen3-235B-A22B": ({**QWEN3_VL_235B, "model_type": "qwen3_moe"}, 235, 22),
    "Qwen1.5-MoE-A2.7B": (QWEN2_MOE, 14.3, 2.7),
    # arXiv 2401.06066, and the announcement of DBRX.
    "DeepSeekMoE-16B": (DEEPSEEK_16B, 16.4, 2.8),
    "DBRX": (DBRX, 132, 36),
    # Model cards; 400 and 17 active.
    "Llama-4-Maverick without vision": (MAVERICK, 401, 17),
    "Hunyuan-A13B": (HUNYUAN, 80, 13),
    "ERNIE-4.5-21B-A3B": (ERNIE_21B, 22, 3),
    "dots.llm1": (DOTS, 143, 14),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_total_and_active_billions_round_to_the_published_ones(name: str) -> None:
    config, total, active = PUBLISHED[name]
    model = decoder(config)
    for ours, published in ((model.params, total), (model.active_params, active)):
        digits = len(str(published).partition(".")[2])
        assert round(ours / 1e9, digits) == published


def test_ernie_routes_visual_tokens_to_narrower_experts_of_their_own() -> None:
    model = decoder(ERNIE_VL_28B)
    sparse = model.groups[1]
    assert sparse.experts is not None and sparse.visual_experts is not None
    # Gate, up and down of width 1536 and 512 over 2560.
    assert (sparse.experts.params, sparse.visual_experts.params) == (3 * 2560 * 1536, 3 * 2560 * 512)
    assert sparse.token_params - sparse.visual_token_params == 6 * 3 * 2560 * (1536 - 512)
    # A text token runs through 6 of 64 experts, and its active parameters hold no visual expert.
    idle = 58 * 3 * 2560 * 1536 + 64 * 3 * 2560 * 512
    assert sparse.params - sparse.active_params == idle


def test_ernie_published_config_with_pairs_is_the_same_model() -> None:
    published = {
        **complete(ERNIE_VL_28B), "model_type": "ernie4_5_moe_vl", "moe_num_experts": [64, 64],
        "moe_intermediate_size": [1536, 512], "moe_layer_start_index": [1, 1], "moe_layer_end_index": [29, 28],
        "moe_layer_interval": 1,
    }  # fmt: skip
    assert decoder(published) == decoder(ERNIE_VL_28B)


@pytest.mark.parametrize(
    ("config", "views"),
    [
        # Every fourth layer of Llama 4 sees everything, the others their chunk of 8192; every second is dense in Maverick.
        (SCOUT, [(36, 8192, True), (12, None, False)]),
        (MAVERICK, [(24, 8192, True), (12, 8192, True), (12, None, False)]),
        ({**SCOUT, "no_rope_layers": [0] * 8 + [1] * 40}, [(8, None, False), (40, 8192, True)]),
        (GPT_OSS_20B, [(12, 128, False), (12, None, False)]),
        (MIXTRAL, [(32, None, False)]),
        ({**MIXTRAL, "sliding_window": 4096}, [(32, 4096, False)]),
        (QWEN2_MOE, [(24, None, False)]),
        (
            {**QWEN2_MOE, "use_sliding_window": True, "max_window_layers": 10},
            [(5, 4096, False), (19, None, False)],
        ),
        (
            {**DOTS, "sliding_window": 512, "max_window_layers": 60},
            [(1, None, False), (59, None, False), (2, 512, False)],
        ),
    ],
    ids=[
        "scout",
        "maverick",
        "llama4-listed",
        "gpt-oss",
        "mixtral",
        "mixtral-window",
        "qwen2",
        "qwen2-window",
        "dots1",
    ],
)
def test_layers_see_what_the_config_says(
    config: dict[str, Any], views: list[tuple[int, int | None, bool]]
) -> None:
    groups = decoder(config).groups
    assert [
        (group.layers, group.attention.window_tokens, group.attention.chunked) for group in groups
    ] == views


SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "head_dim": 32,
    "pad_token_id": 0,
}  # fmt: skip
TINY: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "qwen3_moe", **SMALL, "num_experts": 8, "mlp_only_layers": [2]}, "Qwen3MoeForCausalLM"),
    (
        {"model_type": "qwen2_moe", **SMALL, "num_experts": 8, "shared_expert_intermediate_size": 48},
        "Qwen2MoeForCausalLM",
    ),
    ({"model_type": "mixtral", **SMALL, "num_local_experts": 8}, "MixtralForCausalLM"),
    (
        {"model_type": "glm4_moe", **SMALL, "n_routed_experts": 8, "n_shared_experts": 2, "attention_bias": True},
        "Glm4MoeForCausalLM",
    ),
    ({"model_type": "gpt_oss", **SMALL, "num_local_experts": 8}, "GptOssForCausalLM"),
    (
        {"model_type": "aria_text", **SMALL, "moe_num_experts": 8, "moe_topk": 3, "moe_num_shared_experts": 2},
        "AriaTextForCausalLM",
    ),
    (
        {"model_type": "ernie4_5_moe", **SMALL, "head_dim": 16, "moe_num_experts": 8, "moe_k": 3},
        "Ernie4_5_MoeForCausalLM",
    ),
    ({"model_type": "olmoe", **SMALL, "head_dim": 16, "num_experts": 8}, "OlmoeForCausalLM"),
    # The library's Llama 4 runs every expert on every token: as many as a token is routed to, where that is all of them.
    (
        {
            "model_type": "llama4_text", **SMALL, "num_local_experts": 3, "intermediate_size_mlp": 128,
            "interleave_moe_layer_step": 2,
        },
        "Llama4ForCausalLM",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "architecture"), TINY, ids=[case[0]["model_type"] for case in TINY])
def test_flops_are_those_of_a_real_run(config: dict[str, Any], architecture: str) -> None:
    model = tiny(config, architecture)
    ours = decoder(config)
    assert ours.params == params(model)
    assert expected_flops(ours, 48) == pytest.approx(prompt_flops(model, 48, 50), rel=0.01)


def test_activations_of_a_mixture_are_those_of_the_experts_that_a_token_runs_through() -> None:
    (group,) = decoder(QWEN3_VL_30B).groups
    attention = 2048 + (4096 + 2 * 512) + 4096 + 2048
    mixture = (2048 + 128) + 8 * (2048 + 2 * 768 + 768 + 2048)
    assert group.activation_values == attention + mixture + 4 * 2048


def test_a_growing_batch_reads_more_experts_until_it_reads_all() -> None:
    """S133: one token reads 8 of 128 experts, a large batch all of them, and its FLOPs a token stay the same."""
    spec = load_spec(QWEN3_30B)
    precision = Precision.of("bfloat16")
    assert precision is not None
    steps = [estimate(spec, precision, Workload(100, batch=batch)).decode for batch in (1, 8, 64, 10_000)]
    read = [float(step.bytes_weights[0]) for step in steps]
    assert read == sorted(read)
    # The embedding is looked up, not read.
    language = spec.language
    assert read[0] == pytest.approx(2 * (language.active_params - language.embedding_params))
    # 8 tokens touch 128 (1 - (120 / 128)^8) = 51.63 experts of each layer: gate, up and down of 2048 x 768 in 16 bits.
    assert read[1] - read[0] == pytest.approx(48 * (51.63 - 8) * 3 * 2048 * 768 * 2, rel=1e-3)
    assert read[3] == pytest.approx(2 * (language.params - language.embedding_params))
    assert float(steps[3].flops[0]) == pytest.approx(10_000 * float(steps[0].flops[0]))


@pytest.mark.parametrize(
    ("config", "change", "named"),
    [
        (QWEN3_30B, {"num_experts": 0}, "num_experts"),
        (QWEN3_30B, {"num_experts_per_tok": 129}, "num_experts_per_tok"),
        (QWEN3_30B, {"num_hidden_layers": 2**40}, "num_hidden_layers"),
        (QWEN3_30B, {"decoder_sparse_step": 0}, "decoder_sparse_step"),
        (QWEN3_30B, {"mlp_only_layers": "all"}, "mlp_only_layers"),
        (QWEN3_30B, {"moe_intermediate_size": -1}, "moe_intermediate_size"),
        (QWEN3_30B, {"moe_intermediate_size": float("nan")}, "moe_intermediate_size"),
        (QWEN3_30B, {"num_key_value_heads": 5}, "num_key_value_heads"),
        (QWEN3_30B, {"head_dim": [128, 64]}, "head_dim"),
        (GPT_OSS_20B, {"layer_types": ["full_attention"]}, "layer_types"),
        (GPT_OSS_20B, {"layer_types": ["cubist"] * 24}, "layer_types"),
        (GPT_OSS_20B, {"layer_types": 7}, "layer_types"),
        (SCOUT, {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        (SCOUT, {"interleave_moe_layer_step": 0}, "interleave_moe_layer_step"),
        (SCOUT, {"moe_layers": [-1]}, "moe_layers"),
        (SCOUT, {"attention_chunk_size": "8k"}, "attention_chunk_size"),
        (ERNIE_VL_28B, {"moe_intermediate_size": [1536]}, "moe_intermediate_size"),
        (ERNIE_VL_28B, {"moe_num_experts": [64, 0]}, "moe_num_experts"),
        (ERNIE_VL_28B, {"mlp_layer_types": ["dense"] * 27 + ["odd"]}, "mlp_layer_types"),
        (ERNIE_VL_28B, {"moe_layer_start_index": [1, 2]}, "moe_layer_start_index"),
        (ERNIE_VL_28B, {"moe_layer_end_index": {"a": 1}}, "moe_layer_end_index"),
        (DOTS, {"first_k_dense_replace": -1}, "first_k_dense_replace"),
        (DOTS, {"moe_layer_freq": 0}, "moe_layer_freq"),
        (DOTS, {"n_shared_experts": "two"}, "n_shared_experts"),
        (HUNYUAN, {"moe_topk": [1, 2]}, "moe_topk"),
        (ARIA, {"attention_bias": 1}, "attention_bias"),
        (DBRX, {"ffn_config": [1]}, "ffn_config"),
        (DBRX, {"attn_config": {"kv_n_heads": "8"}}, "attn_config.kv_n_heads"),
    ],
)  # fmt: skip
def test_a_field_at_fault_is_named_in_one_line(
    config: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    with pytest.raises(DataError, match=rf"^model config: {named} ") as raised:
        decoder({**config, **change})
    assert "\n" not in str(raised.value)
