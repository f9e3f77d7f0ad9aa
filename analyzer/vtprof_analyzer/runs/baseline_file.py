"""A baseline's file: the requests of its runs in one Parquet file, described in its metadata.

One row a request, ordered by run and start, with the columns of a request table, so that anything that reads those
reads baselines too; NULL is not known. ``run`` is the number of the run, from 1 on. The metadata has one key,
``vtprof.baseline``, with a JSON object::

    {"schema_version": 1, "name": "main", "saved_unix_nano": ..., "note": ..., "vtprof_version": "0.1.0",
     "runs": [{"label": "traces/a", "engine": "vllm 0.33.0", "device": ..., "settings": ..., "models": [...],
               "skipped": {reason: requests}, "notes": [...], "requests": 3000, "begin_unix_nano": ..., "end_unix_nano": ...,
               "saved_unix_nano": ...}, ...]}

Begin and end are the starts of the first and the last request. Files come from anywhere: what in them cannot be is left
out and counted, and what is too large is refused before it is unpacked. Schema version 1; a reader reads no newer one.
"""

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import duckdb

from vtprof_analyzer.ingest.parquet_columns import text
from vtprof_analyzer.regress.requests import Run
from vtprof_analyzer.report.format import safe
from vtprof_analyzer.runs.baseline_facts import KEY, MOST_MODELS, Baseline, damaged, document_of, facts_of
from vtprof_analyzer.runs.baseline_rows import INTEGERS, NEEDED, expressions, runs_of, table_of
from vtprof_analyzer.store import lack_of
from vtprof_schemas.errors import BackendError, ConfigError, DataError

MOST_REQUESTS: Final = 10_000_000
_MAGIC: Final = b"PAR1"
_MOST_FOOTER_BYTES: Final = 32 << 20
_MOST_FILE_BYTES: Final = 4 << 30
_MOST_UNPACKED_BYTES: Final = 4 << 30
_MEMORY: Final = "2GiB"
_PARQUET: Final = (
    # Times hardly repeat: a dictionary of them costs more than it saves. At level 9 it is 15 % smaller than at 3.
    "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 9, DICTIONARY_SIZE_LIMIT 500, USE_TMP_FILE false"
)


def is_baseline(file: Path) -> bool:
    """Return whether a file is a baseline of this or another version: by its content, whatever its name."""
    try:
        with _opened(file) as stream:
            return KEY.encode() in _footer(stream)
    except (OSError, ValueError, DataError):
        return False


def facts(file: Path) -> Baseline:
    """Return what a baseline's metadata say, without reading its requests. Raises DataError."""
    with _reading(file) as (connection, handle):
        return _facts(connection, handle, file)


def read(file: Path) -> tuple[Baseline, list[Run]]:
    """Return a baseline and its runs, under the labels that they were saved with. Raises DataError.

    Requests with values that cannot be are left out, and counted with what the run had skipped before.
    """
    with _reading(file) as (connection, handle):
        baseline = _facts(connection, handle, file)
        return baseline, _runs(connection, handle, baseline)


def write(file: Path, name: str, note: str | None, runs: Sequence[tuple[Run, int | None]], now: int) -> None:
    """Write a baseline of runs and of when each was saved [Unix ns]; the file is replaced at once, never half written.

    Raises OSError or BackendError when the system refuses.
    """
    told = document_of(name, note, runs, now, metadata.version("vtprof"))
    options = f"{_PARQUET}, KV_METADATA {{{text(KEY)}: {text(told)}}}"
    with _replacing(file) as handle, _connected() as connection:
        connection.register("requests", table_of([run for run, _ in runs]))
        try:
            connection.execute(f"COPY (FROM requests) TO {text(handle)} ({options})")
        except duckdb.Error as error:
            if (lack := lack_of(error)) is None:
                raise
            raise BackendError(f"{safe(file)}: cannot be written (not enough {lack}); free some") from error


@contextmanager
def _replacing(file: Path) -> Iterator[str]:
    """Yield the name of a new file, which takes the place of ``file`` in the end, or is removed."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    # An ordinary file, as the user's umask wants it, and a name that DuckDB takes for nothing else.
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            yield f"/proc/self/fd/{descriptor}"
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _connected() -> Iterator[duckdb.DuckDBPyConnection]:
    settings: dict[str, Any] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "memory_limit": _MEMORY,
        "temp_directory": "",
        "threads": 2,
    }
    with duckdb.connect(":memory:", config=settings) as connection:
        connection.execute("SET enable_progress_bar = false")
        yield connection


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a regular file; a pipe or device is never waited for. Raises OSError or DataError."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DataError(f"{safe(file)}: no regular file; give a file of `vtprof baseline save`")
        yield stream


def _footer(stream: Any) -> bytes:
    """Return a Parquet file's footer. Raises ValueError where there is none, or one that no file of ours has."""
    size = os.fstat(stream.fileno()).st_size
    least = 2 * len(_MAGIC) + 4
    if size < least or stream.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("no baseline of vtprof's")
    stream.seek(-4 - len(_MAGIC), os.SEEK_END)
    end = stream.read()
    length = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC or length > size - least:
        raise ValueError("damaged or cut off")
    if length > _MOST_FOOTER_BYTES or size > _MOST_FILE_BYTES:
        raise ValueError("larger than any baseline")
    stream.seek(-least + len(_MAGIC) - length, os.SEEK_END)
    return bytes(stream.read(length))


@contextmanager
def _reading(file: Path) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """Yield a connection and the name under which it finds the file, which stays the same although others replace it."""
    try:
        with _opened(file) as stream:
            _check(file, stream)
            with _connected() as connection:
                yield connection, f"/proc/self/fd/{stream.fileno()}"
    except FileNotFoundError as error:
        raise ConfigError(f"{safe(file)}: no such file; see `vtprof baseline list`") from error
    except OSError as error:
        raise BackendError(f"{safe(file)}: cannot be read ({error.strerror})") from error
    except duckdb.Error as error:
        raise damaged(file, f"takes more than {_MEMORY} to read" if lack_of(error) else "damaged") from error


def _check(file: Path, stream: Any) -> None:
    try:
        if KEY.encode() not in _footer(stream):
            raise ValueError("Parquet, but no baseline of vtprof's")
    except ValueError as error:
        raise DataError(f"{safe(file)}: {error}; give a file of `vtprof baseline save`") from error


def _facts(connection: duckdb.DuckDBPyConnection, handle: str, file: Path) -> Baseline:
    query = f"SELECT value FROM parquet_kv_metadata({text(handle)}) WHERE key = ?"
    found = connection.execute(query, [KEY.encode()]).fetchall()
    return facts_of(found[0][0] if found else b"", file, Path(handle).stat().st_size)


def _runs(connection: duckdb.DuckDBPyConnection, handle: str, baseline: Baseline) -> list[Run]:
    rows, unpacked = _declared(connection, handle)
    if not 0 <= rows <= MOST_REQUESTS or unpacked > _MOST_UNPACKED_BYTES:
        raise damaged(baseline.file, f"more than {MOST_REQUESTS:,} requests, or as much as more would take")
    source = f"read_parquet({text(handle)}, hive_partitioning = false)"
    described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    types = {str(name): str(type_) for name, type_, *_ in described}
    for needed in NEEDED:
        if types.get(needed) not in INTEGERS:
            raise damaged(baseline.file, f"has no column {needed} of integers")
    columns, notes = expressions(types)
    model = columns.get("model", "''")
    listed = f"SELECT DISTINCT {model} AS model FROM {source} ORDER BY 1 LIMIT {MOST_MODELS + 1}"
    models = [name for (name,) in connection.execute(listed).fetchall()]
    if len(models) > MOST_MODELS:
        raise damaged(baseline.file, f"more than {MOST_MODELS:,} models")
    # Numbers come out of the database much faster than text.
    names = ", ".join(map(text, models or [""]))
    columns["model"] = f"enum_code({model}::ENUM({names}))::BIGINT"
    selected = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
    found = connection.execute(f"SELECT {selected} FROM {source}").fetchnumpy()
    return runs_of(found, models, baseline, notes)


def _declared(connection: duckdb.DuckDBPyConnection, handle: str) -> tuple[int, int]:
    """Return how many rows a file says it has, and how many bytes they take unpacked."""
    ((rows,),) = connection.execute(f"SELECT num_rows FROM parquet_file_metadata({text(handle)})").fetchall()
    groups = connection.execute(
        "SELECT any_value(row_group_num_rows), sum(total_uncompressed_size)"
        f" FROM parquet_metadata({text(handle)}) GROUP BY row_group_id"
    ).fetchall()
    # The two say the same in an honest file; what is read is what the groups say.
    return max(rows, sum(count for count, _ in groups)), sum(abs(size) for _, size in groups)
