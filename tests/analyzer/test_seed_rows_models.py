"""The model rows S040 to S090 of the checklist of systems: tokens, KV bytes and parameters against hand calculation.

One case a row, named by its id; what a row asks beside these is in test_seed_rows_asks.py.
"""

from typing import Any, NamedTuple

import pytest
from seed_rows import (
    CLIP_H_448,
    CLIP_L_224,
    CLIP_L_336,
    EVA_G_224,
    LLAMA_7B,
    QFORMER,
    QWEN2_7B,
    SO400M_448,
    VIDEO_QFORMER,
    Model,
    clip,
    count,
    gated,
    growth,
    image,
    matrix,
    spec,
    tokens,
)

from vtprof_analyzer.cost.kv import kv_bytes_per_token
from vtprof_analyzer.models.tokens.count import Item


class Row(NamedTuple):
    """What is known of one model: items with their tokens, KV bytes a token (2 bytes a value), parameters."""

    model: Model
    items: tuple[tuple[Item, int], ...]
    kv: int | None = None
    params: float | None = None
    within: float = 1e-5


QWEN2 = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
         "num_key_value_heads": 4, "vocab_size": 152064}  # fmt: skip
LLAMA3 = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
          "num_key_value_heads": 8, "vocab_size": 128256}  # fmt: skip
SO400M_384 = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
              "num_attention_heads": 16, "image_size": 384, "patch_size": 14, "vision_use_head": False}  # fmt: skip
INTERNVL_15: dict[str, Any] = {  # the first of the line with tiles: InternViT-6B of 45 layers, InternLM2-20B
    "model_type": "internvl_chat", "force_image_size": 448, "downsample_ratio": 0.5, "dynamic_image_size": True,
    "max_dynamic_patch": 12, "use_thumbnail": True, "select_layer": -1,
    "vision_config": {"model_type": "intern_vit_6b", "hidden_size": 3200, "intermediate_size": 12800,
                      "num_hidden_layers": 45, "num_attention_heads": 25, "image_size": 448, "patch_size": 14,
                      "norm_type": "rms_norm", "qk_normalization": True, "qkv_bias": False},
    "llm_config": {"model_type": "internlm2", "hidden_size": 6144, "intermediate_size": 16384, "num_hidden_layers": 48,
                   "num_attention_heads": 48, "num_key_value_heads": 8, "vocab_size": 92553, "bias": False,
                   "tie_word_embeddings": False},
}  # fmt: skip
LONGVILA = {"model_type": "llava_llama", "llm_cfg": {"model_type": "llama", **LLAMA3}, "vision_tower_cfg": SO400M_384,
            "mm_projector_cfg": {"mm_projector_type": "mlp_downsample"}, "mm_vision_select_layer": -2}  # fmt: skip
LONGVU = {"model_type": "cambrian_qwen", **QWEN2, "mm_projector_type": "sva", "query_num_list": [144], "lowres_token": 8,
          "mm_vision_tower_aux_list": ["siglip/CLIP-ViT-SO400M-14-384", "facebook/dinov2-giant-res378"]}  # fmt: skip


def cambrian(*towers: str) -> dict[str, Any]:
    return {"model_type": "cambrian_llama", **LLAMA3, "mm_projector_type": "sva", "query_num_list": [576],
            "vision_hidden_size": 1024, "mm_hidden_size": 1024, "mm_vision_tower_aux_list": list(towers)}  # fmt: skip


MHA_7B = 2 * 32 * 32 * 128 * 2
"""Llama 7B: 32 layers, 32 heads of 128, keys and values of 2 bytes."""
PLORA = 256 * ((4096 + 6144) + (4096 + 4096) + 3 * (4096 + 14336))
"""A layer's pairs of matrices of rank 256: fused queries, keys and values; output; gate, up and down."""
CROSS_MPT = 4096 * 512 + 2 * 1024 * 512 + 512 * 4096 + 2 * 4096 * 16384
LATENT_LAYER = 2 * 1024 * 512 + 2 * 1024 * 512 + 2 * 1024 * 4096
MODELS: dict[str, tuple[Row, ...]] = {
    # Table 1 of the paper: 1.9 + 0.08 + 7.7 billion.
    "S040": (Row("Qwen-VL", ((image(448), 256), (image(1000, 300), 256)), MHA_7B, 9.68e9, 0.01),),
    "S041": (
        # 1024 becomes 1036 = 37 cells of 28; 336 x 504 is 12 x 18 cells; frames go in pairs.
        Row("Qwen2-VL-7B", ((image(1024), 37**2), (image(336, 504), 12 * 18)), 2 * 28 * 4 * 128 * 2, 8_291_375_616),
        Row("Qwen2-VL-2B", ((clip(8), 4 * 16**2), (clip(5), 3 * 16**2)), 2 * 28 * 2 * 128 * 2, 2_208_985_600),
    ),
    "S042": (
        Row("Qwen2.5-VL-3B", ((image(1024), 1369),), 2 * 36 * 2 * 128 * 2, 3_754_622_976),
        Row("Qwen2.5-VL-7B", ((image(1024), 1369), (clip(8), 4 * 16**2)), 57_344, 8_292_166_656),
        Row("Qwen2.5-VL-32B", ((image(1024), 1369),), 2 * 64 * 8 * 128 * 2, 33_452_718_336),
        Row("Qwen2.5-VL-72B", ((image(1024), 1369),), 327_680, 73_410_777_344),
    ),
    "S043": (
        # Cells of 32 pixels. 2560 values over 32 heads are 80, the head has 128.
        Row("Qwen3-VL-4B", ((image(1024), 32**2),), 2 * 36 * 8 * 128 * 2, 4_437_815_808),
        Row("Qwen3-VL-8B", ((clip(8), 4 * 14**2),), 2 * 36 * 8 * 128 * 2, 8_767_123_696),
        Row("Qwen3-VL-235B-A22B", ((image(1024), 32**2),), 2 * 94 * 4 * 128 * 2, 235.67e9, 1e-4),
    ),
    "S044": (
        # Every fourth layer keeps a cache: heads of 256.
        Row("Qwen3.5-27B", ((image(1024), 32**2),), 2 * (64 // 4) * 4 * 256 * 2, 27e9, 0.02),
        Row("Qwen3.5-397B-A17B", ((image(1024), 32**2),), 2 * (60 // 4) * 2 * 256 * 2, 397e9, 0.02),
    ),
    "S045": (
        Row("LLaVA-1.5-7B", ((image(336), (336 // 14) ** 2), (image(900, 50), 576)), MHA_7B,
            LLAMA_7B + 2 * 64 * 4096 + CLIP_L_336 + matrix(1024, 4096) + matrix(4096, 4096)),
        Row("LLaVA-1.5-13B", ((image(336), 576),), 2 * 40 * 40 * 128 * 2,
            gated(5120, 13824, 40, 5120, 32064) + CLIP_L_336 + matrix(1024, 5120) + matrix(5120, 5120)),
    ),
    "S046": (
        # Overview and 2 x 2 tiles are 5 x 576 = 2880, and a newline for each of 48 rows.
        Row("LLaVA-NeXT-Mistral-7B", ((image(672), 5 * 576 + 48),), 2 * 32 * 8 * 128 * 2, 7_566_747_648),
    ),
    "S047": (
        # Overview and a x b crops of 27 x 27, a newline a row; beyond 9 crops' tokens the 162 x 162 are halved to 81 x 81.
        Row("LLaVA-OneVision-7B", ((image(768), (2 * 2 + 1) * 729 + 54), (image(2304), 729 + 81 * 82)),
            2 * 28 * 4 * 128 * 2, 8.03e9, 1e-3),
        # A frame is pooled to 14 x 14; one newline behind all of them.
        Row("LLaVA-OneVision-7B", ((clip(8), 8 * 14**2 + 1),)),
    ),
    "S048": (
        Row("InternVL2-8B", ((image(448), 256), (image(896), (4 + 1) * 256)), 2 * 32 * 8 * 128 * 2, 8_075_365_376),
        Row(INTERNVL_15, ((image(448), 256), (image(448, 1344), (3 + 1) * 256)), 2 * 48 * 8 * 128 * 2, 25.5e9, 2e-3),
    ),
    "S049": (
        Row("InternVL3.5-8B", ((image(448), (448 // 14) ** 2 // 4),), 2 * 36 * 8 * 128 * 2, 8.53e9, 1e-3),
        Row("InternVL3.5-241B-A28B", ((image(896), 5 * 256),), 2 * 94 * 4 * 128 * 2, 240.7e9, 1e-3),
    ),
    # A tile of 560 is 40 x 40 patches and a class position; 8 of 40, 20 of 100 layers look at them.
    "S050": (
        Row("Llama-3.2-11B-Vision", ((image(560), 1601), (image(1120), 4 * 1601)), 2 * 32 * 8 * 128 * 2, 10.67e9, 1e-3),
        Row("Llama-3.2-90B-Vision", ((image(560), 1601),), 2 * 80 * 8 * 128 * 2, 88.6e9, 1e-3),
    ),
    "S051": (Row("Llama-3-70B", (), 2 * 80 * 8 * 128 * 2, 70_553_706_496),),
    "S052": (
        # 27 x 27 patches become 14 x 14, with a newline a row: overview, separator, tiles side by side.
        Row("DeepSeek-VL2", ((image(384), 14 * 15 + 1 + 14 * 15), (image(768), 14 * 15 + 1 + 28 * 29)),
            30 * (512 + 64) * 2, 27.5e9, 2e-3),
        Row("DeepSeek-VL2-small", (), 27 * (512 + 64) * 2, 16.1e9, 4e-3),
        Row("DeepSeek-VL2-tiny", (), 2 * 12 * 10 * 128 * 2, 3.37e9, 1e-3),
    ),
    # Nine tiles of 1344 x 1344 become 256 tokens each, of three scales joined; layer norm of 4 x 3456 values before.
    "S053": (
        Row("NVILA-8B", ((image(448), 9 * 256),), 2 * 28 * 4 * 128 * 2,
            QWEN2_7B - 2 * (152064 - 151648) * 3584 + SO400M_448
            + 2 * 13824 + matrix(13824, 3584) + matrix(3584, 3584)),
    ),
    "S054": (
        Row("Gemma-3-4B", ((image(896), 256), (image(100, 900), 256)), 2 * 5 * 4 * 256 * 2, 4_300_079_472),
        Row("Gemma-3-27B", ((image(896), 256),), 2 * 10 * 16 * 128 * 2, 27_432_406_640),
    ),
    # 280 cells of 48 pixels: 16 x 16 is the largest square. Layers that read other layers' caches keep none.
    "S055": (
        Row("Gemma-4-E2B", ((image(1024), 16**2),), 2 * 3 * 1 * 512 * 2, 5.1e9, 2e-3),
        Row("Gemma-4-31B", ((image(1024), 16**2),), 2 * 10 * 4 * 512 * 2, 30.7e9 + 0.57e9, 5e-3),
    ),
    "S056": (
        Row("PaliGemma-3B-224", ((image(500), (224 // 14) ** 2),), 2 * 18 * 1 * 256 * 2, 2_923_466_480),
        Row("PaliGemma-3B-448", ((image(500), (448 // 14) ** 2),), 2 * 18 * 1 * 256 * 2),
        # Half of the 26 layers see 4096 tokens alone.
        Row("PaliGemma2-3B-224", ((image(500), 256),), 2 * 13 * 4 * 256 * 2, 3.03e9, 1e-3),
    ),
    # 2048 x 2048 is 4 x 4 tiles of 512 and an overview; 32 x 32 patches become 8 x 8 tokens.
    "S057": (
        Row("SmolVLM-256M", ((image(512), (16 + 1) * 64),), 2 * 30 * 3 * 64 * 2, 256_484_928),
        Row("SmolVLM-500M", ((image(512), (16 + 1) * 64),), 2 * 32 * 5 * 64 * 2, 507_482_304),
    ),
    "S058": (Row("Moondream2", ((image(378), 27**2),), 2 * 24 * 2048 * 2, 1_857_482_608),),
    "S059": (
        Row("apple/FastVLM-0.5B", ((image(1024), (1024 // 64) ** 2),), 2 * 24 * 2 * 64 * 2,
            gated(896, 4864, 24, 128, 151936, bias=896 + 256) + 125.1e6 + matrix(3072, 896) + matrix(896, 896), 1e-3),
    ),
    # 1344 / 14 = 96, halved by a convolution; begin and end vectors.
    "S060": (Row("CogVLM2-19B", ((image(500), 48**2 + 2),), 2 * 32 * 8 * 128 * 2, 19.5e9, 1e-3),),
    # 24 x 24 queries and a newline a row.
    "S061": (Row(cambrian("siglip/CLIP-ViT-SO400M-14-384", "openai/clip-vit-large-patch14-336"),
                 ((image(500), 24 * 25),), 2 * 32 * 8 * 128 * 2),),
    # Yi-6B, CLIP-H of 448 pixels, two matrices with a norm behind each.
    "S062": (
        Row("Yi-VL-6B", ((image(448), 32**2),), 2 * 32 * 4 * 128 * 2,
            gated(4096, 11008, 32, 512, 64000) + CLIP_H_448 + matrix(1280, 4096) + matrix(4096, 4096) + 4 * 4096),
    ),
    "S063": (
        Row("InternLM-XComposer2-VL-7B", ((image(300), (490 // 14) ** 2),), 2 * 32 * 8 * 128 * 2,
            gated(4096, 14336, 32, 1024, 92544) + CLIP_L_336 + (35**2 - 24**2) * 1024
            + matrix(1024, 4096) + matrix(4096, 4096) + 32 * PLORA),
    ),
    # One partition alone; 2 x 2 of them come with an overview.
    "S064": (Row("Ovis2-8B", ((image(448), 256), (image(896), 5 * 256)), 2 * 28 * 4 * 128 * 2, 8.94e9, 1e-3),),
    "S065": (
        Row("BLIP-2-OPT-2.7B", ((image(50), 32), (image(2000, 300), 32)), 2 * 32 * 2560 * 2,
            2_651_596_800 + EVA_G_224 + QFORMER + matrix(768, 2560)),
    ),
    # The Q-Former has BERT's words and positions too, and a second feed-forward for text.
    "S066": (
        Row("InstructBLIP-Vicuna-7B", ((image(50), 32), (image(2000, 300), 32)), MHA_7B,
            LLAMA_7B + 2 * 4096 + EVA_G_224 + QFORMER + matrix(768, 4096)
            + (30523 + 512) * 768 + 12 * (matrix(768, 3072) + matrix(3072, 768) + 2 * 768)),
    ),
    "S067": (Row("MiniGPT-4-7B", ((image(50), 32),), MHA_7B, LLAMA_7B + EVA_G_224 + QFORMER + matrix(768, 4096)),),
    "S068": (
        Row("MiniGPT-v2-7B", ((image(50), 32**2 // 4),), MHA_7B,
            LLAMA_7B + EVA_G_224 + (32**2 - 16**2) * 1408 + matrix(4 * 1408, 4096)),
    ),
    # 64 queries and a learned end vector; 8.2 billion in the paper.
    "S069": (Row("mPLUG-Owl2-7B", ((image(50), 64 + 1),), MHA_7B, 8.2e9, 5e-3),),
    "S070": (Row("Honeybee-C-7B", ((image(50), 144),), MHA_7B, LLAMA_7B + CLIP_L_336, 0.01),),
    # MobileLLaMA, CLIP, two matrices, a depthwise 3 x 3 convolution over 12 x 12.
    "S071": (
        Row("MobileVLM-V2-1.7B", ((image(50), 12**2),), 2 * 24 * 2048 * 2,
            gated(2048, 5632, 24, 2048, 32000) + CLIP_L_336 + matrix(1024, 2048) + matrix(2048, 2048) + 10 * 2048),
    ),
    # MPT-7B with 8 layers of cross-attention, each with a feed-forward of its own, and a resampler of 6.
    "S072": (
        Row("OpenFlamingo-9B", ((image(50), 64),), MHA_7B,
            6_649_286_656 + CLIP_L_224 + 8 * CROSS_MPT + 6 * LATENT_LAYER, 2e-3),
    ),
    "S073": (Row("IDEFICS-9B", ((image(50), 64),), MHA_7B, 8.93e9, 1e-3),),
    "S075": (Row("Qwen3-30B-A3B", (), 2 * 48 * 4 * 128 * 2, 30_532_122_624),),
    "S076": (
        Row("Video-LLaMA-7B", ((clip(8), 32), (clip(64), 32)), MHA_7B,
            LLAMA_7B + EVA_G_224 + QFORMER + VIDEO_QFORMER + matrix(768, 4096), 1e-4),
    ),
    # Four frames become 14 x 14 tokens: a fourth of 27 x 27 and of the frames.
    "S077": (Row({"model_type": "video_xl_2"}, ((clip(48), 12 * 196), (clip(96), 24 * 196))),),
    "S078": (
        Row("StreamingVLM", ((clip(16), 8 * 256), (clip(64), 32 * 256)), 57_344, 8_292_166_656),
        Row("TimeChat-Online-7B", ((clip(16), 8 * 256),), 57_344, 8_292_166_656),
        Row("LLaVA-OneVision-7B", ((clip(16), 16 * 196 + 1),)),  # StreamingTOM trains no weights of its own
    ),
    "S079": (Row("VideoNSA", ((clip(16), 8 * 256), (clip(64), 32 * 256)), 57_344, 8_292_166_656),),
    # Means over space and over time of 224 / 14.
    "S080": (Row({"model_type": "VideoChatGPT"}, ((clip(100), 100 + 256), (clip(50), 50 + 256))),),
    # 32 queries and 64 further ones.
    "S081": (Row("VideoChat-7B", ((clip(8), 96), (clip(64), 96)), MHA_7B,
                 LLAMA_7B + EVA_G_224 + QFORMER + matrix(768, 4096), 1e-4),),
    # A frame has a fourth of an image's tokens; no more than 16,384 in all.
    "S082": (Row("VideoLLaMA3-7B", ((image(448), 32**2), (clip(16), 16 * 16**2), (clip(64), 64 * 16**2)),
                 2 * 28 * 4 * 128 * 2, 8.04e9, 1e-3),),
    "S083": (Row({"model_type": "slowfast_llava"}, ((clip(50), 10 * 288 + 50 * 16), (clip(100), 10 * 288 + 100 * 16))),),
    "S084": (Row({"model_type": "videochat_flash_qwen"}, ((clip(100), 1600), (clip(50), 13 * 64))),),
    "S085": (Row({"model_type": "moviechat"}, ((clip(100), 32), (clip(10_000), 32))),),
    "S086": (Row("LongVA-7B", ((clip(10), 10 * 12**2), (clip(2000), 2000 * 144)), 2 * 28 * 4 * 128 * 2,
                 QWEN2_7B + CLIP_L_336 + matrix(1024, 3584) + matrix(3584, 3584)),),
    # 27 x 27 patches become 14 x 14, as 2 x 2 of them are joined.
    "S087": (Row(LONGVILA, ((clip(8), 8 * 196), (clip(256), 256 * 196)), 2 * 32 * 8 * 128 * 2),),
    "S088": (Row({"model_type": "longvlm"}, ((clip(100), 10 * 30 + 5), (clip(200), 305))),),
    # An upper bound: 12 x 12 of every frame that is kept.
    "S089": (Row(LONGVU, ((clip(10), 10 * 144), (clip(20), 20 * 144)), 2 * 28 * 4 * 128 * 2),),
    "S090": (Row({"model_type": "dynamic_vlm"}, ((clip(10), 10 * 576), (clip(64), 64 * 256))),),
}  # fmt: skip


@pytest.mark.parametrize("row", MODELS)
def test_row(row: str) -> None:
    for model, items, kv, params, within in MODELS[row]:
        name = model if isinstance(model, str) else model["model_type"]
        for item, expected in items:
            assert tokens(model, item) == [expected], (name, item)
        if kv is not None:
            assert kv_bytes_per_token(spec(model).language, 2) == kv, name
        if params is not None:
            assert spec(model).params.total == pytest.approx(params, rel=within), name


LAWS: dict[str, tuple[Model, int, str]] = {
    "S076": ("Video-LLaMA-7B", 16, "fixed"), "S077": ({"model_type": "video_xl_2"}, 16, "linear"),
    "S078": ("StreamingVLM", 16, "linear"), "S079": ("VideoNSA", 16, "linear"),
    "S080": ({"model_type": "VideoChatGPT"}, 50, "linear"), "S081": ("VideoChat-7B", 16, "fixed"),
    "S082": ("VideoLLaMA3-7B", 32, "sub-linear"), "S083": ({"model_type": "slowfast_llava"}, 50, "linear"),
    "S084": ({"model_type": "videochat_flash_qwen"}, 16, "linear"), "S085": ({"model_type": "moviechat"}, 16, "fixed"),
    "S086": ("LongVA-7B", 16, "linear"), "S087": (LONGVILA, 16, "linear"),
    "S088": ({"model_type": "longvlm"}, 50, "fixed"), "S089": (LONGVU, 16, "linear"),
    "S090": ({"model_type": "dynamic_vlm"}, 16, "sub-linear"),
}  # fmt: skip


@pytest.mark.parametrize("row", LAWS)
def test_the_law_of_clips_of_three_lengths(row: str) -> None:
    model, frames, law = LAWS[row]
    assert growth(model, frames) == law
    (grid,) = count(model, clip(frames)).items[0][1].grids
    assert frames in (grid.count, 2 * grid.count), "what the encoder runs on is recorded"
