"""Load trace files into the base tables: a fast reader for what is clean, a careful one for what is not.

The fast reader is one DuckDB statement over many files and knows no excuse: any fault fails it. Then halves of the
files are tried, and one that fails alone is copied without its faults and read again.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Final

import duckdb

from vtprof_analyzer.ingest import columns
from vtprof_analyzer.ingest.careful import CarefulCounts, write_plain_copy
from vtprof_analyzer.ingest.prepare import TraceFile, prepare, shown_name
from vtprof_analyzer.ingest.ranges import remove_implausible
from vtprof_analyzer.ingest.scan import Scan, scan
from vtprof_analyzer.ingest.sources import Sources

BATCH_BYTES: Final = 256 << 20
"""Files read in one statement: bounds memory and gives the progress bar its steps."""
MIN_OBJECT_BYTES: Final = 1 << 20
"""Smallest parser buffer; a larger one is taken from the longest line, for its cost is in memory."""

Progress = Callable[[int], None]
"""Called with the bytes of input that were read since the last call."""


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the empty base tables, as ``tables.sql`` documents them."""
    connection.execute(resources.files("vtprof_schemas").joinpath("tables.sql").read_text("utf-8"))


def load(connection: duckdb.DuckDBPyConnection, sources: Sources, progress: Progress) -> None:
    """Read every source into the base tables; what is wrong is counted in ``ingest_files`` and ``ingest_notes``."""
    for path, what in sources.faults:
        _note(connection, shown_name(path), None, what)
    with tempfile.TemporaryDirectory(prefix="vtprof-") as name:
        folder = Path(name)
        for batch in _batches(_prepared(connection, sources.files, folder)):
            _load_batch(connection, batch, folder)
            progress(sum(file.size for file in batch))
            for file in batch:
                file.clean_up()
        _repair_suspects(connection, {shown_name(path): path for path in sources.files}, folder)
    connection.execute(columns.forget_lookalikes())
    _remove_foreign_metrics(connection)
    remove_implausible(connection)


def _prepared(
    connection: duckdb.DuckDBPyConnection, paths: Iterable[Path], folder: Path
) -> Iterator[TraceFile]:
    for path in paths:
        try:
            file = prepare(path, folder)
        except OSError as error:
            _unreadable(connection, path, error)
        else:
            _begin_file(connection, file)
            yield file


def _batches(files: Iterable[TraceFile]) -> Iterator[list[TraceFile]]:
    batch: list[TraceFile] = []
    size = 0
    for file in files:
        if batch and size + file.plain_bytes > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.plain_bytes
    if batch:
        yield batch


def _load_batch(connection: duckdb.DuckDBPyConnection, batch: list[TraceFile], folder: Path) -> None:
    loaded = _load_halves(connection, [file for file in batch if file.scan.clean and file.scan.lines])
    for file in batch:
        if file.name in loaded:
            if file.tail:
                _load_careful(connection, file, file.tail, file.scan.all_lines, folder)
        elif file.scan.lines or not file.scan.clean:
            _load_careful_whole(connection, file, folder)


def _load_halves(connection: duckdb.DuckDBPyConnection, files: list[TraceFile]) -> set[str]:
    """Load what the fast reader can take and return the names: of a few faults among many files, only these cost."""
    if not files:
        return set()
    if _load_fast(connection, files):
        return {file.name for file in files}
    middle = len(files) // 2
    return (
        _load_halves(connection, files[:middle]) | _load_halves(connection, files[middle:])
        if middle
        else set()
    )


def _load_fast(connection: duckdb.DuckDBPyConnection, files: list[TraceFile]) -> bool:
    """Load clean files in one transaction; return False, with nothing loaded, when one of them is not."""
    longest = _longest(file.scan for file in files)
    connection.begin()
    try:
        for statement, chosen in (
            (columns.insert_spans(), [f for f in files if f.scan.spans]),
            (columns.insert_metrics(), [f for f in files if f.scan.metrics]),
        ):
            if chosen:
                _run(connection, statement, chosen, longest)
        connection.execute(columns.explain_odd_attributes())
        _load_resources(connection, files, longest)
        for file in files:
            ignored = _run(connection, columns.count_log_records(), [file], longest) if file.scan.logs else 0
            _add_counts(connection, file, CarefulCounts(file.scan.lines, ignored_signals=ignored))
    except duckdb.Error:
        connection.rollback()
        return False
    connection.commit()
    return True


def _longest(scans: Iterable[Scan]) -> int:
    return max(MIN_OBJECT_BYTES, 2 * max(looked.longest_bytes for looked in scans))


def _run(connection: duckdb.DuckDBPyConnection, statement: str, files: list[TraceFile], longest: int) -> int:
    """Run a reading statement over files and return its one number."""
    renamed = [file for file in files if file.plain != file.path]
    parameters: dict[str, object] = {
        "files": [str(file.plain) for file in files],
        "odd_files": [str(file.plain) for file in renamed],
        "odd_names": [file.name for file in renamed],
        "longest": longest,
    }
    row = connection.execute(statement, parameters).fetchall()
    return int(row[0][0])


def _load_resources(connection: duckdb.DuckDBPyConnection, files: list[TraceFile], longest: int) -> None:
    """Read resources only when a new one was met: it costs a second parse."""
    missing = connection.execute(
        "SELECT count(*) FROM (SELECT resource_id FROM spans UNION SELECT resource_id FROM metric_samples) "
        "ANTI JOIN resources USING (resource_id)"
    ).fetchall()
    if missing[0][0]:
        _run(connection, columns.insert_resources(), files, longest)


def _load_careful_whole(connection: duckdb.DuckDBPyConnection, file: TraceFile, folder: Path) -> None:
    _load_careful(connection, file, file.plain, 0, folder)
    if file.tail:
        _load_careful(connection, file, file.tail, file.scan.all_lines, folder)


def _load_careful(
    connection: duckdb.DuckDBPyConnection, file: TraceFile, part: Path, lines_before: int, folder: Path
) -> None:
    """Read a file, or the part of it after ``lines_before`` lines, with the careful reader."""
    repaired = folder / "repaired.jsonl"
    try:
        with repaired.open("wb") as out:
            counts = write_plain_copy(part, out, lines_before)
        looked = scan(repaired)
    except OSError as error:
        _note(connection, file.name, None, f"cannot be read ({error.strerror}); left out")
        return
    if looked.lines:
        _load_repaired(connection, TraceFile(file.path, file.name, file.size, repaired, looked))
    _add_counts(connection, file, counts)
    for line, what in counts.notes:
        _note(connection, file.name, line, what)


def _load_repaired(connection: duckdb.DuckDBPyConnection, file: TraceFile) -> None:
    longest = _longest([file.scan])
    _run(connection, columns.insert_spans(), [file], longest)
    connection.execute(columns.explain_odd_attributes())
    if file.scan.metrics:
        _run(connection, columns.insert_metrics(), [file], longest)
    _load_resources(connection, [file], longest)
    connection.execute(
        "UPDATE spans SET mistyped = NULL WHERE file = ? AND mistyped IS NOT NULL", [file.name]
    )


def _repair_suspects(connection: duckdb.DuckDBPyConnection, paths: Mapping[str, Path], folder: Path) -> None:
    """Read files again carefully in which the fast reader met spans that are not in plain form."""
    suspects = connection.execute(
        f"SELECT DISTINCT file FROM spans WHERE mistyped OR {columns.odd_span()} ORDER BY file"
    ).fetchall()
    for (name,) in suspects:
        for table in ("spans", "metric_samples", "ingest_files", "ingest_notes"):
            connection.execute(f"DELETE FROM {table} WHERE file = ?", [name])
        for file in _prepared(connection, [paths[name]], folder):
            _load_careful_whole(connection, file, folder)
            file.clean_up()


def _remove_foreign_metrics(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(
        "UPDATE ingest_files SET ignored_signals = ignored_signals + foreign_metrics "
        "FROM (SELECT file, count(*) AS foreign_metrics FROM metric_samples "
        # The agent's own series, as Prometheus has them, say nothing that its spans and points do not.
        "WHERE NOT known AND NOT starts_with(name, 'vtprof.') GROUP BY file) AS f "
        "WHERE ingest_files.file = f.file"
    )
    connection.execute("DELETE FROM metric_samples WHERE NOT known OR ts_ns IS NULL OR value IS NULL")


def _begin_file(connection: duckdb.DuckDBPyConnection, file: TraceFile) -> None:
    connection.execute(
        "INSERT INTO ingest_files VALUES (?, ?, 0, 0, 0, 0, 0, ?, 0)",
        [file.name, file.size, file.fault is not None],
    )
    if file.fault:
        _note(connection, file.name, None, f"{file.fault}; read up to there")


def _add_counts(connection: duckdb.DuckDBPyConnection, file: TraceFile, counts: CarefulCounts) -> None:
    connection.execute(
        "UPDATE ingest_files SET lines = lines + ?, malformed_lines = malformed_lines + ?, "
        "truncated_lines = truncated_lines + ?, ignored_signals = ignored_signals + ?, "
        "dropped_spans = dropped_spans + ? WHERE file = ?",
        [counts.lines, counts.malformed_lines, counts.truncated_lines, counts.ignored_signals, counts.dropped_spans,
         file.name],
    )  # fmt: skip


def _unreadable(connection: duckdb.DuckDBPyConnection, path: Path, error: OSError) -> None:
    connection.execute("INSERT INTO ingest_files VALUES (?, 0, 0, 0, 0, 0, 0, true, 0)", [shown_name(path)])
    _note(connection, shown_name(path), None, f"cannot be read ({error.strerror}); left out")


def _note(connection: duckdb.DuckDBPyConnection, name: str, line: int | None, what: str) -> None:
    connection.execute("INSERT INTO ingest_notes VALUES (?, ?, ?)", [name, line, what])
