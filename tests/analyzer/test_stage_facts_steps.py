"""Facts of steps, load, KV cache and the roofline, by arithmetic over a few steps; and those of configuration."""

import json
from collections.abc import Iterable, Iterator
from itertools import accumulate
from math import sqrt
from pathlib import Path
from random import Random
from typing import Any

import pytest
from facts_fixture import MS, chosen, facts
from otlp_builder import request, span
from stage_fixture import staged

from vtprof_schemas import names

CAPACITY = {names.KV_CAPACITY_TOKENS: 1000, names.KV_BYTES_PER_TOKEN: 2, names.SERVICE_INSTANCE_ID: "a"}


def _step(number: int, start: int, end: int, **more: Any) -> dict[str, Any]:
    """Return a step; times in ms, ``more`` by name of the attribute after ``vtprof.step.``."""
    attrs = {
        names.STEP_COUNT: 1,
        **{getattr(names, "STEP_" + key.upper()): value for key, value in more.items()},
    }
    name = names.SPAN_WINDOW if attrs[names.STEP_COUNT] > 1 else names.SPAN_STEP
    return span(name, start * MS, end * MS, attrs, trace=100 + number)


def _with_gpu(step: dict[str, Any], gpu_ms: float) -> dict[str, Any]:
    step["attributes"].append({"key": names.GPU_TIME_NS, "value": {"intValue": str(int(gpu_ms * MS))}})
    return step


STEPS = [
    # A prefill of 300 tokens with an image encoded first; a mixed step; ten decode iterations of 4 ms; one of 20 ms that
    # prefilled, too; the last decode iteration.
    _with_gpu(_step(1, 0, 20, prefill_requests=1, prefill_tokens=300, encode_items=1, encode_patches=64, encode_ns=8 * MS,
                    encode_gpu_time_ns=6 * MS, running=1.0, waiting=1.0, kv_used_tokens=300), 16),
    _with_gpu(_step(2, 20, 40, prefill_requests=1, prefill_tokens=100, decode_requests=1, running=2.0, waiting=0.0,
                    kv_used_tokens=400), 18),
    _with_gpu(_step(3, 40, 80, count=10, decode_requests=20, running=2.0, waiting=0.0, kv_used_tokens=400), 30),
    _with_gpu(_step(4, 80, 100, prefill_requests=1, prefill_tokens=50, decode_requests=2, running=3.0, waiting=0.0,
                    kv_used_tokens=500, preemptions=1), 18),
    _with_gpu(_step(5, 100, 108, decode_requests=2, running=2.0, waiting=0.0, kv_used_tokens=500), 2),
]  # fmt: skip


def test_steps_tell_load_batches_stalls_and_gaps(tmp_path: Path) -> None:
    spans = [*STEPS]
    for trace in (1, 2, 3, 4):
        spans += request(0, 108 * MS, {names.TTFT_NS: 40 * MS, names.OUTPUT_TOKENS: 9}, trace=trace)
    config = json.dumps({"max_num_seqs": 4, "max_num_batched_tokens": 500})
    expected = {
        "instances": 1, "engine": None, "max_num_seqs": 4, "max_num_batched_tokens": 500,
        # By time: 20 x 1 + 20 x 2 + 40 x 2 + 20 x 3 + 8 x 2 of 108 ms.
        "running_mean": 216 / 108, "waiting_mean": 20 / 108,
        "batch_mean": 25 / 13,  # 1 + 20 + 2 + 2 decoding requests in 1 + 10 + 1 + 1 iterations
        "step_tokens_p50": 101.0,  # of 300, 101 and 52
        "decode_step_ms_p50": 4.0,  # of ten of 4 ms and one of 8 ms
        "mixed_step_ms_p50": 20.0,
        # Longer than 8 ms: the two mixed steps; both held prefill.
        "decode_stall_with_prefill_share": 1.0,
        "preemptions_per_request": 0.25,
        "decode_host_gap_ms": (10 + 6) / 11, "host_gap_share": 1 - 84 / 108, "encode_host_gap_share": 0.25,
        "gpu_busy_share": 84 / 108,  # GPU time of steps over the time of requests
        # KV of a thousand tokens, by time: 300 for 20 ms, 400 for 60, 500 for 28.
        "kv_usage_p50": 0.4, "kv_usage_p95": 0.5, "kv_idle_share": 0.5, "kv_capacity_bytes": 2000.0,
        "kv_bytes_per_token": 2.0, "kv_bytes_mean": 2 * 44_000 / 108, "kv_bytes_peak": 1000.0,
        "kv_batch_limit": 1000 * 216 / 44_000,  # 44,000 token-ms over 216 request-ms
        # Running is 0.5 of its limit, KV 0.41 of its own, tokens 453 / 3 / 500 of theirs.
        "utilisation_mean": 0.5,
        # By those present: 2 x 20, 2 x 20, 2 x 40, 3 x 20 and 2 x 8, in all 236, in which 1, 2, 2, 3 and 2 of 4 ran.
        "utilisation": (40 * 1 + 40 * 2 + 80 * 2 + 60 * 3 + 16 * 2) / 236 / 4,
        "verify_cost_ratio": None, "decode_mfu": None, "kv_read_share": None,
        # Without a cost model by wall time: 8 ms of encode, the rest of mixed steps by tokens.
        "encode_gpu_share": 8 / 108,
        "prefill_gpu_share": pytest.approx((12 + 20 * 100 / 101 + 20 * 50 / 52) / 108, abs=1e-6),
        "cudagraph_hit_rate": None, "expert_load_max_over_mean": None,
    }  # fmt: skip
    with staged(tmp_path, spans, resource={**CAPACITY, names.ENGINE_CONFIG: config}) as db:
        found = chosen(facts(db), expected)
        assert found.pop("prefill_gpu_share") == expected.pop("prefill_gpu_share")
        assert found == pytest.approx(expected)
        rows = db.execute(
            "SELECT iterations, kv_used_share, service_instance_id FROM evidence.steps ORDER BY start_unix_nano LIMIT 3"
        ).fetchall()
        assert rows == [(1, 0.3, "a"), (1, 0.4, "a"), (10, 0.4, "a")]


def test_costed_steps_tell_rates_floors_and_what_narrower_values_would_save(tmp_path: Path) -> None:
    spans = [
        *request(
            0,
            9 * MS,
            {names.TTFT_NS: 5 * MS, names.OUTPUT_TOKENS: 5},
            encode=(0, 2 * MS),
            prefill=(2 * MS, 5 * MS),
        ),
        _step(1, 0, 4, encode_items=1, encode_patches=4),
        _step(2, 4, 8, prefill_requests=1, prefill_tokens=10),
        _step(3, 8, 9, decode_requests=1),
    ]
    peak = {"peak_flops_per_s": 1e12, "bandwidth_bytes_per_s": 1e10, "attainable": True}
    costs: list[dict[str, Any]] = [
        {"step_id": 1, "phase": "encode", "flops": 2e9, "bytes": 1e7, "time_s": 4e-3, "floor_s": 2e-3, **peak},
        {"step_id": 2, "phase": "prefill", "flops": 1e9, "bytes": 2e7, "time_s": 4e-3, "floor_s": 5e-3, **peak},
        # Decode moves 0.6 GB: 0.3 of weights, 0.2 of KV; its steps run faster than 0.06 s / 1.05.
        {"step_id": 3, "phase": "decode", "flops": 3e9, "bytes": 6e8, "weight_bytes": 3e8, "kv_read_bytes": 2e8,
         "time_s": 5e-2, "floor_s": 6e-2, **peak},
    ]  # fmt: skip
    expected = {
        "encode_mfu": 0.5, "prefill_mfu": 0.25, "decode_mfu": 0.06, "encode_mbu": 0.25, "prefill_mbu": 0.5,
        "decode_mbu": 1.2,
        "encode_floor_ratio": 0.5, "prefill_floor_ratio": 1.25, "decode_floor_ratio": 1.2, "decode_intensity": 5.0,
        "encode_ideal_ms": 1.0, "prefill_ideal_ms": 3.0,  # never more than was measured
        "ridge": 100.0, "kv_read_share": 1 / 3, "weight_read_share": 0.5, "step_overhead_ms": 0.0,
        # Which width values have is known with the model alone.
        "tpot_saved_ms_kv_fp8_mean": None, "ridge_tokens": None, "prefill_saved_ms_keep50_mean": None,
        "decode_share_of_gpu_time": 50 / 58, "allreduce_share_of_gpu_time": None,
    }  # fmt: skip
    with staged(tmp_path, spans, costs=costs) as db:
        assert chosen(facts(db), expected) == pytest.approx(expected)
        columns = "subject, phase_above_roof_share, phase_floor_ratio"
        above = f"SELECT {columns} FROM phase_facts WHERE phase_floor_ratio IS NOT NULL"
        # Steps of less than 256 MiB may live in a cache: nothing is said of them.
        assert sorted(db.execute(above).fetchall()) == [
            ("decode", 1.0, pytest.approx(1.2)), ("encode", None, 0.5), ("prefill", None, 1.25),
        ]  # fmt: skip


def test_text_requests_are_told_apart_from_those_that_wait_beside_images(tmp_path: Path) -> None:
    # Twenty text requests wait while the encoder runs, twenty others do not.
    spans = [
        _step(1, 0, 30, encode_items=1, encode_patches=64),
        _step(2, 100, 130, prefill_requests=1, prefill_tokens=10),
    ]
    for trace in range(1, 41):
        start, ttft = (0, 40) if trace <= 20 else (100, 20)
        attrs = {
            names.TTFT_NS: ttft * MS,
            names.INPUT_TOKENS: 10,
            names.TOKENS_IMAGE: 0,
            names.ITEMS_IMAGE: 0,
        }
        queue = (start * MS, (start + 20) * MS)
        spans += request(start * MS, (start + 60) * MS, attrs, trace=trace, queue=queue)
    expected = {
        "text_ttft_p95_with_encode": 40.0, "text_ttft_p95_without": 20.0, "queue_ms_p95_text_only": 20.0,
        "queue_ms_p50_text_only": 20.0, "long_prefill_overlap_share": 0.5,  # half of the queue time beside the encoder
    }  # fmt: skip
    with staged(tmp_path, spans, resource=CAPACITY) as db:
        assert chosen(facts(db), expected) == pytest.approx(expected)


def test_quiet_times_do_not_hide_the_load_that_requests_meet(tmp_path: Path) -> None:
    # A tenth of the time KV is 95 % full, nine are there and thirty-six wait; else one request runs, in 5 % of it.
    spans = [
        _step(1, 0, 90, decode_requests=1, running=1.0, waiting=0.0, kv_used_tokens=50),
        _step(2, 90, 100, decode_requests=9, running=9.0, waiting=36.0, kv_used_tokens=950),
    ]
    # Time by requests: 90 x 1 and 10 x 45.
    expected = {"utilisation": (90 * 0.05 + 450 * 0.95) / 540, "utilisation_mean": 0.9 * 0.05 + 0.1 * 0.95}
    with staged(tmp_path, spans + request(0, 100 * MS, {names.TTFT_NS: MS}), resource=CAPACITY) as db:
        assert chosen(facts(db), expected) == pytest.approx(expected)


def test_where_steps_do_not_tell_who_is_present_time_alone_counts(tmp_path: Path) -> None:
    spans = [
        _step(1, 0, 30, decode_requests=1, kv_used_tokens=200),
        _step(2, 30, 40, decode_requests=1, kv_used_tokens=600),
    ]
    expected = {"utilisation": (30 * 0.2 + 10 * 0.6) / 40, "utilisation_mean": 0.3}
    with staged(tmp_path, spans + request(0, 40 * MS, {names.TTFT_NS: MS}), resource=CAPACITY) as db:
        assert chosen(facts(db), expected) == pytest.approx(expected)


def _burstiness(tmp_path: Path, arrivals_ns: Iterable[float]) -> float:
    spans = []
    for trace, at in enumerate(arrivals_ns, start=1):
        spans += request(int(at), int(at) + MS, {names.TTFT_NS: 1000}, trace=trace)
    with staged(tmp_path, spans) as db:
        return float(facts(db)["arrival_burstiness"])


def _poisson(count: int, seed: int) -> Iterator[float]:
    """Return arrivals of a Poisson process of rate 1."""
    source = Random(seed)
    return accumulate(source.expovariate(1.0) for _ in range(count))


def test_independent_arrivals_have_an_index_of_one(tmp_path: Path) -> None:
    # Of 120 windows: the index of independent ones spreads by about sqrt(2 x 1.25 / 120) = 0.14.
    assert _burstiness(tmp_path, (at * 100 * MS for at in _poisson(1200, 1))) == pytest.approx(1, abs=0.4)


def test_a_rate_that_rises_slowly_is_no_burst(tmp_path: Path) -> None:
    # From 1 to 11 requests a second in 120 s, 720 in all: at t seconds 1 + t / 12, up to then t + t^2 / 24.
    # Where a Poisson process of rate 1 has reached n, t solves t + t^2 / 24 = n. Windows hold 2 to 18.
    arrivals = (12 * (sqrt(1 + at / 6) - 1) * 1000 * MS for at in _poisson(720, 2))
    assert _burstiness(tmp_path, arrivals) == pytest.approx(1, abs=0.5)


def test_twenty_within_a_second_are_bursts(tmp_path: Path) -> None:
    # One in five seconds on average: bursts come by themselves, and their requests 50 ms apart.
    arrivals = (start * 5000 * MS + 50 * MS * place for start in _poisson(20, 3) for place in range(20))
    assert _burstiness(tmp_path, arrivals) > 3


def test_arrivals_in_bursts_are_told_from_even_ones(tmp_path: Path) -> None:
    # 400 requests in pairs of ten at once: windows hold 20 or none. The last begins a window of its own.
    spans = []
    for trace in range(400):
        at = trace // 20 * 20 * MS
        spans += request(at, at + MS, {names.TTFT_NS: 1000}, trace=trace + 1)
    with staged(tmp_path, spans) as db:
        found = facts(db)
        # 40 windows of 380 ms / 40: of twenty bursts the last falls on the end, which is cut off.
        # Windows of 20 and none take turns, but for two without any in the middle and at the end. Of 36 windows with two to
        # either side 33 are 8 off the mean of the five, and 3 beside such a pair 12. At the ends: 20 of (20, 0, 20),
        # 0 of (20, 0, 20, 0), 0 of (0, 20, 0, 0) and 0 of (20, 0, 0).
        inner = (33 * 8**2 + 3 * 12**2) * 5 / 4
        ends = (20 / 3) ** 2 * 3 / 2 + 10**2 * 4 / 3 + 5**2 * 4 / 3 + (20 / 3) ** 2 * 3 / 2
        assert found["arrival_burstiness"] == pytest.approx((inner + ends) / 40 / (380 / 40))
        assert found["arrival_rate"] == pytest.approx(400 / 0.38)


@pytest.mark.parametrize(
    ("engine", "config", "expected"),
    [
        (
            "vllm",
            {
                "max_num_seqs": 256, "max_num_batched_tokens": 8192, "max_model_len": 4096, "enforce_eager": False,
                "enable_prefix_caching": True, "cudagraph_mode": "full_and_piecewise", "mm_encoder_tp_mode": "data",
                "mm_processor_cache_gb": 4, "limit_per_prompt": {"image": 3, "video": {"count": 0}}, "method": "ngram",
            },
            {
                "engine": "vllm", "max_num_seqs": 256, "max_num_batched_tokens": 8192, "max_model_len": 4096,
                "enforce_eager": False, "prefix_caching": True, "cuda_graph_mode": "FULL_AND_PIECEWISE",
                "mm_encoder_tp_mode": "data", "mm_processor_cache_gb": 4.0, "mm_limit_image": 3, "mm_limit_video": 0,
                "spec_method": "ngram", "reserve_by_max_len": False, "tp": 2, "weight_dtype": "bfloat16",
            },
        ),
        (
            "sglang",
            {
                "chunked_prefill_size": -1, "max_running_requests": 48, "disable_cuda_graph": True, "quantization": "fp8",
                "disable_radix_cache": True, "mm_enable_dp_encoder": False, "mm_attention_backend": "fa3",
                "context_length": 9,
            },
            {
                "engine": "sglang", "max_num_seqs": 48, "max_num_batched_tokens": None, "max_model_len": 9,
                "enforce_eager": True, "prefix_caching": False, "cuda_graph_mode": "NONE", "mm_encoder_tp_mode": "weights",
                "encode_attn_backend": "fa3", "spec_method": "none", "mm_limit_image": None, "weight_dtype": "fp8",
            },
        ),
        (
            "transformers",
            {"attn_implementation": "sdpa"},
            {"engine": "transformers", "encode_attn_backend": "sdpa", "spec_method": None, "prefix_caching": None},
        ),
        ("vllm", "{no JSON", {"engine": "vllm", "spec_method": None, "max_num_seqs": None, "reserve_by_max_len": False}),
    ],
)  # fmt: skip
def test_settings_of_engines_have_common_names(
    tmp_path: Path, engine: str, config: object, expected: dict[str, Any]
) -> None:
    resource = {
        names.ENGINE_NAME: engine, names.WEIGHTS_DTYPE: "bfloat16", names.PARALLEL_TP: 2, names.SERVICE_INSTANCE_ID: "a",
        names.ENGINE_CONFIG: config if isinstance(config, str) else json.dumps(config),
    }  # fmt: skip
    with staged(tmp_path, request(0, 900, {names.TTFT_NS: 500}), resource=resource) as db:
        assert chosen(facts(db), expected) == expected
