"""Configs of the Qwen2-VL family become the right sizes, in every form they are published in."""

import copy
from typing import Any

import pytest
from qwen_configs import QWEN2_5_VL_7B, QWEN2_5_VL_72B, QWEN2_VL_7B, TINY_2, TINY_2_5

from vtprof_analyzer.models.registry import is_known, load_spec, parse_config
from vtprof_analyzer.models.weights import canonical_dtype, dtype_bytes
from vtprof_schemas.errors import DataError

TEXT_KEYS = [key for key in QWEN2_5_VL_7B if key not in ("model_type", "vision_config")]


@pytest.mark.parametrize(
    ("config", "vision", "total"),
    [
        # As published: Qwen2.5-VL-7B has 8,292,166,656 parameters, Qwen2-VL-7B 8,291,375,616.
        (QWEN2_5_VL_7B, 676_550_144, 8_292_166_656),
        (QWEN2_VL_7B, 675_759_104, 8_291_375_616),
    ],
)
def test_parameters_of_published_models(config: dict[str, Any], vision: int, total: int) -> None:
    params = load_spec(config).params
    assert (params.vision, params.total, params.active) == (vision, total, total)
    assert params.language == total - vision


def test_flat_and_nested_configs_are_the_same_model() -> None:
    nested = {key: value for key, value in QWEN2_5_VL_7B.items() if key not in TEXT_KEYS}
    nested["text_config"] = {key: QWEN2_5_VL_7B[key] for key in TEXT_KEYS}
    assert load_spec(nested) == load_spec(QWEN2_5_VL_7B)


def test_new_key_names_are_read_like_the_old() -> None:
    new = copy.deepcopy(QWEN2_5_VL_7B)
    new["dtype"] = new.pop("torch_dtype")
    vision = new["vision_config"]
    vision["in_channels"] = vision.pop("in_chans")
    vision["num_attention_heads"] = vision.pop("num_heads")
    vision["num_hidden_layers"] = vision.pop("depth")
    vision["patch_size"] = [14, 14]
    assert load_spec(new) == load_spec(QWEN2_5_VL_7B)


@pytest.mark.parametrize("place", ["top", "text_config"])
def test_tied_embeddings_are_counted_once_wherever_the_flag_stands(place: str) -> None:
    config = copy.deepcopy(TINY_2_5)
    (config if place == "top" else config["text_config"])["tie_word_embeddings"] = True
    untied, tied = load_spec(TINY_2_5), load_spec(config)
    assert untied.params.total - tied.params.total == 512 * 64
    assert untied.language.head_params == tied.language.head_params


def test_sliding_layers_are_those_from_max_window_layers_on() -> None:
    config = QWEN2_5_VL_7B | {"use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 20}
    groups = load_spec(config).language.groups
    assert [(group.layers, group.attention.window_tokens) for group in groups] == [(20, None), (8, 1024)]


def test_windowed_tower_layers_are_those_outside_fullatt_block_indexes() -> None:
    groups = load_spec(QWEN2_5_VL_72B).vision.groups
    # A window of 112 pixels is 8 patches of 14 a side.
    assert [(group.layers, group.window_patches) for group in groups] == [(4, None), (28, 64)]
    assert [group.window_patches for group in load_spec(QWEN2_VL_7B).vision.groups] == [None]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": "28"}, "num_hidden_layers is '28'"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_key_value_heads": 5}, "num_key_value_heads is 5"),
        ({"num_attention_heads": 24}, "num_attention_heads is 24"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"vision_config": []}, "vision_config is list"),
        ({"vision_config": QWEN2_5_VL_7B["vision_config"] | {"depth": True}}, "vision_config.depth is True"),
        (
            {"vision_config": QWEN2_5_VL_7B["vision_config"] | {"num_heads": 7}},
            "vision_config.num_heads is 7",
        ),
        ({"vision_config": QWEN2_5_VL_7B["vision_config"] | {"window_size": 4}}, "vision_config.window_size"),
        (
            {"vision_config": QWEN2_5_VL_7B["vision_config"] | {"patch_size": [14, 16]}},
            "vision_config.patch_size",
        ),
        (
            {"vision_config": QWEN2_5_VL_7B["vision_config"] | {"out_hidden_size": 1000}},
            "vision_config.out_hidden_size is 1000",
        ),
        (
            {"vision_config": QWEN2_5_VL_7B["vision_config"] | {"fullatt_block_indexes": "all"}},
            "fullatt_block_indexes is 'all'",
        ),
        ({"model_type": None}, "model_type is missing"),
        ({"model_type": "no_such_vl", "vision_config": None}, "'no_such_vl' has no cost model yet"),
    ],
)
def test_a_fault_names_its_field_in_one_line(change: dict[str, Any], field: str) -> None:
    config = {key: value for key, value in (QWEN2_5_VL_7B | change).items() if value is not None}
    with pytest.raises(DataError) as caught:
        load_spec(config)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


def test_config_text_that_is_no_object_is_refused() -> None:
    with pytest.raises(DataError, match="not JSON"):
        parse_config("{")
    with pytest.raises(DataError, match="list instead of an object"):
        parse_config("[]")
    assert is_known(parse_config('{"model_type": "qwen2_vl"}'))
    assert not is_known({"model_type": "no_such_vl"})


def test_data_types_by_any_name_and_unknown_ones_stay_unknown() -> None:
    assert [dtype_bytes(name) for name in ("torch.bfloat16", "fp16", "float32", "fp8_e4m3", "nvfp4")] == [
        2,
        2,
        4,
        1,
        0.5,
    ]
    assert dtype_bytes("posit8") is None
    assert dtype_bytes(None) is None
    assert canonical_dtype("BF16") == "bfloat16"


@pytest.mark.torch
@pytest.mark.parametrize("base", [TINY_2, TINY_2_5], ids=["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        {},
        {"num_key_value_heads": 4, "num_hidden_layers": 2, "intermediate_size": 96},
        {"num_key_value_heads": 1, "vocab_size": 777},
    ],
)
def test_parameters_equal_those_of_transformers(
    base: dict[str, Any], tied: bool, text: dict[str, Any]
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = base | {"text_config": base["text_config"] | text, "tie_word_embeddings": tied}
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}
    prefix = names[base["model_type"]]
    built = getattr(transformers, prefix + "Config")(**copy.deepcopy(config))
    with torch.device("meta"):
        model = getattr(transformers, prefix + "ForConditionalGeneration")(built)
    model.tie_weights()
    total = sum(parameter.numel() for parameter in model.parameters())
    vision = sum(parameter.numel() for parameter in model.model.visual.parameters())
    params = load_spec(config).params
    assert (params.total, params.vision, params.language) == (total, vision, total - vision)
    # What transformers writes back is read the same way.
    assert load_spec(built.to_dict()).params == params
