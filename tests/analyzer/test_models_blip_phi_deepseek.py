"""Parameters of BLIP-2, Phi-4, DeepSeek-VL, Ovis2, Molmo2, MiniCPM, Janus, Kosmos … equal those of transformers' classes."""

from typing import Any

import oracle_models
import pytest

from vtprof_analyzer.models.registry import load_spec

pytestmark = pytest.mark.torch

OPT_2_7B = {
    "model_type": "opt", "hidden_size": 2560, "ffn_dim": 10240, "num_hidden_layers": 32, "num_attention_heads": 32,
    "word_embed_proj_dim": 2560, "vocab_size": 50304,
}  # fmt: skip
T5_XL = {
    "model_type": "t5", "d_model": 2048, "d_ff": 5120, "d_kv": 64, "num_layers": 24, "num_decoder_layers": 24,
    "num_heads": 32, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "vocab_size": 32128,
}  # fmt: skip
VICUNA_7B = {"model_type": "llama", "vocab_size": 32001, "intermediate_size": 11008}
QWEN2 = {
    "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
}  # fmt: skip
SIGLIP_L = {
    "model_type": "siglip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 384, "patch_size": 16,
}  # fmt: skip

PUBLISHED: dict[str, tuple[dict[str, Any], str]] = {
    "blip2-opt-2.7b": ({"model_type": "blip-2", "text_config": OPT_2_7B}, "Blip2ForConditionalGeneration"),
    "blip2-flan-t5-xl": (
        {"model_type": "blip-2", "text_config": T5_XL, "tie_word_embeddings": False},
        "Blip2ForConditionalGeneration",
    ),
    "instructblip-vicuna-7b": (
        {"model_type": "instructblip", "text_config": VICUNA_7B},
        "InstructBlipForConditionalGeneration",
    ),
    "phi-4-multimodal": (
        {
            "model_type": "phi4_multimodal",
            "tie_word_embeddings": True,
            "hidden_size": 3072,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        "Phi4MultimodalForCausalLM",
    ),
    "deepseek-vl-1.3b": (
        {
            "model_type": "deepseek_vl",
            "tie_word_embeddings": False,
            "vision_config": SIGLIP_L,
            "text_config": {
                "model_type": "llama",
                "hidden_size": 2048,
                "intermediate_size": 5632,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "vocab_size": 102400,
            },
        },
        "DeepseekVLForConditionalGeneration",
    ),
    "deepseek-vl-7b": (
        {
            "model_type": "deepseek_vl_hybrid",
            "tie_word_embeddings": False,
            "vision_config": SIGLIP_L,
            "high_res_vision_config": {
                "model_type": "sam_vision_model",
                "global_attn_indexes": [2, 5, 8, 11],
            },
            "text_config": {"model_type": "llama", "num_hidden_layers": 30, "vocab_size": 102400},
        },
        "DeepseekVLHybridForConditionalGeneration",
    ),
    "ovis2": (
        {
            "model_type": "ovis2",
            "text_config": QWEN2,
            "hidden_size": 1536,
            "vocab_size": 151936,
            "vision_config": {"hidden_stride": 2, "vocab_size": 65536, "image_size": 448},
        },
        "Ovis2ForConditionalGeneration",
    ),
    "molmo2-8b": (
        {"model_type": "molmo2", "adapter_config": {"intermediate_size": 12288, "text_hidden_size": 4096}},
        "Molmo2ForConditionalGeneration",
    ),
    "molmo2 olmo": (
        {
            "model_type": "molmo2",
            "adapter_config": {"vision_feature_layer": [-3, -9]},
            "text_config": {"qk_norm_type": "olmo", "attention_bias": True, "num_hidden_layers": 4},
        },
        "Molmo2ForConditionalGeneration",
    ),
    "minicpm-v-4.6": (
        {"model_type": "minicpmv4_6", "text_config": {"model_type": "qwen3_5_text", "hidden_size": 1024}},
        "MiniCPMV4_6ForConditionalGeneration",
    ),
    "minicpm-v-4.6 twice merged": (
        {"model_type": "minicpmv4_6", "merger_times": 2, "downsample_mode": "4x"},
        "MiniCPMV4_6ForConditionalGeneration",
    ),
    "minicpm-ocr": ({"model_type": "minicpm_ocr"}, "MiniCPMOcrForConditionalGeneration"),
    "janus-pro-7b": (
        {
            "model_type": "janus",
            "tie_word_embeddings": False,
            "text_config": {"model_type": "llama", "num_hidden_layers": 30, "vocab_size": 102400},
            "vision_config": {"projection_dim": 4096},
            "vq_config": {"projection_dim": 4096, "image_token_embed_dim": 4096},
        },
        "JanusForConditionalGeneration",
    ),
    "chameleon-7b": (
        {
            "model_type": "chameleon",
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocabulary_map": {"<image>": 8711},
        },
        "ChameleonForConditionalGeneration",
    ),
    "fuyu-8b": (
        {
            "model_type": "fuyu",
            "tie_word_embeddings": False,
            "text_config": {
                "model_type": "persimmon",
                "hidden_size": 4096,
                "intermediate_size": 16384,
                "num_hidden_layers": 36,
                "num_attention_heads": 64,
                "vocab_size": 262144,
                "qk_layernorm": True,
            },
        },
        "FuyuForCausalLM",
    ),
    "florence-2-large": ({"model_type": "florence2"}, "Florence2ForConditionalGeneration"),
    "git": (
        {"model_type": "git", "hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12},
        "GitForCausalLM",
    ),
    "emu3": ({"model_type": "emu3", "vocabulary_map": {"<image>": 1}}, "Emu3ForConditionalGeneration"),
    "deepseek-ocr-2": (
        {
            "model_type": "deepseek_ocr2",
            "vision_config": {
                "sam_config": {"downsample_channels": [512, 896]},
                "encoder_config": {
                    "hidden_size": 896,
                    "intermediate_size": 4864,
                    "num_hidden_layers": 24,
                    "num_attention_heads": 14,
                    "num_key_value_heads": 2,
                },
            },
            "text_config": {
                "hidden_size": 1280,
                "intermediate_size": 6848,
                "moe_intermediate_size": 896,
                "num_hidden_layers": 12,
                "num_attention_heads": 10,
                "num_key_value_heads": 10,
                "num_experts_per_tok": 6,
                "vocab_size": 129280,
                "mlp_layer_types": ["dense"] + ["sparse"] * 11,
            },
        },
        "DeepseekOcr2ForConditionalGeneration",
    ),
    "kosmos-2": ({"model_type": "kosmos-2"}, "Kosmos2ForConditionalGeneration"),
    "kosmos-2.5": ({"model_type": "kosmos-2.5"}, "Kosmos2_5ForConditionalGeneration"),
    "instructblipvideo-vicuna-7b": (
        {"model_type": "instructblipvideo", "text_config": VICUNA_7B},
        "InstructBlipVideoForConditionalGeneration",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_class(name: str) -> None:
    config, architecture = PUBLISHED[name]
    model = oracle_models.build(config, architecture)
    # The class ties T5's head to its embedding; the checkpoint has one of its own.
    head = 2048 * 32128 if name == "blip2-flan-t5-xl" else 0
    assert load_spec(config).params.total == oracle_models.params(model) + head
