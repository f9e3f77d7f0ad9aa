"""KV held over time, its picture and its peak: steps of a few nanoseconds, results by hand."""

from pathlib import Path

import pytest
from kv_fixture import A, B, sized_request, staged_in_processes, step
from otlp_builder import request
from stage_fixture import staged
from store_fixture import fetch

from vtprof_analyzer.pipeline import Settings
from vtprof_analyzer.report.build_kv import build_kv
from vtprof_schemas import names


def test_each_process_holds_its_own_and_the_picture_sums_them_up(tmp_path: Path) -> None:
    #  a: 10 tokens (4 visual)  0 ---------- 40
    #  b:                20 (0)       20 ---------- 60
    parts = [(A, [step(0, 40, 10, 4, trace=1)]), (B, [step(20, 60, 20, 0, trace=2)])]
    with staged_in_processes(tmp_path, *parts) as db:
        rows = fetch(
            db,
            "SELECT instance, held_tokens, visual_tokens, held_bytes, end_ns - start_ns FROM kv_segments ORDER BY ALL",
        )
        assert rows == [("a", 10, 4, 20, 40), ("b", 20, 0, 40, 40)]
        (share,) = fetch(db, "SELECT share FROM dominance WHERE measure = 'kv_token_seconds'")
        assert share[0] == pytest.approx((4 * 40) / (10 * 40 + 20 * 40))
        # Both hold 60 bytes from 20 to 40: of the 300 points of a fifth of a nanosecond, rounded up to one, 20 to 39.
        rows = fetch(
            db, "SELECT held_bytes, visual_bytes, count(*), min(point) FROM kv_held GROUP BY ALL ORDER BY ALL"
        )
        assert rows == [(20, 8, 20, 0), (40, 0, 20, 40), (60, 8, 20, 20)]


def test_a_step_that_is_still_under_way_when_the_next_one_begins_is_not_counted_twice(tmp_path: Path) -> None:
    parts = [(A, [step(0, 40, 10, 0, trace=1), step(20, 60, 12, 0, trace=2)])]
    with staged_in_processes(tmp_path, *parts) as db:
        rows = fetch(db, "SELECT held_tokens, end_ns - start_ns FROM kv_segments ORDER BY start_ns")
        assert rows == [(10, 20), (12, 40)]
        assert build_kv(db).peak_held_bytes == 24


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
    parts = [
        (A, [step(0, 40, 10, 4, trace=1, kv_used_tokens_max=16, kv_visual_tokens_max=6)]),
        (B, [step(20, 60, 20, 0, trace=2, kv_used_tokens_max=25, kv_visual_tokens_max=0)]),
    ]
    with staged_in_processes(tmp_path, *parts) as db:
        rows = fetch(
            db, "SELECT held_bytes, peak_bytes, peak_visual_bytes, has_max FROM kv_segments ORDER BY instance"
        )
        assert rows == [(20, 32, 12, True), (40, 50, 0, True)]
        assert fetch(db, "SELECT max(held_bytes), arg_max(visual_bytes, held_bytes) FROM kv_held") == [
            (82, 12)
        ]
        kv = build_kv(db)
        assert (kv.peak_held_bytes, kv.peak_kind) == (82, "max")


@pytest.mark.parametrize(("engine", "peak", "integral"), [("transformers", 30, 1200), ("vllm", 20, 1000)])
def test_steps_at_once_add_up_only_where_each_has_a_cache_of_its_own(
    tmp_path: Path, engine: str, peak: int, integral: int
) -> None:
    """10 tokens from 0 to 40, 20 from 20 to 60: calls in threads hold both, a scheduler tells of one cache."""
    process = {names.SERVICE_INSTANCE_ID: "a", names.KV_BYTES_PER_TOKEN: 1, names.ENGINE_NAME: engine}
    steps = [step(0, 40, 10, 0, trace=1), step(20, 60, 20, 0, trace=2)]
    with staged_in_processes(tmp_path, (process, steps)) as db:
        assert fetch(db, "SELECT max(held_bytes) FROM kv_held") == [(peak,)]
        assert fetch(db, "SELECT sum(held_tokens * (end_ns - start_ns)) FROM kv_segments") == [(integral,)]


def test_a_peak_of_which_a_part_is_a_mean_is_said_to_be_one(tmp_path: Path) -> None:
    parts = [
        (A, [step(0, 40, 10, 4, trace=1, kv_used_tokens_max=16)]),
        (B, [step(0, 40, 20, 0, trace=2)]),
    ]
    with staged_in_processes(tmp_path, *parts) as db:
        kv = build_kv(db)
        assert (kv.peak_held_bytes, kv.peak_kind) == (2 * (16 + 20), "mean")


def test_without_a_maximum_the_peak_is_a_mean_and_said_to_be_one(tmp_path: Path) -> None:
    with staged(tmp_path, [step(0, 40, 10, 4, trace=1)], resource={names.KV_BYTES_PER_TOKEN: 2}) as db:
        kv = build_kv(db)
        assert (kv.peak_held_bytes, kv.peak_kind) == (20, "mean")


def test_a_resource_that_was_exported_before_the_cache_was_known_takes_its_size_from_a_later_one(
    tmp_path: Path,
) -> None:
    early = {names.SERVICE_INSTANCE_ID: "ring-1"}
    late = early | {names.KV_BYTES_PER_TOKEN: 4, names.KV_CAPACITY_TOKENS: 100}
    parts = [
        (early, [*sized_request(1, 6, 4), step(0, 40, 10, 4, trace=5)]),
        (late, [*sized_request(2, 2, 8), step(40, 80, 20, 8, trace=6)]),
    ]
    with staged_in_processes(tmp_path, *parts) as db:
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
    with staged_in_processes(tmp_path, *parts) as db:
        kv = build_kv(db)
        assert kv.how == "recorded by the probe for 1 of 2 requests"
        assert (kv.bytes_total, kv.peak_held_bytes) == (48, 80)
        assert {row.modality: (row.tokens, row.bytes) for row in kv.by_modality} == {
            "text": (2, 8), "image": (8, 32), "output": (2, 8),
        }  # fmt: skip
        assert sum(row.bytes or 0 for row in kv.by_modality) == kv.bytes_total
    with staged_in_processes(tmp_path, *parts, derived=2) as db:
        assert build_kv(db).how == (
            "recorded by the probe for 1 of 2 requests, derived from the model's config for 1 of 2 requests"
        )


def test_what_kind_the_peak_is_depends_on_the_moment_that_held_it_alone(tmp_path: Path) -> None:
    spans = [step(0, 40, 10, 4, trace=1, kv_used_tokens_max=16), step(40, 80, 12, 0, trace=2)]
    with staged(
        tmp_path, spans, resource={names.KV_BYTES_PER_TOKEN: 2}, settings=Settings(kv_points=1)
    ) as db:
        kv = build_kv(db)
        assert (kv.peak_held_bytes, kv.peak_kind) == (32, "max")


def test_without_steps_kv_is_held_from_prefill_to_the_end_and_grows_with_the_output(tmp_path: Path) -> None:
    attrs = {names.TTFT_NS: 40, names.INPUT_TOKENS: 10, names.OUTPUT_TOKENS: 3, names.TOKENS_IMAGE: 6}
    spans = request(0, 100, attrs, queue=(0, 20), prefill=(20, 40), decode=(40, 100))
    with staged(tmp_path, spans, resource={names.KV_BYTES_PER_TOKEN: 2}) as db:
        rows = fetch(
            db,
            "SELECT held_tokens, visual_tokens, peak_bytes, end_ns - start_ns, source FROM kv_segments ORDER BY start_ns",
        )
        # Two of the three output tokens are cached: one in the mean of decode, both at its end.
        assert rows == [(10, 6, 20, 20, "requests"), (11, 6, 24, 60, "requests")]
        assert build_kv(db).peak_kind == "requests"


def test_without_phases_kv_is_held_from_the_end_of_the_queue_or_from_arrival(tmp_path: Path) -> None:
    attrs = {names.TTFT_NS: 40, names.INPUT_TOKENS: 10, names.OUTPUT_TOKENS: 1, names.TOKENS_IMAGE: 6}
    for phases, length in (({"queue": (0, 30)}, 70), ({}, 100)):
        with staged(tmp_path, request(0, 100, attrs, **phases)) as db:
            rows = fetch(
                db,
                "SELECT max(held_tokens), sum(end_ns - start_ns)::BIGINT, max(held_bytes) FROM kv_segments",
            )
            assert rows == [(10, length, None)]


def test_nothing_recorded_is_no_kv(tmp_path: Path) -> None:
    with staged(tmp_path, []) as db:
        for table in ("kv_stays", "kv_segments", "kv", "kv_held", "kv_reconciled", "kv_headroom"):
            assert fetch(db, f"SELECT count(*) FROM {table}") == [(0,)], table
        kv = build_kv(db)
        assert (kv.over_time, kv.over_time_difference, kv.headroom, kv.peak_kind) == ([], None, [], None)


def test_the_picture_begins_with_the_first_step_where_that_is_older_than_the_first_request(
    tmp_path: Path,
) -> None:
    """The requests of the first steps may be left out by sampling: a second before the first that is there."""
    second = 10**9
    spans = [
        step(0, second // 2, 10, 4, trace=1),
        step(second, 2 * second, 20, 0, trace=2),
        *request(second, 2 * second, trace=3, decode=(second, 2 * second)),
    ]
    with staged(tmp_path, spans, resource={names.KV_BYTES_PER_TOKEN: 2}) as db:
        ((first, last),) = fetch(db, "SELECT min(seconds), max(seconds) FROM kv_held")
        assert first == 0
        assert 1 <= last <= 2
