"""FLOPs of the towers and adapters of InternVL, Gemma, Idefics, Pixtral, Llama 4, Aria and LFM2-VL are what torch counts."""

from typing import Any

import oracle_models
import pytest

from vtprof_analyzer.cost.towers import tower_cost, work_of_items
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid

pytestmark = pytest.mark.torch

TEXT = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64, "pad_token_id": 0}  # fmt: skip
LLAMA = {"model_type": "llama", **TEXT}
VIT = {"hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 4}


def _built(config: dict[str, Any], architecture: str) -> Any:
    import torch
    import transformers

    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    made = kind.from_dict({**config}, attn_implementation="eager")
    with torch.device("cpu"):
        return getattr(transformers, architecture)(made).eval().requires_grad_(False)


def _ours(config: dict[str, Any], tokens: int, *grids: tuple[int, int, int]) -> float:
    spec = load_spec(config)
    assert spec.vision is not None
    item = ItemTokens(tokens, grids=tuple(PatchGrid(*grid) for grid in grids))
    assert item.patches == tokens * spec.vision.patches_per_token
    return float(tower_cost(spec.vision, work_of_items([item]), 2.0).flops[0])


def _close(config: dict[str, Any], architecture: str, ours: float, call: Any) -> None:
    model = _built(config, architecture)
    assert ours == pytest.approx(oracle_models.flops(lambda: call(getattr(model, "model", model))), rel=0.01)


@pytest.mark.parametrize("large", [False, True])
def test_internvl(large: bool) -> None:
    import torch

    norms = {"use_qk_norm": True, "norm_type": "rms_norm"} if large else {"attention_bias": True}
    config = {
        "model_type": "internvl",
        "text_config": LLAMA,
        "vision_config": {**VIT, "image_size": 112, **norms},
    }
    pixels = torch.zeros(3, 3, 112, 112)
    ours = _ours(config, 48, (3, 8, 8))
    _close(config, "InternVLForConditionalGeneration", ours, lambda model: model.get_image_features(pixels))


def test_pixtral_in_mistral3() -> None:
    import torch

    vision = {"model_type": "pixtral", **VIT, "image_size": 280, "patch_size": 14}
    config = {
        "model_type": "mistral3",
        "text_config": {**LLAMA, "model_type": "mistral"},
        "vision_config": vision,
    }
    pixels, sizes = torch.zeros(1, 3, 112, 280), torch.tensor([[112, 280]])
    _close(
        config,
        "Mistral3ForConditionalGeneration",
        _ours(config, 40, (1, 8, 20)),
        lambda model: model.get_image_features(pixels, sizes),
    )


def test_llama4() -> None:
    import torch

    vision = {**VIT, "intermediate_size": 128, "image_size": 112, "projector_input_dim": 64, "projector_output_dim": 64,
              "vision_output_dim": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}  # fmt: skip
    config = {"model_type": "llama4", "text_config": {**TEXT, "intermediate_size_mlp": 96, "num_local_experts": 2},
              "vision_config": vision}  # fmt: skip
    pixels = torch.zeros(2, 3, 112, 112)

    def call(model: Any) -> object:
        return model.multi_modal_projector(model.vision_model(pixels).last_hidden_state)

    model = _built(config, "Llama4ForConditionalGeneration")
    assert _ours(config, 32, (2, 8, 8)) == pytest.approx(oracle_models.flops(lambda: call(model)), rel=0.01)


def test_aria() -> None:
    import torch

    config = {"model_type": "aria", "projector_patch_to_query_dict": {"64": 8},
              "text_config": {**TEXT, "moe_num_experts": 4, "moe_topk": 2},
              "vision_config": {"model_type": "idefics3_vision", **VIT, "image_size": 112, "patch_size": 14}}  # fmt: skip
    pixels = torch.zeros(2, 3, 112, 112)
    ours = _ours(config, 16, (2, 8, 8))
    _close(config, "AriaForConditionalGeneration", ours, lambda model: model.get_image_features(pixels))


def test_idefics_with_its_resampler() -> None:
    import torch

    config = {"model_type": "idefics", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 1, "vocab_size": 64,
              "num_attention_heads": 4, "use_resampler": True,
              "perceiver_config": {"resampler_n_latents": 16, "resampler_depth": 2, "resampler_n_heads": 2,
                                   "resampler_head_dim": 12},
              "vision_config": {"embed_dim": 32, **{k: v for k, v in VIT.items() if k != "hidden_size"},
                                "image_size": 112}}  # fmt: skip
    pixels = torch.zeros(2, 3, 112, 112)

    def call(model: Any) -> object:
        return model.perceiver_resampler(model.vision_model(pixel_values=pixels).last_hidden_state)

    _close(config, "IdeficsForVisionText2Text", _ours(config, 32, (2, 8, 8)), call)


def test_idefics2_but_for_the_keys_of_the_latents() -> None:
    import torch

    text = {**LLAMA, "model_type": "mistral"}
    config = {"model_type": "idefics2", "text_config": text, "vision_config": {**VIT, "image_size": 448, "patch_size": 14},
              "perceiver_config": {"hidden_size": 48, "resampler_n_latents": 4, "resampler_depth": 2,
                                   "resampler_n_heads": 4, "resampler_head_dim": 12, "num_key_value_heads": 2}}  # fmt: skip
    pixels, mask = torch.zeros(2, 3, 448, 448), torch.ones(2, 1024, dtype=torch.bool)

    def call(model: Any) -> object:
        return model.connector(model.vision_model(pixels).last_hidden_state, attention_mask=mask)

    _close(config, "Idefics2ForConditionalGeneration", _ours(config, 8, (2, 32, 32)), call)


@pytest.mark.parametrize("kind", ["idefics3", "smolvlm"])
def test_idefics3_and_smolvlm(kind: str) -> None:
    import torch

    config = {"model_type": kind, "scale_factor": 2, "text_config": LLAMA,
              "vision_config": {**VIT, "image_size": 112, "patch_size": 14}}  # fmt: skip
    pixels = torch.ones(1, 3, 3, 112, 112)
    name = "Idefics3ForConditionalGeneration" if kind == "idefics3" else "SmolVLMForConditionalGeneration"
    _close(config, name, _ours(config, 48, (3, 8, 8)), lambda model: model.get_image_features(pixels))


def test_gemma3() -> None:
    import torch

    config = {"model_type": "gemma3", "mm_tokens_per_image": 16, "text_config": {"model_type": "gemma3_text", **TEXT},
              "vision_config": {**VIT, "image_size": 112, "patch_size": 14, "vision_use_head": False}}  # fmt: skip
    pixels = torch.zeros(2, 3, 112, 112)
    ours = _ours(config, 32, (2, 8, 8))
    _close(config, "Gemma3ForConditionalGeneration", ours, lambda model: model.get_image_features(pixels))


def test_paligemma() -> None:
    import torch

    config = {"model_type": "paligemma", "projection_dim": 48, "text_config": {"model_type": "gemma", **TEXT},
              "vision_config": {"model_type": "siglip_vision_model", **VIT, "image_size": 112, "patch_size": 14,
                                "vision_use_head": False, "projection_dim": 48}}  # fmt: skip
    pixels = torch.zeros(2, 3, 112, 112)
    ours = _ours(config, 128, (2, 8, 8))
    _close(config, "PaliGemmaForConditionalGeneration", ours, lambda model: model.get_image_features(pixels))


def test_gemma4_but_for_the_pooling() -> None:
    import torch

    config = {"model_type": "gemma4", "text_config": {**TEXT, "hidden_size_per_layer_input": 0},
              "vision_config": {**VIT, "num_key_value_heads": 4, "head_dim": 8, "patch_size": 4,
                                "position_embedding_size": 64}}  # fmt: skip
    across, down = torch.meshgrid(torch.arange(12), torch.arange(9), indexing="xy")
    places = torch.stack([across, down], -1).reshape(1, 108, 2)
    patches = torch.zeros(1, 108, 48)
    # transformers averages with a matrix of 0 and 1/9 of tokens x patches; it is counted there, and no part of ours.
    averaging = 2 * 12 * 108 * 32
    ours = _ours(config, 12, (1, 9, 12)) + averaging
    _close(
        config,
        "Gemma4ForConditionalGeneration",
        ours,
        lambda model: model.get_image_features(patches, places),
    )


def test_lfm2_vl() -> None:
    import torch

    text = {"model_type": "lfm2", "hidden_size": 48, "block_ff_dim": 80, "num_hidden_layers": 1, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 64, "layer_types": ["full_attention"]}  # fmt: skip
    config = {"model_type": "lfm2_vl", "projector_hidden_size": 56, "text_config": text,
              "vision_config": {"model_type": "siglip2_vision_model", **VIT, "num_patches": 64, "patch_size": 16,
                                "vision_use_head": False}}  # fmt: skip
    patches = torch.zeros(1, 96, 768)
    shapes, mask = torch.tensor([[8, 12]]), torch.ones(1, 96, dtype=torch.int64)
    ours = _ours(config, 24, (1, 8, 12))
    _close(
        config,
        "Lfm2VlForConditionalGeneration",
        ours,
        lambda model: model.get_image_features(patches, shapes, mask),
    )
