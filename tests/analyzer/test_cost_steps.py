"""Costs of steps against arithmetic shown here, the golden rows, and laws that every model obeys."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_configs import QWEN2_5_VL_7B, QWEN2_5_VL_72B, QWEN2_VL_7B

from vtprof_analyzer.cost.kv import kv_bytes_per_token, kv_fixed_bytes
from vtprof_analyzer.cost.parallel import Parallel
from vtprof_analyzer.cost.parts import PartCost, StepCosts
from vtprof_analyzer.cost.steps import step_costs
from vtprof_analyzer.cost.times import split_seconds
from vtprof_analyzer.cost.work import Precision, StepWork
from vtprof_analyzer.devices.roofs import ATTAINABLE, Roof
from vtprof_analyzer.models.registry import load_spec

BF16 = Precision(2.0, 2.0, 2.0)
SMALL, LARGE, OLD = load_spec(QWEN2_5_VL_7B), load_spec(QWEN2_5_VL_72B), load_spec(QWEN2_VL_7B)
A100 = Roof(ATTAINABLE, 312e12, 2039e9, "bfloat16", "test")
PARTS = ("encode", "prefill", "decode")
PREFILL_GEMM_7B = 28 * (3584 * (2 * 3584 + 2 * 512) + 3 * 3584 * 18944)


def prompt(new: int, cached: int = 0) -> int:
    """Return causal pairs of ``new`` tokens after ``cached`` ones."""
    return new * cached + new * (new + 1) // 2


def costs(spec: Any = SMALL, **columns: Any) -> StepCosts:
    return step_costs(spec, StepWork.of(**columns), BF16)


def test_kv_bytes_golden_g164_to_g168() -> None:
    large, small = kv_bytes_per_token(LARGE.language, 2.0), kv_bytes_per_token(SMALL.language, 2.0)
    assert large == 327_680
    assert (large * 40_000 / 1e9, large * 50_000 / 1e9) == (13.1072, 16.384)
    assert small == 57_344
    assert small * 30_000 / 1e9 == 1.72032


def test_kv_heads_are_replicated_when_ranks_outnumber_them() -> None:
    assert kv_bytes_per_token(SMALL.language, 2.0, tensor_parallel=4) == 57_344
    assert kv_bytes_per_token(SMALL.language, 2.0, tensor_parallel=8) == 2 * 57_344
    work = StepWork.of(decode_requests=1, decode_context_tokens=100)
    doubled = step_costs(SMALL, work, BF16, parallel=Parallel(tensor=8)).decode
    assert doubled.bytes_kv_read[0] == 2 * 100 * 57_344


def test_length_at_which_attention_equals_gemm_g173_g174() -> None:
    for spec, tokens in ((SMALL, 65_024), (LARGE, 107_136)):
        part = costs(
            spec, prefill_requests=1, prefill_tokens=tokens, prefill_attention_pairs=tokens**2 / 2
        ).prefill
        gemm = 2.0 * spec.language.linear_params * tokens
        assert part.flops_attention[0] == pytest.approx(gemm, rel=1e-3)


def test_attention_and_gemm_time_of_a_long_prompt_g170_to_g172() -> None:
    n = 40_000
    part = costs(LARGE, prefill_requests=1, prefill_tokens=n, prefill_attention_pairs=n**2 / 2).prefill
    assert part.flops_attention[0] / A100.peak_flops_per_s == pytest.approx(6.722, abs=0.01)
    assert 2.0 * LARGE.language.linear_params * n / A100.peak_flops_per_s == pytest.approx(18.0, abs=0.05)
    assert part.bytes_kv_written[0] / A100.bandwidth_bytes_per_s * 1e3 == pytest.approx(6.43, abs=0.01)


def test_decode_of_the_large_model_g175_g176() -> None:
    part = costs(LARGE, decode_requests=1, decode_context_tokens=40_000).decode
    share = part.bytes_kv_read[0] / (part.bytes_kv_read[0] + part.bytes_weights[0])
    assert share * 100 == pytest.approx(8.3, abs=0.5)
    # The golden row divides all 72.7e9 parameters; an iteration does not read the embedding table.
    assert part.bytes_weights[0] / part.bytes_kv_read[0] == pytest.approx(11.1, rel=0.03)


def test_decode_attention_intensity_g177_g178() -> None:
    for spec, intensity in ((LARGE, 8.0), (SMALL, 7.0)):
        part = costs(spec, decode_requests=1, decode_context_tokens=1_000_000).decode
        assert part.flops_attention[0] / part.bytes_kv_read[0] == pytest.approx(intensity, rel=1e-5)


def test_decode_intensity_of_weights_alone_is_one_at_batch_one_g006() -> None:
    part = costs(decode_requests=1).decode
    # Biases and norms are read without a GEMM: a few in a million.
    assert (part.flops - part.flops_attention)[0] / part.bytes_weights[0] == pytest.approx(1.0, rel=1e-4)


def test_prefill_of_one_prompt_by_hand() -> None:
    n = 350
    part = costs(
        prefill_requests=1, prefill_tokens=n, prefill_attention_pairs=prompt(n),
        prefill_visual_tokens=200, prefill_visual_attention_pairs=30_000,
    ).prefill  # fmt: skip
    attention = 4 * 28 * 3584 * prompt(n)
    assert part.flops_attention[0] == attention
    assert part.flops[0] == 2 * PREFILL_GEMM_7B * n + attention + 2 * 3584 * 152_064
    assert part.flops_visual[0] == pytest.approx(2 * PREFILL_GEMM_7B * 200 + 4 * 28 * 3584 * 30_000)
    assert part.bytes_kv_written[0] == n * 57_344
    assert part.bytes_kv_read[0] == pytest.approx(n * 57_344)
    # All parameters but the tower and the embedding table.
    assert part.bytes_weights[0] == 2 * (SMALL.params.language - 3584 * 152_064)


def test_a_cached_prefix_is_read_and_not_written() -> None:
    part = costs(
        prefill_requests=1, prefill_tokens=64, prefill_attention_pairs=prompt(64, cached=1000)
    ).prefill
    assert part.bytes_kv_read[0] == pytest.approx((1000 + 64) * 57_344)
    assert part.bytes_kv_written[0] == 64 * 57_344


def test_full_attention_counts_the_masked_half() -> None:
    work = StepWork.of(
        prefill_requests=[1, 3],
        prefill_tokens=[100, 300],
        prefill_attention_pairs=[prompt(100), 3 * prompt(100)],
    )
    part = step_costs(SMALL, work, BF16, full_attention=True).prefill
    np.testing.assert_allclose(part.flops_attention, [4 * 28 * 3584 * 100**2, 3 * 4 * 28 * 3584 * 100**2])


def test_decode_of_a_window_reads_weights_once_per_iteration() -> None:
    part = costs(
        count=10, decode_requests=40, decode_context_tokens=40 * 1000, decode_visual_tokens=40 * 600
    ).decode
    assert part.bytes_weights[0] == 10 * 2 * (SMALL.params.language - 3584 * 152_064)
    assert part.bytes_kv_read[0] == 40_000 * 57_344
    assert part.bytes_kv_visual[0] == pytest.approx(24_000 * 57_344)
    assert part.bytes_kv_written[0] == 40 * 57_344
    assert part.flops[0] == 2 * (PREFILL_GEMM_7B + 3584 * 152_064) * 40 + 4 * 28 * 3584 * (40_000 + 40)


def test_weights_of_a_mixed_step_are_split_by_tokens() -> None:
    mixed = costs(
        prefill_requests=1, prefill_tokens=300, prefill_attention_pairs=prompt(300), decode_requests=100
    )
    assert mixed.prefill.bytes_weights[0] == pytest.approx(3 * mixed.decode.bytes_weights[0])


def test_windowed_tower_layers_see_a_window_and_never_more_than_the_image() -> None:
    width = 1280
    big = costs(encode_items=1, encode_patches=4096, encode_attention_pairs=4096**2).encode
    assert big.flops_attention[0] == 4 * width * (4 * 4096**2 + 28 * 4096 * 64)
    tiny = costs(encode_items=1, encode_patches=16, encode_attention_pairs=16**2).encode
    assert tiny.flops_attention[0] == 4 * width * 32 * 16**2
    old = costs(OLD, encode_items=1, encode_patches=4096, encode_attention_pairs=4096**2).encode
    assert old.flops_attention[0] == 4 * width * 32 * 4096**2


def test_tower_weights_are_read_once_by_a_step_that_encodes() -> None:
    part = costs(encode_items=[0, 3], encode_patches=[0, 300], encode_attention_pairs=[0, 30_000]).encode
    np.testing.assert_array_equal(part.bytes_weights, [0, 2 * SMALL.params.vision])


def test_sliding_layers_read_and_keep_a_window() -> None:
    spec = load_spec(
        QWEN2_5_VL_7B | {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 20}
    )
    layer = 2 * 4 * 128 * 2
    part = costs(spec, decode_requests=2, decode_context_tokens=2 * 4000).decode
    assert part.bytes_kv_read[0] == layer * (20 * 8000 + 8 * 2 * 512)
    assert kv_bytes_per_token(spec.language, 2.0) == 20 * layer
    assert kv_fixed_bytes(spec.language, 2.0) == 8 * layer * 512
    prefill = costs(
        spec, prefill_requests=1, prefill_tokens=4000, prefill_attention_pairs=prompt(4000)
    ).prefill
    # The first 512 tokens see what is there, the others 512 each.
    assert prefill.flops_attention[0] == 4 * 3584 * (20 * prompt(4000) + 8 * (prompt(512) + 3488 * 512))


def test_floor_is_the_sum_of_maxima() -> None:
    both = costs(
        prefill_requests=[1, 0], prefill_tokens=[4096, 0], prefill_attention_pairs=[prompt(4096), 0],
        decode_requests=[0, 1], decode_context_tokens=[0, 1000],
    )  # fmt: skip
    compute, memory = both.floor_seconds(A100)
    assert compute == pytest.approx(both.prefill.flops[0] / 312e12)
    assert memory == pytest.approx(both.decode.bytes[1] / 2039e9)
    assert compute + memory > max(
        (both.prefill.flops.sum() + both.decode.flops.sum()) / 312e12,
        (both.prefill.bytes.sum() + both.decode.bytes.sum()) / 2039e9,
    )


def test_precision_of_names() -> None:
    assert Precision.of("bfloat16", "auto") == BF16
    assert Precision.of("fp8", "fp8_e4m3") == Precision(1.0, 1.0, 2.0)
    assert Precision.of("float32") == Precision(4.0, 4.0, 4.0)
    assert Precision.of(None) is None
    assert Precision.of("bfloat16", "mystery") is None


def test_broken_columns_cost_nothing_and_unknown_ones_are_a_bug() -> None:
    part = costs(decode_requests=[float("nan"), -3.0, 2.0]).decode
    assert part.flops[0] == part.flops[1] == part.bytes[0] == 0
    assert np.isnan(part.intensity[0])
    with pytest.raises(TypeError, match="prefil_tokens"):
        StepWork.of(prefil_tokens=[1])
    assert len(StepWork.of(decode_requests=[])) == 0
    assert len(costs(decode_requests=[]).decode.flops) == 0


def test_time_of_a_step_is_divided_without_remainder() -> None:
    step = costs(
        encode_items=[1, 0, 1, 0], encode_patches=[1000, 0, 1000, 0], encode_attention_pairs=[10**6, 0, 10**6, 0],
        prefill_requests=[1, 1, 0, 0], prefill_tokens=[250, 250, 0, 0], prefill_attention_pairs=[31375, 31375, 0, 0],
        decode_requests=[4, 4, 0, 0], decode_context_tokens=[4000, 4000, 0, 0],
    )  # fmt: skip
    seconds, encode = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.25, np.nan, 0.5, np.nan])
    for roof in (A100, None):
        parts = split_seconds(step, roof, seconds, encode)
        np.testing.assert_allclose(parts.encode + parts.prefill + parts.decode, [1.0, 2.0, 3.0, 0.0])
        np.testing.assert_allclose(parts.encode, [0.25, 0.0, 3.0, 0.0])
    assert split_seconds(step, A100, seconds).encode[0] > 0


def test_the_recorded_time_of_an_encoder_whose_cost_is_not_known_is_nobody_elses() -> None:
    step = costs(prefill_requests=[1], prefill_tokens=[100], prefill_attention_pairs=[5050])
    parts = split_seconds(step, A100, np.array([1.0]), np.array([0.4]))
    np.testing.assert_allclose([parts.encode[0], parts.prefill[0], parts.decode[0]], [0.4, 0.6, 0.0])


# --- Laws ------------------------------------------------------------------------------------------------

NEW, CACHED, VISUAL = st.integers(1, 5000), st.integers(0, 20_000), st.floats(0, 1)
PROMPTS = st.lists(st.tuples(NEW, CACHED, VISUAL), max_size=4)
DECODES = st.lists(st.tuples(CACHED, VISUAL), max_size=6)
IMAGES = st.lists(st.integers(4, 4000), max_size=3)


def composed(prompts: list[Any], decodes: list[Any], images: list[int]) -> dict[str, float]:
    """Return the columns of one step that holds these requests."""
    pairs = [prompt(new, cached) for new, cached, _ in prompts]
    return {
        "prefill_requests": len(prompts),
        "prefill_tokens": sum(new for new, _, _ in prompts),
        "prefill_attention_pairs": sum(pairs),
        "prefill_visual_tokens": sum(new * visual for new, _, visual in prompts),
        "prefill_visual_attention_pairs": sum(
            total * request[2] for total, request in zip(pairs, prompts, strict=True)
        ),
        "decode_requests": len(decodes),
        "decode_context_tokens": sum(context for context, _ in decodes),
        "decode_visual_tokens": sum(context * visual for context, visual in decodes),
        "encode_items": len(images),
        "encode_patches": sum(images),
        "encode_attention_pairs": sum(patches**2 for patches in images),
    }


def values(part: PartCost) -> dict[str, float]:
    return {field.name: float(getattr(part, field.name)[0]) for field in fields(part)}


@settings(deadline=None)
@given(PROMPTS, DECODES, IMAGES)
def test_costs_are_never_negative_and_parts_stay_inside_their_wholes(
    prompts: list[Any], decodes: list[Any], images: list[int]
) -> None:
    whole = costs(**composed(prompts, decodes, images))
    for name in PARTS:
        part = getattr(whole, name)
        assert min(values(part).values()) >= 0
        assert part.flops_visual[0] <= part.flops[0] * (1 + 1e-12)
        assert part.flops_attention[0] <= part.flops[0]
        assert part.bytes_kv_visual[0] <= part.bytes_kv_read[0] * (1 + 1e-12)
    read = whole.prefill.bytes_weights[0] + whole.decode.bytes_weights[0]
    assert read == pytest.approx(2 * (SMALL.params.language - 3584 * 152_064) if prompts or decodes else 0)


@settings(deadline=None)
@given(PROMPTS, DECODES, IMAGES, PROMPTS, DECODES, IMAGES)
def test_costs_add_up_over_requests_but_for_weights(
    prompts: list[Any],
    decodes: list[Any],
    images: list[int],
    more: list[Any],
    others: list[Any],
    pictures: list[int],
) -> None:
    together = costs(OLD, **composed(prompts + more, decodes + others, images + pictures))
    one, two = (
        costs(OLD, **composed(prompts, decodes, images)),
        costs(OLD, **composed(more, others, pictures)),
    )
    for name in PARTS:
        whole, first, second = (values(getattr(step, name)) for step in (together, one, two))
        for key, value in whole.items():
            if key == "bytes_weights" or (name == "prefill" and key == "bytes_kv_read"):
                continue  # weights are shared; what prefill reads of the cache is exact for like requests only
            assert value == pytest.approx(first[key] + second[key], rel=1e-9), (name, key)


@settings(deadline=None)
@given(st.integers(1, 8), NEW, CACHED)
def test_like_requests_read_the_cache_additively(number: int, new: int, cached: int) -> None:
    part = costs(**composed([(new, cached, 0.5)] * number, [], [])).prefill
    assert part.bytes_kv_read[0] == pytest.approx(number * (new + cached) * 57_344)


@settings(deadline=None)
@given(NEW, CACHED, VISUAL, st.integers(1, 1000))
def test_costs_grow_with_tokens(new: int, cached: int, visual: float, extra: int) -> None:
    small = costs(**composed([(new, cached, visual)], [(cached, visual)], [new + 3]))
    large = costs(**composed([(new + extra, cached, visual)], [(cached + extra, visual)], [new + extra + 3]))
    for name in PARTS:
        less, more = values(getattr(small, name)), values(getattr(large, name))
        for key in less:
            if key != "bytes_weights":  # of these decode's share shrinks when prefill grows
                assert more[key] >= less[key], (name, key)
