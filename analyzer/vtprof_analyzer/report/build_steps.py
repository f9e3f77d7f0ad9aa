"""Verdicts of steps for the report: by time, of mixed steps, by process, and how mixed steps were apportioned."""

import duckdb

from vtprof_analyzer.cost.times import NOMINAL_RIDGE
from vtprof_analyzer.devices.roofs import Roof
from vtprof_analyzer.report.build_rows import Row, one, rows
from vtprof_analyzer.report.model_steps import (
    BoundShare,
    InstanceVerdict,
    MixedSteps,
    SplitPhase,
    StepSplit,
    StepVerdicts,
)
from vtprof_analyzer.verdict import Counters, PhaseSums, Thresholds
from vtprof_analyzer.verdict_phases import judge_phase
from vtprof_schemas import names

MIXED = "mixed"
_WHOLE = "step"
_PREFIX = "verdict_"
_COMPLETE_RATIO = 0.05
"""What the agent's shares and the rule's may miss of the steps' time to be compared."""
_INSTANCES = """
WITH judged AS (
    SELECT *, time_s / sum(time_s) OVER (PARTITION BY phase ORDER BY instance
               ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS time_share
    FROM phase_bounds WHERE instance IS NOT NULL AND phase <> 'step' AND bound <> 'insufficient_data'
), apart AS (
    SELECT * FROM judged WHERE phase IN (SELECT phase FROM judged GROUP BY phase HAVING count(DISTINCT bound) > 1)
), named AS (
    SELECT coalesce(service_instance_id, r.resource_id::VARCHAR) AS instance, max(host_name) AS host, max(hw_name) AS device,
           max(m.model) AS model
    FROM resources AS r
    LEFT JOIN (SELECT resource_id, mode(request_model) AS model FROM spans
               WHERE request_model IS NOT NULL GROUP BY resource_id) AS m USING (resource_id)
    GROUP BY ALL
)
SELECT a.phase, a.instance, n.host, n.model, n.device, a.bound, a.share, a.time_share, a.floor_ratio, a.steps
FROM apart AS a LEFT JOIN named AS n USING (instance)
ORDER BY a.phase, a.time_share DESC, a.instance
"""


def build_steps(connection: duckdb.DuckDBPyConnection, roof: Roof | None) -> StepVerdicts | None:
    """Return the verdicts of all steps; None where there are none."""
    whole = _bounds(connection, _WHOLE)
    if whole is None:
        return None
    folded = one(connection, "SELECT coalesce(sum(steps), 0)::BIGINT AS n FROM steps WHERE folded")["n"]
    by_time = rows(
        connection,
        """
        SELECT phase, bound, sum(time_s ORDER BY instance) / any_value(all_s) AS share, sum(steps)::BIGINT AS steps
        FROM (SELECT *, sum(time_s) OVER (PARTITION BY phase ORDER BY instance, bound
                  ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS all_s FROM bound_times)
        WHERE phase <> 'step' GROUP BY phase, bound ORDER BY phase, share DESC, bound
        """,
    )
    return StepVerdicts(
        steps=whole["steps"],
        not_judged=whole["left_out"] + folded,
        bounds=[BoundShare(**row) for row in by_time],
        mixed=_mixed(connection, roof, whole),
        split=_split(connection, roof, whole),
        instances=[InstanceVerdict(**row) for row in rows(connection, _INSTANCES)],
    )


def read_limits(connection: duckdb.DuckDBPyConnection) -> Thresholds:
    """Return the thresholds that the stages used."""
    row = one(connection, "SELECT COLUMNS('verdict_.*') FROM settings")
    return Thresholds(**{name.removeprefix(_PREFIX): value for name, value in row.items()})


def phase_sums(connection: duckdb.DuckDBPyConnection, phase: str) -> PhaseSums | None:
    """Return the sums of a phase's steps over all processes; None where no work, counter or time is known."""
    row = _bounds(connection, phase)
    if row is None or (row["flops"] is None and row["share"] is None):
        return None
    return PhaseSums(**{name: row[name] for name in PhaseSums.__dataclass_fields__})


def phase_counters(connection: duckdb.DuckDBPyConnection, phase: str, told: Row | None = None) -> Counters:
    """Return a phase's counters: those over its own steps, else those on its requests' spans (``told``).

    A request's phase has the counters of its own work over time that it shares with others' in mixed steps, which
    dilutes them: steps that hold the phase alone speak first, where they are half of its time.
    """
    row = _bounds(connection, phase)
    if row is not None and (row["dram_ratio"] is not None or row["tensor_ratio"] is not None):
        return Counters(row["dram_ratio"], row["tensor_ratio"], row["sm_ratio"], row["counter_quality"])
    if told is None or told["counter_quality"] is None:
        return Counters()
    return Counters(
        told["dram_ratio"],
        told["tensor_ratio"],
        told["sm_ratio"],
        told["counter_quality"],
        diluted=row is not None,
    )


def _bounds(connection: duckdb.DuckDBPyConnection, phase: str) -> Row | None:
    found = rows(connection, f"FROM phase_bounds WHERE phase = '{phase}' AND instance IS NULL")
    return found[0] if found else None


def _mixed(connection: duckdb.DuckDBPyConnection, roof: Roof | None, whole: Row) -> MixedSteps | None:
    row = _bounds(connection, MIXED)
    if row is None:
        return None
    counters = phase_counters(connection, MIXED)
    verdict = judge_phase(phase_sums(connection, MIXED), MIXED, roof, counters, None, read_limits(connection))
    return MixedSteps(
        steps=row["steps"] + row["left_out"],
        time_share=row["time_s"] / whole["time_s"] if whole["time_s"] else None,
        intensity=verdict.intensity,
        flops_per_s=verdict.flops_per_s,
        bound=verdict.bound,
        confidence=verdict.confidence,
        explanation=verdict.explanation,
        floor_ratio=verdict.floor_ratio,
        dram_bw_ratio=verdict.dram_bw_ratio,
        tensor_ratio=verdict.tensor_ratio,
    )


def _split(connection: duckdb.DuckDBPyConnection, roof: Roof | None, whole: Row) -> StepSplit | None:
    apportioned = one(
        connection,
        "SELECT coalesce(sum(steps), 0)::BIGINT AS steps, sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) / 1e15 AS time_s"
        " FROM roofline WHERE whole AND phase IN ('mixed', 'step') AND flops IS NOT NULL",
    )
    if not apportioned["steps"]:
        return None
    found = rows(connection, "FROM split_shares ORDER BY phase")
    given = {row["phase"]: row for row in found}
    ruled = sum(row["rule_s"] for row in found)
    attributed = sum(row["agent_s"] or 0.0 for row in found)
    of_steps = found[0]["steps_s"] or 0.0
    # Two rules compare over the same steps: all of them.
    told = (
        bool(attributed)
        and abs(attributed / of_steps - 1) <= _COMPLETE_RATIO
        and ruled / of_steps >= 1 - _COMPLETE_RATIO
        if of_steps
        else False
    )
    estimated = any(row["estimated_s"] for row in found)
    return StepSplit(
        how=_rule(roof),
        steps=apportioned["steps"],
        time_share=apportioned["time_s"] / whole["time_s"] if whole["time_s"] else None,
        agent=(names.QUALITY_ESTIMATED if estimated else names.QUALITY_ATTRIBUTED) if told else None,
        phases=[
            SplitPhase(
                phase,
                given[phase]["rule_s"] / ruled,
                (given[phase]["agent_s"] or 0.0) / attributed if told else None,
            )
            for phase in names.PHASES
            if phase in given and ruled
        ],
    )


def _rule(roof: Roof | None) -> str:
    weights = (
        "each part's roofline floor" if roof else f"each part's FLOPs or bytes, at {NOMINAL_RIDGE:.0f} FLOP/B"
    )
    return (
        f"the encoder takes its own recorded time, the rest goes by {weights}; weights read are split between prefill and"
        " decode by tokens"
    )
