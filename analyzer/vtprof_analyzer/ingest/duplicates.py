"""Spans that came twice: delivery is at least once, and folders overlap. One of each is kept, and no other span lost.

A span is the same as another when ids, name and times are; a copy that has no end yet is the same as one that has.
"""

from typing import NamedTuple

import duckdb


class Removed(NamedTuple):
    """What was found."""

    duplicates: int
    """Spans that were removed."""
    conflicting_ids: int
    """Ids under which spans differ in name or time; all of them are kept."""


def remove_duplicates(connection: duckdb.DuckDBPyConnection) -> Removed:
    """Delete copies of spans from ``span_rows``, and of metric points."""
    _remove_points(connection)
    (counted,) = connection.execute(
        # A 64-bit hash of the pair: far cheaper to count than the pair, and the exact pass below decides.
        "SELECT count(*) - count(DISTINCT hash(trace_id, span_id)) FROM span_rows"
    ).fetchall()
    return _remove_spans(connection) if counted[0] else Removed(0, 0)


def _remove_spans(connection: duckdb.DuckDBPyConnection) -> Removed:
    """Compare the spans whose ids repeat, and these alone."""
    sampling = connection.execute(
        "SELECT 1 FROM duckdb_columns() WHERE table_name = 'span_rows' AND column_name = 'sampling_ratio'"
    ).fetchall()
    surest = "coalesce(sampling_ratio, 1) DESC, " if sampling else ""
    connection.execute(
        f"""
        CREATE TEMP TABLE span_copies AS
        WITH repeated AS (
            SELECT hash(trace_id, span_id) AS ids FROM span_rows GROUP BY ids HAVING count(*) > 1
        ), suspects AS (
            SELECT rowid AS position, s AS content, s.* FROM span_rows AS s
            WHERE hash(trace_id, span_id) IN (SELECT ids FROM repeated)
        )
        SELECT position, trace_id, span_id,
               row_number() OVER (
                   PARTITION BY trace_id, span_id, name, start_ns, end_ns
                   -- The most complete one, whatever the order of reading; of sampled ones that which was kept for
                   -- the surest.
                   ORDER BY dialect NULLS LAST, {surest} file, hash(content)
               ) > 1
               OR end_ns IS NULL
                  AND max(end_ns) OVER (PARTITION BY trace_id, span_id, name, start_ns) IS NOT NULL AS is_copy
        FROM suspects
        """
    )
    (deleted,) = connection.execute(
        "DELETE FROM span_rows WHERE rowid IN (SELECT position FROM span_copies WHERE is_copy)"
    ).fetchall()
    (conflicting,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM span_copies WHERE NOT is_copy GROUP BY trace_id, span_id HAVING count(*) > 1)"
    ).fetchall()
    connection.execute("DROP TABLE span_copies")
    return Removed(int(deleted[0]), int(conflicting[0]))


def _remove_points(connection: duckdb.DuckDBPyConnection) -> None:
    identity = "name, resource_id, hw_id, phase, ts_ns"
    (counted,) = connection.execute(
        f"SELECT count(*) - count(DISTINCT hash({identity})) FROM metric_samples"
    ).fetchall()
    if counted[0]:
        connection.execute(
            f"DELETE FROM metric_samples WHERE rowid NOT IN (SELECT min(rowid) FROM metric_samples GROUP BY {identity})"
        )
