"""Judge steps given by hand, for tests: rows of `step_cost` go through the SQL that judges steps and adds them up."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from otlp_builder import document, span, write
from store_fixture import loaded

from vtprof_analyzer import pipeline, step_cost
from vtprof_analyzer.cost.work import Floats
from vtprof_analyzer.devices.roofs import ATTAINABLE, Roof
from vtprof_analyzer.report.build_steps import phase_counters, phase_sums
from vtprof_analyzer.verdict import Counters, Thresholds, Verdict
from vtprof_analyzer.verdict_phases import judge_phase
from vtprof_schemas import names

ROOF = Roof(ATTAINABLE, 200e12, 1e12, "bfloat16", "test")  # ridge 200 FLOP/B
_S = 1_000_000_000


@contextmanager
def stepped(
    folder: Path,
    costs: Sequence[dict[str, Any]],
    steps: Sequence[dict[str, Any]] = (),
    metrics: Sequence[dict[str, Any]] = (),
    limits: Thresholds | None = None,
    resource: dict[str, Any] | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Run all stages; step n (from 1) lies in second n with the attributes ``steps[n - 1]``, and costs as given.

    Times in ``steps`` may be set by ``start`` and ``end`` [ns].
    """
    count = max([0, len(steps), *(cost["step_id"] for cost in costs)])
    spans = []
    for number in range(1, count + 1):
        attributes = dict(steps[number - 1]) if number <= len(steps) else {}
        start, end = attributes.pop("start", number * _S), attributes.pop("end", (number + 1) * _S)
        given = {names.STEP_COUNT: 1, **attributes}
        spans.append(span(names.SPAN_STEP, start, end, given, trace=number))

    def given_costs(connection: duckdb.DuckDBPyConnection) -> None:
        step_cost.create_table(connection)
        for cost in costs:
            insert_cost(connection, cost)

    path = write(folder / "t.jsonl", document(*spans, resource=resource), *metrics)
    with loaded(path) as connection:
        settings = pipeline.Settings(limits=limits or Thresholds())
        pipeline.run(connection, settings, {step_cost.STAGE: given_costs})
        yield connection


def insert_cost(connection: duckdb.DuckDBPyConnection, cost: dict[str, Any]) -> None:
    row = {"steps": 1, "mixed": False, "weight_bytes": 0.0, "kv_read_bytes": 0.0} | cost
    columns, marks = ", ".join(row), ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO step_cost ({columns}) VALUES ({marks})", list(row.values()))


def cost_row(
    step_id: int,
    phase: str,
    flops: float,
    bytes_: float,
    time_s: float,
    roof: Roof | None = ROOF,
    **more: Any,
) -> dict[str, Any]:
    """Return a row of `step_cost` whose floor is that of the roof."""
    row: dict[str, Any] = {
        "step_id": step_id,
        "phase": phase,
        "flops": flops,
        "bytes": bytes_,
        "time_s": time_s,
    }
    if roof is not None:
        floor = max(flops / roof.peak_flops_per_s, bytes_ / roof.bandwidth_bytes_per_s)
        row |= {
            "floor_s": floor, "peak_flops_per_s": roof.peak_flops_per_s, "bandwidth_bytes_per_s": roof.bandwidth_bytes_per_s,
            "attainable": roof.kind == ATTAINABLE, "uncertain": roof.confidence == "low",
        }  # fmt: skip
    return row | more


def judged(
    flops: Floats,
    bytes_: Floats,
    seconds: Floats,
    *,
    phase: str = "decode",
    roof: Roof | None = ROOF,
    wall_seconds: Floats | None = None,
    visual_bytes: Floats | None = None,
    host_cores: float | None = None,
    counters: Counters | None = None,
    share: float | None = None,
    limits: Thresholds | None = None,
    run_roof: Roof | None = None,
) -> Verdict:
    """Judge a phase by steps of this work and time, one entry each: through the SQL alone that judges and sums steps.

    ``roof`` is that of the steps' device, ``run_roof`` that of the run where it is another.
    """
    with duckdb.connect() as db:
        pipeline.create_parameters(db, pipeline.Settings(limits=limits or Thresholds()))
        step_cost.create_table(db)
        db.execute(_TABLES)
        for at in range(len(flops)):
            more: dict[str, Any] = {"weight_bytes": float(bytes_[at])}
            if wall_seconds is not None:
                more["wall_s"] = float(wall_seconds[at])
            if visual_bytes is not None:
                more["kv_visual_read_bytes"] = float(visual_bytes[at])
            insert_cost(
                db,
                cost_row(
                    at + 1, phase, float(flops[at]), float(bytes_[at]), float(seconds[at]), roof, **more
                ),
            )
            db.execute(
                "INSERT INTO steps BY NAME SELECT ? AS step_id, ?::VARCHAR AS span_id", [at + 1, at + 1]
            )
            if host_cores is not None:
                db.execute(
                    "INSERT INTO span_counters VALUES (1, 'a', ?::VARCHAR, ?, ?, 1.0, 0)",
                    [at + 1, names.HOST_PROCESS_CPU_RATIO, host_cores],
                )
        for stage in ("57_roofline.sql", "58_bound_times.sql", "86_phase_bounds.sql"):
            pipeline.run_sql_stage(db, stage)
        found = phase_counters(db, phase) if counters is None else counters
        return judge_phase(
            phase_sums(db, phase), phase, run_roof or roof, found, share, limits or Thresholds()
        )


_TABLES = """
CREATE TABLE kv_sizes AS SELECT 1::UBIGINT AS resource_id, 'p' AS instance;
CREATE TABLE steps (
    step_id BIGINT, resource_id UBIGINT DEFAULT 1, trace_id VARCHAR DEFAULT 'a', span_id VARCHAR, steps BIGINT DEFAULT 1,
    folded BOOLEAN DEFAULT false, duration_ns BIGINT DEFAULT 1, gpu_time_ns BIGINT, prefill_tokens BIGINT DEFAULT 0,
    decode_requests BIGINT DEFAULT 0, encode_items BIGINT DEFAULT 0, encode_patches BIGINT DEFAULT 0, dram_ratio DOUBLE,
    tensor_ratio DOUBLE, sm_ratio DOUBLE, counter_quality VARCHAR
);
CREATE TABLE span_counters (
    resource_id UBIGINT, trace_id VARCHAR, span_id VARCHAR, counter VARCHAR, mean DOUBLE, covered_share DOUBLE,
    outside_ns BIGINT
);
"""
