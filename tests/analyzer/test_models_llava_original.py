"""Configs of the original LLaVA projects: published sizes, tokens as of transformers' form of the models or by hand."""

import json
from importlib import resources
from typing import Any

import pytest
from oracle_processors import SIZES

from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter, load_spec
from vtprof_analyzer.models.tokens.item import Counter
from vtprof_schemas.errors import DataError

LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 32, "vocab_size": 32000, "torch_dtype": "bfloat16"}  # fmt: skip
CLIP_336 = "openai/clip-vit-large-patch14-336"
SO400M_384 = "google/siglip-so400m-patch14-384"
MLP = {"mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 1024, "mm_vision_select_layer": -2}
LLAVA_15 = {
    "model_type": "llava",
    **LLAMA_7B,
    **MLP,
    "mm_vision_tower": CLIP_336,
    "image_aspect_ratio": "pad",
}
LLAVA_16: dict[str, Any] = {
    **LLAVA_15, "model_type": "llava_mistral", "intermediate_size": 14336, "num_key_value_heads": 8,
    "image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
}  # fmt: skip
QWEN2_7B = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "vocab_size": 152064}  # fmt: skip
ONEVISION: dict[str, Any] = {
    "model_type": "llava_qwen", **QWEN2_7B, "mm_vision_tower": SO400M_384, "mm_hidden_size": 1152,
    "mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "anyres_max_9", "mm_patch_merge_type": "spatial_unpad",
    "image_grid_pinpoints": "(1x1),...,(6x6)",
}  # fmt: skip
LONGVA = {**ONEVISION, "mm_vision_tower": CLIP_336, "mm_hidden_size": 1024, "image_aspect_ratio": "anyres",
          "mm_patch_merge_type": "unires"}  # fmt: skip
MOBILE = {"model_type": "mobilevlm", **LLAMA_7B, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
          "num_attention_heads": 16, "num_key_value_heads": 16, "mm_vision_tower": CLIP_336, "mm_hidden_size": 1024,
          "mm_projector_type": "ldpnetv2", "image_aspect_ratio": "pad"}  # fmt: skip
YI_VL = {"model_type": "llava", **LLAMA_7B, "num_key_value_heads": 4, "vocab_size": 64000, "mm_hidden_size": 1280,
         "mm_vision_tower": "./vit/clip-vit-H-14-laion2B-s32B-b79K-yi-vl-6B-448",
         "mm_projector_type": "mlp2x_gelu_Norm", "image_aspect_ratio": "pad"}  # fmt: skip
VISION_448 = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
              "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 448, "patch_size": 14,
              "vision_use_head": False}  # fmt: skip
NVILA: dict[str, Any] = {
    "model_type": "llava_llama", "llm_cfg": {"model_type": "qwen2", **QWEN2_7B, "vocab_size": 151648},
    "vision_tower_cfg": VISION_448, "mm_projector_cfg": {"mm_projector_type": "mlp_downsample"},
    "mm_hidden_size": 3456, "image_aspect_ratio": "dynamic_s2", "s2_scales": "448,896,1344", "max_tiles": 12,
    "min_tiles": 1, "mm_vision_select_layer": -2, "dynamic_s2": True,
}  # fmt: skip
NVILA_LITE = {**NVILA, "mm_hidden_size": 1152, "image_aspect_ratio": "dynamic", "dynamic_s2": False, "s2": False,
              "mm_projector_cfg": {"mm_projector_type": "mlp_downsample_3x3_fix"}}  # fmt: skip
TOKENPACKER = {**LLAVA_15, "mm_projector_type": "tokenpacker"}
QUECC = {**LLAVA_15, "mm_vision_token_compression_type": "local-conv-self-attn-deep"}
CAMBRIAN = {
    "model_type": "cambrian_llama", **LLAMA_7B, "intermediate_size": 14336, "num_key_value_heads": 8,
    "vocab_size": 128256, "mm_projector_type": "sva", "query_num_list": [576], "vision_hidden_size": 1024,
    "mm_hidden_size": 1024,
    "mm_vision_tower_aux_list": ["siglip/CLIP-ViT-SO400M-14-384", CLIP_336, "facebook/dinov2-giant-res378",
                                 "clip-convnext-XXL-multi-stage"],
}  # fmt: skip


def _counter(config: dict[str, Any]) -> Counter:
    return load_counter(ModelFiles("model", config))


@pytest.mark.parametrize(
    ("config", "billions"),
    # Published totals: the checkpoints' own weights, to a percent.
    [(LLAVA_15, 7.06), (LLAVA_16, 7.57), (ONEVISION, 8.03), (NVILA, 8.09), (YI_VL, 6.71), (MOBILE, 1.67)],
)
def test_totals_are_those_of_the_published_weights(config: dict[str, Any], billions: float) -> None:
    assert load_spec(config).params.total == pytest.approx(billions * 1e9, rel=0.01)


@pytest.mark.parametrize(
    ("config", "params"),
    [
        # A norm on 4 x 3456, two matrices with biases.
        (NVILA, 2 * 13824 + 13824 * 3584 + 3584 + 3584 * 3584 + 3584),
        # Norms on 9 x 1152 and 3 x 1152, three matrices with biases.
        (NVILA_LITE, 2 * 10368 + 10368 * 3456 + 3456 + 2 * 3456 + 3456 * 3584 + 3584 + 3584 * 3584 + 3584),
        # Two matrices, and a depthwise convolution of 3 x 3 with a bias.
        (MOBILE, 1024 * 2048 + 2048 + 2048 * 2048 + 2048 + 9 * 2048 + 2048),
        # Two matrices, a norm behind each.
        (YI_VL, 1280 * 4096 + 4096 + 4096 * 4096 + 4096 + 2 * 2 * 4096),
        # Keys and values from four layers by two matrices each, a query, attention, norms on all three, an MLP.
        (TOKENPACKER, 2 * (4096 * 1024 + 1024 + 1024 * 1024 + 1024) + 1024 * 1024 + 4 * (1024 * 1024 + 1024)
         + 3 * 2 * 1024 + 1024 * 4096 + 4096 + 4096 * 4096 + 4096),
    ],
)  # fmt: skip
def test_projectors_have_the_weights_of_their_projects_code(config: dict[str, Any], params: int) -> None:
    tower = load_spec(config).vision
    assert tower is not None
    assert tower.adapter_params == params


def test_both_forms_of_llava_have_the_same_weights() -> None:
    vision = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
              "num_attention_heads": 16, "image_size": 336, "patch_size": 14}  # fmt: skip
    ours = {
        "model_type": "llava",
        "text_config": {"model_type": "llama", "vocab_size": 32000},
        "vision_config": vision,
    }
    assert load_spec(LLAVA_15).params == load_spec(ours).params


def test_anyres_counts_as_transformers_form_does() -> None:
    # The originals write width first, which decides between resolutions that are equally good.
    turned = [[high, wide] for wide, high in LLAVA_16["image_grid_pinpoints"]]
    theirs = load_counter(ModelFiles("model", {"model_type": "llava_next"}, {"image_grid_pinpoints": turned}))
    ours, onevision = _counter(LLAVA_16), _counter(ONEVISION)
    for height, width in SIZES:
        assert ours.image(height, width) == theirs.image(height, width), (height, width)
        same = _counter({"model_type": "llava_onevision"}).image(height, width)
        assert onevision.image(height, width) == same, (height, width)


def test_several_images_of_onevision_are_not_tiled() -> None:
    assert _counter(ONEVISION).image(1080, 1920, images=3).tokens == 729 + 1


def test_video_frames_of_llava_video_have_a_newline_for_each_row() -> None:
    # 27 x 27 features pooled to 14 x 14 (bilinear) or 13 x 13 (average); "grid" puts a newline behind each row.
    assert _counter({**ONEVISION, "mm_newline_position": "grid"}).video(64, 720, 1280).tokens == 64 * 14 * 15
    average = {**ONEVISION, "mm_newline_position": "grid", "mm_spatial_pool_mode": "average"}
    assert _counter(average).video(64, 720, 1280).tokens == 64 * 13 * 14
    assert _counter(ONEVISION).video(32, 720, 1280).tokens == 32 * 196 + 1


def test_longva_has_144_tokens_a_frame_and_tiles_without_overview() -> None:
    assert _counter(LONGVA).video(128, 720, 1280).tokens == 128 * 144


def test_padded_models_have_one_square_image() -> None:
    for config, tokens in ((LLAVA_15, 576), (MOBILE, 144), (YI_VL, 1024)):
        counter = _counter(config)
        assert {counter.image(*size).tokens for size in SIZES} == {tokens}


@pytest.mark.parametrize(("scale", "tokens"), [(2, 144), (3, 64), (4, 36)])
def test_tokenpacker_divides_by_the_square_of_its_scale(scale: int, tokens: int) -> None:
    assert _counter({**TOKENPACKER, "scale_factor": scale}).image(500, 700).tokens == tokens


@pytest.mark.parametrize("tokens", [1, 4, 16, 36])
def test_quecc_has_the_tokens_that_its_config_says(tokens: int) -> None:
    config = {**QUECC, "mm_vision_output_combined_token_count": tokens}
    assert _counter(config).image(500, 700).tokens == tokens
    assert "not counted" in load_spec(config).notes[0]


def test_prumerge_is_an_upper_bound_and_says_so() -> None:
    files = ModelFiles("model", {**LLAVA_15, "mm_vision_token_compression_type": "prumerge"})
    assert load_counter(files).image(336, 336).tokens == 576
    assert any("upper bound" in note for note in files.assumed)


def test_longvu_keeps_at_most_144_tokens_a_frame_and_says_so() -> None:
    towers = {"mm_vision_tower_aux_list": CAMBRIAN["mm_vision_tower_aux_list"][::2], "query_num_list": [144]}
    files = ModelFiles("model", {**CAMBRIAN, "model_type": "cambrian_qwen", **towers, "lowres_token": 8})
    assert load_counter(files).video(100, 360, 640).tokens == 14_400
    assert any("question" in note for note in files.assumed_of["video"])


def test_patches_per_token_say_how_much_is_compressed() -> None:
    # S053, S107, S108: 4 and 9 patches of NVILA, 4 x 4 of TokenPacker, 576 to one of QueCC.
    cases = (
        (NVILA, 4.0),
        (NVILA_LITE, 9.0),
        ({**TOKENPACKER, "scale_factor": 4}, 16.0),
        ({**QUECC, "mm_vision_output_combined_token_count": 1}, 576.0),
    )
    for config, patches in cases:
        tower = load_spec(config).vision
        assert tower is not None
        assert tower.patches_per_token == patches


def test_nvila_scales_up_then_compresses() -> None:
    # 32 x 32 patches a tile, 2 x 2 joined: 256 tokens. A square image: 3 x 3 tiles of the largest scale, 1 + 4 below it.
    item = _counter(NVILA).image(1024, 1024)
    assert (item.tokens, item.grids[0].count) == (9 * 256, 14)
    # 16:9 in 9 to 12 tiles: 4 x 3 is closest (5 x 2 is 2.5).
    assert _counter(NVILA).image(1080, 1920).tokens == 12 * 256
    # 3 x 3 joined of 32 (padded to 33): 121 a tile; Lite adds the overview as another tile.
    assert _counter(NVILA_LITE).image(896, 896).tokens == (4 + 1) * 121
    assert _counter(NVILA_LITE).image(448, 448).tokens == 121
    assert _counter(NVILA).video(8, 720, 1280).tokens == 8 * 256


def test_longvila_pools_frames_in_time() -> None:
    video = {"video_encoder": {"_target_": "llava.model.encoders.TSPVideoEncoder", "pool_sizes": [[8, 1, 1]]}}
    pooled = {**NVILA_LITE, "mm_projector_cfg": {"mm_projector_type": "mlp_downsample_2x2_fix"}, **video}
    assert _counter(pooled).video(256, 448, 448).tokens == 32 * 256
    # VILA-1.5 and LongVILA: 384 / 14 = 27 patches on a side, padded to 28, joined to 14.
    older = {**pooled, "vision_tower_cfg": {**VISION_448, "image_size": 384}, "image_aspect_ratio": "resize"}
    assert _counter({**older, "video_encoder": None}).video(64, 384, 384).tokens == 64 * 196


def test_cambrian_runs_four_towers_and_cuts_padding_off() -> None:
    spec = load_spec(CAMBRIAN)
    assert len(spec.extra_towers) == 3
    assert [tower.flops_known for tower in spec.extra_towers] == [True, True, False]
    # 24 x 24 with a newline for each row; of a 2:1 image 12 rows are left.
    assert _counter(CAMBRIAN).image(500, 500).tokens == 24 * 25
    assert _counter(CAMBRIAN).image(500, 1000).tokens == 12 * 25
    # Its name says 8 B, of language: with 0.43 + 0.30 + 1.14 + 0.85 B of towers there is more.
    assert spec.params.total == pytest.approx(8.03e9 + 2.72e9, rel=0.02)


def test_towers_of_convolutions_have_no_known_flops() -> None:
    convllava = {**LLAVA_15, "mm_vision_tower": "ConvLLaVA-ConvNeXt-1536", "mm_hidden_size": 3072}
    # 1536 / 64 on a side.
    assert _counter(convllava).image(900, 800).tokens == 576
    fastvlm = {
        **LLAVA_15,
        "model_type": "llava_qwen2",
        "mm_vision_tower": "mobileclip_l_1024",
        "mm_hidden_size": 3072,
    }
    assert _counter(fastvlm).image(900, 800).tokens == 256
    for config in (convllava, fastvlm):
        tower = load_spec(config).vision
        assert tower is not None
        assert not tower.flops_known


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({**LLAVA_15, "mm_vision_tower": "somebody/else"}, "mm_vision_tower"),
        ({**LLAVA_15, "mm_vision_tower": {"a": 1}}, "mm_vision_tower"),
        ({**LLAVA_15, "mm_vision_select_layer": "x"}, "mm_vision_select_layer"),
        ({**NVILA, "vision_tower_cfg": 3}, "vision_tower_cfg"),
        ({**LLAVA_15, "hidden_size": -5}, "hidden_size"),
    ],
)
def test_a_field_at_fault_is_named(config: dict[str, Any], field: str) -> None:
    with pytest.raises(DataError, match=field):
        load_spec(config)


@pytest.mark.parametrize("scales", ["0,x", [], {"a": 1}, "448,,896"])
def test_scales_at_fault_are_named(scales: object) -> None:
    with pytest.raises(DataError, match="s2_scales"):
        _counter({**NVILA, "s2_scales": scales})


def test_an_unknown_projector_is_assumed_and_said() -> None:
    spec = load_spec({**LLAVA_15, "mm_projector_type": "something_new"})
    assert "something_new" in spec.notes[0]
    assert spec.params == load_spec(LLAVA_15).params


CATALOGUE: dict[str, Any] = json.loads(
    resources.files("vtprof_analyzer.models.catalogue").joinpath("llava.json").read_text("utf-8")
)


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_catalogue_entries_have_their_published_size_and_count_an_image(name: str) -> None:
    entry = CATALOGUE[name]
    if "params_b" in entry:
        assert load_spec(entry["config"]).params.total == pytest.approx(entry["params_b"] * 1e9, rel=2e-3)
    parts = [entry.get(part) for part in ("preprocessor", "video_preprocessor", "processor")]
    assert load_counter(ModelFiles(name, entry["config"], *parts)).image(480, 640).tokens > 100
    assert set(entry) >= {"ids", "source", "confidence", "config"}
