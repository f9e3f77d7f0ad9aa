"""The caches of the report: what was looked up and found, by the spans and by the engine's own page."""

import duckdb

from vtprof_analyzer.report.build_rows import rows
from vtprof_analyzer.report.model_caches import Cache

_CACHES = """
FROM caches
ORDER BY list_position(['processor', 'encoder', 'prefix'], cache), list_position(['spans', 'engine_page'], source)
"""


def build_caches(connection: duckdb.DuckDBPyConnection) -> list[Cache]:
    """Return one row for each cache and source that told of it, the spans first."""
    return [Cache(**row) for row in rows(connection, _CACHES)]
