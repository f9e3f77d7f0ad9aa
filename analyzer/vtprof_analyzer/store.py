"""The analyzer's database: a DuckDB connection with the settings that every stage counts on."""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import duckdb

from vtprof_analyzer.held_folder import held_folder
from vtprof_analyzer.interrupts import interrupted_with_us
from vtprof_analyzer.report.format import safe
from vtprof_schemas.errors import BackendError, ConfigError

_TABLES: Final = "tables.db"
_SPILL: Final = "spill"
_CONTENTS: Final = (_TABLES, _SPILL)
"""What is in a folder of ours: the database, DuckDB's files beside it, and what does not fit into memory."""
_WORK: Final = "work"
_MARK: Final = "ingest_files"
"""A table that every database of ours has: only such a file is overwritten."""
THREAD_BYTES: Final = 256 << 20
"""What the database holds in memory for each thread while it is filled; the rest goes to disk."""
STAGE_THREAD_BYTES: Final = 512 << 20
"""The same for stages, which take a sixth more CPU with half of it."""
NEEDED_BYTES: Final = 128 << 20
"""What a thread cannot work without."""
MEMORY_BYTES: Final = 4 << 30
"""The most that it may hold, where a quarter of the machine's memory is not less."""
_MEMORY_SHARE: Final = "25%"
_UNITS: Final = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MEMORY: Final = "memory"
_DISK: Final = "disk space"
_MORE: Final = {
    _MEMORY: "free some, or raise the limit of this shell or container",
    _DISK: "free some in the temporary folder, or set TMPDIR to another one",
}
_DISK_WORDS: Final = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "max_temp_directory_size",
)
_SMALL_BYTES: Final = 8 << 20
_CONFIG: Final[dict[str, Any]] = {
    # What is not in the package is never fetched from the network.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


@contextmanager
def open_store(
    file: Path | None = None, *, memory_bytes: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty database on disk, which becomes ``file`` at the end, if all goes well until then, or is removed.

    It holds at most ``memory_bytes`` in memory until `with_room` allows more: without it ``THREAD_BYTES`` a thread, but
    no more than ``MEMORY_BYTES`` or a quarter of what the machine or container has. Raises ConfigError when ``file``
    exists and is no database of vtprof's, or cannot be written.
    """
    if file is None:
        with ExitStack() as held:
            try:
                made = held_folder("vtprof-tables-", Path(tempfile.gettempdir()), _CONTENTS)
                folder = held.enter_context(made)
            except OSError as error:
                raise _no_room(error) from error
            yield held.enter_context(_connected(folder, memory_bytes))
        return
    try:
        # An absolute path: DuckDB takes `md:x` and `:memory:` for something else.
        target = file.resolve()
        _check_target(target, file)
    except OSError as error:
        raise _cannot(file, "cannot be written", error) from error
    with ExitStack() as held:
        try:
            folder = held.enter_context(held_folder(f".{target.name[:32]}.", target.parent, _CONTENTS))
        except OSError as error:
            raise _cannot(file, "cannot be written", error) from error
        with _connected(folder, memory_bytes, file) as connection:
            yield connection
        try:
            # A log of the old database would be taken for the new one's.
            Path(os.fspath(target) + ".wal").unlink(missing_ok=True)
            (folder / _TABLES).replace(target)
        except OSError as error:
            raise _cannot(file, "cannot be written", error) from error


@contextmanager
def _connected(
    folder: Path, memory_bytes: int | None, shown: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a new database in ``folder``; what does not fit into memory goes to its file and to files beside it."""
    try:
        connection = duckdb.connect(str(folder / _TABLES), config=_CONFIG)
    except duckdb.OutOfMemoryException as error:
        raise _lacking(_MEMORY) from error
    except (duckdb.Error, OSError) as error:
        raise _cannot(shown, "cannot be written", error) if shown else _no_room(error) from error
    try:
        # Order costs memory and time in the reader; what needs an order sorts.
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET temp_directory = ?", [str(folder / _SPILL)])
        connection.execute("SET enable_progress_bar = false")
        # Where it expects few rows it compares all with all instead: what it expects is often far too few.
        connection.execute("SET asof_loop_join_threshold = 0")
        _limit_memory(connection, memory_bytes)
        with interrupted_with_us(connection):
            yield connection
    except (duckdb.Error, MemoryError) as error:
        if (lack := lack_of(error)) is None:
            raise
        raise _lacking(lack) from error
    finally:
        with suppress(duckdb.Error):  # on a full disk it cannot put its log away
            connection.close()


def _lacking(lack: str) -> BackendError:
    return BackendError(f"not enough {lack}; {_MORE[lack]}")


def lack_of(error: BaseException) -> str | None:
    """Return what the system had too little of where an error tells of that: it is no fault of the input."""
    if isinstance(error, MemoryError | duckdb.OutOfMemoryException):
        return _MEMORY
    if isinstance(error, duckdb.Error) and any(words in str(error) for words in _DISK_WORDS):
        return _DISK
    return None


def use_few_threads(connection: duckdb.DuckDBPyConnection, input_bytes: int) -> None:
    """Take one thread for a small input, which several would only wait for each other over."""
    if input_bytes < _SMALL_BYTES:
        connection.execute("SET threads = 1")


def work_in_memory(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables that follow in memory, beside those that are there: for a database that nobody opens later.

    On disk a table is packed and logged, which costs more than most stages. What does not fit spills all the same.
    """
    connection.execute(f"ATTACH ':memory:' AS {_WORK}")
    connection.execute(f"SET search_path = '{_WORK}.main,{Path(_TABLES).stem}.main'")


def give_stages_room(connection: duckdb.DuckDBPyConnection) -> None:
    """Let the database hold as much as stages work best with, where the machine has that."""
    ((threads,),) = connection.execute("SELECT current_setting('threads')").fetchall()
    before = _memory_bytes(connection)
    _set_memory(connection, max(before, min(threads * STAGE_THREAD_BYTES, _most_bytes(connection))))


def with_room(connection: duckdb.DuckDBPyConnection, work: Callable[[], object]) -> None:
    """Do work in a transaction; where the memory does not do for it, again with twice as much, up to ``MEMORY_BYTES``.

    Not everything can go to disk: what a query needs at once grows with the run, and is not known before.
    """
    while True:
        connection.begin()
        try:
            work()
        except duckdb.OutOfMemoryException:
            connection.rollback()
            if not _double_memory(connection):
                raise
        except BaseException:
            with suppress(duckdb.Error):
                connection.rollback()
            raise
        else:
            connection.commit()
            return


def _double_memory(connection: duckdb.DuckDBPyConnection) -> bool:
    """Let the database hold twice as much, or the most that it may; return whether that is more."""
    before = _memory_bytes(connection)
    after = min(2 * before, _most_bytes(connection))
    _set_memory(connection, max(before, after))
    return after > before


def _limit_memory(connection: duckdb.DuckDBPyConnection, memory_bytes: int | None) -> None:
    ((threads,),) = connection.execute("SELECT current_setting('threads')").fetchall()
    if memory_bytes is None:
        memory_bytes = min(threads * THREAD_BYTES, _most_bytes(connection))
    _set_memory(connection, memory_bytes)
    connection.execute("SET threads = ?", [max(1, min(threads, memory_bytes // NEEDED_BYTES))])


def _most_bytes(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the most that a database may hold; its limit is another one afterwards."""
    # DuckDB knows the limits of containers.
    connection.execute("SET memory_limit = ?", [_MEMORY_SHARE])
    return min(MEMORY_BYTES, _memory_bytes(connection))


def _memory_bytes(connection: duckdb.DuckDBPyConnection) -> int:
    ((shown,),) = connection.execute("SELECT current_setting('memory_limit')").fetchall()
    amount, unit = shown.split()
    return int(float(amount) * _UNITS[unit])


def _set_memory(connection: duckdb.DuckDBPyConnection, memory_bytes: int) -> None:
    connection.execute("SET memory_limit = ?", [f"{memory_bytes} bytes"])


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
    return ConfigError(f"--db {safe(file)}: {what} ({_reason(error)}); give another file")


def _no_room(error: Exception) -> ConfigError:
    folder = safe(tempfile.gettempdir())
    return ConfigError(
        f"{folder}: no tables can be made there ({_reason(error)}); set TMPDIR to another folder"
    )


def _reason(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return safe(reason or next(iter(str(error).strip().splitlines()), type(error).__name__))
