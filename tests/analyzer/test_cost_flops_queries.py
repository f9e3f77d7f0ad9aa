"""FLOPs of towers with Q-Formers, mergers, resamplers and visual vocabularies equal what torch counts on small models."""

from collections.abc import Callable
from typing import Any

import oracle_models
import pytest

from vtprof_analyzer.cost.towers import tower_cost, work_of_items
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid

pytestmark = pytest.mark.torch

TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 640,
}  # fmt: skip
LLAMA, QWEN2 = {"model_type": "llama", **TEXT}, {"model_type": "qwen2", **TEXT}
OPT = {
    "model_type": "opt", "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "word_embed_proj_dim": 64, "vocab_size": 640,
}  # fmt: skip
VIT = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": 112, "patch_size": 7,
}  # fmt: skip
SIDE = 16


def pixels(side: int = 112) -> Any:
    """Return one random image."""
    import torch

    return torch.randn(1, 3, side, side)


def native(model: Any) -> object:
    """Run MiniCPM-V's tower and merger on one slice of 16 x 16 patches."""
    import torch

    strip = torch.randn(1, 3, 7, SIDE * SIDE * 7)
    return model.get_image_features(strip, torch.tensor([[SIDE, SIDE]], dtype=torch.int32))


def kosmos(model: Any) -> object:
    """Run Kosmos-2's tower and its latents on one image."""
    seen = model.vision_model(pixels())[0]
    return model.image_to_text_projection(model.vision_model.model.post_layernorm(seen))


def pooled(model: Any) -> object:
    """Run Molmo2's tower and pooling on one crop of 16 x 16 patches."""
    import torch

    squares = torch.arange(SIDE * SIDE).reshape(8, 2, 8, 2).permute(0, 2, 1, 3).reshape(64, 4)
    grids = torch.tensor([[8, 8, 0, 0]])
    return model.model.get_image_features(torch.randn(1, SIDE * SIDE, 3 * 7 * 7), squares, grids)


CASES: dict[str, tuple[dict[str, Any], str, Callable[[Any], object], int]] = {
    "blip-2": (
        {
            "model_type": "blip-2", "text_config": OPT, "vision_config": VIT, "num_query_tokens": 8,
            "qformer_config": {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
                               "intermediate_size": 80},
        },
        "Blip2ForConditionalGeneration", lambda model: model.get_image_features(pixels()), 8,
    ),
    "deepseek_vl": (
        {"model_type": "deepseek_vl", "text_config": LLAMA,
         "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **VIT}},
        "DeepseekVLForConditionalGeneration", lambda model: model.model.get_image_features(pixels()), 256,
    ),
    "deepseek_vl_hybrid": (
        {"model_type": "deepseek_vl_hybrid", "text_config": LLAMA,
         "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **VIT},
         "high_res_vision_config": {
             "model_type": "sam_vision_model", "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
             "image_size": 256, "patch_size": 8, "window_size": 14, "global_attn_indexes": [1], "output_channels": 16,
         }},
        "DeepseekVLHybridForConditionalGeneration",
        lambda model: model.model.get_image_features(pixels(), pixels(256)), 256,
    ),
    "janus": (
        {"model_type": "janus", "text_config": LLAMA,
         "vision_config": {**VIT, "mlp_ratio": 2.5, "projection_dim": 64}},
        "JanusForConditionalGeneration", lambda model: model.model.get_image_features(pixels()), 256,
    ),
    "ovis2": (
        {"model_type": "ovis2", "text_config": QWEN2, "hidden_size": 64,
         "vision_config": {**VIT, "hidden_stride": 2, "vocab_size": 300}},
        "Ovis2ForConditionalGeneration", lambda model: model.model.get_image_features(pixels()), 64,
    ),
    "molmo2": (
        {
            "model_type": "molmo2",
            "text_config": {"model_type": "molmo2_text", **TEXT},
            "vision_config": {**VIT, "num_key_value_heads": 4, "head_dim": 16, "image_size": [112, 112]},
            "adapter_config": {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
                               "intermediate_size": 96, "text_hidden_size": 64, "vision_feature_layer": [2, 0]},
        },
        "Molmo2ForConditionalGeneration", pooled, 64,
    ),
    "kosmos-2": (
        {
            "model_type": "kosmos-2", "latent_query_num": 8, "vision_config": VIT,
            "text_config": {"embed_dim": 64, "ffn_dim": 96, "layers": 1, "attention_heads": 4, "vocab_size": 640},
        },
        "Kosmos2ForConditionalGeneration", kosmos, 8,
    ),
    "florence2": (
        {
            "model_type": "florence2",
            "text_config": {"model_type": "bart", "d_model": 64, "encoder_layers": 1, "decoder_layers": 1,
                            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 640,
                            "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "max_position_embeddings": 64},
            "vision_config": {"embed_dim": [32, 64], "depths": [1, 2], "patch_size": [7, 3], "patch_stride": [4, 2],
                              "patch_padding": [3, 1], "patch_prenorm": [False, True], "num_heads": [2, 4],
                              "num_groups": [2, 4], "window_size": 4, "projection_dim": 64},
        },
        "Florence2ForConditionalGeneration", lambda model: model.model.get_image_features(pixels(64)), 65,
    ),
    "minicpmv4_6": (
        {"model_type": "minicpmv4_6", "text_config": QWEN2, "vision_config": VIT, "insert_layer_id": 1},
        "MiniCPMV4_6ForConditionalGeneration", native, 16,
    ),
    "minicpmv4_6 4x": (
        {"model_type": "minicpmv4_6", "text_config": QWEN2, "vision_config": VIT, "insert_layer_id": 1,
         "downsample_mode": "4x"},
        "MiniCPMV4_6ForConditionalGeneration", native, 64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_flops_of_the_tower(name: str) -> None:
    import copy

    import torch
    import transformers

    config, architecture, call, tokens = CASES[name]
    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    made = kind.from_dict(copy.deepcopy(config), attn_implementation="eager")
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(made).eval().requires_grad_(False)
    counted = oracle_models.flops(lambda: call(model))
    spec = load_spec(config)
    assert spec.vision is not None
    item = ItemTokens(tokens, 0, (PatchGrid(1, SIDE, SIDE),))
    work = work_of_items([item])
    found = sum(float(tower_cost(tower, work, 2.0).flops[0]) for tower in (spec.vision, *spec.extra_towers))
    assert found == pytest.approx(counted, rel=0.01)
