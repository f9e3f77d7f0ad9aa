"""Stages about steps: spans of a few nanoseconds, results by hand."""

from pathlib import Path

import pytest
from kv_fixture import step
from otlp_builder import request, span
from stage_fixture import staged
from store_fixture import fetch

from vtprof_schemas import names


def test_a_continuation_span_is_no_step_and_a_step_without_end_takes_no_time(tmp_path: Path) -> None:
    continued = span(names.SPAN_STEP, 0, 10, {names.STEP_COUNT: 0}, trace=1, span_id=2, parent=1)
    with staged(tmp_path, [step(0, 10, 1, 0, trace=1), continued, step(20, None, 1, 0, trace=2)]) as db:
        assert fetch(db, "SELECT step_id, duration_ns, end_missing FROM steps ORDER BY step_id") == [
            (1, 10, False),
            (2, 0, True),
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
