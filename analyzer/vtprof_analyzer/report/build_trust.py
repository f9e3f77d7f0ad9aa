"""How far each area can be trusted, what is wrong with the spans, and which clocks were put right."""

import duckdb

from vtprof_analyzer.report.build_rows import rows
from vtprof_analyzer.report.model_trust import ClockOffsetRow, SpanFaultRow, TrustRow
from vtprof_analyzer.trust import Trust

_CLOCKS = """
SELECT host_name, against, offset_ns / 1e6 AS offset_ms, low_ns / 1e6 AS low_ms, high_ns / 1e6 AS high_ms, pairs
FROM clock_offsets ORDER BY abs(offset_ns) DESC NULLS FIRST, host_name, against
"""
_AREAS = "['tokens', 'phases', 'steps', 'counters', 'kv', 'clock', 'sampling']"


def read_trust(connection: duckdb.DuckDBPyConnection) -> list[Trust]:
    """Return the rows of the stage ``trust``, for verdicts: area by area, the worst reason first."""
    ordered = rows(connection, f"FROM trust ORDER BY list_position({_AREAS}, area), factor, reason")
    return [Trust(**row) for row in ordered]


def build_trust(connection: duckdb.DuckDBPyConnection) -> list[TrustRow]:
    """Return the same for the report."""
    return [
        TrustRow(row.area, row.state, row.reason, row.factor, row.counter) for row in read_trust(connection)
    ]


def build_span_faults(connection: duckdb.DuckDBPyConnection) -> list[SpanFaultRow]:
    """Return the kinds of fault that occurred, those that spoil most time first."""
    ordered = rows(connection, "FROM span_faults ORDER BY time_share DESC NULLS LAST, count DESC, kind")
    return [SpanFaultRow(**row) for row in ordered]


def build_clock_offsets(connection: duckdb.DuckDBPyConnection) -> list[ClockOffsetRow]:
    """Return the pairs of clocks that met, those that cannot be put right first."""
    return [ClockOffsetRow(**row) for row in rows(connection, _CLOCKS)]
