"""Load trace files into the base tables: a fast reader for what is clean, a careful one for what is not.

The fast reader is one DuckDB statement over many files and knows no excuse: any fault fails it. Then halves of the
files are tried, and of one that fails alone pieces, so that only what stands beside the fault is read carefully.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import duckdb

from vtprof_analyzer.ingest import columns
from vtprof_analyzer.ingest.careful import CarefulCounts, write_plain_copy
from vtprof_analyzer.ingest.databases import what_it_is
from vtprof_analyzer.ingest.finish import finish
from vtprof_analyzer.ingest.formats import is_database
from vtprof_analyzer.ingest.ledger import Ledger
from vtprof_analyzer.ingest.parquet import materialise, read_parquet
from vtprof_analyzer.ingest.pieces import LARGE_BYTES, SMALL_BYTES, Piece, bundle, cut, is_spread, sample
from vtprof_analyzer.ingest.planning import learn, place_waiting, placed_columns
from vtprof_analyzer.ingest.prepare import TraceFile, prepare, shown_name
from vtprof_analyzer.ingest.scan import scan
from vtprof_analyzer.ingest.sources import Sources
from vtprof_analyzer.store import lack_of

BATCH_BYTES: Final = 256 << 20
"""Files read in one statement: bounds memory and gives the progress bar its steps."""
MIN_OBJECT_BYTES: Final = 1 << 20
"""Smallest parser buffer; a larger one is taken from the longest line, for its cost is in memory."""
LONG_LINE_BYTES: Final = 16 << 20
"""Lines from which on one thread reads alone: each thread holds several buffers of twice the longest line."""

_FEW_FILES: Final = 8
"""Small files that are read as they are."""
_SUSPECTS: Final = "SELECT DISTINCT file FROM span_rows WHERE suspect"

Progress = Callable[[int], None]
"""Called with the bytes of input that were read since the last call."""


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the empty base tables, as ``tables.sql`` documents them."""
    connection.execute(resources.files("vtprof_schemas").joinpath("tables.sql").read_text("utf-8"))


def load(
    connection: duckdb.DuckDBPyConnection,
    sources: Sources,
    progress: Progress,
    relations: Sequence[str] = (),
    *,
    in_place: bool = True,
) -> None:
    """Read every source into the base tables; what is wrong is counted in ``ingest_files`` and ``ingest_notes``.

    ``spans`` is a view afterwards; ``relations`` are further queries of spans that it takes in, by column name. With
    ``in_place`` it may read Parquet where that is, as long as the connection lasts.
    """
    ledger = Ledger()
    for path, what in sources.faults:
        ledger.note(shown_name(path), None, what)
    with tempfile.TemporaryDirectory(prefix="vtprof-") as name:
        reader = JsonReader.over(connection, ledger, Path(name))
        # DuckDB takes files of JSON for a few rows: it would gather all spans and look the shapes up in them.
        connection.execute("SET disabled_optimizers = 'build_side_probe_side'")
        flat: list[TraceFile] = []
        for batch in _batches(_prepared(sources, reader)):
            reader.read([file for file in batch if file.format != "parquet"])
            flat += [file for file in batch if file.format == "parquet"]
            progress(sum(file.size for file in batch))
            for file in batch:
                if file.format != "parquet":
                    file.clean_up()
        connection.execute("RESET disabled_optimizers")
        if flat:
            read_parquet(connection, flat, ledger, in_place=in_place and len(flat) == len(sources.files))
    _finish(connection, ledger, relations)


def _finish(connection: duckdb.DuckDBPyConnection, ledger: Ledger, relations: Sequence[str]) -> None:
    """Finish the tables; Parquet that was not copied is, once something in it has to be changed."""
    connection.begin()
    try:
        finish(connection, deepcopy(ledger), relations)
    except duckdb.Error as error:
        if lack_of(error):
            raise
        connection.rollback()
        if not materialise(connection):
            raise
        finish(connection, ledger, relations)
    else:
        connection.commit()


def _prepared(sources: Sources, reader: "JsonReader") -> Iterator[TraceFile]:
    for path in sources.files:
        try:
            file = prepare(path, reader.folder, sources.sizes.get(path))
        except OSError as error:
            reader.ledger.begin(shown_name(path), 0, format=None, damaged=True)
            reader.ledger.note(shown_name(path), None, f"cannot be read ({error.strerror}); left out")
            continue
        other = file.format is None and is_database(file.plain)
        damaged = file.fault is not None or (file.format is None and not other)
        entry = reader.ledger.begin(file.name, file.size, format=file.format, damaged=damaged)
        if file.fault:
            reader.ledger.note(file.name, None, f"{file.fault}; read up to there")
        if file.format is None:
            what = what_it_is(file.plain) if other else "neither OTLP (JSON or protobuf) nor Parquet"
            reader.ledger.note(file.name, None, f"{what}; left out")
        if file.counts:
            entry.messages, entry.dropped_messages = file.counts.messages, file.counts.dropped_messages
            entry.dropped_spans, entry.ignored_signals = (
                file.counts.dropped_spans,
                file.counts.ignored_signals,
            )
            for what in file.counts.notes:
                reader.ledger.note(file.name, None, what)
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


def _longest(files: Iterable[TraceFile]) -> int:
    return max(file.scan.longest_bytes for file in files)


@dataclass
class JsonReader:
    """Reads OTLP JSON lines into ``span_rows``, ``metric_samples`` and ``resources``."""

    connection: duckdb.DuckDBPyConnection
    ledger: Ledger
    folder: Path
    rich: bool = False
    """An attribute without a column was met: all further files are read for these too."""
    log_records: dict[str, int] = field(default_factory=dict)
    """By file, of what was read and is not in the ledger yet."""

    @classmethod
    def over(cls, connection: duckdb.DuckDBPyConnection, ledger: Ledger, folder: Path) -> "JsonReader":
        """Make the scratch tables, and a reader that puts temporary files into ``folder``."""
        connection.execute(columns.create_scratch())
        return cls(connection, ledger, folder)

    def read(self, files: Sequence[TraceFile]) -> None:
        """Read files that the ledger has; of each what can be used."""
        clean = [file for file in files if file.scan.clean and file.scan.lines]
        self._look_ahead(clean)
        loaded = self._read_halves(clean)
        loaded -= self._give_up_suspects(loaded)
        for file in files:
            if file.name in loaded:
                self._enter(file)
                if file.tail:
                    self._read_careful(file, file.tail, file.scan.all_lines)
            elif file.scan.lines or not file.scan.clean:
                self._read_pieces(file)

    def _enter(self, read: TraceFile) -> None:
        """Enter into the ledger what the fast reader took."""
        records = self.log_records.pop(read.name, 0)
        self.ledger.add(read.name, CarefulCounts(read.scan.lines, ignored_signals=records))

    def _look_ahead(self, files: Sequence[TraceFile]) -> None:
        """Learn resources and shapes from a few lines: met for the first time in the load, they cost more."""
        head = self.folder / "sample.jsonl"
        with head.open("wb") as out:
            sample([file.plain for file in files if file.scan.spans], out)
        looked = scan(head)
        if not looked.lines or not looked.clean:
            return
        few = [TraceFile(head, "", 0, head, looked)]
        try:
            self._run(columns.insert_resources(), few)
            self.rich |= not learn(self.connection, self._run(columns.shapes_of_files(), few))
        except duckdb.Error as error:
            if lack_of(error):
                raise
            # The fault will be met again, and judged, in its own file.
            return

    def _read_halves(self, files: list[TraceFile]) -> set[str]:
        """Read what the fast reader can take and return the names: a fault among many files costs few statements."""
        if not files:
            return set()
        if self._read_fast(files):
            return {file.name for file in files}
        middle = len(files) // 2
        return self._read_halves(files[:middle]) | self._read_halves(files[middle:]) if middle else set()

    def _read_fast(self, files: Sequence[TraceFile], *, sure: bool = True) -> bool:
        """Read clean files in one transaction; return False, with nothing read, when one of them is not.

        Unless ``sure``, neither when one has spans that only the careful reader can judge.
        """
        self.connection.begin()
        try:
            self._insert(files)
            enough = place_waiting(self.connection, self.rich)
            suspect = not sure and self.connection.execute(f"{_SUSPECTS} LIMIT 1").fetchall()
            # A log document that is broken is a fault like any other.
            records = self._count_logs(files) if enough and not suspect else {}
        except duckdb.Error as error:
            if lack_of(error):
                raise
            self.connection.rollback()
            return False
        if enough and not suspect:
            self.connection.commit()
            self.log_records |= records
            return True
        self.connection.rollback()
        if enough:
            return False
        self.rich = True
        return self._read_fast(files, sure=sure)

    def _insert(self, files: Sequence[TraceFile]) -> None:
        marks = self._marks()
        with_spans = [file for file in files if file.scan.spans]
        if with_spans:
            self._run(columns.insert_spans(placed_columns(self.connection), self.rich), with_spans)
        with_metrics = [file for file in files if file.scan.metrics]
        if with_metrics:
            self._run(columns.insert_metrics(), with_metrics)
        new = " UNION ".join(
            f"SELECT resource_id FROM {table} WHERE rowid > {mark}" for table, mark in marks.items()
        )
        missing = self.connection.execute(
            f"SELECT 1 FROM ({new}) ANTI JOIN resources USING (resource_id) LIMIT 1"
        )
        if missing.fetchall():
            self._run(columns.insert_resources(), files)

    def _marks(self) -> dict[str, int]:
        """Return the last row of each table that is read into: what comes after it is new."""
        tables = ("span_rows", "metric_samples")
        picked = ", ".join(f"(SELECT coalesce(max(rowid), -1) FROM {table})" for table in tables)
        (marks,) = self.connection.execute(f"SELECT {picked}").fetchall()
        return dict(zip(tables, marks, strict=True))

    def _run(self, statement: str, files: Sequence[TraceFile]) -> list[tuple[Any, ...]]:
        """Run a reading statement over files and return its rows."""
        small = [file for file in files if file.plain_bytes <= SMALL_BYTES]
        if len(small) < _FEW_FILES:
            return self._run_on(statement, files, [])
        # Each file costs a statement some milliseconds.
        place = self.folder / "bundle.jsonl"
        with place.open("wb") as out:
            bundle([file.plain for file in small], columns.BUNDLED, out)
        whole = replace(
            small[0], plain=place, scan=replace(small[0].scan, longest_bytes=_longest(small) + 64)
        )
        others = [file for file in files if file.plain_bytes > SMALL_BYTES]
        return self._run_on(statement, [*others, whole], [file.name for file in small])

    def _run_on(
        self, statement: str, files: Sequence[TraceFile], bundled: list[str]
    ) -> list[tuple[Any, ...]]:
        """Run a reading statement over files, of which the last one stands for those that are ``bundled``."""
        renamed = [file for file in files if str(file.plain) != file.name]
        longest = _longest(files)
        parameters: dict[str, object] = {
            "files": [str(file.plain) for file in files],
            "odd_files": [str(file.plain) for file in renamed],
            "odd_names": [file.name for file in renamed],
            "bundle": str(files[-1].plain) if bundled else None,
            "names": bundled,
            "longest": max(MIN_OBJECT_BYTES, 2 * longest),
        }
        if longest <= LONG_LINE_BYTES:
            return self.connection.execute(statement, parameters).fetchall()
        ((threads,),) = self.connection.execute("SELECT current_setting('threads')").fetchall()
        self.connection.execute("SET threads = 1")
        try:
            return self.connection.execute(statement, parameters).fetchall()
        finally:
            self.connection.execute("SET threads = ?", [threads])

    def _give_up_suspects(self, loaded: set[str]) -> set[str]:
        """Remove the rows of files with spans that only the careful reader can judge, and return their names."""
        rows = self.connection.execute(_SUSPECTS).fetchall()
        suspects = {name for (name,) in rows} & loaded
        for table in ("span_rows", "metric_samples"):
            for name in suspects:
                self.connection.execute(f"DELETE FROM {table} WHERE file = ?", [name])
        for name in suspects:
            self.log_records.pop(name, None)
        return suspects

    def _count_logs(self, files: Sequence[TraceFile]) -> dict[str, int]:
        with_logs = [file for file in files if file.scan.logs]
        return dict(self._run(columns.count_log_records(), with_logs)) if with_logs else {}

    def _read_pieces(self, file: TraceFile) -> None:
        """Read a file with faults: in pieces, and carefully those alone that have one."""
        barren = 0
        for part, lines_before in self._faulty(file):
            counts = self._read_careful(file, part, lines_before, barren)
            if counts.gave_up:
                return
            barren = counts.barren_lines
        if file.tail:
            self._read_careful(file, file.tail, file.scan.all_lines)

    def _faulty(self, file: TraceFile) -> Iterator[tuple[Path, int]]:
        """Read what is clean of a file and yield the parts that are not, with the number of lines before each."""
        if file.plain_bytes <= SMALL_BYTES or is_spread(file.plain):
            yield file.plain, 0
            return
        part = self.folder / "part.jsonl"
        with file.plain.open("rb") as stream:
            for large in cut(stream, LARGE_BYTES):
                if self._read_part(file, part, large):
                    continue
                for small in large.cut():
                    if small == large or not self._read_part(file, part, small):
                        part.write_bytes(small.data)
                        yield part, small.lines_before

    def _read_part(self, file: TraceFile, part: Path, piece: Piece) -> bool:
        """Read a piece with the fast reader; return False, with nothing read, when it has a fault."""
        part.write_bytes(piece.data)
        looked = scan(part)
        if not looked.clean or looked.tail_at is not None:
            return False
        if not looked.lines:
            return True
        read = replace(file, plain=part, scan=looked)
        if not self._read_fast([read], sure=False):
            return False
        self._enter(read)
        return True

    def _read_careful(self, file: TraceFile, part: Path, lines_before: int, barren: int = 0) -> CarefulCounts:
        """Read a file, or the part of it after ``lines_before`` lines, with the careful reader."""
        repaired = self.folder / "repaired.jsonl"
        try:
            with repaired.open("wb") as out:
                counts = write_plain_copy(part, out, lines_before, barren)
            looked = scan(repaired)
        except OSError as error:
            self.ledger.note(file.name, None, f"cannot be read ({error.strerror}); left out")
            return CarefulCounts(gave_up=True)
        self.ledger.add(file.name, counts)
        if looked.lines and not self._read_fast([replace(file, plain=repaired, scan=looked)]):
            self.ledger.note(
                file.name, None, f"{looked.lines} lines after line {lines_before} do not fit; left out"
            )
        # What is still of another type is unknown: nothing more can be done.
        self.connection.execute("UPDATE span_rows SET suspect = false WHERE suspect")
        return counts
