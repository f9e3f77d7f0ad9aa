"""The analyzer's database: a DuckDB connection with the settings that every stage counts on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from vtprof_schemas.errors import ConfigError

_MARK = "ingest_files"
"""A table that every database of ours has: only such a file is overwritten."""


@contextmanager
def open_store(file: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty database in memory, or in ``file``, which is made anew and kept.

    Raises ConfigError when ``file`` exists and is no database of vtprof's, or cannot be written.
    """
    if file is not None:
        _make_way(file)
    with TemporaryDirectory(prefix="vtprof-spill-") as spill:
        try:
            connection = duckdb.connect(str(file) if file else ":memory:")
        except (duckdb.Error, OSError) as error:
            raise ConfigError(
                f"--db {file}: cannot be written ({_first_line(error)}); give another file"
            ) from error
        try:
            # Order costs memory and time in the reader; what needs an order sorts.
            connection.execute("SET preserve_insertion_order = false")
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET temp_directory = ?", [spill])
            connection.execute("SET enable_progress_bar = false")
            yield connection
        finally:
            connection.close()


def _make_way(file: Path) -> None:
    if not file.exists():
        if not file.parent.is_dir():
            raise ConfigError(
                f"--db {file}: the folder {file.parent} does not exist; make it or give another file"
            )
        return
    try:
        with duckdb.connect(str(file), read_only=True) as old:
            tables = {name for (name,) in old.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    except (duckdb.Error, OSError) as error:
        raise ConfigError(
            f"--db {file}: exists and cannot be opened ({_first_line(error)}); give another file"
        ) from error
    if _MARK not in tables:
        raise ConfigError(f"--db {file}: is a database, but not one of vtprof's; give another file")
    file.unlink()
    Path(os.fspath(file) + ".wal").unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
