"""What holds a step is known from its kernels: arithmetic, memory, or launches, each where it must."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthetic.asks import causal_pairs
from synthetic.kernels import (
    COMPUTE_BOUND,
    DECODE,
    ENCODE,
    HYBRID,
    MEMORY_BOUND,
    OVERHEAD_BOUND,
    PREFILL,
    Kernels,
    Load,
)
from synthetic.models import A100, H200, QWEN_3B, QWEN_7B, QWEN_SMALL

LARGE = Kernels(QWEN_7B, H200)
PROMPT = Load(prefill_tokens=2048, prefill_pairs=causal_pairs(0, 2048), sampled=1)
DECODING = Load(decode_requests=24, decode_context=24_000, sampled=24)


def test_a_long_prompt_takes_the_time_of_its_arithmetic() -> None:
    part = LARGE.step(PROMPT).parts[PREFILL]
    assert (part.bound(H200.ridge), part.rival(H200.ridge), part.held()) == (COMPUTE_BOUND, "", COMPUTE_BOUND)
    # 2 x 6.5 G parameters x 2,048 tokens = 26.7 TFLOP and little more, at 70 % of 989 TFLOP/s.
    assert part.flops == pytest.approx(2 * QWEN_7B.linear_parameters * 2048, rel=0.05)
    assert part.seconds == pytest.approx(part.flops / H200.attainable_flops_per_s, rel=0.15)


def test_decoding_takes_the_time_of_reading_weights_and_cache() -> None:
    part = LARGE.step(DECODING).parts[DECODE]
    assert (part.bound(H200.ridge), part.rival(H200.ridge), part.held()) == (MEMORY_BOUND, "", MEMORY_BOUND)
    read = 2 * (QWEN_7B.linear_parameters + QWEN_7B.head_parameters) + 24_000 * QWEN_7B.kv_bytes_per_token
    assert part.bytes == pytest.approx(read, rel=0.05)
    assert part.seconds == pytest.approx(read / H200.attainable_bytes_per_s, rel=0.1)


def test_a_small_model_waits_for_its_launches_unless_they_are_captured() -> None:
    few = Load(decode_requests=2, decode_context=400, sampled=2)
    eager, graph = (Kernels(QWEN_SMALL, H200, eager=eager).step(few).parts[DECODE] for eager in (True, False))
    assert (eager.bound(H200.ridge), eager.rival(H200.ridge), eager.held()) == (
        OVERHEAD_BOUND,
        "",
        OVERHEAD_BOUND,
    )
    assert graph.seconds < 0.5 * eager.seconds


def test_a_chunk_whose_intensity_is_that_of_the_ridge_is_hybrid() -> None:
    # Each weight is 2 B and takes 2 FLOP a token: the intensity is the chunk's tokens.
    chunk = Load(
        prefill_tokens=round(H200.ridge), prefill_pairs=causal_pairs(0, round(H200.ridge)), sampled=1
    )
    assert LARGE.step(chunk).parts[PREFILL].bound(H200.ridge) == HYBRID


def test_bounds_follow_intensity_and_the_kernels_of_few_rows_are_held_by_arithmetic_before_the_ridge() -> (
    None
):
    order = (MEMORY_BOUND, HYBRID, COMPUTE_BOUND)
    parts = [
        LARGE.step(Load(prefill_tokens=n, prefill_pairs=causal_pairs(0, n), sampled=1)).parts[PREFILL]
        for n in range(16, 512, 8)
    ]
    bounds = [order.index(part.bound(H200.ridge)) for part in parts]
    assert bounds == sorted(bounds) and set(bounds) == {0, 1, 2}
    held = {part.held() for part, bound in zip(parts, bounds, strict=True) if order[bound] == MEMORY_BOUND}
    assert held == {MEMORY_BOUND, COMPUTE_BOUND}
    # 160 rows in three tiles of 64: 160 / (192 + 24) = 74 % of the rate of a large GEMM, so that arithmetic takes as long as
    # memory at 0.74 of the ridge already.
    chunk = LARGE.step(Load(prefill_tokens=160, prefill_pairs=causal_pairs(0, 160), sampled=1)).parts[PREFILL]
    assert chunk.held() == COMPUTE_BOUND


def test_a_chunk_at_the_end_of_the_band_may_be_called_either() -> None:
    loads = (
        Load(prefill_tokens=tokens, prefill_pairs=causal_pairs(0, tokens), sampled=1)
        for tokens in range(150, 400)
    )
    parts = (LARGE.step(load).parts[PREFILL] for load in loads)
    part = next(part for part in parts if part.flops / part.bytes > 1.17 * H200.ridge)
    assert {part.bound(H200.ridge), part.rival(H200.ridge)} == {HYBRID, COMPUTE_BOUND}


def test_an_image_is_encoded_apart_and_first_of_all_by_arithmetic() -> None:
    step = LARGE.step(Load(frames=(4096,)))
    assert step.language_s == 0
    assert step.parts[ENCODE].bound(H200.ridge) == COMPUTE_BOUND


@given(
    prefill=st.integers(0, 4096),
    requests=st.integers(0, 200),
    context=st.integers(1, 2000),
    frames=st.lists(st.integers(64, 8000), max_size=4),
)
def test_no_step_is_faster_than_its_device_and_more_work_takes_longer(
    prefill: int, requests: int, context: int, frames: list[int]
) -> None:
    for model, device in ((QWEN_7B, H200), (QWEN_3B, A100)):
        kernels = Kernels(model, device)
        load = Load(
            tuple(frames), prefill, causal_pairs(0, prefill), 0, requests, requests * context, requests + 1
        )
        step = kernels.step(load)
        whole = step.whole()
        floor_s = max(
            whole.flops / device.attainable_flops_per_s, whole.bytes / device.attainable_bytes_per_s
        )
        assert whole.seconds >= floor_s * 0.999
        assert whole.seconds == pytest.approx(step.encode_s + step.language_s)
        assert whole.compute_s + whole.memory_s + whole.launch_s == pytest.approx(whole.seconds)
        assert 0 <= whole.overhead_s <= whole.launch_s + 1e-12
        more = kernels.step(
            load._replace(decode_requests=requests + 64, decode_context=(requests + 64) * context)
        )
        assert more.language_s >= 0.99 * step.language_s or not requests
