"""Llama 3.2 Vision: tiles as its processor cuts them, parameters of its class, FLOPs of a tiny one on the CPU."""

from typing import Any

import pytest
from oracle_models import build, flops, params
from oracle_processors import SIZES, image

from vtprof_analyzer.cost.estimate import Workload, estimate
from vtprof_analyzer.cost.kv import cross_bytes_per_token, kv_bytes_per_token
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.models.files import ModelFiles
from vtprof_analyzer.models.registry import load_counter, load_spec
from vtprof_analyzer.models.tokens.item import ItemTokens, PatchGrid
from vtprof_schemas.errors import ConfigError, DataError

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FP32 = Precision(4.0, 4.0, 4.0)
# Fields of the published config.json of the 11B instruction model; the rest are the class's defaults.
LLAMA_11B: dict[str, Any] = {
    "model_type": "mllama",
    "text_config": {
        "model_type": "mllama_text_model", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
    },
    "vision_config": {
        "model_type": "mllama_vision_model", "image_size": 560, "patch_size": 14, "hidden_size": 1280,
        "intermediate_layers_indices": [3, 7, 15, 23, 30], "vision_output_dim": 7680, "max_num_tiles": 4,
    },
    "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA_90B: dict[str, Any] = {
    **LLAMA_11B,
    "text_config": {
        **LLAMA_11B["text_config"], "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 100,
        "num_attention_heads": 64, "cross_attention_layers": list(range(3, 100, 5)),
    },
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "MllamaImageProcessor", "size": {"height": 560, "width": 560}, "max_image_tiles": 4,
}  # fmt: skip
TINY: dict[str, Any] = {
    "model_type": "mllama",
    "text_config": {
        "model_type": "mllama_text_model", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 5,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 199, "cross_attention_layers": [1, 3],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    },
    "vision_config": {
        "model_type": "mllama_vision_model", "image_size": 56, "patch_size": 14, "hidden_size": 32,
        "intermediate_size": 96, "attention_heads": 4, "num_hidden_layers": 4, "num_global_layers": 2,
        "intermediate_layers_indices": [0, 2], "vision_output_dim": 96,
    },
    "image_token_index": 198,
}  # fmt: skip


def files(
    processor: dict[str, Any] | None = PROCESSOR, config: dict[str, Any] | None = LLAMA_11B
) -> ModelFiles:
    return ModelFiles("a folder", config, processor)


@pytest.fixture(scope="module")
def processor() -> Any:
    return transformers.MllamaImageProcessor(
        size={"height": 560, "width": 560}, max_image_tiles=4, do_rescale=False, do_normalize=False
    )


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_those_of_the_processor(processor: Any, size: tuple[int, int]) -> None:
    made = processor(image(*size), return_tensors="pt")
    tiles = int(made["num_tiles"][0][0])
    counted = load_counter(files()).image(*size)
    # 40 x 40 patches and a class token in each tile.
    assert counted == ItemTokens(tiles * 1601, 1, (PatchGrid(1, 4, 1600),))
    assert made["pixel_values"].shape[2] == 4


def test_a_processor_with_other_tiles(processor: Any) -> None:
    other = transformers.MllamaImageProcessor(size={"height": 448, "width": 448}, max_image_tiles=9)
    counter = load_counter(files({"size": {"height": 448, "width": 448}, "max_image_tiles": 9}))
    for size in ((448, 448), (449, 448), (1000, 3000), (3000, 2990), (100, 5000)):
        tiles = int(other(image(*size))["num_tiles"][0][0])
        assert counter.image(*size).tokens == tiles * (32 * 32 + 1)


def test_without_a_processor_config_the_towers_size_stands_in() -> None:
    missing = files(None)
    assert load_counter(missing).image(100, 2000) == load_counter(files()).image(100, 2000)
    assert any("max_image_tiles" in note for note in missing.assumed)


def test_extreme_sizes_answer_at_once_and_video_is_refused() -> None:
    counter = load_counter(files())
    assert counter.image(1, 1_000_000).tokens == 4 * 1601
    for wrong in (lambda: counter.image(0, 5), lambda: counter.video(8, 64, 64), lambda: counter.audio(1.0)):
        with pytest.raises(ConfigError):
            wrong()


@pytest.mark.parametrize(
    ("config", "cards_billions"), [(LLAMA_11B, 10.67), (LLAMA_90B, 88.6)], ids=["11B", "90B"]
)
def test_parameters_are_those_of_the_class(config: dict[str, Any], cards_billions: float) -> None:
    model = build(config, "MllamaForConditionalGeneration")
    counted = load_spec(config).params
    assert counted.total == params(model)
    assert counted.total / 1e9 == pytest.approx(cards_billions, rel=0.005)
    vision = params(model.model.vision_model) + params(model.model.multi_modal_projector)
    assert counted.vision == vision


def test_images_stay_out_of_the_text_layers_cache() -> None:
    language = load_spec(LLAMA_11B).language
    # 32 layers of text and 8 of the image, keys and values of 8 heads of 128 in each.
    assert kv_bytes_per_token(language, 2.0) == 2 * 32 * 2 * 8 * 128
    assert cross_bytes_per_token(language, 2.0) == 2 * 8 * 2 * 8 * 128


@pytest.fixture(scope="module")
def tiny() -> Any:
    made = transformers.MllamaConfig.from_dict(dict(TINY), attn_implementation="eager")
    torch.manual_seed(0)
    return transformers.MllamaForConditionalGeneration(made).eval()


def test_flops_of_text_alone_and_of_the_image_within_one_percent(tiny: Any) -> None:
    tokens = 40
    # Four tiles, the whole canvas: nothing is masked. 4 x 4 patches and a class token, padded to 24 positions a tile.
    item = ItemTokens(4 * 17, 1, (PatchGrid(1, 4, 16),))
    ids = torch.arange(3, 3 + tokens)[None] % 190
    ids[0, 0] = 198
    given = {
        "pixel_values": torch.randn(1, 1, 4, 3, 56, 56),
        "aspect_ratio_ids": torch.tensor([[6]]),
        "aspect_ratio_mask": torch.ones(1, 1, 4, dtype=torch.long),
    }
    measured_encode = flops(lambda: tiny.model.vision_model(**given))
    seen = torch.ones(1, tokens, 1, 4, dtype=torch.long)
    measured = flops(
        lambda: tiny(input_ids=ids, cross_attention_mask=seen, use_cache=False, logits_to_keep=1, **given)
    )
    costs = estimate(
        load_spec(TINY), FP32, Workload(tokens - item.extra_tokens, (item,)), full_attention=True
    )
    projector = 2 * 4 * 17 * 96 * 64
    assert costs.encode.flops[0] - projector == pytest.approx(measured_encode, rel=0.01)
    assert costs.encode.flops[0] + costs.prefill.flops[0] == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("vision_config", "vision_output_dim", 7681),
        ("vision_config", "attention_heads", 7),
        ("vision_config", "supported_aspect_ratios", 3),
        ("vision_config", "patch_size", 561),
        ("vision_config", "num_global_layers", None),
        ("text_config", "cross_attention_layers", "all"),
        ("text_config", "hidden_size", 4095),
    ],
)
def test_a_field_at_fault_is_one_line(section: str, field: str, value: Any) -> None:
    broken = {**LLAMA_11B, section: {**LLAMA_11B[section], field: value}}
    with pytest.raises(DataError) as caught:
        load_spec(broken)
    assert "\n" not in str(caught.value)
    assert "config" in str(caught.value)


@pytest.mark.parametrize(
    "broken",
    [
        {"size": {"height": 560, "width": 448}},
        {"size": {"height": 13, "width": 13}},
        {"max_image_tiles": 10**9},
    ],
)
def test_a_processor_config_at_fault_is_one_line(broken: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        load_counter(files({**PROCESSOR, **broken}))
    assert "preprocessor_config.json" in str(caught.value)
