"""What was met in the input, by file, gathered while it is read and written to the tables in two statements."""

from dataclasses import dataclass, field
from typing import Final

import duckdb

from vtprof_analyzer.ingest.careful import CarefulCounts

MAX_NOTES_PER_FILE: Final = 20


@dataclass
class FileEntry:
    """One row of ``ingest_files``; the names are its columns."""

    bytes: int = 0
    lines: int = 0
    malformed_lines: int = 0
    truncated_lines: int = 0
    ignored_signals: int = 0
    dropped_spans: int = 0
    damaged: bool = False
    values_out_of_range: int = 0
    format: str | None = None
    messages: int | None = None
    dropped_messages: int | None = None
    numbered_notes: int = 0
    """How many notes on lines there are; past a bound only the counts grow."""


@dataclass
class Ledger:
    """Counts and notes by file name."""

    files: dict[str, FileEntry] = field(default_factory=dict)
    notes: list[tuple[str, int | None, str]] = field(default_factory=list)

    def begin(self, name: str, size: int, *, format: str | None = "json", damaged: bool = False) -> FileEntry:
        """Enter a file, of ``size`` bytes."""
        self.files[name] = FileEntry(size, format=format, damaged=damaged)
        return self.files[name]

    def add(self, name: str, counts: CarefulCounts) -> None:
        """Add what a reader met in a file or a part of it."""
        entry = self.files[name]
        entry.lines += counts.lines
        entry.malformed_lines += counts.malformed_lines
        entry.truncated_lines += counts.truncated_lines
        entry.ignored_signals += counts.ignored_signals
        entry.dropped_spans += counts.dropped_spans
        entry.values_out_of_range += counts.mistyped_values
        for line, what in counts.notes:
            self.note(name, line, what)

    def note(self, name: str, line: int | None, what: str) -> None:
        """Remember what was wrong and what was done."""
        if line is not None and name in self.files:
            self.files[name].numbered_notes += 1
            if self.files[name].numbered_notes > MAX_NOTES_PER_FILE:
                return
        self.notes.append((name, line, what))

    def write(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Write all entries to ``ingest_files`` and ``ingest_notes``, and forget them."""
        types = dict(
            connection.execute(
                "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'ingest_files'"
            ).fetchall()
        )
        rows: dict[str, list[object]] = {"file": list(self.files)}
        for column in types:
            if column != "file":
                rows[column] = [getattr(entry, column) for entry in self.files.values()]
        _insert(connection, "ingest_files", types, rows)
        names, lines, what = (
            (list(column) for column in zip(*self.notes, strict=True)) if self.notes else ([], [], [])
        )
        types = {"file": "VARCHAR", "line": "BIGINT", "what": "VARCHAR"}
        _insert(connection, "ingest_notes", types, {"file": names, "line": lines, "what": what})
        self.files, self.notes = {}, []


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, types: dict[str, str], rows: dict[str, list[object]]
) -> None:
    picked = ", ".join(f"unnest(${column}::{types[column]}[]) AS {column}" for column in rows)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT {picked}", rows)
