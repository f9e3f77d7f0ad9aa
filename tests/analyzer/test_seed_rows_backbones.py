"""The rows S119 to S137 of the checklist of systems, audio and backbones, by hand; and that none from S040 on is forgotten.

One case a row, named by its id. Not answered by the cost model: S074, of closed models nothing is published to count by;
S135 and S137, which are about kernel names in traces.
"""

import math

import pytest
from seed_rows import (
    HALF,
    checks,
    count,
    image,
    sound,
    spec,
    tokens,
)
from test_seed_rows_models import MODELS
from test_seed_rows_parts import CHECKS as PARTS
from test_seed_rows_parts import VICUNA, encode_flops

from vtprof_analyzer.cost.estimate import Workload, estimate
from vtprof_analyzer.cost.kv import kv_bytes_per_token, kv_fixed_bytes, request_cache
from vtprof_analyzer.cost.work import Precision
from vtprof_analyzer.models.tokens.audio import f5_tokens
from vtprof_analyzer.models.tokens.audio_output import (
    CODECS,
    SPEAKERS,
    claims_tpot,
    decode_steps,
    output_times,
)
from vtprof_analyzer.models.weights import quantization

LATER = {
    "S074": "closed models: no config and no tokenizer is published; the report's client-side metrics belong to the traces",
    "S135": "names of sparse kernels belong to the reading of kernel traces",
    "S137": "names of fused kernels belong to the reading of kernel traces",
}
"""Row to why it is not tested here."""
CHECKS, row = checks()


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
    assert times.first_text_seconds == pytest.approx(0.2)
    assert times.first_audio_seconds == pytest.approx(0.5)
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
    tables = (set(MODELS), set(PARTS), set(CHECKS), set(KV), set(LATER))
    every = {f"S{number:03d}" for number in range(40, 138)}
    assert set().union(*tables) == every
    assert sum(len(table) for table in tables) == len(every), "no row stands in two tables"
