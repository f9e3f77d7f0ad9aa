"""What requests took in energy, from the shares on their phases; how much of the work has which GPU counter."""

import duckdb

from vtprof_analyzer.cost.metrics import energy_per_token
from vtprof_analyzer.report.build_rows import Row, one, rows
from vtprof_analyzer.report.energy_model import CounterCoverage, Energy, EnergyRow, OtherGpu
from vtprof_schemas import names

_MJ_PER_J = 1_000.0
_LEAST_WATCHED = 0.9
"""Of the working time: from there on what the GPUs took bounds what their requests can have taken."""
_ROUNDING = 1.01
"""What sums of many readings, and the ends of a watch, can make of a total."""
_QUALITIES = (names.QUALITY_MEASURED, names.QUALITY_ATTRIBUTED, names.QUALITY_ESTIMATED)

_REQUESTS = """
SELECT sum(energy_mj ORDER BY request_number) AS all_mj,
       count(*) FILTER (complete) AS requests, count(*) FILTER (NOT complete) AS in_part,
       sum(energy_mj ORDER BY request_number) FILTER (NOT complete) AS in_part_mj,
       avg(energy_mj ORDER BY request_number) FILTER (complete) AS mean_mj,
       CASE WHEN count(low_mj) FILTER (complete) = count(*) FILTER (complete)
            THEN avg(low_mj ORDER BY request_number) FILTER (complete) END AS mean_low_mj,
       CASE WHEN count(high_mj) FILTER (complete) = count(*) FILTER (complete)
            THEN avg(high_mj ORDER BY request_number) FILTER (complete) END AS mean_high_mj,
       quantile_cont(energy_mj, 0.50) FILTER (complete) AS p50_mj,
       quantile_cont(energy_mj, 0.95) FILTER (complete) AS p95_mj
FROM request_energy
"""
_TOKENS = """
SELECT coalesce(sum(output_tokens), 0)::BIGINT AS tokens, sum(energy_mj ORDER BY request_number) AS mj,
       CASE WHEN count(low_mj) = count(*) THEN sum(low_mj ORDER BY request_number) END AS low_mj,
       CASE WHEN count(high_mj) = count(*) THEN sum(high_mj ORDER BY request_number) END AS high_mj
FROM request_energy WHERE complete AND output_tokens > 0
"""
_DECODED = """
SELECT coalesce(sum(output_tokens - 1), 0)::BIGINT AS tokens, sum(decode_mj ORDER BY request_number) AS mj
FROM request_energy WHERE complete AND output_tokens > 1 AND decode_mj IS NOT NULL
"""
_GPUS = """
SELECT count(*) AS gpus, sum(energy_mj ORDER BY hw_id) AS mj, sum(attributed_mj ORDER BY hw_id) AS attributed_mj,
       max(observed_ns) / 1e9 AS observed_s, min(covered_share) AS covered_share,
       count(*) >= coalesce(max(named), 0) AS all_watched
FROM gpu_energy WHERE coalesce(used, true)
"""
_OTHERS = """
SELECT hw_id, energy_mj / 1e3 AS energy_j FROM gpu_energy WHERE NOT used ORDER BY energy_mj DESC, hw_id
"""


def build_energy(connection: duckdb.DuckDBPyConnection) -> Energy | None:
    """Return it; None where neither phases nor GPUs have energy."""
    watched, gpus, requests = (
        one(connection, "SELECT count(*) AS gpus, bool_or(used IS NOT NULL) AS named FROM gpu_energy"),
        one(connection, _GPUS),
        one(connection, _REQUESTS),
    )
    if not requests["requests"] and not requests["in_part"] and not watched["gpus"]:
        return None
    tokens, decoded = one(connection, _TOKENS), one(connection, _DECODED)
    found = {row["phase"]: row for row in rows(connection, "FROM phase_energy")}
    phases = [found[phase] for phase in names.PHASES if phase in found]
    total_mj = _sum(phases, "energy_mj")
    most_mj = _most(gpus, requests["all_mj"])
    sampled = one(connection, "SELECT sampled_requests > 0 AS sampled FROM integrity")["sampled"]
    number = requests["requests"]
    return Energy(
        requests=number,
        requests_in_part=requests["in_part"],
        energy_j=_joules(total_mj),
        low_j=_joules(_sum(phases, "low_mj")),
        high_j=_joules(_within(most_mj, _sum(phases, "high_mj"), total_mj)),
        estimated_share=_share(_sum(phases, "estimated_mj"), total_mj),
        quality=max((row["quality"] for row in phases if row["quality"]), key=_QUALITIES.index, default=None),
        per_request_j=_joules(requests["mean_mj"]),
        per_request_low_j=_joules(requests["mean_low_mj"]),
        per_request_high_j=_joules(
            _within(_share(most_mj, number), requests["mean_high_mj"], requests["mean_mj"])
        ),
        per_request_p50_j=_joules(requests["p50_mj"]),
        per_request_p95_j=_joules(requests["p95_mj"]),
        per_output_token_j=energy_per_token(_joules(tokens["mj"]), tokens["tokens"]),
        per_output_token_low_j=energy_per_token(_joules(tokens["low_mj"]), tokens["tokens"]),
        per_output_token_high_j=energy_per_token(
            _joules(_within(most_mj, tokens["high_mj"], tokens["mj"])), tokens["tokens"]
        ),
        decode_per_token_j=energy_per_token(_joules(decoded["mj"]), decoded["tokens"]),
        phases=[_phase(row, total_mj, number, most_mj) for row in phases],
        gpus=gpus["gpus"],
        gpu_energy_j=_joules(gpus["mj"]),
        gpu_observed_s=gpus["observed_s"],
        # Of sampled requests the kept ones alone are here; the GPUs worked for all.
        unattributed_share=None if sampled else _unattributed(gpus["mj"], gpus["attributed_mj"]),
        in_part_j=_joules(requests["in_part_mj"]),
        sampled=sampled,
        other_gpus=[OtherGpu(**row) for row in rows(connection, _OTHERS)] if watched["named"] else None,
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


def _most(gpus: Row, requests_mj: float | None) -> float | None:
    """Return what requests can have taken at most [mJ]: all that their GPUs did; None while that is not known.

    Where the watch missed a little of the working time it counts with the mean power of the rest. A total below what
    the requests took lacks what an agent did not live to export: it bounds nothing.
    """
    covered = gpus["covered_share"]
    if not gpus["gpus"] or not gpus["all_watched"] or covered is None or covered < _LEAST_WATCHED:
        return None
    most: float = gpus["mj"] / covered
    return None if requests_mj is not None and requests_mj > _ROUNDING * most else most


def _within(most: float | None, high: float | None, value: float | None) -> float | None:
    """Return the upper end of an interval, at most what is possible, but not below the value itself."""
    if most is None or high is None or value is None:
        return high
    return max(value, min(high, most))


def _phase(row: Row, total_mj: float | None, requests: int, most_mj: float | None) -> EnergyRow:
    return EnergyRow(
        phase=row["phase"],
        requests=row["requests"],
        energy_j=row["energy_mj"] / _MJ_PER_J,
        low_j=_joules(row["low_mj"]),
        high_j=_joules(_within(most_mj, row["high_mj"], row["energy_mj"])),
        share=_share(row["energy_mj"], total_mj),
        per_request_j=row["energy_mj"] / requests / _MJ_PER_J,
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
