"""Stages `ttft_strata` and `request_parts`, and their place in the report: percentiles and parts that add up, by hand."""

from pathlib import Path
from typing import Any

import pytest
from otlp_builder import request, span
from stage_fixture import staged
from store_fixture import fetch

from vtprof_analyzer.report.build_ttft_detail import build_ttft_detail
from vtprof_schemas import names

MEGA = 1_000_000


def test_a_percentile_consists_of_what_the_requests_around_it_did(tmp_path: Path) -> None:
    #  21 requests with TTFT 100, 200 … 2100 ms; places 9, 10, 11 are within 5 points of the median, place 10
    spans = []
    for place in range(21):
        ttft = 100 * (place + 1) * MEGA
        queue = {9: ttft // 2, 10: ttft}.get(place, 0)
        attrs = {names.TTFT_NS: ttft, names.TOKENS_IMAGE: 0 if place < 20 else 300}
        spans += request(0, 3000 * MEGA, attrs, trace=place + 1, queue=(0, queue))
    with staged(tmp_path, spans) as db:
        detail = build_ttft_detail(db)
    groups = {(row.visual_stratum, row.percentile): row for row in detail.strata}
    assert [key for key in groups if key[1] == "p50"] == [("all", "p50"), ("0", "p50"), ("1k", "p50")]
    median = groups["all", "p50"]
    assert (median.requests, median.stratum_requests, median.ttft_ms) == (3, 21, 1100.0)
    # queue 500 + 1100 + 0 of 1000 + 1100 + 1200
    assert [(part.phase, part.share, part.ms) for part in median.phases] == [
        ("queue", pytest.approx(1600 / 3300), pytest.approx(1100 * 1600 / 3300)),
        ("unexplained", pytest.approx(1700 / 3300), pytest.approx(1100 * 1700 / 3300)),
    ]
    # Linear between places 19 and 20 of 0..20: 2000 + 0 x 100 at p95; its neighbours are places 18, 19 and 20.
    assert (groups["all", "p95"].ttft_ms, groups["all", "p95"].requests) == (2000.0, 3)
    assert (groups["1k", "p99"].ttft_ms, groups["1k", "p99"].stratum_requests) == (2100.0, 1)
    for row in detail.strata:
        assert sum(part.ms or 0 for part in row.phases) == pytest.approx(row.ttft_ms)


def test_a_sampled_request_stands_where_those_that_it_stands_for_would(tmp_path: Path) -> None:
    #  3 requests of 100 ms in place of one, then 200 ms: the median of 100, 100, 100, 200 is 100 ms, all of it queue.
    often = {names.TTFT_NS: 100 * MEGA, names.TOKENS_IMAGE: 0, names.SAMPLING_RATIO: 1 / 3}
    once = {names.TTFT_NS: 200 * MEGA, names.TOKENS_IMAGE: 0}
    spans = [
        *request(0, 300 * MEGA, often, trace=1, queue=(0, 100 * MEGA)),
        *request(0, 300 * MEGA, once, trace=2),
    ]
    with staged(tmp_path, spans) as db:
        rows = fetch(
            db,
            "SELECT ttft_ms, share FROM ttft_strata WHERE visual_stratum = 'all' AND percentile = 'p50' AND phase = 'queue'",
        )
    assert rows == [(pytest.approx(100.0), pytest.approx(300 / 300))]


def preprocessed(trace: int, length: int, **recorded: int) -> list[dict[str, Any]]:
    keys = {
        "cpu": names.PREPROCESS_CPU_NS,
        "fetch": names.PREPROCESS_FETCH_NS,
        "decode": names.PREPROCESS_DECODE_NS,
    }
    attrs: dict[str, Any] = {names.PHASE: names.PREPROCESS}
    attrs |= {keys[name]: value for name, value in recorded.items()}
    child = span(names.PHASE_SPANS[names.PREPROCESS], 0, length, attrs, trace=trace, span_id=2, parent=1)
    return [*request(0, 10 * length, {names.TTFT_NS: 2 * length}, trace=trace), child]


def test_preprocessing_is_fetch_decode_processor_and_waiting_as_far_as_they_were_recorded(
    tmp_path: Path,
) -> None:
    spans = [
        *preprocessed(1, 100 * MEGA, cpu=50 * MEGA, fetch=20 * MEGA, decode=30 * MEGA),
        *preprocessed(
            2, 100 * MEGA, cpu=120 * MEGA, fetch=150 * MEGA, decode=30 * MEGA
        ),  # items load at once
        *preprocessed(3, 100 * MEGA, cpu=90 * MEGA),
        *preprocessed(4, 100 * MEGA),
    ]
    with staged(tmp_path, spans) as db:
        rows = fetch(
            db,
            "SELECT fetch_ns / 1e6, decode_ns / 1e6, processor_ns / 1e6, waiting_ns / 1e6"
            " FROM request_parts ORDER BY request_number",
        )
        assert rows == [(20, 30, 20, 30), (100, 0, 0, 0), (None, None, 90, 10), (None, None, None, None)]
        parts = {row.part: row for row in build_ttft_detail(db).preprocess}
    assert list(parts) == ["fetch", "decode", "processor", "waiting"]
    assert (parts["fetch"].share, parts["fetch"].requests) == (pytest.approx(120 / 200), 2)
    assert (parts["processor"].share, parts["processor"].requests) == (pytest.approx(110 / 300), 3)
    assert parts["waiting"].p50_ms == pytest.approx(10)  # of 30, 0 and 10


def test_nothing_recorded_is_nothing_told(tmp_path: Path) -> None:
    with staged(tmp_path, request(0, 10)) as db:
        detail = build_ttft_detail(db)
    assert (detail.strata, detail.queue, detail.preprocess) == ([], None, [])
