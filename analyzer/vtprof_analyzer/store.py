"""The analyzer's database: a DuckDB connection with the settings that every stage counts on."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb

from vtprof_analyzer.report.format import safe
from vtprof_schemas.errors import ConfigError

_MARK: Final = "ingest_files"
"""A table that every database of ours has: only such a file is overwritten."""
_CONFIG: Final[dict[str, Any]] = {
    # What is not in the package is never fetched from the network.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


@contextmanager
def open_store(file: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty database in memory, or one that becomes ``file`` at the end, if all goes well until then.

    Raises ConfigError when ``file`` exists and is no database of vtprof's, or cannot be written.
    """
    if file is None:
        with _connected(":memory:") as connection:
            yield connection
        return
    try:
        # An absolute path: DuckDB takes `md:x` and `:memory:` for something else.
        target = file.resolve()
        _check_target(target, file)
        made = tempfile.TemporaryDirectory(prefix=f".{target.name[:32]}.", dir=target.parent)
    except OSError as error:
        raise _cannot(file, "cannot be written", error) from error
    with made as folder:
        beside = Path(folder) / "tables.db"
        with _connected(str(beside), file) as connection:
            yield connection
        try:
            # A log of the old database would be taken for the new one's.
            Path(os.fspath(target) + ".wal").unlink(missing_ok=True)
            beside.replace(target)
        except OSError as error:
            raise _cannot(file, "cannot be written", error) from error


@contextmanager
def _connected(database: str, shown: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory(prefix="vtprof-spill-") as spill:
        try:
            connection = duckdb.connect(database, config=_CONFIG)
        except (duckdb.Error, OSError) as error:
            raise _cannot(shown or Path(database), "cannot be written", error) from error
        try:
            # Order costs memory and time in the reader; what needs an order sorts.
            connection.execute("SET preserve_insertion_order = false")
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET temp_directory = ?", [spill])
            connection.execute("SET enable_progress_bar = false")
            yield connection
        finally:
            connection.close()


def _check_target(target: Path, given: Path) -> None:
    """Refuse a place that is not ours to write. Raises OSError where it cannot be looked at."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise ConfigError(
                f"--db {safe(given)}: the folder {safe(target.parent)} does not exist; make it or give another file"
            ) from None
        return
    if not stat.S_ISREG(mode):
        raise ConfigError(f"--db {safe(given)}: is no regular file; give another file")
    try:
        with duckdb.connect(str(target), read_only=True, config=_CONFIG) as old:
            tables = {name for (name,) in old.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    except duckdb.Error as error:
        raise _cannot(given, "exists and cannot be opened", error) from error
    if _MARK not in tables:
        raise ConfigError(f"--db {safe(given)}: is a database, but not one of vtprof's; give another file")


def _cannot(file: Path, what: str, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else None
    shown = safe(reason or next(iter(str(error).strip().splitlines()), type(error).__name__))
    return ConfigError(f"--db {safe(file)}: {what} ({shown}); give another file")
