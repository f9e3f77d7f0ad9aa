"""The LLaVA line: parameters equal transformers' models at published sizes, FLOPs what torch counts, KV bytes by hand."""

import copy
from typing import Any

import oracle_models
import pytest

from vtprof_analyzer.cost.estimate import Workload, estimate
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter, load_spec
from vtprof_analyzer.models.spec import ModelSpec, Tower
from vtprof_schemas.errors import DataError

CLIP = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768}  # fmt: skip
SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
          "num_attention_heads": 16, "image_size": 384, "patch_size": 14, "vision_use_head": False}  # fmt: skip
VICUNA_7B = {"model_type": "llama", "vocab_size": 32064}
VICUNA_13B = {"model_type": "llama", "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
              "num_attention_heads": 40, "num_key_value_heads": 40, "vocab_size": 32064}  # fmt: skip
MISTRAL_7B = {"model_type": "mistral", "vocab_size": 32064, "intermediate_size": 14336}
QWEN2_7B = {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152000}  # fmt: skip
QWEN2_SMALL = {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
               "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 152000,
               "tie_word_embeddings": True}  # fmt: skip
PIXTRAL_TEXT = {"model_type": "mistral", "hidden_size": 5120, "intermediate_size": 14336, "num_hidden_layers": 40,
                "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072}  # fmt: skip
GRANITE_2B = {"model_type": "granite", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 40,
              "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 49156,
              "tie_word_embeddings": True}  # fmt: skip
COHERE2 = {"model_type": "cohere2", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 256000}  # fmt: skip

MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LlavaForConditionalGeneration", {"model_type": "llava", "text_config": VICUNA_7B, "vision_config": CLIP}),
    ("LlavaForConditionalGeneration", {"model_type": "llava", "text_config": VICUNA_13B, "vision_config": CLIP}),
    # BakLLaVA: LLaVA on Mistral.
    ("LlavaForConditionalGeneration", {"model_type": "llava", "text_config": MISTRAL_7B, "vision_config": CLIP}),
    ("LlavaForConditionalGeneration",
     {"model_type": "llava", "text_config": MISTRAL_7B, "multimodal_projector_bias": False, "vision_feature_layer": [-2, 5],
      "vision_config": {**SIGLIP, "vision_use_head": True}}),
    # Pixtral 12B as transformers has it: LLaVA with Pixtral's tower, its last layer included.
    ("LlavaForConditionalGeneration",
     {"model_type": "llava", "text_config": PIXTRAL_TEXT, "vision_config": {"model_type": "pixtral"},
      "vision_feature_layer": -1, "vision_feature_select_strategy": "full"}),
    ("VipLlavaForConditionalGeneration", {"model_type": "vipllava", "text_config": VICUNA_7B, "vision_config": CLIP}),
    ("LlavaNextForConditionalGeneration", {"model_type": "llava_next", "text_config": MISTRAL_7B, "vision_config": CLIP}),
    # Granite Vision 3.2: four layers of the tower side by side.
    ("LlavaNextForConditionalGeneration",
     {"model_type": "llava_next", "text_config": GRANITE_2B, "vision_config": SIGLIP, "tie_word_embeddings": True,
      "vision_feature_layer": [-24, -20, -12, -1], "vision_feature_select_strategy": "full"}),
    ("LlavaNextVideoForConditionalGeneration",
     {"model_type": "llava_next_video", "text_config": VICUNA_7B, "vision_config": CLIP}),
    ("LlavaOnevisionForConditionalGeneration",
     {"model_type": "llava_onevision", "text_config": QWEN2_7B, "vision_config": {**SIGLIP, "num_hidden_layers": 26}}),
    ("LlavaOnevisionForConditionalGeneration",
     {"model_type": "llava_onevision", "text_config": QWEN2_SMALL, "tie_word_embeddings": True,
      "vision_config": {**SIGLIP, "num_hidden_layers": 26}}),
    ("VideoLlavaForConditionalGeneration",
     {"model_type": "video_llava", "text_config": VICUNA_7B, "vision_config": {**CLIP, "image_size": 224}}),
    ("AyaVisionForConditionalGeneration",
     {"model_type": "aya_vision", "text_config": COHERE2, "vision_config": {**SIGLIP, "image_size": 364}}),
    ("Cohere2VisionForConditionalGeneration",
     {"model_type": "cohere2_vision", "text_config": COHERE2, "vision_config": {**SIGLIP, "image_size": 512},
      "alignment_intermediate_size": 36864}),
)  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize(("architecture", "config"), MODELS)
def test_parameters_equal_the_librarys_model(architecture: str, config: dict[str, Any]) -> None:
    model = oracle_models.build(config, architecture)
    params = load_spec(config).params
    # VipLLaVA and kin hold tower and projector side by side with the language model under ``model``.
    language = oracle_models.params(model.model.language_model)
    head = 0 if load_spec(config).language.tied_embeddings else oracle_models.params(model.lm_head)
    assert params.total == oracle_models.params(model)
    assert params.language == language + head
    assert params.vision == params.total - params.language


def _encode_flops(tower: Tower, patches: int, class_tokens: int) -> float:
    """Return FLOPs of one image from the spec's fields: the formulas, not the cost module."""
    positions = patches + class_tokens
    layers = sum(
        group.layers * (2 * group.linear_params * positions + 4 * group.attention_width * positions**2)
        for group in tower.groups
    )
    (stage,) = tower.adapter
    assert stage.patches_per_unit is not None
    return (
        2 * tower.patch_params * patches + layers + 2 * stage.linear_params * patches / stage.patches_per_unit
    )


TINY_TEXT = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 100}  # fmt: skip
TINY_VISION = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
               "image_size": 56, "patch_size": 14}  # fmt: skip
TINY_CLIP = {"model_type": "clip_vision_model", **TINY_VISION}
TINY_SIGLIP = {"model_type": "siglip_vision_model", **TINY_VISION, "vision_use_head": False}
TINY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LlavaForConditionalGeneration",
     {"model_type": "llava", "vision_config": TINY_CLIP, "vision_feature_layer": -1}),
    ("VipLlavaForConditionalGeneration",
     {"model_type": "vipllava", "vision_config": TINY_CLIP,
      "vision_feature_layers": [-1, 1]}),
    ("AyaVisionForConditionalGeneration",
     {"model_type": "aya_vision", "vision_config": TINY_SIGLIP}),
)  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize(("architecture", "config"), TINY)
def test_flops_of_an_image_are_those_torch_counts(architecture: str, config: dict[str, Any]) -> None:
    import torch
    import transformers

    whole = {**config, "text_config": TINY_TEXT}
    made = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(
        copy.deepcopy(whole), attn_implementation="eager"
    )
    model = getattr(transformers, architecture)(made).eval()
    counted = oracle_models.flops(lambda: model.model.get_image_features(torch.zeros(1, 3, 56, 56)))
    tower = load_spec(whole).vision
    assert tower is not None
    assert _encode_flops(tower, 16, tower.class_tokens) == pytest.approx(counted, rel=0.01)


def _kv_bytes(spec: ModelSpec) -> int:
    return 2 * sum(group.layers * group.attention.kv_values_per_token for group in spec.language.groups)


@pytest.mark.parametrize(
    ("text", "bytes_per_token"),
    # Two bytes x keys and values x layers x KV heads x head size.
    [(VICUNA_7B, 2 * 2 * 32 * 32 * 128), (VICUNA_13B, 2 * 2 * 40 * 40 * 128), (MISTRAL_7B, 2 * 2 * 32 * 8 * 128),
     (QWEN2_7B, 2 * 2 * 28 * 4 * 128)],
)  # fmt: skip
def test_kv_bytes_of_a_token(text: dict[str, Any], bytes_per_token: int) -> None:
    spec = load_spec({"model_type": "llava", "text_config": text, "vision_config": CLIP})
    assert _kv_bytes(spec) == bytes_per_token


def test_an_image_of_llava_costs_what_arithmetic_says() -> None:
    config = {"model_type": "llava", "text_config": VICUNA_7B, "vision_config": CLIP}
    spec, item = load_spec(config), load_counter(ModelFiles("model", config)).image(480, 640)
    costs = estimate(spec, Precision(2.0, 2.0, 2.0), Workload(text_tokens=0, visual_items=(item,)))
    positions = 576 + 1
    layer = 2 * 12 * 1024**2 * positions + 4 * 1024 * positions**2
    patches = 2 * 588 * 1024 * 576
    projector = 2 * (1024 * 4096 + 4096**2) * 576
    assert float(costs.encode.flops[0]) == 23 * layer + patches + projector
    assert spec.vision is not None
    assert spec.vision.patches_per_token == 1.0  # S102: as many tokens as patches


def test_the_last_layer_of_llava_does_not_run() -> None:
    tower = load_spec({"model_type": "llava", "text_config": VICUNA_7B, "vision_config": CLIP}).vision
    assert tower is not None
    assert (tower.layers, tower.class_tokens) == (23, 1)
    assert tower.idle_params == 12 * 1024**2 + 13 * 1024


def test_layers_up_to_the_last_selected_one_run() -> None:
    config = {"model_type": "vipllava", "text_config": VICUNA_7B, "vision_config": CLIP}
    tower = load_spec({**config, "vision_feature_layer": [-11, -5, 6]}).vision
    assert tower is not None
    assert tower.layers == 24 + 1 - 5


def test_one_of_video_llavas_two_towers_is_idle() -> None:
    config = {
        "model_type": "video_llava",
        "text_config": VICUNA_7B,
        "vision_config": {**CLIP, "image_size": 224},
    }
    tower = load_spec(config).vision
    assert tower is not None
    assert tower.idle_params > 300e6


FASTVLM = {"model_type": "fast_vlm", "vision_config": {"model_type": "timm_wrapper", "architecture": "fastvit_mci3",
                                                       "hidden_size": 3072}}  # fmt: skip


def test_fastvlm_has_its_published_size_and_no_known_encoder_flops() -> None:
    # apple/FastVLM-0.5B is published with 759 M parameters (a head of its own beside the embedding).
    text = {**QWEN2_SMALL, "vocab_size": 151936, "tie_word_embeddings": False}
    spec = load_spec({**FASTVLM, "text_config": text})
    assert spec.params.total == pytest.approx(759e6, rel=2e-3)
    assert spec.vision is not None
    assert not spec.vision.flops_known


@pytest.mark.parametrize(
    ("architecture", "arguments", "params"),
    # The Perception Encoder's paper: 0.32 B (large) and 1.88 B (gigantic) in the vision tower.
    [("vit_pe_core_large_patch14_336", {}, 0.32e9), ("vit_pe_core_gigantic_patch14_448", {}, 1.88e9)],
)
def test_the_perception_encoder_has_its_published_size(
    architecture: str, arguments: dict[str, Any], params: float
) -> None:
    vision = {
        "model_type": "timm_wrapper",
        "architecture": architecture,
        "model_args": {"init_values": 0.1, **arguments},
    }
    config = {
        "model_type": "perception_lm",
        "text_config": VICUNA_7B,
        "vision_config": vision,
        "projector_pooling_ratio": 2,
    }
    tower = load_spec(config).vision
    assert tower is not None
    # Its attention-pooling head, of which no language model has use, is in the paper's number: some 1.5 to 4 layers' worth.
    assert tower.params - tower.adapter_params == pytest.approx(params, rel=0.06)
    assert tower.patches_per_token == 4


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"vision_feature_layer": "last"}, "vision_feature_layer"),
        ({"vision_feature_layer": []}, "vision_feature_layer"),
        ({"multimodal_projector_bias": "yes"}, "multimodal_projector_bias"),
        ({"vision_config": 5}, "vision_config"),
        ({"vision_config": {"model_type": "timm_wrapper", "architecture": "resnet50"}}, "architecture"),
        ({"text_config": {"model_type": "llama", "hidden_size": "wide"}}, "hidden_size"),
    ],
)
def test_a_field_at_fault_is_named(change: dict[str, Any], field: str) -> None:
    config = {"model_type": "llava", "text_config": VICUNA_7B, "vision_config": CLIP}
    with pytest.raises(DataError, match=field):
        load_spec({**config, **change})
