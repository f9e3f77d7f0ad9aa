"""Stages about steps, KV and dominance: spans of a few nanoseconds, results by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from otlp_builder import request, span
from stage_fixture import staged
from store_fixture import fetch

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.pipeline import Settings
from vtprof_analyzer.report.build_kv import build_kv
from vtprof_schemas import names


def step(start: int, end: int | None, held: int, visual: int, trace: int, **more: int) -> dict[str, object]:
    attrs = {names.STEP_COUNT: 1, names.STEP_KV_USED_TOKENS: held, names.STEP_KV_VISUAL_TOKENS: visual}
    attrs.update({getattr(names, "STEP_" + key.upper()): value for key, value in more.items()})
    return span(names.SPAN_STEP, start, end, attrs, trace=trace)


def test_kv_held_is_summed_over_processes_and_integrated_over_time(tmp_path: Path) -> None:
    #  a: 10 tokens (4 visual)  0 ---------- 40
    #  b:                20 (0)       20 ---------- 60
    spans = [step(0, 40, 10, 4, trace=1), step(20, 60, 20, 0, trace=2)]
    with staged(tmp_path, spans, resource={names.KV_BYTES_PER_TOKEN: 2}) as db:
        rows = fetch(
            db,
            "SELECT held_tokens, visual_tokens, held_bytes, end_ns - start_ns FROM kv_segments ORDER BY start_ns",
        )
        assert rows == [(10, 4, 20, 20), (30, 4, 60, 20), (20, 0, 40, 20)]
        (share,) = fetch(db, "SELECT share FROM dominance WHERE measure = 'kv_token_seconds'")
        assert share[0] == pytest.approx((4 * 40) / (10 * 40 + 20 * 40))
        assert fetch(db, "SELECT max(held_bytes) FROM kv_held") == [(60,)]


def test_the_kv_picture_has_at_most_its_points_and_keeps_the_peak(tmp_path: Path) -> None:
    spans = [step(10 * n, 10 * n + 10, 500 if n == 37 else 1, 0, trace=n + 1) for n in range(100)]
    with staged(
        tmp_path, spans, resource={names.KV_BYTES_PER_TOKEN: 1}, settings=Settings(kv_points=7)
    ) as db:
        assert fetch(db, "SELECT count(*), max(held_bytes), max(point) FROM kv_held") == [(7, 500, 6)]


def test_the_peak_is_the_most_of_the_steps_that_run_at_once_and_the_integral_keeps_the_means(
    tmp_path: Path,
) -> None:
    #  a: mean 10, at most 16 tokens (6 visual)   0 ---------- 40
    #  b: mean 20, at most 25        (0 visual)          20 ---------- 60
    spans = [
        step(0, 40, 10, 4, trace=1, kv_used_tokens_max=16, kv_visual_tokens_max=6),
        step(20, 60, 20, 0, trace=2, kv_used_tokens_max=25, kv_visual_tokens_max=0),
    ]
    with staged(tmp_path, spans, resource={names.KV_BYTES_PER_TOKEN: 2}) as db:
        rows = fetch(
            db, "SELECT held_bytes, peak_bytes, peak_visual_bytes, has_max FROM kv_segments ORDER BY start_ns"
        )
        assert rows == [(20, 32, 12, True), (60, 82, 12, True), (40, 50, 0, True)]
        assert fetch(db, "SELECT max(held_bytes) FROM kv_held") == [(82,)]
        kv = build_kv(db)
        assert (kv.peak_held_bytes, kv.peak_kind) == (82, "max")


def test_without_a_maximum_the_peak_is_a_mean_and_said_to_be_one(tmp_path: Path) -> None:
    with staged(tmp_path, [step(0, 40, 10, 4, trace=1)], resource={names.KV_BYTES_PER_TOKEN: 2}) as db:
        kv = build_kv(db)
        assert (kv.peak_held_bytes, kv.peak_kind) == (20, "mean")


def staged_in_processes(
    folder: Path, *parts: tuple[dict[str, object], list[dict[str, object]]], derived: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    from otlp_builder import document, write
    from store_fixture import loaded

    path = write(folder / "t.jsonl", *(document(*spans, resource=resource) for resource, spans in parts))
    with loaded(path) as db:
        pipeline.run(db, Settings(kv_bytes_per_token=derived), {step_cost.STAGE: step_cost.create_table})
        yield db


def sized_request(trace: int, text: int, image: int) -> list[dict[str, object]]:
    attrs = {
        names.TTFT_NS: 40, names.INPUT_TOKENS: text + image, names.OUTPUT_TOKENS: 3, names.TOKENS_TEXT: text,
        names.TOKENS_IMAGE: image,
    }  # fmt: skip
    return request(0, 100, attrs, trace=trace)


def test_a_resource_that_was_exported_before_the_cache_was_known_takes_its_size_from_a_later_one(
    tmp_path: Path,
) -> None:
    early = {names.SERVICE_INSTANCE_ID: "ring-1"}
    late = early | {names.KV_BYTES_PER_TOKEN: 4, names.KV_CAPACITY_TOKENS: 100}
    parts = [
        (early, [*sized_request(1, 6, 4), step(0, 40, 10, 4, trace=5)]),
        (late, [*sized_request(2, 2, 8), step(40, 80, 20, 8, trace=6)]),
    ]
    with contextmanager(staged_in_processes)(tmp_path, *parts) as db:
        kv = build_kv(db)
        # (10 + 3 - 1) x 4 for each request; the larger step holds 20 x 4
        assert fetch(db, "SELECT kv_bytes FROM requests") == [(48,), (48,)]
        assert (kv.bytes_total, kv.peak_held_bytes, kv.how) == (96, 80, "recorded by the probe")
        assert kv.capacity_bytes == 400


def test_a_process_without_size_is_left_out_of_every_total_and_counted(tmp_path: Path) -> None:
    parts = [
        ({names.SERVICE_INSTANCE_ID: "a"}, [*sized_request(1, 6, 4), step(0, 40, 10, 4, trace=5)]),
        (
            {names.SERVICE_INSTANCE_ID: "b", names.KV_BYTES_PER_TOKEN: 4},
            [*sized_request(2, 2, 8), step(40, 80, 20, 8, trace=6)],
        ),
    ]
    with contextmanager(staged_in_processes)(tmp_path, *parts) as db:
        kv = build_kv(db)
        assert kv.how == "recorded by the probe for 1 of 2 requests"
        assert (kv.bytes_total, kv.peak_held_bytes) == (48, 80)
        assert {row.modality: (row.tokens, row.bytes) for row in kv.by_modality} == {
            "text": (2, 8), "image": (8, 32), "output": (2, 8),
        }  # fmt: skip
        assert sum(row.bytes or 0 for row in kv.by_modality) == kv.bytes_total
    with contextmanager(staged_in_processes)(tmp_path, *parts, derived=2) as db:
        assert build_kv(db).how == (
            "recorded by the probe for 1 of 2 requests, derived from the model's config for 1 of 2 requests"
        )


def test_without_steps_kv_is_held_from_first_scheduling_to_the_end(tmp_path: Path) -> None:
    attrs = {names.TTFT_NS: 40, names.INPUT_TOKENS: 10, names.OUTPUT_TOKENS: 3, names.TOKENS_IMAGE: 6}
    with staged(tmp_path, request(0, 100, attrs, queue=(0, 20), prefill=(20, 40))) as db:
        rows = fetch(
            db, "SELECT held_tokens, visual_tokens, held_bytes, end_ns - start_ns, source FROM kv_segments"
        )
        assert rows == [(12, 6, None, 80, "requests")]


def test_a_continuation_span_is_no_step_and_a_step_without_end_takes_no_time(tmp_path: Path) -> None:
    continued = span(names.SPAN_STEP, 0, 10, {names.STEP_COUNT: 0}, trace=1, span_id=2, parent=1)
    with staged(tmp_path, [step(0, 10, 1, 0, trace=1), continued, step(20, None, 1, 0, trace=2)]) as db:
        assert fetch(db, "SELECT step_id, duration_ns, end_missing FROM steps ORDER BY step_id") == [
            (1, 10, False),
            (2, 0, True),
        ]


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
            ("decode_bytes", pytest.approx(8 / 100), False),
            ("kv_token_seconds", 0.9, True),
            ("prefill_flops", 0.7, True),
            ("prompt_tokens", 0.8, True),
        ]


def test_a_share_on_its_threshold_dominates(tmp_path: Path) -> None:
    attrs = {names.TTFT_NS: 5, names.INPUT_TOKENS: 10, names.TOKENS_IMAGE: 5}
    for threshold, dominant in ((0.5, True), (0.51, False)):
        with staged(
            tmp_path, request(0, 10, attrs), settings=Settings(prompt_tokens_threshold=threshold)
        ) as db:
            assert fetch(db, "SELECT dominant FROM dominance WHERE measure = 'prompt_tokens'") == [
                (dominant,)
            ]


def test_roofline_points_are_binned_by_phase_and_keep_time_and_count(tmp_path: Path) -> None:
    spans = [step(0, 10, 1, 0, trace=1), step(10, 20, 1, 0, trace=2), step(20, 30, 1, 0, trace=3)]
    costs = [
        {"step_id": 1, "phase": "prefill", "flops": 100.0, "bytes": 10.0, "time_s": 1.0},
        {"step_id": 2, "phase": "prefill", "flops": 100.0, "bytes": 10.0, "time_s": 1.0},
        {"step_id": 3, "phase": "decode", "flops": 100.0, "bytes": 100.0, "time_s": 2.0, "steps": 4},
    ]
    with staged(tmp_path, spans, costs=costs) as db:
        rows = fetch(
            db, "SELECT phase, intensity, flops_per_s, steps, seconds FROM roofline_points ORDER BY phase"
        )
        assert [r[0] for r in rows] == ["decode", "prefill"]
        assert rows[0][1:] == (pytest.approx(1), pytest.approx(50), 4, 2.0)
        assert rows[1][1:] == (pytest.approx(10), pytest.approx(100), 2, 2.0)


def test_records_lost_is_the_last_count_of_each_ring_summed(tmp_path: Path) -> None:
    from otlp_builder import document, metric_document, write
    from store_fixture import loaded

    from vtprof_analyzer import pipeline, step_cost

    second_ring = {names.SERVICE_INSTANCE_ID: "a", names.RING_CREATED_NS: 77}
    lines = [
        metric_document(names.AGENT_RECORDS_LOST, [(5, 1.0), (20, 3.0)], second_ring, "sum"),
        metric_document(
            names.AGENT_RECORDS_LOST, [(1, 2.0), (9, 5.0)], {names.SERVICE_INSTANCE_ID: "a"}, "sum"
        ),
        metric_document(
            names.AGENT_RECORDS_LOST, [(3, 7.0), (2, 6.0)], {names.SERVICE_INSTANCE_ID: "b"}, "sum"
        ),
        metric_document(
            names.AGENT_HOOK_ERRORS, [(1, 1.0), (9, 4.0)], {names.SERVICE_INSTANCE_ID: "a"}, "sum"
        ),
        document(*request(0, 10)),
    ]
    with loaded(write(tmp_path / "t.jsonl", *lines)) as db:
        pipeline.run(db, pipeline.Settings(), {step_cost.STAGE: step_cost.create_table})
        assert fetch(db, "SELECT records_lost, hook_errors FROM integrity") == [(5 + 3 + 7, 4)]
