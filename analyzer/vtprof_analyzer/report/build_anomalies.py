"""The part of the report that explains the slowest requests."""

import duckdb

from vtprof_analyzer.report.build_rows import one, rows
from vtprof_analyzer.report.model_anomalies import Anomalies, SlowRequest

_REQUESTS = """
SELECT s.rank, r.request_id, r.trace_id, r.span_id, s.visual_stratum, r.ttft_ms, r.e2e_ms, s.total_excess_ms AS excess_ms,
       s.phase, s.phase_ms, s.normal_ms, s.cause, s.evidence
FROM slow_requests AS s JOIN requests AS r USING (request_number)
ORDER BY s.rank
"""


def build_anomalies(connection: duckdb.DuckDBPyConnection) -> Anomalies | None:
    """Return the slowest requests; None where no stratum has requests enough to tell what is normal."""
    counts = one(
        connection,
        """
        SELECT (SELECT coalesce(sum(requests), 0)::BIGINT FROM (
                    SELECT count(*) AS requests FROM requests
                    WHERE ttft_ms IS NOT NULL AND visual_stratum IS NOT NULL
                    GROUP BY visual_stratum HAVING count(*) >= 10)) AS judged,
               (SELECT coalesce(max(slow), 0) FROM slow_requests) AS slow,
               slow_times_normal AS times_normal, slow_requests AS "limit"
        FROM settings
        """,
    )
    if not counts["judged"]:
        return None
    return Anomalies(**counts, requests=[SlowRequest(**row) for row in rows(connection, _REQUESTS)])
