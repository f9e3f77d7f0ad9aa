"""InternVL, Gemma, Idefics, Pixtral, Llama 4, Aria, LFM2-VL: parameters equal transformers' models at published sizes."""

import json
from typing import Any

import oracle_models
import pytest

from vtprof_analyzer.cost.kv import request_cache
from vtprof_analyzer.models.registry import load_spec
from vtprof_schemas.errors import DataError

SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
          "num_attention_heads": 16, "image_size": 224, "patch_size": 14, "vision_use_head": False}  # fmt: skip
IDEFICS_SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
                  "image_size": 384, "patch_size": 14}  # fmt: skip
SMOL_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
             "image_size": 512, "patch_size": 16}  # fmt: skip
QWEN2_1B5 = {"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
             "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151674}  # fmt: skip
LLAMA_8B = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128259}  # fmt: skip
SMOL_135M = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49280}  # fmt: skip
NEMO = {"model_type": "mistral", "hidden_size": 5120, "intermediate_size": 14336, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072}  # fmt: skip
GEMMA3_4B = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
             "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208,
             "sliding_window": 1024}  # fmt: skip
GEMMA_2B = {"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
            "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 257216}  # fmt: skip
GEMMA2_9B = {"model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42,
             "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "vocab_size": 257216}  # fmt: skip
LLAMA4_VISION = {"hidden_size": 1408, "intermediate_size": 5632, "num_hidden_layers": 34, "num_attention_heads": 16,
                 "image_size": 336, "patch_size": 14, "vision_output_dim": 4096}  # fmt: skip

MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("InternVLForConditionalGeneration",
     {"model_type": "internvl", "tie_word_embeddings": False, "text_config": QWEN2_1B5,
      "vision_config": {"attention_bias": True}}),
    # InternViT-6B: norms on queries and keys, RMS norms, no bias.
    ("InternVLForConditionalGeneration",
     {"model_type": "internvl", "tie_word_embeddings": True, "vision_feature_layer": -2,
      "text_config": {**QWEN2_1B5, "tie_word_embeddings": True},
      "vision_config": {"hidden_size": 3200, "intermediate_size": 12800, "num_hidden_layers": 45,
                        "num_attention_heads": 25, "norm_type": "rms_norm", "use_qk_norm": True,
                        "use_mean_pooling": False, "use_mask_token": True}}),
    ("GotOcr2ForConditionalGeneration", {"model_type": "got_ocr2"}),
    ("QianfanOCRForConditionalGeneration", {"model_type": "qianfan_ocr", "text_config": {"model_type": "qwen3"}}),
    ("ShieldGemma2ForImageClassification",
     {"model_type": "shieldgemma2", "text_config": GEMMA3_4B, "vision_config": {**SIGLIP, "image_size": 896}}),
    ("Gemma3ForConditionalGeneration",
     {"model_type": "gemma3", "text_config": GEMMA3_4B, "vision_config": {**SIGLIP, "image_size": 896}}),
    ("Gemma4ForConditionalGeneration", {"model_type": "gemma4", "text_config": {}, "vision_config": {}, "audio_config": {}}),
    ("Gemma4ForConditionalGeneration", {"model_type": "gemma4", "text_config": {}, "vision_config": {"head_dim": 72}}),
    ("Gemma4UnifiedForConditionalGeneration",
     {"model_type": "gemma4_unified", "text_config": {"num_hidden_layers": 6, "hidden_size": 3840}, "vision_config": {},
      "audio_config": {}}),
    ("PaliGemmaForConditionalGeneration",
     {"model_type": "paligemma", "projection_dim": 2048, "text_config": GEMMA_2B,
      "vision_config": {**SIGLIP, "projection_dim": 2048}}),
    ("PaliGemmaForConditionalGeneration",
     {"model_type": "paligemma", "projection_dim": 3584, "text_config": GEMMA2_9B,
      "vision_config": {**SIGLIP, "image_size": 448, "projection_dim": 3584}}),
    ("ColPaliForRetrieval",
     {"model_type": "colpali", "embedding_dim": 128,
      "vlm_config": {"model_type": "paligemma", "projection_dim": 2048, "text_config": GEMMA_2B,
                     "vision_config": {**SIGLIP, "image_size": 448, "projection_dim": 2048}}}),
    ("IdeficsForVisionText2Text",
     {"model_type": "idefics", "additional_vocab_size": 2, "cross_layer_interval": 4, "qk_layer_norms": True,
      "use_resampler": True, "perceiver_config": {"qk_layer_norms_perceiver": True},
      "vision_config": {"embed_dim": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}}),
    ("IdeficsForVisionText2Text", {"model_type": "idefics", "cross_layer_interval": 3, "alpha_type": "vector"}),
    ("Idefics2ForConditionalGeneration",
     {"model_type": "idefics2", "text_config": {"model_type": "mistral", "num_key_value_heads": 8, "vocab_size": 32003,
                                                "intermediate_size": 14336},
      "vision_config": {**IDEFICS_SIGLIP, "image_size": 980}}),
    ("Idefics3ForConditionalGeneration",
     {"model_type": "idefics3", "text_config": LLAMA_8B, "vision_config": {**IDEFICS_SIGLIP, "image_size": 364}}),
    ("SmolVLMForConditionalGeneration",
     {"model_type": "smolvlm", "scale_factor": 4, "text_config": SMOL_135M, "vision_config": SMOL_BASE}),
    ("LlavaForConditionalGeneration",
     {"model_type": "llava", "vision_feature_layer": -1, "vision_feature_select_strategy": "full", "text_config": NEMO,
      "tie_word_embeddings": False, "vision_config": {"model_type": "pixtral"}}),
    ("Mistral3ForConditionalGeneration",
     {"model_type": "mistral3", "tie_word_embeddings": False, "multimodal_projector_bias": True}),
    # Ministral 3: the same with a decoder of another type.
    ("Mistral3ForConditionalGeneration",
     {"model_type": "mistral3", "tie_word_embeddings": True,
      "text_config": {"model_type": "ministral3", "tie_word_embeddings": True, "hidden_size": 3072,
                      "intermediate_size": 9216, "num_hidden_layers": 26}}),
    ("LightOnOcrForConditionalGeneration",
     {"model_type": "lighton_ocr", "tie_word_embeddings": True,
      "text_config": {"model_type": "qwen3", "tie_word_embeddings": True, "hidden_size": 1024, "intermediate_size": 3072,
                      "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}}),
    ("Llama4ForConditionalGeneration",
     {"model_type": "llama4", "tie_word_embeddings": False,
      "text_config": {"num_local_experts": 16, "interleave_moe_layer_step": 1, "num_hidden_layers": 8},
      "vision_config": LLAMA4_VISION}),
    ("AriaForConditionalGeneration",
     {"model_type": "aria", "text_config": {"num_hidden_layers": 4, "hidden_size": 2560, "intermediate_size": 1664,
                                            "num_attention_heads": 20, "num_key_value_heads": 20, "vocab_size": 100352},
      "vision_config": {"model_type": "idefics3_vision", **IDEFICS_SIGLIP, "image_size": 980}}),
    ("Lfm2VlForConditionalGeneration",
     {"model_type": "lfm2_vl", "text_config": {"hidden_size": 1024, "block_ff_dim": 6656, "num_attention_heads": 16},
      "vision_config": {"num_hidden_layers": 12, "vision_use_head": False}, "projector_use_layernorm": False}),
)  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize(
    ("architecture", "config"), MODELS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_parameters_equal_those_of_transformers(architecture: str, config: dict[str, Any]) -> None:
    model = oracle_models.build(config, architecture)
    base = getattr(model, "vlm", model)
    base = getattr(base, "model", base)
    decoder = getattr(base, "language_model", None) or getattr(base, "text_model", None)
    params = load_spec(config).params
    assert params.total == oracle_models.params(model)
    assert params.total == params.vision + params.language + params.audio
    if decoder is not None:
        head = oracle_models.params(model) - oracle_models.params(base)
        assert params.language == oracle_models.params(decoder) + head
    # What transformers writes back is read the same way, in full or with what differs from its defaults.
    for shortened in (False, True):
        written = json.loads(model.config.to_json_string(use_diff=shortened))
        assert load_spec(written).params == params


def test_s048_s097_the_size_of_intern_vit_changes_the_towers_share() -> None:
    chat = {"model_type": "internvl_chat", "llm_config": QWEN2_1B5, "vision_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 448, "patch_size": 14, "norm_type": "layer_norm", "qk_normalization": False, "qkv_bias": True,
    }}  # fmt: skip
    large = {**chat, "vision_config": {
        "model_type": "intern_vit_6b", "hidden_size": 3200, "intermediate_size": 12800, "num_hidden_layers": 45,
        "num_attention_heads": 25, "image_size": 448, "patch_size": 14, "norm_type": "rms_norm",
        "qk_normalization": True, "qkv_bias": False,
    }}  # fmt: skip
    small_spec, large_spec = load_spec(chat), load_spec(large)
    # InternViT-300M has 304 million parameters and the 6B (without its last three layers) 5.54 billion.
    for spec, published in ((small_spec, 0.304e9), (large_spec, 5.54e9)):
        assert spec.vision is not None
        assert spec.vision.params - spec.vision.adapter_params == pytest.approx(published, rel=2e-3)
    assert (
        large_spec.params.vision / large_spec.params.total
        > 3 * small_spec.params.vision / small_spec.params.total
    )
    # 2 KV heads of 128 in 28 layers: 28,672 bytes in bfloat16 for a token, a visual one as well.
    assert small_spec.language.groups[0].attention.kv_values_per_token * 28 == 14_336


def test_s049_flash_runs_both_projectors_and_a_router_on_every_tile() -> None:
    chat = {"model_type": "internvl_chat", "llm_config": QWEN2_1B5, "vision_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 448, "patch_size": 14, "qkv_bias": True,
    }}  # fmt: skip
    plain, flash = load_spec(chat), load_spec({**chat, "flash_mode": True})
    width, out = 1024, 1536
    second = (
        2 * 16 * width + (16 * width * 2 * out + 2 * out) + (4 * out * out + 2 * out) + (2 * out * out + out)
    )
    pooling = width + 4 * (4 * width * width + 4 * width + 2 * width)
    gate = 4 * (8 * width * width + 5 * width + 2 * width) + 2 * width + (2 * width + 2)
    assert flash.params.total - plain.params.total == second + pooling + gate
    assert any("router" in note for note in flash.notes)
    assert not plain.notes


def test_s054_gemma3_keeps_a_window_in_five_of_six_layers() -> None:
    groups = load_spec(
        {"model_type": "gemma3", "text_config": GEMMA3_4B, "vision_config": SIGLIP}
    ).language.groups
    assert [(group.layers, group.attention.window_tokens) for group in groups] == [(5, None), (29, 1024)]
    assert {group.attention.kv_values_per_token for group in groups} == {2 * 4 * 256}
    language = load_spec({"model_type": "gemma3", "text_config": GEMMA3_4B, "vision_config": SIGLIP}).language
    for tokens in (500, 1024, 4096):
        expected = 2.0 * 2 * 4 * 256 * (5 * tokens + 29 * min(tokens, 1024))
        assert request_cache(language, 2.0, tokens).bytes == expected


def test_who_sees_whom_in_the_prompt() -> None:
    gemma3 = load_spec({"model_type": "gemma3", "text_config": GEMMA3_4B, "vision_config": SIGLIP})
    pali = load_spec(
        {"model_type": "paligemma", "projection_dim": 2048, "text_config": GEMMA_2B, "vision_config": SIGLIP}
    )
    smol = load_spec({"model_type": "smolvlm", "text_config": SMOL_135M, "vision_config": SMOL_BASE})
    assert [spec.language.prefix_bidirectional for spec in (gemma3, pali, smol)] == ["visual", "prompt", None]


def test_s072_s073_only_cross_attention_layers_keep_keys_of_the_image() -> None:
    groups = load_spec(
        {"model_type": "idefics", "cross_layer_interval": 4, "use_resampler": True}
    ).language.groups
    assert [(group.layers, group.attention.cross) for group in groups] == [(32, False), (8, True)]
    # 32 heads of 128, keys and values: 8192 values for each of 64 latents in every such layer.
    assert groups[1].attention.kv_values_per_token == 8192
    assert groups[1].cross_linear_params == 2 * 768 * 4096
    language = load_spec({"model_type": "idefics", "cross_layer_interval": 4, "use_resampler": True}).language
    cache = request_cache(language, 2.0, tokens=100, visual_tokens=64)
    assert cache.visual_bytes == 2.0 * 8 * 8192 * 64
    assert cache.bytes == 2.0 * (32 * 8192 * 100 + 8 * 8192 * 64)


def test_gemma_3n_is_the_published_size_less_what_is_never_loaded() -> None:
    text = {"model_type": "gemma3n_text", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 30,
            "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "num_kv_shared_layers": 10,
            "vocab_size": 262400}  # fmt: skip
    spec = load_spec({"model_type": "gemma3n", "text_config": text})
    # The published file also holds key and value matrices and a key norm for the 10 layers that share a cache.
    assert spec.params.total + 10 * (2 * 2048 * 512 + 256) == 5_439_438_272
    assert spec.vision is not None
    assert not spec.vision.flops_known


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "internvl", "downsample_ratio": 0}, "downsample_ratio"),
        ({"model_type": "internvl", "vision_feature_layer": "last"}, "vision_feature_layer"),
        ({"model_type": "internvl_chat", "vision_config": {}}, "llm_config is missing"),
        ({"model_type": "internvl_chat", "llm_config": {}, "vision_config": {}}, "model_type"),
        ({"model_type": "gemma3", "mm_tokens_per_image": 10**6}, "mm_tokens_per_image"),
        ({"model_type": "paligemma", "projection_dim": 7}, "projection_dim"),
        ({"model_type": "llama4", "vision_config": {"pixel_shuffle_ratio": 0.0}}, "pixel_shuffle_ratio"),
        (
            {"model_type": "aria", "projector_patch_to_query_dict": {"many": 3}},
            "projector_patch_to_query_dict",
        ),
        ({"model_type": "idefics", "cross_layer_interval": 0}, "cross_layer_interval"),
        ({"model_type": "colpali", "vlm_config": 3}, "vlm_config"),
    ],
)
def test_a_fault_names_its_field_in_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_spec(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
