"""Dense decoders against transformers: parameters on the meta device, FLOPs of tiny ones on the CPU."""

import importlib
from typing import Any

import pytest
from oracle_models import params
from oracle_text import decoder, expected_flops, prompt_flops, tiny

from vtprof_analyzer.models.text.registry import DECODERS

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MODULES = ("dense", "gemma", "classic", "encoder_decoder", "mllama")
REMOTE = {"Yi", "minicpm", "internlm", "internlm2", "stablelm_epoch", "baichuan", "chatglm", "qwen"}
"""Their classes are published with the checkpoints; published totals stand for them in `test_models_text_dense`."""
INSIDE = {"phi4_multimodal"}
"""The class has its towers inside; the family's test covers it."""
NO_HEAD = {
    "qwen2_vl_text": "Qwen2VLTextModel",
    "qwen2_5_vl_text": "Qwen2_5_VLTextModel",
    "qwen2_5_omni_text": "Qwen2_5OmniThinkerTextModel",
    "qwen3_vl_text": "Qwen3VLTextModel",
    "glm4v_text": "Glm4vTextModel",
    "glm_ocr_text": "GlmOcrTextModel",
    "paddleocr_vl_text": "PaddleOCRTextModel",
    "hunyuan_vl_text": "HunYuanVLTextModel",
    "granite4_vision_text": "Granite4VisionTextModel",
    "emu3_text_model": "Emu3TextModel",
    "gemma4_unified_text": "Gemma4UnifiedTextModel",
    "granite_docling_text": "GraniteDoclingTextModel",
    "cosmos3_edge_text": "Cosmos3EdgeTextModel",
    "molmo2_text": "Molmo2TextModel",
}
"""Decoders inside of composite models, whose head is the composite's."""
WITH_HEAD = {
    "mllama_text_model": "MllamaForCausalLM",
    "kosmos_2_text_model": "Kosmos2TextForCausalLM",
    "kosmos_2_5_text_model": "Kosmos2_5TextForCausalLM",
}
"""Likewise, with a class of their own for the head."""
NEEDED = {key: {"head_dim": 128} for key in ("ministral", "hunyuan_v1_dense", "hunyuan_vl_text")}
"""What a class has no usable default for."""
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 64, "num_key_value_heads": 8}),
    ("llama", {"tie_word_embeddings": True}),
    ("qwen3", {"attention_bias": True, "num_key_value_heads": 8}),
    ("internlm3", {"attention_bias": True, "mlp_bias": True}),
    ("phi", {"qk_layernorm": True, "num_key_value_heads": 8}),
    ("gemma", {"attention_bias": True, "num_key_value_heads": 1}),
    ("gemma3_text", {"attention_bias": True}),
    ("glm", {"attention_bias": False}),
    ("cohere", {"use_qk_norm": True, "num_key_value_heads": 8, "attention_bias": True}),
    ("granite", {"attention_bias": True, "mlp_bias": True}),
    ("smollm3", {"attention_bias": True, "mlp_bias": True}),
    ("olmo", {"attention_bias": True}),
    ("olmo2", {"attention_bias": True, "num_key_value_heads": 8}),
    ("stablelm", {"qk_layernorm": True, "use_qkv_bias": True, "num_key_value_heads": 8}),
    ("stablelm", {"use_parallel_residual": True}),
    ("persimmon", {"qk_layernorm": False}),
    ("gpt_neox", {"attention_bias": False}),
    ("starcoder2", {"use_bias": False}),
    ("ernie4_5", {"use_bias": True}),
    ("helium", {"attention_bias": True, "mlp_bias": True}),
    ("seed_oss", {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True}),
    ("hyperclovax", {"use_post_norm": True, "attention_bias": True}),
    ("arcee", {"mlp_bias": True, "attention_bias": True}),
    ("hunyuan_v1_dense", {"head_dim": 64, "attention_bias": True}),
    ("molmo2_text", {"qk_norm_type": "olmo", "attention_bias": True, "additional_vocab_size": 64}),
    ("cosmos3_edge_text", {"mlp_bias": True, "attention_bias": True}),
    ("opt", {"enable_bias": False, "layer_norm_elementwise_affine": False}),
    ("opt", {"word_embed_proj_dim": 512, "do_layer_norm_before": False, "tie_word_embeddings": False}),
    ("gpt2", {"n_inner": 1000, "n_positions": 77}),
    ("falcon", {"new_decoder_architecture": True, "num_attention_heads": 64, "hidden_size": 4096, "num_kv_heads": 8}),
    (
        "falcon",
        {"new_decoder_architecture": True, "num_attention_heads": 64, "hidden_size": 4096, "num_kv_heads": 8,
         "num_ln_in_parallel_attn": 1, "ffn_hidden_size": 16000},
    ),
    ("falcon", {"multi_query": False, "bias": True, "parallel_attn": False}),
    ("gemma3n_text", {"num_hidden_layers": 30, "num_kv_shared_layers": 10, "intermediate_size": [8192] * 30}),
    ("gemma3n_text", {"intermediate_size": [4096 + 64 * layer for layer in range(35)], "attention_bias": True}),
    ("gemma3n_text", {"altup_num_inputs": 2, "laurel_rank": 32}),
    ("gemma4_text", {"num_kv_shared_layers": 12, "use_double_wide_mlp": True}),
    ("gemma4_text", {"hidden_size_per_layer_input": 0, "attention_k_eq_v": True, "num_global_key_value_heads": 2}),
    ("gemma4_text", {"global_head_dim": 128, "num_hidden_layers": 10, "attention_bias": True}),
    ("gemma4_text", {"layer_types": ["full_attention", "sliding_attention"] * 5, "num_hidden_layers": 10}),
    (
        "gemma4_text",
        {"enable_moe_block": True, "num_experts": 16, "top_k_experts": 4, "moe_intermediate_size": 704,
         "hidden_size_per_layer_input": 0},
    ),
    ("t5", {"num_decoder_layers": 3, "feed_forward_proj": "gated-gelu", "d_kv": 80}),
    ("bart", {"encoder_layers": 2, "decoder_layers": 5, "decoder_ffn_dim": 1000, "encoder_attention_heads": 8}),
]  # fmt: skip


def built(kind: str, overrides: dict[str, Any]) -> tuple[Any, bool]:
    """Return a real model on the meta device and whether it has an output head."""
    config = transformers.CONFIG_MAPPING[kind](**{**NEEDED.get(kind, {}), **overrides})
    with torch.device("meta"):
        if kind in NO_HEAD:
            module = importlib.import_module(type(config).__module__.replace("configuration", "modeling"))
            return getattr(module, NO_HEAD[kind])(config), False
        if kind in WITH_HEAD:
            module = importlib.import_module(type(config).__module__.replace("configuration", "modeling"))
            made = getattr(module, WITH_HEAD[kind])(config)
            made.tie_weights()
            return made, True
        auto = (
            transformers.AutoModelForSeq2SeqLM
            if config.is_encoder_decoder
            else transformers.AutoModelForCausalLM
        )
        model = auto.from_config(config)
    model.tie_weights()
    return model, True


def check(kind: str, overrides: dict[str, Any]) -> None:
    model, with_head = built(kind, overrides)
    language = decoder({"model_type": kind, **NEEDED.get(kind, {}), **overrides})
    head = 0 if with_head or language.tied_embeddings else language.head_params
    assert language.params - head == params(model)


@pytest.mark.parametrize(
    "kind", sorted(k for k, module in DECODERS.items() if module in MODULES and k not in REMOTE | INSIDE)
)
def test_parameters_equal_those_of_the_default_model(kind: str) -> None:
    check(kind, {})


@pytest.mark.parametrize(("kind", "overrides"), VARIANTS)
def test_parameters_equal_with_other_flags(kind: str, overrides: dict[str, Any]) -> None:
    check(kind, overrides)


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("gemma4_text", {"num_hidden_layers": 10, "attention_k_eq_v": True, "num_global_key_value_heads": 2}),
        ("gemma4_text", {"num_hidden_layers": 10, "global_head_dim": 128}),
    ],
)
def test_a_config_that_transformers_wrote_is_the_same_decoder(kind: str, overrides: dict[str, Any]) -> None:
    # Written back, the heads of single layers stand in ``per_layer_config``.
    written = transformers.CONFIG_MAPPING[kind](**overrides).to_dict()
    assert "per_layer_config" in written
    assert decoder(written) == decoder({"model_type": kind, **overrides})


@pytest.mark.parametrize(
    "kind", ["gemma2", "gemma3_text", "cohere2", "olmo3", "exaone4", "gemma3n_text", "gemma4_text"]
)
@pytest.mark.parametrize("layers", [None, 7, 20])
def test_windows_are_those_of_the_class(kind: str, layers: int | None) -> None:
    # Longer than any window: some classes' own default is shorter than their window.
    given = {"max_position_embeddings": 1_000_000}
    if layers is not None:
        given["num_hidden_layers"] = layers
    if kind == "gemma3n_text":
        given["num_kv_shared_layers"] = 2
    config = transformers.CONFIG_MAPPING[kind](**given)
    sliding = config.layer_types.count("sliding_attention")
    groups = decoder({"model_type": kind, **given}).groups
    assert (
        sum(group.layers for group in groups if group.attention.window_tokens == config.sliding_window)
        == sliding
    )
    assert sum(group.layers for group in groups) == config.num_hidden_layers


TINY = {
    "vocab_size": 199, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ARCHITECTURES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "LlamaForCausalLM", {}),
    ("mistral", "MistralForCausalLM", {"head_dim": 32, "sliding_window": 16}),
    ("qwen2", "Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 3}),
    ("qwen3", "Qwen3ForCausalLM", {"head_dim": 24}),
    ("phi", "PhiForCausalLM", {}),
    ("phi3", "Phi3ForCausalLM", {"sliding_window": 16}),
    ("gemma", "GemmaForCausalLM", {"head_dim": 32, "num_key_value_heads": 1}),
    ("gemma2", "Gemma2ForCausalLM", {"head_dim": 24, "sliding_window": 16}),
    ("gemma3_text", "Gemma3ForCausalLM", {"head_dim": 24, "sliding_window": 16}),
    ("glm4", "Glm4ForCausalLM", {"head_dim": 16}),
    ("cohere2", "Cohere2ForCausalLM", {"sliding_window": 16}),
    ("olmo2", "Olmo2ForCausalLM", {}),
    ("starcoder2", "Starcoder2ForCausalLM", {}),
    ("opt", "OPTForCausalLM", {"ffn_dim": 160, "word_embed_proj_dim": 64}),
    ("gpt_neox", "GPTNeoXForCausalLM", {}),
    (
        "gemma3n_text",
        "Gemma3nForCausalLM",
        {"head_dim": 16, "num_hidden_layers": 10, "num_kv_shared_layers": 4, "hidden_size_per_layer_input": 16,
         "vocab_size_per_layer_input": 199, "laurel_rank": 8, "sliding_window": 16},
    ),
    (
        "gemma4_text",
        "Gemma4ForCausalLM",
        {"head_dim": 16, "global_head_dim": 32, "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 199,
         "num_hidden_layers": 12, "num_kv_shared_layers": 6, "use_double_wide_mlp": True, "sliding_window": 16},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "architecture", "overrides"), ARCHITECTURES, ids=[row[0] for row in ARCHITECTURES]
)
def test_prompt_flops_within_one_percent(kind: str, architecture: str, overrides: dict[str, Any]) -> None:
    config = {"model_type": kind, **TINY, **overrides}
    tokens = 48
    measured = prompt_flops(tiny(config, architecture), tokens, 199)
    assert expected_flops(decoder(config), tokens) == pytest.approx(measured, rel=0.01)
