"""Open a store over a few lines, for tests: what was read, as plain Python values."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from vtprof_analyzer.ingest.load import create_tables, load
from vtprof_analyzer.ingest.sources import find_sources
from vtprof_analyzer.store import open_store


@contextmanager
def loaded(*paths: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_store() as connection:
        create_tables(connection)
        load(connection, find_sources(paths), lambda _: None)
        yield connection


def fetch(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Return the sums over ``ingest_files`` by column name."""
    names = ["lines", "malformed_lines", "truncated_lines", "ignored_signals", "dropped_spans"]
    sums = ", ".join(f"coalesce(sum({name}), 0)::BIGINT" for name in names)
    (row,) = fetch(connection, f"SELECT {sums} FROM ingest_files")
    return dict(zip(names, row, strict=True))
