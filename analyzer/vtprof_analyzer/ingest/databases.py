"""Tell a database that `vtprof analyze --db` wrote from others: it holds a run's tables, no traces."""

from pathlib import Path
from typing import Final

import duckdb

MARK: Final = "ingest_files"
"""A table that every database of ours has, as `store` knows."""


def made_of(path: Path) -> list[str] | None:
    """Return the files that a database was made of, as they were given; None for one that is not ours, or damaged."""
    try:
        with duckdb.connect(
            str(path.resolve()), read_only=True, config={"enable_external_access": False}
        ) as given:
            tables = given.execute(
                "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main'"
            ).fetchall()
            if (MARK,) not in tables:
                return None
            rows = given.execute(f"SELECT file::VARCHAR FROM main.{MARK} ORDER BY 1").fetchall()
            return [file for (file,) in rows if file is not None]
    except duckdb.Error:
        return None


def what_it_is(path: Path) -> str:
    """Return what a DuckDB database is, and that it is no traces, in words."""
    ours = made_of(path) is not None
    return f"a {'database that `vtprof analyze --db` wrote' if ours else 'DuckDB database'}, no traces"
