"""What requests took in energy, from the shares on their phases; how much of the work has which GPU counter."""

import duckdb

from vtprof_analyzer.cost.metrics import energy_per_token
from vtprof_analyzer.report.build_rows import Row, one, rows
from vtprof_analyzer.report.energy_model import CounterCoverage, Energy, EnergyRow
from vtprof_schemas import names

_MJ_PER_J = 1_000.0
_QUALITIES = (names.QUALITY_MEASURED, names.QUALITY_ATTRIBUTED, names.QUALITY_ESTIMATED)

_REQUESTS = """
SELECT count(*) FILTER (complete) AS requests, count(*) FILTER (NOT complete) AS in_part,
       avg(energy_mj ORDER BY request_key) FILTER (complete) AS mean_mj,
       CASE WHEN count(low_mj) FILTER (complete) = count(*) FILTER (complete)
            THEN avg(low_mj ORDER BY request_key) FILTER (complete) END AS mean_low_mj,
       CASE WHEN count(high_mj) FILTER (complete) = count(*) FILTER (complete)
            THEN avg(high_mj ORDER BY request_key) FILTER (complete) END AS mean_high_mj,
       quantile_cont(energy_mj, 0.50) FILTER (complete) AS p50_mj,
       quantile_cont(energy_mj, 0.95) FILTER (complete) AS p95_mj
FROM request_energy
"""
_TOKENS = """
SELECT coalesce(sum(output_tokens), 0)::BIGINT AS tokens, sum(energy_mj ORDER BY request_key) AS mj,
       CASE WHEN count(low_mj) = count(*) THEN sum(low_mj ORDER BY request_key) END AS low_mj,
       CASE WHEN count(high_mj) = count(*) THEN sum(high_mj ORDER BY request_key) END AS high_mj
FROM request_energy WHERE complete AND output_tokens > 0
"""
_DECODED = """
SELECT coalesce(sum(output_tokens - 1), 0)::BIGINT AS tokens, sum(decode_mj ORDER BY request_key) AS mj
FROM request_energy WHERE complete AND output_tokens > 1 AND decode_mj IS NOT NULL
"""
_GPUS = """
SELECT count(*) AS gpus, sum(energy_mj ORDER BY hw_id) AS mj, sum(attributed_mj ORDER BY hw_id) AS attributed_mj,
       max(observed_ns) / 1e9 AS observed_s
FROM gpu_energy
"""


def build_energy(connection: duckdb.DuckDBPyConnection) -> Energy | None:
    """Return it; None where neither phases nor GPUs have energy."""
    found = {row["phase"]: row for row in rows(connection, "FROM phase_energy")}
    gpus = one(connection, _GPUS)
    if not found and not gpus["gpus"]:
        return None
    phases = [found[phase] for phase in names.PHASES if phase in found]
    requests, tokens, decoded = (
        one(connection, _REQUESTS),
        one(connection, _TOKENS),
        one(connection, _DECODED),
    )
    total_mj = _sum(phases, "energy_mj")
    return Energy(
        requests=requests["requests"],
        requests_in_part=requests["in_part"],
        energy_j=_joules(total_mj),
        low_j=_joules(_sum(phases, "low_mj")),
        high_j=_joules(_sum(phases, "high_mj")),
        estimated_share=_share(_sum(phases, "estimated_mj"), total_mj),
        quality=max((row["quality"] for row in phases if row["quality"]), key=_QUALITIES.index, default=None),
        per_request_j=_joules(requests["mean_mj"]),
        per_request_low_j=_joules(requests["mean_low_mj"]),
        per_request_high_j=_joules(requests["mean_high_mj"]),
        per_request_p50_j=_joules(requests["p50_mj"]),
        per_request_p95_j=_joules(requests["p95_mj"]),
        per_output_token_j=energy_per_token(_joules(tokens["mj"]), tokens["tokens"]),
        per_output_token_low_j=energy_per_token(_joules(tokens["low_mj"]), tokens["tokens"]),
        per_output_token_high_j=energy_per_token(_joules(tokens["high_mj"]), tokens["tokens"]),
        decode_per_token_j=energy_per_token(_joules(decoded["mj"]), decoded["tokens"]),
        phases=[_phase(row, total_mj) for row in phases],
        gpus=gpus["gpus"],
        gpu_energy_j=_joules(gpus["mj"]),
        gpu_observed_s=gpus["observed_s"],
        unattributed_share=_unattributed(gpus["mj"], gpus["attributed_mj"]),
    )


def build_counters(connection: duckdb.DuckDBPyConnection) -> list[CounterCoverage]:
    """Return how much of each phase on the device has which counter, those alone that something recorded."""
    found = {(row["phase"], row["counter"]): row for row in rows(connection, "FROM counter_coverage")}
    return [
        CounterCoverage(**found[phase, counter])
        for phase in names.PHASES
        for counter in ("energy", "dram", "tensor")
        if (phase, counter) in found
    ]


def _phase(row: Row, total_mj: float | None) -> EnergyRow:
    return EnergyRow(
        phase=row["phase"],
        requests=row["requests"],
        energy_j=row["energy_mj"] / _MJ_PER_J,
        low_j=_joules(row["low_mj"]),
        high_j=_joules(row["high_mj"]),
        share=_share(row["energy_mj"], total_mj),
        per_request_j=row["energy_mj"] / row["requests"] / _MJ_PER_J,
        estimated_share=_share(row["estimated_mj"], row["energy_mj"]),
        quality=row["quality"],
    )


def _sum(phases: list[Row], column: str) -> float | None:
    """Return the sum; None where there is none, or one of them is not known."""
    values = [row[column] for row in phases]
    return sum(values) if values and None not in values else None


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _unattributed(taken_mj: float | None, attributed_mj: float | None) -> float | None:
    if not taken_mj or attributed_mj is None:
        return None
    return max(0.0, 1.0 - attributed_mj / taken_mj)


def _joules(mj: float | None) -> float | None:
    return None if mj is None else mj / _MJ_PER_J
