"""The rows S091 to S118 of the checklist of systems: encoders, adapters and the ways to visual tokens, by hand.

One case a row, named by its id.
"""

import math
from typing import Any

import pytest
from seed_rows import (
    CLIP_L_224,
    EVA_G_224,
    HALF,
    changed,
    checks,
    clip,
    count,
    files,
    image,
    matrix,
    spec,
    tokens,
    transformer,
)

from vtprof_analyzer.cost.estimate import Workload, estimate
from vtprof_analyzer.cost.kv import cross_bytes_per_token, request_cache
from vtprof_analyzer.cost.metrics import visual_share
from vtprof_analyzer.models.spec import Tower
from vtprof_analyzer.models.tokens.count import Item, count_items
from vtprof_analyzer.models.tokens.patches import patch_grid, video_tokens
from vtprof_analyzer.models.tokens.tiling import tiles_and_thumbnail
from vtprof_schemas.errors import DataError

VICUNA: dict[str, Any] = {
    "model_type": "llava_llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
}  # fmt: skip
MLP_PARAMS = matrix(1024, 4096) + matrix(4096, 4096)
CHECKS, row = checks()


def tower(model: str | dict[str, Any]) -> Tower:
    found = spec(model).vision
    assert found is not None
    return found


def encode_flops(model: str | dict[str, Any], *items: Item) -> float:
    """Return FLOPs of encoders and adapters for these items."""
    counts = count(model, *items)
    work = Workload(1, counts.of("image", "video"), counts.of("audio"))
    return float(estimate(spec(model), HALF, work).encode.flops[0])


def layers_flops(layers: int, width: int, ffn: int, positions: int) -> float:
    """Return FLOPs of a vision transformer's layers: four projections, two matrices, scores and values of all pairs."""
    return layers * (2 * positions * (4 * width**2 + 2 * width * ffn) + 4 * width * positions**2)


def encoder_of(name: str) -> dict[str, Any]:
    return {**VICUNA, "mm_vision_tower": name}


# Encoders


@row("S091")
def _() -> None:
    for side, patch, expected in ((224, 16, 196), (224, 14, 256), (336, 14, 576), (1024, 16, 4096)):
        assert math.prod(patch_grid(side, side, patch)) == expected
        assert tokens({"model_type": "vit", "image_size": side, "patch_size": patch}, image(side)) == [
            expected
        ]
    with pytest.raises(ValueError, match="floor or ceil"):
        patch_grid(1024, 1024, 14)


@row("S092")
def _() -> None:
    full = {"vision_feature_select_strategy": "full"}
    whole = changed("LLaVA-1.5-7B", config=full, processor=full)
    assert count_items(whole, [image(336)]).tokens == 24**2 + 1
    assert tokens("LLaVA-1.5-7B", image(336)) == [24**2]
    assert tower("LLaVA-1.5-7B").class_tokens == 1


@row("S093")
def _() -> None:
    assert 384 // 14 == 27, "27.4 patches, rounded down"
    assert tokens(encoder_of("google/siglip-so400m-patch14-384"), image(384)) == [27**2]
    assert tower(encoder_of("google/siglip-so400m-patch14-384")).class_tokens == 0
    # SigLIP 2 of native resolution: patches of 16, four of them joined.
    assert tokens("LFM2-VL-450M", image(512)) == [(512 // 16 // 2) ** 2]


@row("S094")
def _() -> None:
    meta = encoder_of("facebook/metaclip-l14-fullcc2.5b")
    assert tokens(meta, image(224)) == [16**2]
    assert tower(meta).params == CLIP_L_224 + MLP_PARAMS


@row("S095")
def _() -> None:
    # BLIP-2's: 39 layers of 1408, and EVA-CLIP-8B's 32 of 4096 with 7.5 billion parameters.
    assert tower("BLIP-2-OPT-2.7B").params - tower("BLIP-2-OPT-2.7B").adapter_params == EVA_G_224
    layers = layers_flops(39, 1408, 6144, 16**2 + 1)
    assert layers < encode_flops("BLIP-2-OPT-2.7B", image(224)) < 1.1 * layers
    large = tower(encoder_of("BAAI/EVA-CLIP-8B-448"))
    assert large.params - large.adapter_params == pytest.approx(7.53e9, rel=5e-3)
    assert tokens(encoder_of("BAAI/EVA-CLIP-8B-448"), image(448)) == [32**2]


@row("S096")
def _() -> None:
    # The bigG of the first Qwen-VL, with 1024 patches of 448 pixels: 48 layers of 1664, 1.9 billion.
    given = tower("Qwen-VL")
    big = transformer(1664, 8192, 48, 14, 32**2, 4 * 1664)
    assert given.params - given.adapter_params == pytest.approx(big, rel=2e-3)
    assert (given.layers, given.hidden_size) == (48, 1664)


@row("S097")
def _() -> None:
    # InternVL3-38B and -14B see the same tiles: 45 layers of 3200 against 24 of 1024.
    large, small = (encode_flops(name, image(448)) for name in ("InternVL3-38B", "InternVL3-14B"))
    expected = layers_flops(45, 3200, 12800, 1025) / layers_flops(24, 1024, 4096, 1025)
    assert large / small == pytest.approx(expected, rel=0.1)
    assert tower("InternVL3-38B").params - tower("InternVL3-38B").adapter_params == pytest.approx(
        5.54e9, rel=3e-3
    )

    def share(name: str) -> float:
        cost = estimate(spec(name), HALF, Workload(100, count(name, image(448)).of("image")))
        return float(cost.encode.flops[0] / (cost.encode.flops + cost.prefill.flops)[0])

    assert share("InternVL3-38B") > 2 * share("InternVL3-14B")


@row("S098")
def _() -> None:
    assert not spec("FastVLM-0.5B").encoder_flops_known
    assert tokens("FastVLM-0.5B", image(1024)) == [16**2]


@row("S099")
def _() -> None:
    # Named, but of no published sizes in vision-language models: refused with one line, not guessed.
    with pytest.raises(DataError, match="sizes are not known"):
        spec(encoder_of("mit-han-lab/efficientvit-l2"))


@row("S100")
def _() -> None:
    convolved = encoder_of("ConvLLaVA-ConvNeXt-1536")
    assert tokens(convolved, image(1536)) == [(1536 // 64) ** 2]
    assert not spec(convolved).encoder_flops_known


@row("S101")
def _() -> None:
    assert tokens("Qwen2-VL-7B", image(448), clip(2), clip(3)) == [256, 256, 2 * 256]


# Adapters and token mechanisms


@row("S102")
def _() -> None:
    (_, counted), *_ = count("LLaVA-1.5-7B", image(336)).items
    assert counted.tokens == counted.patches == 576
    linear = {**VICUNA, "mm_projector_type": "linear"}
    assert (tower(linear).adapter_params, tower(VICUNA).adapter_params) == (matrix(1024, 4096), MLP_PARAMS)


SIZES = (image(28), image(100, 2000), image(448), image(3000))


@row("S103")
def _() -> None:
    assert {tokens("BLIP-2-OPT-2.7B", size)[0] for size in SIZES} == {32}


@row("S104")
def _() -> None:
    assert {tokens("Video-LLaMA-7B", clip(frames))[0] for frames in (1, 8, 100)} == {32}


@row("S105")
def _() -> None:
    assert {tokens("Qwen-VL", size)[0] for size in SIZES} == {256}
    # 64 queries for each slice: one, or an overview and 2 x 2.
    assert tokens("MiniCPM-V-2.6", image(448), image(896)) == [64, 5 * 64]


@row("S106")
def _() -> None:
    given = files("Honeybee-C-7B")
    assert given.config is not None
    for queries in (144, 256, 576):
        projector = {**given.config["projector_config"], "num_query_tokens": queries}
        assert tokens({**given.config, "projector_config": projector}, image(300)) == [queries]


@row("S107")
def _() -> None:
    for scale in (2, 3, 4):
        packed = {**VICUNA, "mm_projector_type": "tokenpacker", "scale_factor": scale}
        assert tokens(packed, image(336)) == [576 // scale**2]


def compressed(kind: str, **fields: Any) -> dict[str, Any]:
    return {**VICUNA, "mm_vision_token_compression_type": kind, **fields}


@row("S108")
def _() -> None:
    for kept in (1, 4, 16):
        few = compressed("quecc", mm_vision_output_combined_token_count=kept)
        assert tokens(few, image(336)) == [kept]
    assert any("question" in note or "prompt" in note for note in spec(compressed("quecc")).notes), (
        "key of a cache"
    )


@row("S109")
def _() -> None:
    counts = count(compressed("prumerge"), image(336))
    assert counts.tokens == 576
    assert any("upper bound" in note for note in counts.notes)


@row("S110")
def _() -> None:
    for name, side, ratio in (("InternVL3-8B", 448, 4), ("Qwen2-VL-7B", 448, 4), ("SmolVLM-256M", 2048, 16)):
        (_, counted), *_ = count(name, image(side)).items
        assert counted.patches == ratio * counted.tokens


@row("S111")
def _() -> None:
    language = spec("LLaVA-1.5-7B").language
    cache = request_cache(language, 2, 576 + 64, 576)
    of_kv, of_prompt = (
        visual_share("kv_bytes", cache.visual_bytes, cache.bytes),
        visual_share("prompt_tokens", 576, 640),
    )
    assert of_kv is not None
    assert of_prompt is not None
    assert of_kv.share == of_prompt.share == 0.9


@row("S112")
def _() -> None:
    language = spec("Llama-3.2-11B-Vision").language
    assert [group.layers for group in language.groups if group.attention.cross] == [8]
    assert cross_bytes_per_token(language, 2) == 2 * 8 * 8 * 128 * 2


@row("S113")
def _() -> None:
    assert {tokens("LLaVA-1.5-7B", size)[0] for size in SIZES} == {576}


@row("S114")
def _() -> None:
    assert tiles_and_thumbnail(2048, 2048, 512, 16, 256).tokens == 16 * 32**2 + 16**2 == 16_640


@row("S115")
def _() -> None:
    assert tokens("Qwen2-VL-7B", image(1024)) == [1369]
    given = changed("Qwen2-VL-7B", preprocessor={"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 100})
    assert [count_items(given, [image(side)]).tokens for side in (10, 280, 3000)] == [4, 100, 100]


@row("S116")
def _() -> None:
    routed = changed("InternVL3.5-8B", processor={"image_seq_length": 64})
    plain, few = (count_items(of, [image(448)]).items[0][1] for of in (files("InternVL3.5-8B"), routed))
    mixed = (plain, plain, plain, few)
    average = sum(item.tokens for item in mixed) / sum(item.patches for item in mixed)
    assert average == (3 * 256 + 64) / (4 * 1024)


@row("S117")
def _() -> None:
    assert [video_tokens(60, rate, 256) for rate in (1, 0.5, 0.25)] == [15_360, 7_680, 3_840]


@row("S118")
def _() -> None:
    assert video_tokens(60, 1, 64) == 3_840


@pytest.mark.parametrize("name", CHECKS)
def test_row(name: str) -> None:
    CHECKS[name]()
