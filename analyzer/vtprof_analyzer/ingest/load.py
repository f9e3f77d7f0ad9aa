"""Load trace files into the base tables: a fast reader for what is clean, a careful one for what is not.

The fast reader is one DuckDB statement over many files and knows no excuse: any fault fails it. Then the files are
tried one by one, and one that fails alone is copied without its faults and read again.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import duckdb

from vtprof_analyzer.ingest import columns
from vtprof_analyzer.ingest.careful import write_plain_copy
from vtprof_analyzer.ingest.lines import detect_packing, read_chunks
from vtprof_analyzer.ingest.scan import Scan, scan
from vtprof_analyzer.ingest.sources import Sources

BATCH_BYTES: Final = 256 << 20
"""Files read in one statement: bounds memory and gives the progress bar its steps."""
MIN_OBJECT_BYTES: Final = 1 << 20
"""Smallest parser buffer; a larger one is taken from the longest line, for its cost is in memory."""

Progress = Callable[[int], None]
"""Called with the bytes of input that were read since the last call."""


@dataclass(frozen=True)
class _File:
    """One input: the path as given, the plain file to read, and the first look at it."""

    path: Path
    plain: Path
    size: int
    scan: Scan
    damaged: bool = False  # unpacking it stopped early


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the empty base tables, as ``tables.sql`` documents them."""
    connection.execute(resources.files("vtprof_schemas").joinpath("tables.sql").read_text("utf-8"))


def load(connection: duckdb.DuckDBPyConnection, sources: Sources, progress: Progress) -> None:
    """Read every source into the base tables; what is wrong is counted in ``ingest_files`` and ``ingest_notes``."""
    with tempfile.TemporaryDirectory(prefix="vtprof-") as folder:
        for batch in _batches(_look(connection, sources.files, Path(folder))):
            _load_batch(connection, batch, Path(folder))
            progress(sum(file.size for file in batch))
            for file in batch:
                if file.plain != file.path:
                    file.plain.unlink(missing_ok=True)
        _repair_suspects(connection, Path(folder))
    _remove_foreign_metrics(connection)


def _look(connection: duckdb.DuckDBPyConnection, files: Iterable[Path], folder: Path) -> Iterator[_File]:
    for number, path in enumerate(files):
        try:
            size = path.stat().st_size
            packing = detect_packing(path)
            plain = path
            if packing.name != "plain":
                plain = folder / f"unpacked-{number}.jsonl"
                with plain.open("wb") as out:
                    for chunk in read_chunks(path, packing):
                        out.write(chunk)
            looked = scan(plain)
        except OSError as error:
            _count_file(connection, path, 0, 0)
            _note(connection, path, None, f"cannot be read ({error.strerror}); left out")
            continue
        yield _File(path, plain, size, looked, packing.fault is not None)


def _batches(files: Iterable[_File]) -> Iterator[list[_File]]:
    batch: list[_File] = []
    size = 0
    for file in files:
        if batch and size + file.size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch


def _load_batch(connection: duckdb.DuckDBPyConnection, batch: list[_File], folder: Path) -> None:
    fast = [file for file in batch if file.scan.clean and file.plain == file.path and file.scan.lines]
    if fast and not _load_fast(connection, fast):
        fast = [file for file in fast if len(fast) > 1 and _load_fast(connection, [file])]
    for file in batch:
        if file in fast:
            continue
        unpacked = file.plain != file.path and file.scan.clean and not file.damaged
        if not file.scan.lines and not file.damaged:
            _count_file(connection, file.path, file.size, 0)
        elif not (unpacked and _load_fast(connection, [file])):
            _load_careful(connection, file.path, folder)


def _load_fast(connection: duckdb.DuckDBPyConnection, files: list[_File]) -> bool:
    """Load clean files in one transaction; return False, with nothing loaded, when one of them is not."""
    longest = max(MIN_OBJECT_BYTES, 2 * max(file.scan.longest_bytes for file in files))
    connection.begin()
    try:
        for statement, chosen in (
            (columns.insert_spans(), [f for f in files if f.scan.spans]),
            (columns.insert_metrics(), [f for f in files if f.scan.metrics]),
        ):
            if chosen:
                _run(connection, statement, chosen, longest, named=True)
        connection.execute(columns.explain_odd_attributes())
        _load_resources(connection, files, longest)
        for file in files:
            ignored = _run(connection, columns.count_log_records(), [file], longest) if file.scan.logs else 0
            _count_file(connection, file.path, file.size, file.scan.lines, ignored_signals=ignored)
    except duckdb.Error:
        connection.rollback()
        return False
    connection.commit()
    return True


def _run(
    connection: duckdb.DuckDBPyConnection,
    statement: str,
    files: list[_File],
    longest: int,
    named: bool = False,
) -> int:
    """Run a reading statement over files and return its one number."""
    parameters: dict[str, object] = {"files": [str(file.plain) for file in files], "longest": longest}
    if named:
        parameters["name"] = str(files[0].path) if len(files) == 1 else None
    row = connection.execute(statement, parameters).fetchall()
    return int(row[0][0])


def _load_resources(connection: duckdb.DuckDBPyConnection, files: list[_File], longest: int) -> None:
    """Read resources only when a new one was met: it costs a second parse."""
    missing = connection.execute(
        "SELECT count(*) FROM (SELECT resource_id FROM spans UNION SELECT resource_id FROM metric_samples) "
        "ANTI JOIN resources USING (resource_id)"
    ).fetchall()
    if missing[0][0]:
        _run(connection, columns.insert_resources(), files, longest)


def _load_careful(connection: duckdb.DuckDBPyConnection, path: Path, folder: Path) -> None:
    plain = folder / "repaired.jsonl"
    try:
        with plain.open("wb") as out:
            counts = write_plain_copy(path, out)
        size = path.stat().st_size
    except OSError as error:
        _count_file(connection, path, 0, 0)
        _note(connection, path, None, f"cannot be read ({error.strerror}); left out")
        return
    looked = scan(plain)
    if looked.lines:
        _load_repaired(connection, _File(path, plain, size, looked))
    connection.execute(
        "INSERT INTO ingest_files VALUES (?, ?, ?, ?, ?, ?, ?)",
        [str(path), size, counts.lines, counts.malformed_lines, counts.truncated_lines, counts.ignored_signals,
         counts.dropped_spans],
    )  # fmt: skip
    for line, what in counts.notes:
        _note(connection, path, line, what)


def _load_repaired(connection: duckdb.DuckDBPyConnection, file: _File) -> None:
    longest = max(MIN_OBJECT_BYTES, 2 * file.scan.longest_bytes)
    _run(connection, columns.insert_spans(), [file], longest, named=True)
    connection.execute(columns.explain_odd_attributes())
    if file.scan.metrics:
        _run(connection, columns.insert_metrics(), [file], longest, named=True)
    _load_resources(connection, [file], longest)
    connection.execute(
        "UPDATE spans SET mistyped = NULL WHERE file = ? AND mistyped IS NOT NULL", [str(file.path)]
    )


def _repair_suspects(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Read files again carefully in which the fast reader met spans that are not in plain form."""
    suspects = connection.execute(
        "SELECT DISTINCT file FROM spans WHERE mistyped OR length(trace_id) IS DISTINCT FROM 32 "
        "OR length(span_id) IS DISTINCT FROM 16 OR name IS NULL OR coalesce(start_ns, 0) <= 0 ORDER BY file"
    ).fetchall()
    for (name,) in suspects:
        for table in ("spans", "metric_samples", "ingest_files"):
            connection.execute(f"DELETE FROM {table} WHERE file = ?", [name])
        _load_careful(connection, Path(name), folder)


def _remove_foreign_metrics(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(
        "UPDATE ingest_files SET ignored_signals = ignored_signals + foreign_metrics "
        "FROM (SELECT file, count(*) AS foreign_metrics FROM metric_samples WHERE NOT known GROUP BY file) AS f "
        "WHERE ingest_files.file = f.file"
    )
    connection.execute("DELETE FROM metric_samples WHERE NOT known OR ts_ns IS NULL OR value IS NULL")


def _count_file(
    connection: duckdb.DuckDBPyConnection, path: Path, size: int, lines: int, ignored_signals: int = 0
) -> None:
    connection.execute(
        "INSERT INTO ingest_files VALUES (?, ?, ?, 0, 0, ?, 0)", [str(path), size, lines, ignored_signals]
    )


def _note(connection: duckdb.DuckDBPyConnection, path: Path, line: int | None, what: str) -> None:
    connection.execute("INSERT INTO ingest_notes VALUES (?, ?, ?)", [str(path), line, what])
