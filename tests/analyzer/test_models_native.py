"""Families of native resolution: parameters of published models as transformers counts them, tower FLOPs as torch does."""

import copy
import json
from importlib import resources
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_models import build, flops, params

from vtprof_analyzer.cost.estimate import Workload, estimate
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.models.registry import load_spec
from vtprof_analyzer.models.spec import ModelSpec
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid
from vtprof_schemas.errors import DataError


def _catalogue(name: str) -> dict[str, Any]:
    text = resources.files("vtprof_analyzer.models.catalogue").joinpath(f"{name}.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


MODELS = _catalogue("qwen") | _catalogue("glm_kimi")
ARCHITECTURES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
    "qwen2_5_omni_thinker": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen3_omni_moe_thinker": "Qwen3OmniMoeThinkerForConditionalGeneration",
    "glm4v": "Glm4vForConditionalGeneration",
    "glm4v_moe": "Glm4vMoeForConditionalGeneration",
    "glm46v": "Glm46VForConditionalGeneration",
    "glm_ocr": "GlmOcrForConditionalGeneration",
    "video_llama_3": "VideoLlama3ForConditionalGeneration",
    "hunyuan_vl": "HunYuanVLForConditionalGeneration",
    "paddleocr_vl": "PaddleOCRVLForConditionalGeneration",
    "ernie4_5_vl_moe": "Ernie4_5_VLMoeForConditionalGeneration",
    "exaone4_5": "Exaone4_5_ForConditionalGeneration",
    "kimi_k25": "Kimi_K25ForConditionalGeneration",
}
TOWERS = ("visual", "vision_tower", "vision_model", "projector", "mm_projector", "resampler_model")
PUBLISHED = (
    "Qwen2-VL-2B", "Qwen2.5-VL-3B", "Qwen2.5-VL-72B", "Qwen3-VL-4B", "Qwen3-VL-235B-A22B", "Qwen3.5-9B",
    "Qwen3.5-35B-A3B", "GLM-4.1V-9B", "GLM-4.5V", "VideoLLaMA3-7B", "HunyuanOCR", "PaddleOCR-VL", "Kimi-K2.5",
)  # fmt: skip


def _vision_params(model: Any) -> int:
    return sum(params(getattr(model, name)) for name in TOWERS if hasattr(model, name))


@pytest.mark.torch
@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_published_sizes_equal_those_of_transformers(name: str) -> None:
    config = MODELS[name]["config"]
    model = build(config, ARCHITECTURES[config["model_type"]])
    ours = load_spec(config).params
    assert (ours.total, ours.vision) == (params(model), _vision_params(model.model))


@pytest.mark.torch
@pytest.mark.parametrize("name", ["Qwen2.5-Omni-7B", "Qwen3-Omni-30B-A3B"])
def test_parameters_of_a_thinker_equal_those_of_transformers(name: str) -> None:
    config = MODELS[name]["config"]["thinker_config"]
    model = build(config, ARCHITECTURES[config["model_type"]])
    for given_config in (config, MODELS[name]["config"]):
        ours = load_spec(given_config).params
        theirs = (params(model), params(model.model.visual), params(model.model.audio_tower))
        assert (ours.total, ours.vision, ours.audio) == theirs


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["ernie4_5_vl_moe", "glm46v", "paddleocr_vl", "kimi_k25"])
def test_a_config_that_says_nothing_is_the_class_default(kind: str) -> None:
    model = build({"model_type": kind}, ARCHITECTURES[kind])
    assert load_spec({"model_type": kind}).params.total == params(model)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_catalogue_totals_are_the_published_sizes(name: str) -> None:
    assert load_spec(MODELS[name]["config"]).params.total == pytest.approx(
        MODELS[name]["params_b"] * 1e9, rel=5e-3
    )


def test_parameters_of_remote_code_families_by_hand() -> None:
    # Qwen-VL. Layer of the tower: 4 * 1664^2 + 2 * 1664 * 8192 weights, 4 * 1664 + 8192 + 1664 biases, 4 * 1664 norms;
    # 48 of them; patches 588 * 1664, 256 positions, norm before. Resampler: 1664 * 4096, 4 * 4096^2 + 4 * 4096 attention,
    # 256 queries and positions, two norms; then norm and 4096^2.
    layer = 4 * 1664**2 + 2 * 1664 * 8192 + (4 * 1664 + 8192 + 1664) + 4 * 1664
    resampler = 1664 * 4096 + 4 * 4096**2 + 4 * 4096 + 2 * 256 * 4096 + 2 * 2 * 4096
    tower = 48 * layer + 588 * 1664 + 256 * 1664 + 2 * 1664 + resampler + 2 * 4096 + 4096**2
    qwen = load_spec(MODELS["Qwen-VL"]["config"])
    assert qwen.params.vision == tower
    # S040: multi-head attention, 32 layers of 4096: 2 * 32 * 4096 values of two bytes a token.
    assert sum(g.layers * g.attention.kv_values_per_token for g in qwen.language.groups) * 2 == 524_288
    # MoonViT of Kimi-VL: 27 layers, 64 x 64 positions, final norm; a norm and two matrices to 2048.
    layer = 4 * 1152**2 + 2 * 1152 * 4304 + (4 * 1152 + 4304 + 1152) + 4 * 1152
    vision = 27 * layer + 588 * 1152 + 1152 + 4096 * 1152 + 2 * 1152
    projector = 2 * 1152 + 4608 * 4608 + 4608 + 4608 * 2048 + 2048
    assert load_spec(MODELS["Kimi-VL-A3B"]["config"]).params.vision == vision + projector
    # dots.ocr: no biases but the merger's and the patch embedding's; RMS norms, a layer norm before the merger.
    layer = 4 * 1536**2 + 3 * 1536 * 4224 + 2 * 1536
    vision = 42 * layer + 588 * 1536 + 1536 + 2 * 1536
    merger = 2 * 1536 + 6144 * 6144 + 6144 + 6144 * 1536 + 1536
    assert load_spec(MODELS["dots.ocr"]["config"]).params.vision == vision + merger


def _kv_bytes(name: str) -> int:
    groups = load_spec(MODELS[name]["config"]).language.groups
    return 2 * sum(group.layers * group.attention.kv_values_per_token for group in groups)


def test_kv_bytes_of_the_seed_systems() -> None:
    # G164 to G168 and S042.
    assert _kv_bytes("Qwen2.5-VL-72B") == 327_680
    assert _kv_bytes("Qwen2.5-VL-72B") * 40_000 / 1e9 == pytest.approx(13.1072)
    assert _kv_bytes("Qwen2.5-VL-72B") * 50_000 / 1e9 == pytest.approx(16.384)
    assert _kv_bytes("Qwen2.5-VL-7B") == 57_344
    assert _kv_bytes("Qwen2.5-VL-7B") * 30_000 / 1e9 == pytest.approx(1.72032)
    # S041; S043: 36 layers, 8 heads of 128, although 2560 / 32 heads is 80.
    assert _kv_bytes("Qwen2-VL-7B") == 57_344
    assert _kv_bytes("Qwen3-VL-4B") == 2 * 2 * 36 * 8 * 128
    # S044: 10 of 40 layers keep keys and values, 2 heads of 256 each.
    assert _kv_bytes("Qwen3.5-35B-A3B") == 2 * 2 * 10 * 2 * 256
    assert load_spec(MODELS["Qwen3.5-35B-A3B"]["config"]).params.active < 4e9


_TEXT = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
_QWEN3 = {
    "depth": 3, "hidden_size": 32, "intermediate_size": 72, "num_heads": 2, "patch_size": 16, "out_hidden_size": 64,
    "num_position_embeddings": 16,
}  # fmt: skip
_GLM = {
    "depth": 2, "hidden_size": 48, "intermediate_size": 80, "num_heads": 2, "patch_size": 14, "out_hidden_size": 64,
    "image_size": 112,
}  # fmt: skip
_PLAIN = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14,
}  # fmt: skip
_WINDOWS = {
    "depth": 4, "hidden_size": 32, "intermediate_size": 72, "num_heads": 4, "patch_size": 14, "out_hidden_size": 64,
    "window_size": 112, "fullatt_block_indexes": [1],
}  # fmt: skip
TINY: dict[str, tuple[dict[str, Any], int]] = {
    # Sections of the tower, and input values of a patch.
    "qwen2_vl": (
        {"depth": 3, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 14},
        3 * 2 * 14**2,
    ),
    "qwen2_5_vl": (_WINDOWS, 3 * 2 * 14**2),
    "exaone4_5": ({**_WINDOWS, "num_key_value_heads": 2}, 3 * 2 * 14**2),
    "qwen3_vl": ({**_QWEN3, "deepstack_visual_indexes": [0, 1]}, 3 * 2 * 16**2),
    "qwen3_5": (_QWEN3, 3 * 2 * 16**2),
    "glm4v": (_GLM, 3 * 2 * 14**2),
    "glm_ocr": (_GLM, 3 * 2 * 14**2),
    "video_llama_3": (_PLAIN, 3 * 14**2),
    "paddleocr_vl": ({**_PLAIN, "image_size": 112}, 3 * 14**2),
    "hunyuan_vl": ({**_PLAIN, "text_hidden_size": 64, "max_image_size": 112}, 3 * 14**2),
    "kimi_k25": ({**_PLAIN, "hidden_size": 64, "pos_emb_height": 8, "pos_emb_width": 8}, 3 * 14**2),
    "ernie4_5_vl_moe": (
        {"depth": 2, "hidden_size": 48, "intermediate_size": 80, "num_heads": 2, "patch_size": 14},
        3 * 14**2,
    ),
}


def _tiny(kind: str) -> dict[str, Any]:
    text = dict(_TEXT)
    if kind == "exaone4_5":
        text["model_type"] = "exaone4"
    if kind == "video_llama_3":
        text["model_type"] = "qwen2"
    if kind == "ernie4_5_vl_moe":
        text.update(
            head_dim=128,
            moe_intermediate_size=[48, 32],
            moe_num_experts=4,
            moe_k=2,
            mlp_layer_types=["sparse"],
        )
    if kind == "kimi_k25":
        text.update(
            model_type="deepseek_v3", head_dim=8, q_lora_rank=None, kv_lora_rank=16, qk_nope_head_dim=8,
            qk_rope_head_dim=8, v_head_dim=8, first_k_dense_replace=1,
        )  # fmt: skip
        text["num_key_value_heads"] = 4
    if kind == "qwen3_5":
        text["layer_types"] = ["full_attention"]
    projector = {"projection_hidden_size": 64} if kind == "kimi_k25" else {}
    return {"model_type": kind, "text_config": text, "vision_config": dict(TINY[kind][0]), **projector}


def _encode(spec: ModelSpec, grids: list[tuple[int, int, int]], tokens: int) -> float:
    items = (ItemTokens(tokens, 0, tuple(PatchGrid(*grid) for grid in grids)),)
    return float(estimate(spec, Precision(4.0, 4.0, 4.0), Workload(1, items)).encode.flops[0])


def _built(kind: str) -> tuple[Any, ModelSpec]:
    import transformers

    config = _tiny(kind)
    made = transformers.CONFIG_MAPPING[kind].from_dict(copy.deepcopy(config), attn_implementation="eager")
    return getattr(transformers, ARCHITECTURES[kind])(made).eval(), load_spec(config)


def _pixels(kind: str, patches: int) -> Any:
    import torch

    pixels = torch.randn(patches, TINY[kind][1])
    return pixels.reshape(patches, 3, 14, 14) if kind in ("paddleocr_vl", "kimi_k25") else pixels


@pytest.mark.torch
@pytest.mark.parametrize("kind", sorted(TINY))
@pytest.mark.parametrize("grids", [[(1, 16, 24)], [(1, 18, 10), (1, 26, 12)]], ids=["one", "two"])
def test_flops_and_parameters_of_a_tower_equal_torchs(kind: str, grids: list[tuple[int, int, int]]) -> None:
    import torch

    model, spec = _built(kind)
    assert (spec.params.total, spec.params.vision) == (params(model), _vision_params(model.model))
    patches = sum(t * h * w for t, h, w in grids)
    pixels, grid = _pixels(kind, patches), torch.tensor(grids)
    more = {"image_merge_sizes": torch.tensor([1] * len(grids))} if kind == "video_llama_3" else {}
    measured = flops(lambda: model.model.get_image_features(pixels, image_grid_thw=grid, **more))
    tokens = patches if kind == "video_llama_3" else patches // 4
    if kind == "hunyuan_vl":
        tokens += sum(h // 2 for _, h, _ in grids) + 2 * len(grids)
    assert _encode(spec, grids, tokens) == pytest.approx(measured, rel=0.01)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("kind", "ours", "tokens"),
    [
        # Four frames of 12 x 20 patches: one by one; in pairs; all together, averaged to one; patches averaged by four.
        ("qwen2_5_vl", (4, 12, 20), 240),
        ("ernie4_5_vl_moe", (4, 12, 20), 120),
        ("kimi_k25", (1, 48, 20), 60),
        ("video_llama_3", (4, 12, 20), 240),
    ],
)
def test_flops_of_a_video_equal_torchs(kind: str, ours: tuple[int, int, int], tokens: int) -> None:
    import torch

    model, spec = _built(kind)
    pixels, grid = _pixels(kind, 4 * 12 * 20), torch.tensor([(4, 12, 20)])
    more = {"video_merge_sizes": torch.tensor([2])} if kind == "video_llama_3" else {}

    def run() -> None:
        if kind == "kimi_k25":  # its own method splits what comes out as if frames were not averaged
            model.model.mm_projector(model.model.vision_tower(pixels, grid_thw=grid).pooler_output)
        else:
            model.model.get_video_features(pixels, video_grid_thw=grid, **more)

    measured = flops(run)
    assert _encode(spec, [ours], tokens) == pytest.approx(measured, rel=0.01)


FAMILIES = ("Qwen-VL", "Qwen2.5-VL-7B", "Qwen3-VL-8B", "GLM-4.1V-9B", "Kimi-VL-A3B", "Kimi-K2.5", "ERNIE-4.5-VL-28B-A3B",
            "HunyuanOCR", "dots.ocr", "Keye-VL-8B", "VideoLLaMA3-7B", "Qwen2.5-Omni-7B", "PaddleOCR-VL")  # fmt: skip
ODD = st.one_of(
    st.none(), st.booleans(), st.text(max_size=3), st.floats(), st.integers(-(10**20), 10**20),
    st.lists(st.integers(-1, 50), max_size=3), st.just({}),
)  # fmt: skip


def _places(config: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in config.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found.extend(_places(value, (*path, key)))
    return found


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(FAMILIES), st.data())
def test_any_value_in_any_field_is_read_or_one_line(name: str, data: st.DataObject) -> None:
    config = copy.deepcopy(MODELS[name]["config"])
    for _ in range(data.draw(st.integers(1, 3))):
        *path, key = data.draw(st.sampled_from(_places(config)))
        section = config
        for part in path:
            section = section[part]
        section[key] = data.draw(ODD)
    try:
        load_spec(config)
    except DataError as error:
        assert "\n" not in str(error)
