"""What the model rows S042 to S089 of the checklist ask beside token counts, KV bytes and parameters; one case a row."""

import pytest
from seed_rows import HALF, changed, checks, clip, count, image, spec, tokens
from test_seed_rows_models import LONGVU, PLORA, cambrian

from vtprof_analyzer.cost.estimate import Workload, estimate, sequence_tokens
from vtprof_analyzer.cost.kv import cross_bytes_per_token, kv_bytes_per_token, request_cache
from vtprof_analyzer.models.bundled import find_bundled
from vtprof_analyzer.models.tokens.count import count_items

CHECKS, row = checks()


@row("S042")
def _() -> None:
    # 20 images in decimal gigabytes.
    assert request_cache(spec("Qwen2.5-VL-72B").language, 2, 40_000, 40_000).bytes == pytest.approx(
        13.1e9, rel=1e-3
    )


@row("S043")
def _() -> None:
    language = spec("Qwen3-VL-32B").language
    assert kv_bytes_per_token(language, 2) == 2 * 64 * 8 * 128 * 2
    assert 5120 * 8 // 64 == 640 != 8 * 128, "D * r would be too little"


@row("S044")
def _() -> None:
    model = spec("Qwen3.5-35B-A3B")
    # A layer has 256 experts of three matrices of 2048 x 512; a token goes to 8.
    idle = 40 * (256 - 8) * 3 * 2048 * 512
    assert model.params.total - model.params.active == idle
    assert model.language.active_params - model.language.embedding_params == pytest.approx(3e9, rel=0.05)
    longer = request_cache(model.language, 2, 2000).bytes - request_cache(model.language, 2, 1000).bytes
    assert longer == 1000 * 2 * 10 * 2 * 256 * 2, "ten full layers of two heads"


@row("S046")
def _() -> None:
    by_shape = [
        tokens("LLaVA-NeXT-Mistral-7B", image(*size))[0] for size in ((672, 672), (336, 1000), (600, 300))
    ]
    assert len(set(by_shape)) == 3, "tokens vary with the aspect ratio"


@row("S047")
def _() -> None:
    for down, across in ((1, 2), (2, 2), (2, 3), (3, 3)):
        (counted,) = tokens("LLaVA-OneVision-7B", image(384 * down, 384 * across))
        assert counted == (down * across + 1) * 729 + 27 * down, "a newline behind each row"


@row("S049")
def _() -> None:
    routed = changed("InternVL3.5-8B", processor={"image_seq_length": 64})
    (_, few), (_, many) = *count_items(routed, [image(448)]).items, *count("InternVL3.5-8B", image(448)).items
    assert (few.patches / few.tokens, many.patches / many.tokens) == (16, 4)


@row("S050")
def _() -> None:
    model = spec("Llama-3.2-11B-Vision")
    (_, seen), *_ = count("Llama-3.2-11B-Vision", image(560)).items
    # Of the image only its tag stands in the sequence.
    assert sequence_tokens(model, Workload(100, (seen,))) == 101
    cache = request_cache(model.language, 2, 100, 1601)
    assert cache.visual_bytes == 1601 * 2 * 8 * 8 * 128 * 2
    assert cache.bytes == 100 * 2 * 32 * 8 * 128 * 2 + cache.visual_bytes


@row("S051")
def _() -> None:
    assert request_cache(spec("Llama-3-70B").language, 2, 30_000).bytes == pytest.approx(9.83e9, rel=1e-3)


@row("S052")
def _() -> None:
    # Active parameters of the language models in the paper: 0.57, 2.4 and 4.1 billion, embedding not counted.
    for name, active in (
        ("DeepSeek-VL2-tiny", 0.57e9),
        ("DeepSeek-VL2-small", 2.4e9),
        ("DeepSeek-VL2", 4.1e9),
    ):
        language = spec(name).language
        assert language.active_params - language.embedding_params == pytest.approx(active, rel=0.03)
    prefill = estimate(spec("DeepSeek-VL2"), HALF, Workload(1000)).prefill
    linear = float((prefill.flops - prefill.flops_attention)[0])
    # The head, 129,280 x 2560, runs for the last position alone.
    assert linear == pytest.approx(2 * 1000 * (4.1e9 - 129_280 * 2560), rel=0.03)


@row("S053")
def _() -> None:
    (_, counted), *_ = count("NVILA-8B", image(448)).items
    assert counted.patches == (9 + 4 + 1) * 32**2, "tiles of all three scales are encoded"
    assert counted.tokens / counted.patches < 0.2


@row("S054")
def _() -> None:
    language = spec("Gemma-3-4B").language
    # 34 layers, every sixth of them full; 4 heads of 256.
    layer = 2 * 4 * 256 * 2
    for length in (500, 1024, 30_000):
        assert request_cache(language, 2, length).bytes == layer * (5 * length + 29 * min(length, 1024))


@row("S055")
def _() -> None:
    # Squares of cells within the limit.
    for limit, side in ((70, 8), (140, 11), (280, 16), (560, 23), (1120, 33)):
        counted = count_items(changed("Gemma-4-E2B", preprocessor={"max_soft_tokens": limit}), [image(1024)])
        assert counted.tokens == side**2


@row("S056")
def _() -> None:
    model = spec("PaliGemma-3B-224")
    (_, counted), *_ = count("PaliGemma-3B-224", image(500)).items
    attention = estimate(model, HALF, Workload(20, (counted,))).prefill.flops_attention[0]
    assert attention == 18 * 4 * 8 * 256 * (256 + 20) ** 2


@row("S057")
def _() -> None:
    (_, counted), *_ = count("SmolVLM-256M", image(512)).items
    cost = estimate(spec("SmolVLM-256M"), HALF, Workload(32, (counted,)))
    # 17 tiles of 1024 patches through 12 layers of 12 x 768^2 weights.
    assert cost.encode.flops[0] > 2 * 17 * 1024 * 12 * 12 * 768**2
    assert cost.encode.flops[0] > 10 * cost.prefill.flops[0]


@row("S059")
def _() -> None:
    found = find_bundled("apple/FastVLM-0.5B")
    assert found is not None
    assert found.ids == ("apple/FastVLM-0.5B",)
    assert find_bundled("FastVLM") is None, "of two systems of this name none is guessed"
    assert not spec("FastVLM-0.5B").encoder_flops_known


@row("S060")
def _() -> None:
    (group,) = spec("CogVLM2-19B").language.groups
    attention, feed_forward = 4096 * (4096 + 2 * 8 * 128) + 4096**2, 3 * 4096 * 14336
    assert group.visual_linear_params == group.linear_params == attention + feed_forward


@row("S061")
def _() -> None:
    names = ("siglip/CLIP-ViT-SO400M-14-384", "openai/clip-vit-large-patch14-336")
    one, both = spec(cambrian(names[0])), spec(cambrian(*names))
    assert len(both.extra_towers) == 1
    (_, counted), *_ = count(cambrian(*names), image(500)).items
    work = Workload(10, (counted,))
    added = estimate(both, HALF, work).encode.flops[0] - estimate(one, HALF, work).encode.flops[0]
    # CLIP up to its last layer but one, on 577 positions.
    towers = 23 * (2 * 577 * 12 * 1024**2 + 4 * 577**2 * 1024) + 2 * 576 * 3 * 14**2 * 1024
    assert added == pytest.approx(towers, rel=1e-3)


@row("S062")
def _() -> None:
    assert count("Yi-VL-6B", image(448)).notes == (), (
        "config.json of this form says all: no other model's file stands in"
    )


@row("S063")
def _() -> None:
    (group,) = spec("InternLM-XComposer2-VL-7B").language.groups
    assert group.visual_linear_params == PLORA


@row("S066")
def _() -> None:
    assert any("cannot be shared" in note for note in spec("InstructBLIP-Vicuna-7B").notes)


@row("S072")
def _() -> None:
    # 8 layers, 8 heads of 64.
    assert cross_bytes_per_token(spec("OpenFlamingo-9B").language, 2) == 8 * 2 * 8 * 64 * 2


@row("S073")
def _() -> None:
    # Before every fourth of 32 layers, 32 heads of 128.
    assert cross_bytes_per_token(spec("IDEFICS-9B").language, 2) == 8 * 2 * 32 * 128 * 2


@row("S075")
def _() -> None:
    model = spec("Qwen3-30B-A3B")
    expert = 3 * 2048 * 768 * 2

    def read(batch: int) -> float:
        decode = estimate(model, HALF, Workload(1, context_tokens=1000, batch=batch)).decode
        return float(decode.bytes_weights[0])

    # 128 experts of which a token goes to 8: at batch 1 eight, at batch n 128 (1 - (15/16)^n).
    for batch in (2, 16, 128):
        touched = 128 * (1 - (15 / 16) ** batch)
        assert read(batch) - read(1) == pytest.approx(48 * (touched - 8) * expert)
    assert read(512) - read(256) < 0.001 * read(256), "levels off at all of them"
    prefill = estimate(model, HALF, Workload(1000)).prefill.bytes_weights[0]
    assert prefill == pytest.approx(read(1) + 48 * 120 * expert), "a long prompt touches all"


@row("S077")
def _() -> None:
    assert any("assumed" in note for note in count({"model_type": "video_xl_2"}, clip(16)).notes)


@row("S089")
def _() -> None:
    assert any("upper bound" in note for note in count(LONGVU, clip(16)).notes)


@pytest.mark.parametrize("name", CHECKS)
def test_row(name: str) -> None:
    CHECKS[name]()
