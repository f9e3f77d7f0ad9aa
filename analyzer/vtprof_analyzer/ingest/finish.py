"""What is done once everything is read: spans that are none and values that cannot be are taken out, copies removed,
and the view ``spans`` made.
"""

from collections.abc import Sequence

import duckdb

from vtprof_analyzer.ingest.duplicates import remove_duplicates
from vtprof_analyzer.ingest.ledger import Ledger
from vtprof_analyzer.ingest.ranges import remove_implausible
from vtprof_schemas import names


def finish(connection: duckdb.DuckDBPyConnection, ledger: Ledger, relations: Sequence[str]) -> None:
    """Clean ``span_rows`` and ``metric_samples``, write the ledger and ``ingest_counts``, make ``spans`` a view.

    ``relations`` are queries of further spans, with any of the columns of ``spans``.
    """
    _forget_lookalikes(connection)
    _remove_points(connection, ledger)
    _count_mistyped(connection, ledger)
    remove_implausible(connection, ledger)
    removed = remove_duplicates(connection)
    ledger.write(connection)
    connection.execute(
        """
        INSERT INTO ingest_counts
        SELECT ?, ?, (SELECT coalesce(sum(cut_values), 0) FROM span_rows),
               (SELECT coalesce(list(DISTINCT schema_version ORDER BY schema_version), [])
                FROM resources WHERE schema_version IS NOT NULL),
               false
        """,
        [removed.duplicates, removed.conflicting_ids],
    )
    _make_view(connection, relations)


def _forget_lookalikes(connection: duckdb.DuckDBPyConnection) -> None:
    """Give up spans with names like SGLang's in traces without a request of SGLang's."""
    ((met,),) = connection.execute("SELECT count(*) FROM span_rows WHERE dialect = 'sglang'").fetchall()
    if not met:
        return
    requests = "SELECT trace_id FROM span_rows WHERE dialect = 'sglang' AND sglang_rid IS NOT NULL"
    has_ids = "sglang_rid" in _columns(connection, "span_rows")
    others = f"AND trace_id NOT IN ({requests})" if has_ids else ""
    connection.execute(
        f"UPDATE span_rows SET dialect = NULL, unknown_keys = NULL WHERE dialect = 'sglang' {others}"
    )


def _remove_points(connection: duckdb.DuckDBPyConnection, ledger: Ledger) -> None:
    """Delete the points of foreign metrics, and those without a time or number, counted by file."""
    foreign = connection.execute(
        # The agent's own series, as Prometheus has them, say nothing that its spans and points do not.
        "SELECT file, count(*) FROM metric_samples WHERE NOT known AND NOT starts_with(name, 'vtprof.') GROUP BY file"
    ).fetchall()
    for file, points in foreign:
        ledger.files[file].ignored_signals += points
    unusable = connection.execute(
        "SELECT file, count(*) FROM metric_samples WHERE known AND (ts_ns IS NULL OR value IS NULL) GROUP BY file"
    ).fetchall()
    for file, points in unusable:
        ledger.files[file].values_out_of_range += points
        ledger.note(file, None, f"a metric point without a time or a number; left out ({points})")
    connection.execute("DELETE FROM metric_samples WHERE NOT known OR ts_ns IS NULL OR value IS NULL")


def _count_mistyped(connection: duckdb.DuckDBPyConnection, ledger: Ledger) -> None:
    """Count the values of resources that have another type than their attribute, once for each resource."""
    if not connection.execute("SELECT 1 FROM resources WHERE mistyped_keys IS NOT NULL LIMIT 1").fetchall():
        return
    found = connection.execute(
        """
        WITH bad AS (
            SELECT resource_id, unnest(mistyped_keys) AS key FROM resources
        ), places AS (
            SELECT resource_id, min(file) AS file
            FROM (SELECT resource_id, file FROM span_rows UNION ALL SELECT resource_id, file FROM metric_samples)
            SEMI JOIN bad USING (resource_id) GROUP BY resource_id
        )
        SELECT file, key, count(*) FROM bad JOIN places USING (resource_id) GROUP BY ALL ORDER BY ALL
        """
    ).fetchall()
    for file, key, values in found:
        ledger.files[file].values_out_of_range += values
        what = f"resource attribute {key} of another type than {names.ATTRIBUTES[key].type}; taken as unknown ({values})"
        ledger.note(file, None, what)


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Return the columns of a table and their types, in order."""
    return dict(
        connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index",
            [table],
        ).fetchall()
    )


def _make_view(connection: duckdb.DuckDBPyConnection, relations: Sequence[str]) -> None:
    """Replace the empty table ``spans`` by a view of all spans; a column that never came costs nothing there."""
    wanted = _columns(connection, "spans")
    there = _columns(connection, "span_rows")
    picked = ", ".join(
        name if name in there else f"NULL::{type_} AS {name}" for name, type_ in wanted.items()
    )
    parts = [f"SELECT {picked} FROM span_rows", *relations]
    connection.execute("DROP TABLE spans")
    connection.execute(f"CREATE VIEW spans AS {' UNION ALL BY NAME '.join(parts)}")
