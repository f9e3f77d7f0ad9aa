"""Make a CSV file ready for DuckDB's reader, whatever its bytes: what no line can mean is taken out and counted.

The reader is told every column's type; it guesses nothing. A line is a request: values with line breaks are not read,
so that a stray quote costs its own line and not the rest of the file.
"""

import codecs
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import duckdb

from vtprof_analyzer.ingest.parquet_columns import text
from vtprof_analyzer.report.format import safe
from vtprof_analyzer.runs.table_columns import NUMBERS, START, is_request_table, known_names, plain_name
from vtprof_schemas.errors import DataError, NoData

MAX_LINE_BYTES: Final = 1 << 20
_CHUNK_BYTES: Final = 4 << 20
_DELIMITERS: Final = (",", ";", "\t", "|")
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_VALUE: Final = re.compile(r'Could not convert string "(.*?)(?:" to|$)', re.DOTALL)


@dataclass(frozen=True)
class CsvTable:
    """A plain file that DuckDB's reader takes as it is."""

    plain: Path
    header: tuple[str, ...]
    delimiter: str
    quoted: bool
    lines_before: int = 0
    """Blank ones before the header, which are not in ``plain``."""
    rejected: int = 0
    """Lines that were taken out before the reader sees them."""
    first_rejected: int | None = None
    """Number of the first of them in the file, from 1."""

    def relation(self) -> str:
        """Return the SQL of its rows: columns c0, c1, ... in the order of the header."""
        listed = ", ".join(f"c{place}: '{_type(name)}'" for place, name in enumerate(self.header))
        quote = text('"' if self.quoted else "")
        return (
            f"read_csv({text(str(self.plain))}, columns={{{listed}}}, auto_detect=false, header=true, "
            f"delim={text(self.delimiter)}, quote={quote}, escape={quote}, max_line_size={MAX_LINE_BYTES}, "
            "compression='none', store_rejects=true, rejects_limit=0)"
        )


def _type(name: str) -> str:
    plain = plain_name(name)
    return "BIGINT" if plain == START else "DOUBLE" if plain in NUMBERS else "VARCHAR"


def header_of(head: bytes) -> tuple[tuple[str, ...], str] | None:
    """Return the names and the delimiter of a request table's header, given the begin of a file; None: it is none."""
    lines = head.lstrip(codecs.BOM_UTF8 + b"\r\n \t").splitlines()
    if not lines:
        return None
    line = lines[0].decode("utf-8", "replace")
    found = max((_split(line, delimiter) for delimiter in _DELIMITERS), key=lambda pair: known_names(pair[0]))
    return found if is_request_table(found[0]) else None


def _split(line: str, delimiter: str) -> tuple[tuple[str, ...], str]:
    try:
        return tuple(next(csv.reader([line], delimiter=delimiter), [])), delimiter
    except csv.Error:
        return (line,), delimiter


def prepare_csv(shown: str, path: Path, folder: Path) -> CsvTable:
    """Return a plain file as the reader wants it; what has to be made for that is made under ``folder``.

    Raises NoData for an empty file, DataError for one without a header that names columns; OSError.
    """
    with path.open("rb") as stream:
        head = stream.read(MAX_LINE_BYTES)
        if head.startswith(_UTF16):
            raise DataError(f"{shown}: is UTF-16 text; save it as UTF-8")
        if not head.strip(codecs.BOM_UTF8 + b" \t\r\n\x00"):
            raise NoData(f"{shown}: is empty; give a table of requests")
        found = header_of(head)
        if found is None:
            begin = safe(head.lstrip()[:200].splitlines()[0].decode("utf-8", "replace"), 60)
            raise DataError(
                f"{shown}: the first line names no columns of a request table ({begin}); a header must name"
                " start_unix_nano and ttft_ms or the times of phases"
            )
        stream.seek(0)
        quoted, uniform = _look(stream)
        if uniform and not quoted and head[:1] not in b"\r\n":
            plain = folder / "table.csv"
            # Under its own name it might be taken for a wildcard or an address.
            plain.symlink_to(path.absolute())
            return CsvTable(plain, *found, quoted=False)
        stream.seek(0)
        plain = folder / "clean.csv"
        with plain.open("wb") as out:
            return _Cleaner(out, CsvTable(plain, *found, quoted=True)).clean(stream)


def _look(stream: BinaryIO) -> tuple[bool, bool]:
    """Say whether a file has quotes, and whether all of its lines end alike."""
    returns = newlines = both = 0
    last = b""
    while chunk := stream.read(_CHUNK_BYTES):
        if b'"' in chunk:
            return True, False
        newlines += chunk.count(b"\n")
        if b"\r" in chunk or last == b"\r":
            returns += chunk.count(b"\r")
            both += chunk.count(b"\r\n") + (last == b"\r" and chunk.startswith(b"\n"))
        last = chunk[-1:]
    return False, returns == 0 or returns == both == newlines


class _Cleaner:
    """Writes lines that all end alike; of a line whose quotes do not pair nothing is left but its end."""

    def __init__(self, out: BinaryIO, table: CsvTable) -> None:
        self.out, self.table = out, table
        self.number = self.before = self.rejected = 0
        self.first: int | None = None
        delimiter = re.escape(table.delimiter.encode())
        # Quotes at both ends of a value or nowhere in it: anything else may swallow what follows.
        value = rb' *+"(?:[^"]++|"")*+"|[^"' + delimiter + rb"]*+"
        self.paired = re.compile(rb"(?:" + value + rb")(?:" + delimiter + rb"(?:" + value + rb"))*+")

    def clean(self, stream: BinaryIO) -> CsvTable:
        """Write the lines of a file, and return the table that they are."""
        for lines in _line_lists(stream):
            self._write(lines)
        return replace(
            self.table, lines_before=self.before, rejected=self.rejected, first_rejected=self.first
        )

    def _write(self, lines: list[bytes]) -> None:
        if self.number == self.before:
            blank = next((place for place, line in enumerate(lines) if line.strip()), len(lines))
            self.before += blank
            self.number += blank
            lines = lines[blank:]
            if lines:
                # The names are known: their own quotes do no harm any more.
                names = (f"c{place}" for place in range(len(self.table.header)))
                lines[0] = self.table.delimiter.join(names).encode()
        stray = [
            place for place, line in enumerate(lines) if b'"' in line and not self.paired.fullmatch(line)
        ]
        for place in stray:
            lines[place] = b""
        if stray and self.first is None:
            self.first = self.number + stray[0] + 1
        self.rejected += len(stray)
        self.number += len(lines)
        self.out.write(b"".join(line + b"\n" for line in lines))


def _line_lists(stream: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the lines of a file, many at a time, without their ends; of a line that is too long a broken begin."""
    rest = b""
    while chunk := stream.read(_CHUNK_BYTES):
        data = rest + chunk
        # Its other half may come with the next chunk.
        held = b"\r" if data.endswith(b"\r") else b""
        lines = data[: len(data) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        # A stray quote makes it one that is taken out.
        last = lines.pop()
        rest = (last if len(last) <= MAX_LINE_BYTES else b'"') + held
        yield lines
    if rest:
        yield [rest.rstrip(b"\r")]


@dataclass(frozen=True)
class Rejects:
    """The lines that could not be read."""

    count: int
    first: str | None
    """Which one, and what is wrong with it."""


def rejects_of(connection: duckdb.DuckDBPyConnection, table: CsvTable) -> Rejects:
    """Return what the reader rejected when it read ``table`` on this connection, and what was taken out before."""
    ((count,),) = connection.execute("SELECT count(DISTINCT line) FROM reject_errors").fetchall()
    found = connection.execute(
        "SELECT line, error_type::VARCHAR, column_idx, left(error_message, 300) FROM reject_errors"
        " ORDER BY line, error_type = 'CAST', column_idx LIMIT 1"
    ).fetchall()
    line, what = table.first_rejected, "a stray quote"
    if found:
        at = found[0][0] + table.lines_before
        if line is None or at < line:
            line, what = at, _told(table, *found[0][1:])
    return Rejects(count + table.rejected, None if line is None else f"line {line}: {what}")


def _told(table: CsvTable, kind: str, place: int | None, message: str) -> str:
    if kind == "CAST" and place is not None and place <= len(table.header):
        value = _VALUE.search(message)
        name = safe(table.header[place - 1], 40)
        return f'{name} is "{safe(value[1] if value else "", 40)}", not a number'
    if kind in ("MISSING COLUMNS", "TOO MANY COLUMNS"):
        return f"{'fewer' if kind.startswith('M') else 'more'} values than the header's {len(table.header)} columns"
    if kind == "INVALID ENCODING":
        return "no valid UTF-8"
    return (
        "a stray quote"
        if kind == "UNQUOTED VALUE"
        else "longer than 1 MiB"
        if "SIZE" in kind
        else kind.lower()
    )
