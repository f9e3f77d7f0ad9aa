"""Build the report object from the stages' tables: the last step of an analysis, and the only one reports need."""

from dataclasses import dataclass, replace
from importlib import metadata

import duckdb

from vtprof_analyzer.devices.roofs import Roof
from vtprof_analyzer.report.build_anomalies import build_anomalies
from vtprof_analyzer.report.build_caches import build_caches
from vtprof_analyzer.report.build_deployment import Physics, build_deployment
from vtprof_analyzer.report.build_dominance import build_dominance
from vtprof_analyzer.report.build_energy import build_counters, build_energy
from vtprof_analyzer.report.build_engine import build_engine
from vtprof_analyzer.report.build_findings import (
    Judgement,
    build_combined,
    build_findings,
    build_not_fired,
    count_outcomes,
)
from vtprof_analyzer.report.build_headline import build_headline
from vtprof_analyzer.report.build_integrity import build_integrity
from vtprof_analyzer.report.build_interference import build_interference
from vtprof_analyzer.report.build_kv import build_kv
from vtprof_analyzer.report.build_phases import above_roof_notes, build_phases, build_roofline
from vtprof_analyzer.report.build_requests import (
    build_by_model,
    build_strata,
    build_summary,
    build_ttft_budget,
)
from vtprof_analyzer.report.build_rows import one
from vtprof_analyzer.report.build_slo import build_scaling, build_slo, build_slo_rows
from vtprof_analyzer.report.build_steps import build_steps
from vtprof_analyzer.report.build_trust import build_clock_offsets, build_span_faults, build_trust
from vtprof_analyzer.report.build_ttft_detail import build_ttft_detail
from vtprof_analyzer.report.model import Report, Source

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Reading:
    """What is known of the input beyond the tables."""

    paths: list[str]
    files_skipped: int
    duplicates: int


@dataclass(frozen=True)
class Objectives:
    """The user's objectives; ``None`` where there is none."""

    ttft_ms: float | None
    tpot_ms: float | None


def build(
    connection: duckdb.DuckDBPyConnection,
    reading: Reading,
    physics: Physics,
    objectives: Objectives,
    judgement: Judgement,
    roof: Roof | None,
) -> Report:
    """Return the report of a store whose stages have run."""
    summary = build_summary(connection)
    budget = build_ttft_budget(connection)
    dominance = build_dominance(connection)
    times = one(
        connection,
        "SELECT min(start_ns) AS first_ns, max(greatest(start_ns, end_ns)) AS last_ns FROM spans WHERE dialect IS NOT NULL",
    )
    phases = build_phases(connection, roof, physics.no_cost)
    deployment = build_deployment(connection, physics)
    deployment = replace(deployment, notes=[*above_roof_notes(phases, roof), *deployment.notes])
    integrity = build_integrity(connection, reading.files_skipped, reading.duplicates)
    return Report(
        schema_version=SCHEMA_VERSION,
        generator=f"vtprof {metadata.version('vtprof')}",
        source=Source(reading.paths, integrity.files_read, times["first_ns"], times["last_ns"]),
        deployment=deployment,
        summary=summary,
        headline=build_headline(summary, dominance, budget, integrity.orphans),
        phases=phases,
        ttft_budget=budget,
        strata=build_strata(connection),
        dominance=dominance,
        kv=build_kv(connection),
        slo=build_slo(connection, objectives.ttft_ms, objectives.tpot_ms),
        integrity=integrity,
        findings=build_findings(judgement),
        rules=count_outcomes(judgement.outcomes),
        roofline=build_roofline(connection),
        not_fired=build_not_fired(judgement.outcomes),
        combined_savings=build_combined(judgement),
        engine=build_engine(connection),
        energy=build_energy(connection),
        counters=build_counters(connection),
        slo_rows=build_slo_rows(connection),
        scaling=build_scaling(connection),
        trust=build_trust(connection),
        span_faults=build_span_faults(connection),
        clock_offsets=build_clock_offsets(connection),
        caches=build_caches(connection),
        ttft_detail=build_ttft_detail(connection) if budget.requests else None,
        interference=build_interference(connection),
        anomalies=build_anomalies(connection),
        step_verdicts=build_steps(connection, roof),
        by_model=build_by_model(connection),
    )
