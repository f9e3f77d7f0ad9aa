"""The visual-token shares, each over its own whole and against its own threshold: spans of a few nanoseconds."""

import json
from pathlib import Path
from typing import Any

import pytest
from kv_fixture import step
from otlp_builder import request
from stage_fixture import staged
from store_fixture import fetch

from vtprof_analyzer.pipeline import Settings
from vtprof_analyzer.report.build_dominance import build_dominance
from vtprof_schemas import names


def test_each_dominance_share_has_its_own_denominator(tmp_path: Path) -> None:
    attrs = {names.TTFT_NS: 5, names.INPUT_TOKENS: 10, names.TOKENS_IMAGE: 8}
    costs = [
        {"phase": "prefill", "flops": 10.0, "visual_flops": 7.0},
        {
            "phase": "decode",
            "flops": 1.0,
            "weight_bytes": 90.0,
            "kv_read_bytes": 10.0,
            "kv_visual_read_bytes": 8.0,
        },
    ]
    with staged(tmp_path, [*request(0, 10, attrs), step(0, 9, 10, 9, trace=5)], costs=costs) as db:
        rows = fetch(db, "SELECT measure, share, dominant FROM dominance ORDER BY measure")
        assert rows == [
            ("context_window", None, None),
            ("decode_bytes", pytest.approx(8 / 100), False),
            ("kv_token_seconds", 0.9, True),
            ("preemptions", None, None),
            ("prefill_flops", 0.7, True),
            ("prompt_tokens", 0.8, True),
            ("tpot", None, None),
            ("ttft", None, None),
        ]
        shown = build_dominance(db)
        assert (shown.ttft, shown.tpot, shown.context_window, shown.preemptions) == (None, None, None, None)
        assert shown.tpot_without_visual_ms is None


def test_a_share_on_its_threshold_dominates(tmp_path: Path) -> None:
    attrs = {names.TTFT_NS: 5, names.INPUT_TOKENS: 10, names.TOKENS_IMAGE: 5}
    for threshold, dominant in ((0.5, True), (0.51, False)):
        with staged(
            tmp_path, request(0, 10, attrs), settings=Settings(prompt_tokens_threshold=threshold)
        ) as db:
            assert fetch(db, "SELECT dominant FROM dominance WHERE measure = 'prompt_tokens'") == [
                (dominant,)
            ]


def test_each_preemption_is_given_to_images_by_their_part_of_what_was_held(tmp_path: Path) -> None:
    spans = [
        *request(0, 90),
        step(0, 10, 100, 40, trace=11, preemptions=1),
        # The fullest iteration counts, not the mean: 90 of 120.
        step(10, 20, 100, 10, trace=12, preemptions=2, kv_used_tokens_max=120, kv_visual_tokens_max=90),
        step(20, 30, 100, 40, trace=13),
        step(30, 40, 0, 0, trace=14, preemptions=1),
    ]
    with staged(tmp_path, spans) as db:
        rows = fetch(
            db, "SELECT count, visual_kv_share, attributed_to_images FROM preemptions ORDER BY step_id"
        )
        assert rows == [(1, 0.4, 0.4), (2, 0.75, 1.5), (1, None, None)]
        found = build_dominance(db).preemptions
        assert found is not None
        assert (found.count, found.attributed_to_images) == (4, pytest.approx(1.9))
        assert (found.share, found.dominant) == (pytest.approx(1.9 / 3), True)


def test_preemptions_whose_kv_is_mostly_unknown_have_no_share(tmp_path: Path) -> None:
    spans = [step(0, 10, 100, 40, trace=11, preemptions=1), step(30, 40, 0, 0, trace=14, preemptions=2)]
    with staged(tmp_path, [*request(0, 90), *spans]) as db:
        found = build_dominance(db).preemptions
        assert found is not None and (found.count, found.share, found.dominant) == (3, None, None)


def asked(trace: int, images: int, total: int, **more: Any) -> list[dict[str, Any]]:
    attrs = {
        names.TTFT_NS: 5, names.INPUT_TOKENS: total, names.TOKENS_IMAGE: images, names.OUTPUT_TOKENS: 100,
    }  # fmt: skip
    return request(0, 10, {**attrs, **more}, trace=trace)


@pytest.mark.parametrize("key", ["max_model_len", "context_length"])
def test_the_window_is_the_engines_limit_and_images_take_their_part_of_it(tmp_path: Path, key: str) -> None:
    spans = [*asked(1, 0, 300), *asked(2, 500, 900)]
    resource = {names.ENGINE_CONFIG: json.dumps({key: 1000})}
    with staged(tmp_path, spans, resource=resource, settings=Settings(context_tokens=32768)) as db:
        rows = fetch(
            db, "SELECT context_tokens, visual_ratio, window_ratio FROM context_share ORDER BY visual_ratio"
        )
        assert rows == [(1000, 0, 0.4), (1000, 0.5, 1.0)]
        found = build_dominance(db).context_window
        assert found is not None
        assert (found.requests, found.tokens) == (2, 1000)
        assert (found.visual_p50, found.visual_p95) == (0.25, pytest.approx(0.475))
        assert (found.share, found.threshold, found.dominant) == (0.25, 0.25, True)


def test_a_sampled_request_weighs_what_it_stands_for_in_the_mean_of_the_window(tmp_path: Path) -> None:
    spans = [*asked(1, 0, 300, **{names.SAMPLING_RATIO: 0.25}), *asked(2, 500, 900)]
    with staged(tmp_path, spans, settings=Settings(context_tokens=1000)) as db:
        found = build_dominance(db).context_window
        assert found is not None and (found.share, found.dominant) == (pytest.approx(0.5 / 5), False)


def test_engine_settings_that_are_no_json_leave_the_models_own_window(tmp_path: Path) -> None:
    resource = {names.ENGINE_CONFIG: '{"max_model_len": '}
    with staged(tmp_path, asked(1, 50, 60), resource=resource, settings=Settings(context_tokens=100)) as db:
        assert fetch(db, "SELECT visual_ratio FROM context_share") == [(0.5,)]


def test_the_part_of_ttft_that_images_take_is_of_all_time_to_first_tokens(tmp_path: Path) -> None:
    spans = [
        *request(
            0,
            100,
            {names.TTFT_NS: 100, names.TOKENS_IMAGE: 8, names.INPUT_TOKENS: 10},
            trace=1,
            encode=(0, 60),
        ),
        *request(
            0, 300, {names.TTFT_NS: 300, names.TOKENS_IMAGE: 0, names.INPUT_TOKENS: 10}, trace=2, queue=(0, 9)
        ),
    ]
    with staged(tmp_path, spans, settings=Settings(ttft_threshold=0.15)) as db:
        shown = build_dominance(db).ttft
        assert shown is not None and shown.share == pytest.approx(60 / 400)
        assert shown.dominant is True
