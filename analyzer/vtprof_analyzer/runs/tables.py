"""Read a request table, CSV or Parquet, one row a request: columns as `table_columns` has them."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
from numpy.typing import NDArray

from vtprof_analyzer.ingest.lines import detect_packing, unpack
from vtprof_analyzer.ingest.parquet_columns import quote, text
from vtprof_analyzer.regress.requests import Run
from vtprof_analyzer.report.format import safe
from vtprof_analyzer.runs.table_columns import (
    HIT,
    NUMBERS,
    RECORDED,
    START,
    TEXTS,
    Layout,
    is_request_table,
    layout,
)
from vtprof_analyzer.runs.table_csv import CsvTable, Rejects, prepare_csv, rejects_of
from vtprof_analyzer.runs.table_requests import BAD, runs_of
from vtprof_analyzer.store import lack_of, open_store
from vtprof_schemas.errors import DataError

_MEMORY_BYTES: Final = 1 << 30
_NUMERIC: Final = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
    "FLOAT", "DOUBLE",
)  # fmt: skip
_YES: Final = ("true", "t", "yes", "y", "hit")
_NO: Final = ("false", "f", "no", "n", "miss")


@dataclass(frozen=True)
class _Source:
    """A table that can be queried."""

    relation: str
    types: Mapping[str, str]
    """{column of the relation: type}, in order."""
    names: tuple[str, ...]
    """As the file's header names them, in the same order."""
    csv: CsvTable | None = None
    fault: str | None = None


def read_table(path: Path, shown: str) -> list[Run]:
    """Return the runs of a request table: one, or one for each value of its column ``run``.

    Raises DataError for a table that cannot be used, NoData for one without requests; OSError.
    """
    with open_store(memory_bytes=_MEMORY_BYTES) as connection, _opened(connection, path, shown) as source:
        connection.execute("SET preserve_insertion_order = true")
        found = layout(shown, source.names)
        values = _values(connection, shown, source, found)
        rejects = rejects_of(connection, source.csv) if source.csv else Rejects(0, None)
    notes = [*([source.fault] if source.fault else []), *found.notes]
    return runs_of(shown, values, rejects, notes)


@contextmanager
def _opened(connection: duckdb.DuckDBPyConnection, path: Path, shown: str) -> Iterator[_Source]:
    """Yield a file as a relation; temporary files live as long."""
    with tempfile.TemporaryDirectory(prefix="vtprof-") as name:
        packing = detect_packing(path)
        plain, fault = path, None
        if packing.name != "plain":
            plain = Path(name) / "unpacked"
            with plain.open("wb") as out:
                unpack(path, packing, out)
            fault = packing.fault and f"{packing.fault}; read up to there"
        with plain.open("rb") as stream:
            magic = stream.read(4)
        if magic in (b"PAR1", b"PARE"):
            link = Path(name) / "table.parquet"
            link.symlink_to(plain.absolute())
            yield _parquet(connection, shown, link)
            return
        folder = Path(name) / "csv"
        folder.mkdir()
        table = prepare_csv(shown, plain, folder)
        types = {f"c{place}": "VARCHAR" for place in range(len(table.header))}
        yield _Source(table.relation(), types, table.header, table, fault)


def parquet_names(path: Path) -> tuple[str, ...]:
    """Return the names of a Parquet file's columns; none where it cannot be read."""
    with tempfile.TemporaryDirectory(prefix="vtprof-") as name, duckdb.connect() as connection:
        link = Path(name) / "table.parquet"
        link.symlink_to(path.absolute())
        try:
            return _parquet(connection, "", link).names
        except DataError:
            return ()


def is_request_parquet(path: Path) -> bool:
    """Say whether a Parquet file is a request table and not one of spans."""
    return is_request_table(parquet_names(path))


def _parquet(connection: duckdb.DuckDBPyConnection, shown: str, link: Path) -> _Source:
    relation = f"read_parquet({text(str(link))}, hive_partitioning = false)"
    try:
        rows = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    except duckdb.Error as error:
        raise _damaged(shown, "Parquet", error) from error
    types = {name: type_ for name, type_, *_ in rows}
    return _Source(relation, types, tuple(types))


def _damaged(shown: str, kind: str, error: duckdb.Error) -> DataError:
    why = safe(str(error).strip().splitlines()[0], 160)
    return DataError(f"{shown}: cannot be read as {kind} ({why}); write it anew")


def _values(
    connection: duckdb.DuckDBPyConnection, shown: str, source: _Source, found: Layout
) -> dict[str, NDArray[Any]]:
    """Return the columns that are there, by our names; numbers that are not told are masked."""
    columns = dict(zip(source.names, source.types, strict=True))
    picked: dict[str, str] = {}
    bad: list[str] = []
    for name, given in found.places.items():
        column = quote(columns[given])
        type_ = source.types[columns[given]]
        if source.csv and name in (*NUMBERS, START):
            picked[name] = column
        elif name in TEXTS:
            picked[name] = f"coalesce({_as_text(column, type_)}, '')"
        elif name == RECORDED:
            picked[name] = f"coalesce(lower({column}::VARCHAR) IN ('false', '0'), false)"
        else:
            picked[name] = _as_number(shown, name, column, type_)
            if type_ == "VARCHAR":
                bad.append(f"(trim({column}) <> '' AND {picked[name]} IS NULL)")
    if bad:
        picked[BAD] = f"coalesce({' OR '.join(bad)}, false)"
    listed = ", ".join(f"{expression} AS {name}" for name, expression in picked.items())
    try:
        return dict(connection.execute(f"SELECT {listed} FROM {source.relation}").fetchnumpy())
    except duckdb.Error as error:
        if lack_of(error):
            raise
        raise _damaged(shown, "CSV" if source.csv else "Parquet", error) from error


def _as_text(column: str, type_: str) -> str:
    return f"try(decode({column}))" if type_ == "BLOB" else f"{column}::VARCHAR"


def _as_number(shown: str, name: str, column: str, type_: str) -> str:
    if name == START:
        if type_.startswith("TIMESTAMP"):
            return f"epoch_ns({column})"
        target = "BIGINT"
    else:
        target = "DOUBLE"
    if name == HIT and type_ == "VARCHAR":
        yes, no = (", ".join(map(text, words)) for words in (_YES, _NO))
        word = f"lower(trim({column}))"
        return f"CASE WHEN {word} IN ({yes}) THEN 1 WHEN {word} IN ({no}) THEN 0 ELSE TRY_CAST({column} AS DOUBLE) END"
    if (
        type_ == "VARCHAR"
        or type_ in _NUMERIC
        or type_.startswith("DECIMAL")
        or (type_ == "BOOLEAN" and name == HIT)
    ):
        return f"TRY_CAST({column} AS {target})"
    raise DataError(f"{shown}: column {name} is of type {safe(type_, 40)}, a number is wanted")
