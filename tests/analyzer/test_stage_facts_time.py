"""Facts of times, tokens and media, by arithmetic over a few requests; sampled ones count for those they stand for."""

from pathlib import Path
from typing import Any

import pytest
from facts_fixture import MS, chosen, facts
from otlp_builder import request, span
from stage_fixture import staged
from store_fixture import fetch

from vtprof_analyzer.pipeline import Settings
from vtprof_schemas import names

S = 1_000_000_000


def _preprocessed(trace: int, start: int, end: int, attrs: dict[str, Any]) -> dict[str, Any]:
    return span(
        names.PHASE_SPANS["preprocess"], start, end, {names.PHASE: "preprocess", **attrs}, trace=trace, span_id=9, parent=1
    )  # fmt: skip


def test_times_before_the_first_token_are_medians_means_and_shares_of_all_requests(tmp_path: Path) -> None:
    # Queue and prefill of TTFT, in ms; what is left of it no phase explains.
    parts = [(10, 5, 5), (20, 10, 10), (30, 15, 15), (40, 20, 8), (50, 40, 10)]
    spans = [
        one
        for trace, (ttft, queue, prefill) in enumerate(parts, start=1)
        for one in request(
            0,
            (ttft + 10 * trace) * MS,
            {names.TTFT_NS: ttft * MS, names.OUTPUT_TOKENS: 11},
            trace=trace,
            queue=(0, queue * MS),
            prefill=(queue * MS, (queue + prefill) * MS),
        )
    ]
    expected = {
        "n_requests": 5, "ttft_ms_p50": 30.0, "ttft_ms_mean": 30.0,
        "ttft_ms_p95": 48.0,  # place 3.8 of 0 to 4: 40 + 0.8 x 10
        "queue_ms_p50": 15.0, "queue_ms_mean": 18.0, "queue_ms_p95": 36.0,  # 20 + 0.8 x 20
        "prefill_ms_p50": 10.0, "prefill_ms_mean": 9.6,
        "queue_share_of_ttft_p50": 0.5, "prefill_share_of_ttft_p50": 0.5,  # of 0.5 0.5 0.5 0.2 0.2
        "queue_share_of_ttft_p95": 0.8,  # 40 of 50: the one request from 48 ms on
        "unexplained_requests_share": 0.2, "unexplained_share_of_ttft": 12 / 150,
        "tpot_ms_p50": 3.0, "tpot_ms_mean": 3.0, "tpot_ms_p95": 4.8, "tpot_ms_p99": 4.96,
        # No request ever showed these, no request tells its media: not known, not zero.
        "encode_ms_p50": None, "encode_share_of_ttft_p50": None, "preprocess_ms_p50": None, "transfer_ms_p50": None,
        "fetch_ms_p50": None, "fetch_ms_mean": None, "preprocess_cpu_share": None, "n_media": None, "video_requests": None,
        "visual_token_share": None, "detokenize_share_of_tpot": None, "preemptions_per_request": None,
        "ttft_ms_p50_later": None, "ttft_ms_mean_first_minute_excess": None,
        "tpot_ms_p99_without_prefill": None, "prefill_ideal_ms": None, "gpu_busy_share": None, "utilisation": None,
        "throttle_share": None, "preempted_tokens": None, "tpot_saved_ms_kv_fp8_mean": None, "kv_usage_p95": None,
    }  # fmt: skip
    with staged(tmp_path, spans) as db:
        found = chosen(facts(db), expected)
        assert found == pytest.approx(expected)
        # Of all rows of phase_facts those of the phases that were seen.
        assert fetch(db, "SELECT subject, phase_ms_p50, phase_ms_p95 FROM phase_facts ORDER BY subject") == [
            ("decode", 3.0, pytest.approx(4.8)),
            ("prefill", 10.0, pytest.approx(14.0)),
            ("queue", 15.0, pytest.approx(36.0)),
        ]


def test_a_sampled_request_counts_for_those_it_stands_for(tmp_path: Path) -> None:
    # Of ratios 0.25, 0.25 and none: nine requests, of which eight took 10 ms.
    ratios = {1: 0.25, 2: 0.25, 3: None}
    spans = [
        one
        for trace, ratio in ratios.items()
        for one in request(
            0,
            200 * MS,
            {
                names.TTFT_NS: (10 if ratio else 100) * MS,
                names.INPUT_TOKENS: 100,
                names.TOKENS_IMAGE: 50 if ratio else 0,
                names.ITEMS_IMAGE: 1 if ratio else 0,
                **({names.SAMPLING_RATIO: ratio} if ratio else {}),
            },
            trace=trace,
            prefill=(0, 5 * MS),
        )
    ]
    expected = {
        "n_requests": 3, "sampling_ratio_min": 0.25, "ttft_ms_p50": 10.0, "ttft_ms_mean": (8 * 10 + 100) / 9,
        "images_per_request_mean": 8 / 9, "n_media": 8, "visual_token_share": 8 * 50 / 900, "visual_tokens_p50": 50.0,
        "arrival_burstiness": None,
    }  # fmt: skip
    with staged(tmp_path, spans) as db:
        assert chosen(facts(db), expected) == pytest.approx(expected)
        assert fetch(db, "SELECT count(*) FROM evidence.requests") == [(3,)]


def test_weights_that_are_no_whole_numbers_add_up_over_all_requests(tmp_path: Path) -> None:
    spans = [
        one
        for trace in range(1, 21)
        for one in request(0, 90, {names.TTFT_NS: 50, names.SAMPLING_RATIO: 0.4}, trace=trace)
    ]
    with staged(tmp_path, spans) as db:  # 20 x 2.5
        assert fetch(db, "SELECT count(*), count(*) FILTER (recorded) FROM request_facts WHERE counts") == [
            (50, 20)
        ]


def test_media_tokens_pixels_and_repeats(tmp_path: Path) -> None:
    # Two requests with images, one with a video, one with a clip of audio, one of text.
    asked: list[dict[str, Any]] = [
        {
            names.TOKENS_IMAGE: 8292,
            names.ITEMS_IMAGE: 2,
            names.INPUT_TOKENS: 10_000,
            names.OUTPUT_TOKENS: 500,
        },
        {names.TOKENS_IMAGE: 1000, names.ITEMS_IMAGE: 1, names.INPUT_TOKENS: 1_200, names.OUTPUT_TOKENS: 10},
        {names.TOKENS_VIDEO: 3000, names.ITEMS_VIDEO: 1, names.INPUT_TOKENS: 3_100, names.OUTPUT_TOKENS: 10},
        {names.TOKENS_AUDIO: 400, names.ITEMS_AUDIO: 2, names.INPUT_TOKENS: 500, names.OUTPUT_TOKENS: 10},
        {names.INPUT_TOKENS: 200, names.OUTPUT_TOKENS: 10},
    ]
    told: list[dict[str, Any]] = [
        {names.PREPROCESS_FETCH_NS: 6 * MS, names.PREPROCESS_CPU_NS: 2 * MS, names.PREPROCESS_PIXELS: 4_000_000,
         names.PREPROCESS_MEDIA_DIGESTS: "aa,bb"},
        {names.PREPROCESS_FETCH_NS: 2 * MS, names.PREPROCESS_CPU_NS: 6 * MS, names.PREPROCESS_PIXELS: 1_000_000,
         names.PREPROCESS_MEDIA_DIGESTS: "aa"},
        {names.PREPROCESS_FETCH_NS: 0, names.PREPROCESS_FRAMES: 32},
        {names.PREPROCESS_FETCH_NS: 0, names.PREPROCESS_AUDIO_NS: 9 * S},
        {},
    ]  # fmt: skip
    spans = []
    for trace, (attrs, preprocess) in enumerate(zip(asked, told, strict=True), start=1):
        none = dict.fromkeys(
            (names.TOKENS_IMAGE, names.ITEMS_IMAGE, names.TOKENS_VIDEO, names.ITEMS_VIDEO), 0
        )
        given = {names.TTFT_NS: 40 * MS, **none, names.ITEMS_AUDIO: 0, **attrs}
        encoded = {"encode": (trace * S + 10 * MS, trace * S + 20 * MS)} if trace < 5 else {}
        spans += request(trace * S, trace * S + 900 * MS, given, trace=trace, **encoded)
        spans.append(_preprocessed(trace, trace * S, trace * S + 10 * MS, preprocess))
    spans[1]["attributes"].append({"key": names.ENCODE_ITEMS, "value": {"intValue": "2"}})
    spans[1]["attributes"].append({"key": names.ENCODE_PATCHES, "value": {"intValue": "2000"}})
    config = '{"vision_config": {"patch_size": 10}, "audio_config": {"model_type": "whisper", "max_source_positions": 1500}}'
    expected = {
        "n_media": 6, "images_per_request_mean": 0.6, "images_per_request_max": 2, "video_requests": 1,
        "visual_tokens_p50": 1000.0, "visual_tokens_per_image_p95": 1000 + 0.95 * 3146,  # 1000 and 4146 an image
        "visual_tokens_per_video_p50": 3000.0, "frames_per_video_p50": 32.0, "visual_token_share": 12292 / 15000,
        "visual_tokens_over_4096_share": 100 / 12292, "distinct_visual_token_counts": 2,
        "output_tokens_p50": 10.0, "prompt_tokens_p50": 1200.0,
        "ocr_like_share": 0.5,  # 500 answers to 8292: over 0.05 and over 128
        "audio_seconds_p50": 4.5, "audio_window_seconds": 30.0,
        "audio_encode_ms_p50": 10.0, "audio_encode_share_of_ttft_p50": 0.25,
        "fetch_ms_p50": 1.0, "fetch_ms_mean": 1.6,  # 6, 2, 0 and 0 of media; over five
        "preprocess_cpu_share": 8 / 20,
        "preprocess_ms_per_mpix_p50": 4.5,  # (10 - 6) / 4 and (10 - 2) / 1
        "preprocess_ms_per_mpix_floor": 1.35, "preprocess_ms_floor": 1.35 * 2.5,
        "pixels_in_p50": 1_500_000.0,  # 2 and 1 million an image
        "pixels_used_p50": 100_000.0,  # 2000 patches of 10 x 10, two images; the other request tells no patches
        "repeat_image_share": 1 / 3, "fetch_ms_repeat_mean": 2 / 5,
        "capped_encode_saved_ms_mean": 10 * 100 / 8292 / 5, "mm_cache_hit_rate": None, "encoder_cache_hit_rate": None,
    }  # fmt: skip
    with staged(tmp_path, spans, resource={names.MODEL_CONFIG: config}) as db:
        assert chosen(facts(db), expected) == pytest.approx(expected)
        items = "SELECT digest, seen_before FROM evidence.media_items ORDER BY start_unix_nano, digest"
        assert fetch(db, items) == [("aa", 0), ("bb", 0), ("aa", 1)]


def test_prompts_beyond_the_window_are_counted_where_they_were_refused(tmp_path: Path) -> None:
    spans = []
    for trace, (tokens, status) in enumerate(
        [(50, "ok"), (101, "rejected"), (90, "rejected"), (150, "ok")], start=1
    ):
        spans += request(0, 90, {names.INPUT_TOKENS: tokens, names.REQUEST_STATUS: status}, trace=trace)
    with staged(tmp_path, spans, settings=Settings(context_tokens=100)) as db:
        found = facts(db)
        assert (found["rejected_too_long"], found["max_model_len"]) == (1, 100)
        assert found["prompt_tokens_p99"] == pytest.approx(101 + 0.97 * 49)  # refused ones included


def test_the_first_minute_of_a_process_is_compared_with_the_rest(tmp_path: Path) -> None:
    # Five requests within a minute of the first take 30, 40, ... ms, five later ones 10 ms each.
    spans = []
    for trace in range(1, 11):
        start = (trace if trace <= 5 else 60 + trace) * S
        ttft = (20 + 10 * trace if trace <= 5 else 10) * MS
        spans += request(start, start + 900 * MS, {names.TTFT_NS: ttft}, trace=trace)
    expected = {
        "ttft_ms_p50_first_minute": 50.0,
        "ttft_ms_p50_later": 10.0,
        "ttft_ms_mean_first_minute_excess": 40.0,
    }
    with staged(tmp_path, spans) as db:
        assert chosen(facts(db), expected) == expected
