"""Spans that came twice: delivery is at least once, and folders overlap. One of each is kept."""

import duckdb


def remove_duplicates(connection: duckdb.DuckDBPyConnection) -> int:
    """Delete spans whose trace and span id were seen before, and equal metric points; return how many spans."""
    (counted,) = connection.execute(
        # A 64-bit hash of the pair: far cheaper to count than the pair, and the exact pass below decides.
        "SELECT count(*) - count(DISTINCT hash(trace_id, span_id)) FROM spans"
    ).fetchall()
    removed = 0
    if counted[0]:
        (deleted,) = connection.execute(
            """
            DELETE FROM spans WHERE rowid IN (
                SELECT rowid FROM (
                    SELECT rowid, row_number() OVER (
                        PARTITION BY trace_id, span_id
                        -- The most complete one, whatever the order of reading; of sampled ones that which was kept
                        -- for the surest.
                        ORDER BY dialect NULLS LAST, coalesce(sampling_ratio, 1) DESC,
                            end_ns DESC NULLS LAST, start_ns, file, hash(spans)
                    ) AS copy
                    FROM spans
                ) WHERE copy > 1
            )
            """
        ).fetchall()
        removed = int(deleted[0])
    connection.execute(
        """
        DELETE FROM metric_samples WHERE rowid NOT IN (
            SELECT min(rowid) FROM metric_samples GROUP BY name, resource_id, hw_id, phase, ts_ns
        )
        """
    )
    return removed
