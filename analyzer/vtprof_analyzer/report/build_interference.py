"""The part of the report that says what image requests cost text requests."""

import duckdb

from vtprof_analyzer.report.build_rows import rows
from vtprof_analyzer.report.model_interference import Interference

_ROWS = """
SELECT what, requests, effect AS effect_ms, low AS low_ms, high AS high_ms, share, method, n_matched, matched_share,
       regression_effect AS regression_ms, regression_low AS regression_low_ms, regression_high AS regression_high_ms,
       agrees, why_not,
       -- Once it has its first token a request waits in no queue.
       CASE WHEN what = 'ttft_ms' AND effect IS NOT NULL THEN 'growth of the queue' END AS excludes
FROM interference
-- Where no step held image work there is nothing that could cost anything.
WHERE EXISTS (FROM engine_work WHERE visual_tokens > 0 OR patches > 0 OR encode > 0)
ORDER BY what = 'tpot_ms'
"""


def build_interference(connection: duckdb.DuckDBPyConnection) -> list[Interference]:
    """Return the effect on TTFT and on TPOT; nothing where no step recorded image work."""
    return [Interference(**row) for row in rows(connection, _ROWS)]
