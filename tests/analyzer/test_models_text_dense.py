"""Dense decoders have exactly the parameters of the published classes, and the cache that their attention leaves."""

from typing import Any

import pytest
from oracle_text import decoder

from vtprof_analyzer.cost.kv import kv_bytes_per_token, kv_fixed_bytes
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.text import dense
from vtprof_analyzer.models.text.registry import DECODERS
from vtprof_schemas.errors import DataError

# Fields of published config.json files and the parameters that their model cards or weight indexes state.
LLAMA_3_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
LLAMA_3_70B = {
    **LLAMA_3_8B, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
}  # fmt: skip
MISTRAL_7B = {
    "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "sliding_window": 4096,
}  # fmt: skip
QWEN2_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    "sliding_window": 131072, "use_sliding_window": False, "max_window_layers": 28,
}  # fmt: skip
QWEN25_05B = {
    **QWEN2_7B, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
QWEN3_8B = {
    "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "head_dim": 128,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936, "tie_word_embeddings": False,
}  # fmt: skip
INTERNLM2_7B = {
    "model_type": "internlm2", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 92544, "bias": False,
    "tie_word_embeddings": False,
}  # fmt: skip
PHI_2 = {
    "model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "vocab_size": 51200, "tie_word_embeddings": False,
}  # fmt: skip
PHI_3_MINI = {
    "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064, "sliding_window": 2047,
}  # fmt: skip
PHI_3_MEDIUM = {
    **PHI_3_MINI, "hidden_size": 5120, "intermediate_size": 17920, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 10,
}  # fmt: skip
GEMMA_2B = {
    "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18, "head_dim": 256,
    "num_attention_heads": 8, "num_key_value_heads": 1, "vocab_size": 256000,
}  # fmt: skip
GEMMA_2_9B = {
    "model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42, "head_dim": 256,
    "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 256000, "sliding_window": 4096,
}  # fmt: skip
GEMMA_3_1B = {
    "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
    "head_dim": 256, "num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 262144, "sliding_window": 512,
    "sliding_window_pattern": 6,
}  # fmt: skip
OPT_27B = {
    "model_type": "opt", "hidden_size": 2560, "ffn_dim": 10240, "num_hidden_layers": 32, "num_attention_heads": 32,
    "vocab_size": 50272, "word_embed_proj_dim": 2560,
}  # fmt: skip
OPT_350M = {
    "model_type": "opt", "hidden_size": 1024, "ffn_dim": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "vocab_size": 50272, "word_embed_proj_dim": 512, "do_layer_norm_before": False,
}  # fmt: skip
FALCON_7B = {
    "model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
    "num_kv_heads": 71, "multi_query": True, "new_decoder_architecture": False, "bias": False, "vocab_size": 65024,
}  # fmt: skip
FALCON_40B = {
    **FALCON_7B, "hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128, "num_kv_heads": 8,
    "new_decoder_architecture": True,
}  # fmt: skip
BLOOM_7B = {
    "model_type": "bloom",
    "n_embed": 4096,
    "n_layer": 30,
    "num_attention_heads": 32,
    "vocab_size": 250880,
}
MPT_7B = {
    "model_type": "mpt",
    "d_model": 4096,
    "n_heads": 32,
    "n_layers": 32,
    "expansion_ratio": 4,
    "vocab_size": 50432,
}
GLM_4_9B = {
    "model_type": "chatglm", "hidden_size": 4096, "ffn_hidden_size": 13696, "num_layers": 40,
    "num_attention_heads": 32, "kv_channels": 128, "multi_query_attention": True, "multi_query_group_num": 2,
    "add_qkv_bias": True, "add_bias_linear": False, "rmsnorm": True, "padded_vocab_size": 151552, "vocab_size": 151552,
    "tie_word_embeddings": False, "seq_length": 131072,
}  # fmt: skip
QWEN_7B = {
    "model_type": "qwen", "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
    "num_attention_heads": 32, "kv_channels": 128, "no_bias": True, "vocab_size": 151936,
    "tie_word_embeddings": False, "seq_length": 8192,
}  # fmt: skip
BAICHUAN_2_7B = {
    "model_type": "baichuan", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 125696, "tie_word_embeddings": False,
}  # fmt: skip
MINICPM_2B = {
    "model_type": "minicpm", "hidden_size": 2304, "intermediate_size": 5760, "num_hidden_layers": 40,
    "num_attention_heads": 36, "num_key_value_heads": 36, "vocab_size": 122753, "tie_word_embeddings": True,
}  # fmt: skip
STABLELM_2_16B = {
    "model_type": "stablelm", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
    "num_attention_heads": 32, "num_key_value_heads": 32, "use_qkv_bias": True, "vocab_size": 100352,
}  # fmt: skip
GEMMA_3N_E2B = {
    "model_type": "gemma3n_text", "hidden_size": 2048, "intermediate_size": [8192] * 30, "num_hidden_layers": 30,
    "num_kv_shared_layers": 10, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256,
}  # fmt: skip
FLAN_T5_XL = {
    "model_type": "t5", "d_model": 2048, "d_ff": 5120, "d_kv": 64, "num_heads": 32, "num_layers": 24,
    "num_decoder_layers": 24, "feed_forward_proj": "gated-gelu", "vocab_size": 32128, "tie_word_embeddings": False,
}  # fmt: skip
PHI_4_MINI = {
    **PHI_3_MINI, "num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 200064, "sliding_window": 262144,
    "tie_word_embeddings": True,
}  # fmt: skip
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-3-8B": (LLAMA_3_8B, 8_030_261_248),
    "Llama-3-70B": (LLAMA_3_70B, 70_553_706_496),
    "Mistral-7B": (MISTRAL_7B, 7_241_732_096),
    "Qwen2-7B": (QWEN2_7B, 7_615_616_512),
    "Qwen2.5-0.5B": (QWEN25_05B, 494_032_768),
    "Qwen3-8B": (QWEN3_8B, 8_190_735_360),
    "InternLM2-7B": (INTERNLM2_7B, 7_737_708_544),
    "phi-2": (PHI_2, 2_779_683_840),
    "Phi-3-mini": (PHI_3_MINI, 3_821_079_552),
    "Phi-3-medium": (PHI_3_MEDIUM, 13_960_238_080),
    "Phi-4-mini": (PHI_4_MINI, 3_836_021_760),
    "gemma-2b": (GEMMA_2B, 2_506_172_416),
    "gemma-2-9b": (GEMMA_2_9B, 9_241_705_984),
    "gemma-3-1b": (GEMMA_3_1B, 999_885_952),
    "opt-2.7b": (OPT_27B, 2_651_596_800),
    "opt-350m": (OPT_350M, 331_196_416),
    "falcon-7b": (FALCON_7B, 6_921_720_704),
    "falcon-40b": (FALCON_40B, 41_303_293_952),
    "bloom-7b1": (BLOOM_7B, 7_069_016_064),
    "mpt-7b": (MPT_7B, 6_649_286_656),
    "glm-4-9b": (GLM_4_9B, 9_399_951_360),
    "Qwen-7B": (QWEN_7B, 7_721_324_544),
    "Baichuan2-7B": (BAICHUAN_2_7B, 7_505_973_248),
    "MiniCPM-2B": (MINICPM_2B, 2_724_880_896),
    "stablelm-2-1_6b": (STABLELM_2_16B, 1_644_515_328),
    "flan-t5-xl": (FLAN_T5_XL, 2_849_757_184),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    config, params = PUBLISHED[name]
    spec = load_spec(config)
    assert (spec.params.total, spec.params.language, spec.params.active) == (params, params, params)
    assert (spec.vision, spec.params.vision) == (None, 0)


# Values that one token leaves in the cache: 2 x layers x key-value heads x head size, by hand.
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Llama-3-8B", 2 * 32 * 8 * 128),
        ("Mistral-7B", 2 * 32 * 8 * 128),
        ("Qwen2-7B", 2 * 28 * 4 * 128),
        ("Qwen3-8B", 2 * 36 * 8 * 128),
        ("InternLM2-7B", 2 * 32 * 8 * 128),
        ("phi-2", 2 * 32 * 32 * 80),
        ("Phi-3-medium", 2 * 40 * 10 * 128),
        # Eight query heads of 256 are as wide as the model, one key-value head is an eighth of it: MQA.
        ("gemma-2b", 2 * 18 * 1 * 256),
        # Sixteen query heads of 256 are wider than the model (4,096 to 3,584).
        ("gemma-2-9b", 2 * 42 * 8 * 256),
        ("falcon-7b", 2 * 32 * 1 * 64),
        ("falcon-40b", 2 * 60 * 8 * 64),
        ("glm-4-9b", 2 * 40 * 2 * 128),
        ("Qwen-7B", 2 * 32 * 32 * 128),
    ],
)
def test_cache_of_a_token(name: str, values: int) -> None:
    language = decoder(PUBLISHED[name][0])
    assert sum(group.layers * group.attention.kv_values_per_token for group in language.groups) == values


@pytest.mark.parametrize(
    ("name", "growing", "full_windows"),
    [
        ("Llama-3-8B", 2 * 32 * 8 * 128, 0),
        # All layers of Mistral stop at 4,096 tokens; of Gemma 2's 42 layers every other one.
        ("Mistral-7B", 0, 4096 * 2 * 32 * 8 * 128),
        ("gemma-2-9b", 2 * 21 * 8 * 256, 4096 * 2 * 21 * 8 * 256),
    ],
)
def test_windows_stop_the_cache_from_growing(name: str, growing: int, full_windows: int) -> None:
    language = decoder(PUBLISHED[name][0])
    assert kv_bytes_per_token(language, 2.0) == 2 * growing
    assert kv_fixed_bytes(language, 2.0) == 2 * full_windows


@pytest.mark.parametrize(("name", "intensity"), [("phi-2", 1.0), ("Llama-3-70B", 8.0), ("falcon-7b", 71.0)])
def test_arithmetic_intensity_of_attention_in_decode(name: str, intensity: float) -> None:
    # A cached token is read once for all query heads that share it: MHA 1, GQA the heads of a group, MQA all heads.
    attention = decoder(PUBLISHED[name][0]).groups[0].attention
    assert attention.pair_flops / (2.0 * attention.kv_values_read_per_token) == intensity


def windows(config: dict[str, Any]) -> dict[int | None, int]:
    """Return how many layers have which window."""
    found: dict[int | None, int] = {}
    for group in decoder(config).groups:
        window = group.attention.window_tokens
        found[window] = found.get(window, 0) + group.layers
    return found


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MISTRAL_7B, {4096: 32}),
        ({**MISTRAL_7B, "sliding_window": None}, {None: 32}),
        (QWEN2_7B, {None: 28}),
        (
            {**QWEN2_7B, "use_sliding_window": True, "max_window_layers": 20, "max_position_embeddings": 262144},
            {None: 20, 131072: 8},
        ),
        # A window as long as the context is none.
        ({**QWEN2_7B, "use_sliding_window": True, "max_window_layers": 20}, {None: 28}),
        ({**QWEN2_7B, "use_sliding_window": True, "max_window_layers": 99}, {None: 28}),
        (GEMMA_2_9B, {None: 21, 4096: 21}),
        # Every sixth of 26 layers sees everything: the 6th, 12th, 18th and 24th.
        (GEMMA_3_1B, {None: 4, 512: 22}),
        ({**GEMMA_3_1B, "sliding_window_pattern": 13}, {None: 2, 512: 24}),
        ({**GEMMA_3_1B, "layer_types": ["sliding_attention"] * 25 + ["full_attention"]}, {None: 1, 512: 25}),
        ({"model_type": "cohere2"}, {None: 10, 4096: 30}),
        (
            {
                "model_type": "exaone4", "num_hidden_layers": 64, "sliding_window": 4096, "sliding_window_pattern": "LLLG",
                "max_position_embeddings": 131072,
            },
            {None: 16, 4096: 48},
        ),
        # Gemma 3n: every fifth of 30 layers; layers that share a cache have their kind's window too.
        (GEMMA_3N_E2B, {None: 6, 512: 24}),
    ],
)  # fmt: skip
def test_windows_of_layers(config: dict[str, Any], expected: dict[int | None, int]) -> None:
    assert windows(config) == expected


def test_layers_that_share_a_cache_leave_nothing_in_it() -> None:
    language = decoder(GEMMA_3N_E2B)
    # Twenty of thirty layers have keys and values of their own.
    kept = sum(group.layers * group.attention.kv_values_per_token for group in language.groups)
    assert kept == 2 * 20 * 2 * 256
    read = sum(group.layers * group.attention.kv_values_read_per_token for group in language.groups)
    assert read == 2 * 30 * 2 * 256


@pytest.mark.parametrize("model_type", sorted(dense.TRAITS))
def test_every_row_of_traits_is_a_registered_decoder(model_type: str) -> None:
    assert DECODERS[model_type] == "dense"


def test_an_encoder_is_counted_and_said_to_cost_nothing() -> None:
    spec = load_spec(FLAN_T5_XL)
    assert any("encoder" in note for note in spec.notes)
    own, crossed = spec.language.groups
    assert crossed.attention.cross and not own.attention.cross
    # Keys and values of one encoder position in each of 24 layers: 2 x 32 heads x 64.
    assert crossed.layers * crossed.attention.kv_values_per_token == 24 * 2 * 32 * 64


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({**LLAMA_3_8B, "num_key_value_heads": 5}, "num_key_value_heads"),
        ({**LLAMA_3_8B, "num_attention_heads": 24, "num_key_value_heads": 24}, "num_attention_heads"),
        ({**LLAMA_3_8B, "hidden_size": "4096"}, "hidden_size"),
        ({**LLAMA_3_8B, "num_hidden_layers": 0}, "num_hidden_layers"),
        ({**LLAMA_3_8B, "num_hidden_layers": 2**40}, "multiply"),
        ({**LLAMA_3_8B, "attention_bias": "yes"}, "attention_bias"),
        ({**GEMMA_3_1B, "layer_types": ["full_attention"]}, "layer_types"),
        ({**GEMMA_3_1B, "sliding_window_pattern": 0}, "sliding_window_pattern"),
        ({**GEMMA_3N_E2B, "num_kv_shared_layers": 30}, "num_kv_shared_layers"),
        ({**GEMMA_3N_E2B, "intermediate_size": [8192]}, "intermediate_size"),
        ({**GEMMA_3N_E2B, "num_hidden_layers": 2**40, "intermediate_size": 8192}, "num_hidden_layers"),
        ({"model_type": "gemma4_text", "per_layer_config": {"5": 512}}, "per_layer_config.5"),
        ({**QWEN_7B, "intermediate_size": 22017}, "intermediate_size"),
        ({**GLM_4_9B, "multi_query_group_num": 3}, "multi_query_group_num"),
        ({**FALCON_40B, "num_kv_heads": 7}, "num_attention_heads"),
        ({"model_type": "internlm2", "vocab_size": 1000}, "hidden_size"),
        ({**FLAN_T5_XL, "num_heads": -1}, "num_heads"),
    ],
)
def test_a_field_at_fault_is_one_line_with_its_name(config: dict[str, Any], field: str) -> None:
    with pytest.raises(DataError) as caught:
        load_spec(config)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)
