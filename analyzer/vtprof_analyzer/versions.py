"""Which recordings can be read: those of this version of the vocabulary and older ones; newer ones are left out."""

from typing import Final

import duckdb

from vtprof_analyzer.report.format import counted, safe
from vtprof_schemas import SCHEMA_VERSION
from vtprof_schemas.errors import DataError

_NEWER: Final = f"resource_id IN (SELECT resource_id FROM resources WHERE schema_version > {SCHEMA_VERSION})"
_READ: Final = ("spans", "metric_samples")
ALL_VERSIONS: Final = "_of_all_versions"
"""Behind the name of what they were before."""


def leave_newer_out(connection: duckdb.DuckDBPyConnection) -> None:
    """Take away what was recorded in a newer version of the vocabulary: its attributes may mean what we cannot know.

    Counted and noted by file. Raises DataError, with the first file, where there is nothing else of ours.
    """
    ((version,),) = connection.execute("SELECT max(schema_version) FROM resources").fetchall()
    if version is None or version <= SCHEMA_VERSION:
        return
    found = connection.execute(
        f"SELECT file, count(*) FROM spans WHERE {_NEWER} GROUP BY file ORDER BY file"
    ).fetchall()
    ((others,),) = connection.execute(
        f"SELECT count(*) FROM spans WHERE dialect IS NOT NULL AND NOT coalesce({_NEWER}, false)"
    ).fetchall()
    if found and not others:
        raise DataError(
            f"{safe(found[0][0])}: recorded in version {version} of the vocabulary, this vtprof reads up to"
            f" {SCHEMA_VERSION}; upgrade vtprof"
        )
    for table in _READ:
        _filter(connection, table)
    for file, spans in found:
        what = (
            f"{counted(spans, 'span')} recorded in version {version} of the vocabulary left out: this vtprof reads up to"
            f" {SCHEMA_VERSION}; upgrade it"
        )
        connection.execute("INSERT INTO ingest_notes VALUES (?, NULL, ?)", [file, what])
        connection.execute(
            "UPDATE ingest_files SET dropped_spans = dropped_spans + ? WHERE file = ?", [spans, file]
        )


def _filter(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Put a view in a table's place that shows all but what is newer; the table may be a view itself."""
    ((views,),) = connection.execute(
        "SELECT count(*) FROM duckdb_views() WHERE view_name = ? AND NOT internal", [table]
    ).fetchall()
    connection.execute(f"ALTER {'VIEW' if views else 'TABLE'} {table} RENAME TO {table}{ALL_VERSIONS}")
    connection.execute(
        f"CREATE VIEW {table} AS FROM {table}{ALL_VERSIONS} WHERE NOT coalesce({_NEWER}, false)"
    )
