"""The phase table and the points of the roofline: times from the requests, work from the steps, a verdict for each."""

from dataclasses import replace

import duckdb

from vtprof_analyzer import verdict_phases as judge
from vtprof_analyzer import verdict_requests
from vtprof_analyzer.devices.roofs import Roof
from vtprof_analyzer.report.build_rows import Row, one, rows
from vtprof_analyzer.report.build_steps import phase_counters, phase_sums, read_limits
from vtprof_analyzer.report.model import PhaseRow, RoofPoint
from vtprof_analyzer.trust import Trust, concerning, lowered
from vtprof_analyzer.verdict import (
    INSUFFICIENT_DATA,
    Thresholds,
    Verdict,
    not_judged,
    percent,
    too_small,
    words,
)
from vtprof_analyzer.verdict_folded import Folded, despite_folding
from vtprof_schemas import names

_MJ_PER_J = 1000.0
_MOST = 0.5
"""Share of a phase's steps whose work has to be known, so that it stands for the phase."""
_ON_DEVICE = frozenset({names.ENCODE, names.PREFILL, names.DECODE})
_STEPS = """
SELECT sum(steps) FILTER (encode_items > 0 OR encode_patches > 0 OR encode_ns > 0)::BIGINT AS encode,
       sum(steps) FILTER (prefill_tokens > 0)::BIGINT AS prefill, sum(steps) FILTER (decode_requests > 0)::BIGINT AS decode
FROM steps WHERE NOT folded
"""
_WAITED = """
SELECT sum(s.kv_used_tokens / nullif(k.capacity_tokens, 0) * s.duration_ns)
           / nullif(sum(s.duration_ns) FILTER (s.kv_used_tokens / k.capacity_tokens IS NOT NULL), 0) AS usage,
       (SELECT sum(preemptions)::BIGINT FROM steps) AS preemptions,
       (SELECT max(greatest(kv_used_tokens, kv_used_tokens_max) / nullif(capacity_tokens, 0))
        FROM steps LEFT JOIN kv_sizes USING (resource_id)) AS most,
       (SELECT count(*) > 0 AND count(waiting) = count(*) AND max(waiting) = 0 FROM steps) AS left_nobody
FROM steps AS s LEFT JOIN kv_sizes AS k USING (resource_id) WHERE s.waiting > 0
"""

_CAUSES = """
-- Whole numbers, of femtoseconds, add up to the same in any order.
SELECT cause, sum(TRY_CAST(ns * weight * 1e6 AS HUGEINT))
           / nullif(sum(sum(TRY_CAST(ns * weight * 1e6 AS HUGEINT))) OVER (), 0) AS share
FROM queue_blame JOIN request_base USING (request_number) GROUP BY cause ORDER BY cause
"""


def build_phases(
    connection: duckdb.DuckDBPyConnection, roof: Roof | None, no_cost: str | None = None
) -> list[PhaseRow]:
    """Return the phases that some request had, in the order in which a request meets them.

    ``no_cost`` says why no work is known, where that is so.
    """
    found = {row["phase"]: row for row in rows(connection, "FROM phase_times")}
    total = sum(row["duration_ns"] for row in found.values())
    gpu_total = sum(row["gpu_time_ns"] or 0 for row in found.values())
    shares = _by_phase(connection, "SELECT phase, share FROM ttft_budget WHERE population = 'all'")
    costed = _by_phase(connection, "SELECT phase, steps FROM phase_costs")
    # What the cost model knows to be work of a phase may be more than the step says.
    steps = {
        phase: max(count or 0, costed.get(phase, 0)) or None
        for phase, count in one(connection, _STEPS).items()
    }
    # As in the table of energy: of the requests that are known in full.
    energy_mj = _by_phase(connection, "SELECT phase, energy_mj FROM phase_energy")
    folded = {row["phase"]: Folded(**row) for row in rows(connection, "FROM folded_phases")}
    untold = rows(
        connection, "SELECT phase, counter FROM counter_coverage WHERE NOT tells AND counter <> 'energy'"
    )
    for vague in untold:
        if vague["phase"] in found:
            found[vague["phase"]][f"{vague['counter']}_ratio"] = None
    limits = read_limits(connection)
    doubts = [Trust(**row) for row in rows(connection, "FROM trust")]
    table = []
    for phase in names.PHASES:
        row = found.get(phase)
        if row is None:
            continue
        time_share = row["duration_ns"] / total if total else None
        share = time_share if phase == names.DECODE else shares.get(phase)
        work_share = costed.get(phase, 0) / steps[phase] if steps.get(phase) else None
        verdict = _verdict(connection, phase, row, share, roof, limits, work_share)
        if phase in _ON_DEVICE and not too_small(phase, share, limits):
            verdict = despite_folding(verdict, folded.get(phase), limits)
            if no_cost and verdict.bound == INSUFFICIENT_DATA:
                verdict = replace(verdict, explanation=not_judged(phase, no_cost).explanation)
        verdict = lowered(verdict, felt(verdict, concerning(phase, doubts)))
        table.append(
            PhaseRow(
                phase=phase,
                count=row["requests"],
                time_share=time_share,
                gpu_time_share=row["gpu_time_ns"] / gpu_total
                if row["gpu_time_ns"] is not None and gpu_total
                else None,
                p50_ms=row["p50_ms"],
                p95_ms=row["p95_ms"],
                p99_ms=row["p99_ms"],
                steps=steps.get(phase),
                intensity=verdict.intensity,
                flops_per_s=verdict.flops_per_s,
                bound=verdict.bound,
                confidence=verdict.confidence,
                explanation=verdict.explanation,
                floor_ratio=verdict.floor_ratio,
                dram_bw_ratio=verdict.dram_bw_ratio if phase in _ON_DEVICE else row["dram_ratio"],
                tensor_ratio=verdict.tensor_ratio if phase in _ON_DEVICE else row["tensor_ratio"],
                energy_j=energy_mj[phase] / _MJ_PER_J if phase in energy_mj else None,
                work_share=work_share,
            )
        )
    return table


def felt(verdict: Verdict, doubts: list[Trust]) -> list[Trust]:
    """Return the doubts without those of counters where none witnessed: one witness is medium at most already."""
    alone = verdict.dram_bw_ratio is None and verdict.tensor_ratio is None
    return [doubt for doubt in doubts if not (alone and doubt.area == "counters")]


def above_roof_notes(phases: list[PhaseRow], roof: Roof | None) -> list[str]:
    """Return one line for each phase that ran faster than the roof allows."""
    return [
        f"{row.phase} ran {judge.above_roof(row.floor_ratio, roof)}"
        for row in phases
        if roof is not None and row.floor_ratio is not None and judge.is_above_roof(row.floor_ratio)
    ]


def build_roofline(connection: duckdb.DuckDBPyConnection) -> list[RoofPoint]:
    """Return the cells of the roofline plot, the longest first."""
    found = rows(connection, "FROM roofline_points ORDER BY seconds DESC, phase, intensity, flops_per_s")
    return [RoofPoint(**row) for row in found]


def _by_phase(connection: duckdb.DuckDBPyConnection, query: str) -> Row:
    """Return the second column of a query by its first, mostly the phase."""
    return dict(tuple(row.values()) for row in rows(connection, query))


def _verdict(
    connection: duckdb.DuckDBPyConnection,
    phase: str,
    row: Row,
    share: float | None,
    roof: Roof | None,
    limits: Thresholds,
    work_share: float | None,
) -> Verdict:
    if phase == names.PREPROCESS:
        engine = one(connection, "SELECT engine FROM deployment_facts")["engine"]
        timed = row["cpu_timed_s"] or 0.0
        return verdict_requests.judge_preprocess(
            timed, row["cpu_s"], row["fetch_s"], share, engine, limits, decode_seconds=row["decode_s"]
        )
    if phase == names.QUEUE:
        waited = one(connection, _WAITED)
        return verdict_requests.judge_queue(
            waited["usage"],
            waited["preemptions"],
            share,
            limits,
            most=waited["most"],
            left_nobody=waited["left_nobody"],
            causes={cause: ratio for cause, ratio in _by_phase(connection, _CAUSES).items() if ratio},
        )
    if phase == names.TRANSFER:
        return verdict_requests.judge_transfer(row["duration_ns"] / 1e9, row["transfer_bytes"], share, limits)
    counters = phase_counters(connection, phase, row)
    sums = phase_sums(connection, phase)
    if sums is not None and work_share is not None and work_share < _MOST:
        sums = judge.without_work(sums)
    verdict = judge.judge_phase(sums, phase, roof, counters, share, limits)
    return verdict if verdict.bound == INSUFFICIENT_DATA else _despite_processes(connection, phase, verdict)


def _despite_processes(connection: duckdb.DuckDBPyConnection, phase: str, verdict: Verdict) -> Verdict:
    """Say of a verdict over all processes for which part of the time it does not hold."""
    other = rows(
        connection,
        f"""
        SELECT bound, count(*) AS n, sum(time_s ORDER BY instance) / any_value(all_s) AS share,
               any_value(processes) AS processes
        FROM (SELECT *, sum(time_s) OVER () AS all_s, count(*) OVER () AS processes FROM phase_bounds
              WHERE phase = '{phase}' AND instance IS NOT NULL AND bound <> '{INSUFFICIENT_DATA}')
        WHERE bound <> (SELECT bound FROM phase_bounds WHERE phase = '{phase}' AND instance IS NULL)
        GROUP BY bound ORDER BY share DESC, bound
        """,
    )
    if not other:
        return verdict
    apart = ", ".join(
        f"{words(row['bound'])} in {row['n']} of {row['processes']} processes ({percent(row['share'])} of its time)"
        for row in other
    )
    return replace(verdict, explanation=f"{verdict.explanation}; {apart}")
