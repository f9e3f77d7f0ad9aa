"""The objectives: what was reached of them and what it cost, by group of requests and by number of nodes."""

import duckdb

from vtprof_analyzer.report.build_rows import rows
from vtprof_analyzer.report.model import Slo
from vtprof_analyzer.report.model_slo import ScalingRow, SloRow

_ROWS = """
SELECT * FROM slo LEFT JOIN (SELECT label AS name, 'visual_stratum' AS scope, position FROM visual_strata) AS strata
    USING (scope, name)
ORDER BY list_position(['all', 'model', 'visual_stratum', 'node'], scope), position, requests DESC, name,
    list_position(['ttft', 'tpot', 'completed'], objective)
"""
_MAX_ROWS = 200
"""Of the report; the table `slo` has all."""


def build_slo(connection: duckdb.DuckDBPyConnection, ttft_ms: float | None, tpot_ms: float | None) -> Slo:
    """Return what the whole run reached of the objectives; failed requests count as missed (``<=`` is kept).

    Sampled requests count as often as they stand for others: `goodput_per_s` estimates that of all.
    """
    found = {row["objective"]: row for row in rows(connection, "FROM slo WHERE scope = 'all'")}
    whole = found["completed"]
    return Slo(
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        ttft_attainment=found["ttft"]["attainment"] if "ttft" in found else None,
        tpot_attainment=found["tpot"]["attainment"] if "tpot" in found else None,
        goodput_share=whole["goodput_share"],
        goodput_per_s=whole["goodput_per_s"],
    )


def build_slo_rows(connection: duckdb.DuckDBPyConnection) -> list[SloRow]:
    """Return each group of requests and objective, the whole run first, the largest groups before smaller ones."""
    found = rows(connection, _ROWS)[:_MAX_ROWS]
    return [SloRow(**{k: v for k, v in row.items() if k != "position"}) for row in found]


def build_scaling(connection: duckdb.DuckDBPyConnection) -> list[ScalingRow]:
    """Return what each number of nodes reached, the smallest first."""
    found = rows(connection, "SELECT * RENAME (rate AS rate_per_s) FROM scaling ORDER BY nodes")
    return [ScalingRow(**row) for row in found]
