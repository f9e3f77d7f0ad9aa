"""The rows S091 to S137 of the checklist of systems: encoders, adapters, token mechanisms, audio and backbones.

One case a row, named by its id, against arithmetic shown here. `LATER` names the rows S040 to S137 that the cost model
cannot answer, with the reason each; the last test sees that every row is in one of the tables.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from seed_rows import (
    CLIP_L_224,
    EVA_G_224,
    HALF,
    Check,
    clip,
    count,
    files,
    image,
    matrix,
    sound,
    spec,
    tokens,
    transformer,
)
from test_seed_rows_models import MODELS

from vtprof_analyzer.cost.estimate import Workload, estimate
from vtprof_analyzer.cost.kv import cross_bytes_per_token, kv_bytes_per_token, kv_fixed_bytes, request_cache
from vtprof_analyzer.cost.metrics import visual_share
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.models.spec import Tower
from vtprof_analyzer.models.tokens.audio import f5_tokens
from vtprof_analyzer.models.tokens.audio_output import (
    CODECS,
    SPEAKERS,
    claims_tpot,
    decode_steps,
    output_times,
)
from vtprof_analyzer.models.tokens.count import Item, count_items
from vtprof_analyzer.models.tokens.patches import patch_grid, video_tokens
from vtprof_analyzer.models.tokens.tiling import tiles_and_thumbnail
from vtprof_analyzer.models.weights import quantization

LATER = {
    "S074": "closed models: no config and no tokenizer is published; the report's client-side metrics belong to the traces",
    "S135": "names of sparse kernels belong to the reading of kernel traces",
    "S137": "names of fused kernels belong to the reading of kernel traces",
}
"""Row to why it is not tested here."""
VICUNA: dict[str, Any] = {
    "model_type": "llava_llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
}  # fmt: skip
MLP_PARAMS = matrix(1024, 4096) + matrix(4096, 4096)
CHECKS: dict[str, Callable[[], None]] = {}


def row(name: str) -> Callable[[Check], Check]:
    def known(check: Check) -> Check:
        CHECKS[name] = check
        return check

    return known


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
    given = files("LLaVA-1.5-7B")
    full = {"vision_feature_select_strategy": "full"}
    whole = dataclasses.replace(
        given, config={**(given.config or {}), **full}, processor={**(given.processor or {}), **full}
    )
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
    with pytest.raises(Exception, match="sizes are not known"):
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
    given = dataclasses.replace(
        files("Qwen2-VL-7B"), preprocessor={"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 100}
    )
    assert [count_items(given, [image(side)]).tokens for side in (10, 280, 3000)] == [4, 100, 100]


@row("S116")
def _() -> None:
    given = files("InternVL3.5-8B")
    routed = dataclasses.replace(given, processor={**(given.processor or {}), "image_seq_length": 64})
    plain, few = (count_items(of, [image(448)]).items[0][1] for of in (given, routed))
    mixed = (plain, plain, plain, few)
    average = sum(item.tokens for item in mixed) / sum(item.patches for item in mixed)
    assert average == (3 * 256 + 64) / (4 * 1024)


@row("S117")
def _() -> None:
    assert [video_tokens(60, rate, 256) for rate in (1, 0.5, 0.25)] == [15_360, 7_680, 3_840]


@row("S118")
def _() -> None:
    assert video_tokens(60, 1, 64) == 3_840


# Audio


@row("S119")
def _() -> None:
    assert tokens("whisper-large-v3", sound(30)) == [50 * 30]
    assert f5_tokens(10.0, padded_seconds=30.0) == (500, 1500)
    # Qwen2-Audio pads to 30 s, Qwen2.5-Omni runs what is there.
    padded, exact = (
        [encode_flops(name, sound(seconds)) for seconds in (3, 30)]
        for name in ("Qwen2-Audio-7B", "Qwen2.5-Omni-7B")
    )
    assert padded[0] == pytest.approx(padded[1], rel=0.01)
    assert exact[0] == pytest.approx(exact[1] / 10, rel=0.01)


@row("S120")
def _() -> None:
    assert tokens("Qwen2-Audio-7B", sound(30)) == [30 * 50 // 2]
    assert kv_bytes_per_token(spec("Qwen2-Audio-7B").language, 2) == 2 * 32 * 32 * 128 * 2
    # The first one: two learned vectors at the ends.
    first = {**VICUNA, "model_type": "qwen", "audio": {"n_mels": 80}}
    assert tokens(first, sound(30)) == [750 + 2]
    work = count("Qwen2.5-Omni-7B", sound(10), image(448))
    request = Workload(100, work.of("image"), work.of("audio"))
    assert (request.text_tokens, request.visual_tokens, request.audio_tokens) == (100, 256, 250)


@row("S121")
def _() -> None:
    # Strides 5 and 2^6: 320 samples of 16 kHz are 50 a second, less what the last window lacks.
    assert 16_000 / (5 * 2**6) == 50
    assert tokens({"model_type": "hubert"}, sound(1), sound(30)) == [49, 1499]


@row("S122")
def _() -> None:
    assert tokens({"model_type": "wav2vec2"}, sound(1), sound(30)) == [49, 1499]
    # Frames of 25 ms every 10 ms, two stacked.
    assert tokens({"model_type": "wav2vec2-bert"}, sound(1)) == [math.ceil((1 + (16_000 - 400) // 160) / 2)]


@row("S123")
def _() -> None:
    assert CODECS["encodec_24khz_6kbps"].tokens(2.0) == 2 * 75 * 8
    times = output_times(0.0, (0.5, 0.6, 0.7), (0.9, 1.1, 1.3), "sequential")
    assert times.text_tpot_seconds == pytest.approx(0.1)
    assert times.audio_tpot_seconds == pytest.approx(0.2)


@row("S124")
def _() -> None:
    for name in ("soundstorm", "bark"):
        assert not claims_tpot(SPEAKERS[name].mode)
        assert output_times(0.0, (0.1, 0.2), (0.3, 0.4), SPEAKERS[name].mode).audio_tpot_seconds is None
    codec = CODECS["soundstream_50hz"]
    assert decode_steps("parallel", codec, 30.0, 27) == 27


@row("S125")
def _() -> None:
    assert decode_steps(SPEAKERS["moshi"].mode, CODECS["mimi"], 8.0) == 8 * 12.5
    times = output_times(1.0, (1.2, 1.4), (1.5, 1.7), SPEAKERS["mini-omni"].mode)
    assert (times.first_text_seconds, times.first_audio_seconds) == (pytest.approx(0.2), pytest.approx(0.5))
    assert not claims_tpot(SPEAKERS["gpt-4o-voice"].mode)


# Backbones: KV bytes a token that grow with it, and of a full window

KV = {
    "S126": (("Llama-3-8B", 2 * 32 * 8 * 128 * 2, 0), ("Llama-3-70B", 2 * 80 * 8 * 128 * 2, 0)),
    "S127": (("Qwen2.5-7B", 2 * 28 * 4 * 128 * 2, 0), ("Qwen2.5-0.5B", 2 * 24 * 2 * 64 * 2, 0),
             ("Qwen3-8B", 2 * 36 * 8 * 128 * 2, 0)),
    "S128": (("Mistral-7B", 0, 4096 * 2 * 32 * 8 * 128 * 2), ("Mixtral-8x7B", 2 * 32 * 8 * 128 * 2, 0)),
    "S129": (("InternLM2-7B", 2 * 32 * 8 * 128 * 2, 0),),
    "S130": (("Phi-2", 2 * 32 * 32 * 80 * 2, 0), ("Phi-3-mini-4k", 0, 2047 * 2 * 32 * 32 * 96 * 2),
             ("Phi-4-multimodal", 2 * 32 * 8 * 128 * 2, 0)),
    # One head of 256; then 8 of 256, where 3584 / 16 = 224 would be too little, half of the layers with a window.
    "S131": (("Gemma-2B", 2 * 18 * 1 * 256 * 2, 0), ("Gemma-2-9B", 2 * 21 * 8 * 256 * 2, 4096 * 2 * 21 * 8 * 256 * 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", KV)
def test_kv_row(name: str) -> None:
    for model, growing, window in KV[name]:
        language = spec(model).language
        assert (kv_bytes_per_token(language, 2), kv_fixed_bytes(language, 2)) == (growing, window), model


@row("S132")
def _() -> None:
    # Heads of queries over heads of keys: MHA, GQA, MQA.
    for name, intensity in (("LLaVA-1.5-7B", 1), ("Llama-3-70B", 8), ("Gemma-2B", 8), ("Qwen2.5-7B", 7)):
        decode = estimate(spec(name), HALF, Workload(1, context_tokens=100_000)).decode
        assert decode.flops_attention[0] / decode.bytes_kv_read[0] == pytest.approx(intensity, rel=1e-3)
    assert spec("Gemma-2B").language.groups[0].attention.query_heads == 8


@row("S133")
def _() -> None:
    model = spec("Mixtral-8x7B")
    # Eight experts of three matrices of 4096 x 14336; two for a token.
    assert model.params.total - model.params.active == 32 * 6 * 3 * 4096 * 14336
    read = [
        float(estimate(model, HALF, Workload(1, batch=batch)).decode.bytes_weights[0])
        for batch in (1, 2, 4, 16, 64, 256)
    ]
    assert read == sorted(read)
    expert = 32 * 3 * 4096 * 14336 * 2
    assert read[1] - read[0] == pytest.approx((8 * (1 - 0.75**2) - 2) * expert)
    assert read[-1] - read[0] == pytest.approx(6 * expert)


@row("S134")
def _() -> None:
    language = spec("Qwen3-Next-80B-A3B").language
    short, long = (request_cache(language, 2, length).bytes for length in (10_000, 20_000))
    assert long - short == 10_000 * 2 * 12 * 2 * 256 * 2, "12 of 48 layers, two heads of 256"
    assert kv_fixed_bytes(language, 2) > 0, "the others' states"


@row("S136")
def _() -> None:
    model = spec("Llama-3-8B")

    def intensity(weights: float) -> float:
        return float(estimate(model, Precision(weights, 2.0, 2.0), Workload(1)).decode.intensity[0])

    assert [intensity(2 / 2**halved) / intensity(2.0) for halved in (1, 2)] == pytest.approx([2, 4], rel=0.02)
    # 4 bits with a 16-bit scale and a 4-bit zero point for 128 weights.
    packed = quantization({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True})
    assert packed is not None
    assert packed.bytes_per_param == (4 + (16 + 4) / 128) / 8
    for value_bytes in (2.0, 1.0, 0.5, 0.25, 1.58 / 8, 0.125):
        assert kv_bytes_per_token(model.language, value_bytes) == pytest.approx(
            2 * 32 * 8 * 128 * value_bytes
        )

    def encode_seconds(weights: float) -> float:
        counted = count("Qwen2.5-VL-7B", image(1024)).of("image")
        cost = estimate(spec("Qwen2.5-VL-7B"), Precision(weights, 2.0, 2.0), Workload(1, counted)).encode
        return max(float(cost.flops[0]) / 312e12, float(cost.bytes[0]) / 2039e9)

    assert encode_seconds(0.5) == encode_seconds(2.0), "an encoder on the compute roof gains nothing"


@pytest.mark.parametrize("name", CHECKS)
def test_row(name: str) -> None:
    CHECKS[name]()


def test_every_row_is_tested_or_named_as_later() -> None:
    tables = (set(MODELS), set(CHECKS), set(KV), set(LATER))
    every = {f"S{number:03d}" for number in range(40, 138)}
    assert set().union(*tables) == every
    assert sum(len(table) for table in tables) == len(every), "no row stands in two tables"
