"""Vision transformers: parameters equal transformers' own models, FLOPs those that torch counts, patches by hand."""

from typing import Any

import oracle_models
import pytest

from vtprof_analyzer.models.config_defaults import complete
from vtprof_analyzer.models.fields import Fields
from vtprof_analyzer.models.spec import Tower
from vtprof_analyzer.models.vision.registry import encoder, layers_run
from vtprof_schemas.errors import DataError

LARGE_336 = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
             "image_size": 336, "patch_size": 14}  # fmt: skip
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
          "image_size": 384, "patch_size": 14}  # fmt: skip
SMALL = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
         "image_size": 56, "patch_size": 14}  # fmt: skip
DINO_GIANT = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "mlp_ratio": 4,
              "use_swiglu_ffn": True, "image_size": 518, "patch_size": 14}  # fmt: skip
DINO_SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}

MODELS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("clip_vision_model", "CLIPVisionModel", {}),
    ("clip_vision_model", "CLIPVisionModel", LARGE_336),
    ("clip_vision_model", "CLIPVisionModelWithProjection",
     {**LARGE_336, "projection_dim": 768, "architectures": ["CLIPVisionModelWithProjection"]}),
    # EVA-CLIP-8B is published in CLIP's form: width 4096, 32 layers, 20480 inside the MLP.
    ("clip_vision_model", "CLIPVisionModel",
     {"hidden_size": 4096, "intermediate_size": 20480, "num_hidden_layers": 32, "num_attention_heads": 32,
      "image_size": 224, "patch_size": 14}),
    ("metaclip_2_vision_model", "MetaClip2VisionModel", {**LARGE_336, "hidden_size": 1280, "num_hidden_layers": 32}),
    ("altclip_vision_model", "AltCLIPVisionModel", SMALL),
    ("chinese_clip_vision_model", "ChineseCLIPVisionModel", LARGE_336),
    ("siglip_vision_model", "SiglipVisionModel", SO400M),
    ("siglip_vision_model", "SiglipVisionModel", {**SO400M, "vision_use_head": False}),
    ("siglip2_vision_model", "Siglip2VisionModel", {}),
    ("siglip2_vision_model", "Siglip2VisionModel", {**SMALL, "vision_use_head": False, "num_patches": 64}),
    ("dinov2", "Dinov2Model", {}),
    ("dinov2", "Dinov2Model", DINO_GIANT),
    ("dinov2", "Dinov2Model", {**DINO_SMALL, "use_mask_token": False, "qkv_bias": False}),
    ("dinov2_with_registers", "Dinov2WithRegistersModel", DINO_GIANT),
    ("dinov3_vit", "DINOv3ViTModel", {"num_register_tokens": 4}),
    ("dinov3_vit", "DINOv3ViTModel", {"use_gated_mlp": True, "key_bias": True, "proj_bias": False}),
    ("vit", "ViTModel", {}),
    ("vit", "ViTModel", {**SMALL, "qkv_bias": False, "image_size": [56, 28]}),
    ("ijepa", "IJepaModel", {}),
    ("aimv2_vision_model", "Aimv2VisionModel", {}),
    ("aimv2_vision_model", "Aimv2VisionModel", {"use_head": False, "is_native": True, "qkv_bias": True, "mlp_bias": True}),
    ("mlcd_vision_model", "MLCDVisionModel", {}),
)  # fmt: skip


def _tower(config: dict[str, Any], selected: int | None = None) -> Tower:
    return encoder(Fields(complete(config)), selected)


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "architecture", "fields"), MODELS)
def test_parameters_equal_the_librarys_model(kind: str, architecture: str, fields: dict[str, Any]) -> None:
    config = {"model_type": kind, **fields}
    assert _tower(config).params == oracle_models.params(oracle_models.build(config, architecture))


TINY: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("clip_vision_model", "CLIPVisionModel", SMALL),
    ("siglip_vision_model", "SiglipVisionModel", {**SMALL, "vision_use_head": False}),
    ("dinov2_with_registers", "Dinov2WithRegistersModel", {**DINO_SMALL, "use_swiglu_ffn": True}),
    ("dinov3_vit", "DINOv3ViTModel", {**SMALL, "num_register_tokens": 4, "use_gated_mlp": True}),
    ("aimv2_vision_model", "Aimv2VisionModel", {**SMALL, "use_head": False}),
    ("ijepa", "IJepaModel", SMALL),
)


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "architecture", "fields"), TINY)
def test_flops_of_one_image_are_those_torch_counts(
    kind: str, architecture: str, fields: dict[str, Any]
) -> None:
    import torch
    import transformers

    config = {"model_type": kind, **fields}
    made = transformers.CONFIG_MAPPING[kind].from_dict(dict(config), attn_implementation="eager")
    model = getattr(transformers, architecture)(made).eval()
    counted = oracle_models.flops(lambda: model(torch.zeros(1, 3, 56, 56)))
    tower = _tower(config)
    positions = 16 + tower.class_tokens
    (group,) = tower.groups
    layers = group.layers * (2 * group.linear_params * positions + 4 * group.attention_width * positions**2)
    # Within 1 %: rotary tables and position resizing are small matrices of their own.
    assert 2 * tower.patch_params * 16 + layers == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize(
    ("pixels", "patch", "class_tokens", "patches"),
    # G012, G015, G016, G017, G020, G021 and G022 (floor), and SigLIP's 729 at 384/14.
    [(224, 16, 1, 196), (1024, 16, 1, 4096), (512, 16, 1, 1024), (256, 16, 1, 256), (336, 14, 1, 576), (224, 14, 1, 256),
     (1024, 14, 1, 5329), (384, 14, 0, 729)],
)  # fmt: skip
def test_position_tables_have_a_row_for_each_patch_of_the_golden_grids(
    pixels: int, patch: int, class_tokens: int, patches: int
) -> None:
    kind = "clip_vision_model" if class_tokens else "siglip_vision_model"
    fields = {**SMALL, "image_size": pixels, "patch_size": patch}
    tower = _tower({"model_type": kind, **fields, "vision_use_head": False})
    without = _tower({"model_type": kind, **fields, "image_size": patch, "vision_use_head": False})
    assert (tower.other_params - without.other_params) // 64 == patches - 1
    assert tower.class_tokens == class_tokens


def test_values_of_a_patch_are_channels_times_its_area() -> None:
    assert (
        _tower({"model_type": "vit", **SMALL, "patch_size": 16, "image_size": 224}).patch_values == 768
    )  # G014


def test_layers_past_the_selected_one_are_loaded_and_idle() -> None:
    whole = _tower({"model_type": "clip_vision_model", **LARGE_336})
    short = _tower({"model_type": "clip_vision_model", **LARGE_336}, layers_run(-2, 24))
    assert (whole.layers, short.layers) == (24, 23)
    assert short.params == whole.params
    # 12 h^2 weights, 9 h + 4 h biases and norms less: 4 h of attention, 5 h of the MLP, 4 h of norms.
    assert short.idle_params == 12 * 1024**2 + 13 * 1024


def test_a_composite_gives_its_vision_part_with_the_projection() -> None:
    composite = _tower({"model_type": "clip", "projection_dim": 768, "vision_config": LARGE_336})
    alone = _tower({"model_type": "clip_vision_model", **LARGE_336})
    assert composite.params - alone.params == composite.idle_params == 1024 * 768


def test_eva02_large_has_its_published_size() -> None:
    # timm publishes eva02_large_patch14_clip_336 with 304.43 M parameters, projection to 768 included.
    fields = {**LARGE_336, "intermediate_size": 2730, "projection_dim": 768}
    assert _tower({"model_type": "eva_clip_vision_model", **fields}).params == pytest.approx(
        304.43e6, rel=1e-3
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"image_size": [14, "x"]}, "image_size"),
        ({"patch_size": 0}, "patch_size"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
    ],
)
def test_a_field_at_fault_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(DataError, match=field):
        _tower({"model_type": "clip_vision_model", **SMALL, **change})
