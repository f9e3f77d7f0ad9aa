"""The second wall: a locked in-memory database that holds a copy of the facts and of the evidence.

Whatever an expression might still do, it does to a copy, without files, network, extensions or settings, within
a memory limit and under a timer.
"""

import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from vtprof_rules.fact_rows import FactRows
from vtprof_rules.rule import Expression, Scalar
from vtprof_rules.vocabulary import EVIDENCE_COLUMNS, FACTS, Column

TIMEOUT_S = 10.0
"""An expression over one row of facts takes well under a millisecond, evidence over millions of rows seconds."""
_LOCKS: tuple[tuple[str, str], ...] = (
    ("memory_limit", "'1GB'"),
    ("ieee_floating_point_ops", "false"),  # with the next: a division by zero is not known, and not infinite
    ("error_on_division_by_zero", "false"),
    ("threads", "2"),
    ("python_enable_replacements", "false"),
    ("autoload_known_extensions", "false"),
    ("autoinstall_known_extensions", "false"),
    ("allow_community_extensions", "false"),
    ("temp_directory", "''"),
    ("enable_external_access", "false"),
    ("lock_configuration", "true"),  # the last: nothing can be set after it
)


class Sandbox:
    """A locked database with the facts views and the evidence tables as tables; close it, or use ``with``."""

    def __init__(self, facts: FactRows, columns: Mapping[str, Sequence[str]]) -> None:
        """Copy the named columns of each facts view; missing values are NULL.

        Raises ``ValueError`` for a fact that the vocabulary does not have: that is a slip of the caller, not of a pack.
        """
        named = {name for rows in facts.values() for row in rows for name in row.values}
        if unknown := sorted(named - set(FACTS)):
            raise ValueError(f"facts that the vocabulary of the rules does not have: {', '.join(unknown)}")
        self._connection = _connected()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._columns = {view: [*names] or [next(iter(FACTS))] for view, names in columns.items()}
        for view, names in self._columns.items():
            self._create(view, {name: FACTS[name] for name in names})
            if rows := facts.get(view):
                # A column at a time: a statement for each row costs more than all that is computed of them.
                lists = ", ".join(f"unnest(?::{FACTS[name].type}[])" for name in self._columns[view])
                values = [[row.values.get(name) for row in rows] for name in self._columns[view]]
                self._connection.execute(f"INSERT INTO {view} SELECT {lists}", values)
        self._lock()

    @classmethod
    def of_evidence(
        cls,
        source: duckdb.DuckDBPyConnection | None,
        columns: Mapping[str, Collection[str]],
        only: Mapping[str, tuple[str, Collection[str]]] | None = None,
    ) -> Self:
        """Copy the named columns of each evidence table; without a ``source`` the tables are empty.

        ``only`` names a column of a table and the values of it whose rows are wanted.
        """
        box = cls.__new__(cls)
        box._connection, box._columns = _connected(), {}
        box._folder = tempfile.TemporaryDirectory(prefix="vtprof-rules-") if source is not None else None
        files = []
        for table, names in columns.items():
            if source is not None and box._folder is not None:
                file = Path(box._folder.name) / f"{table}.parquet"
                if box._copied(source, table, list(names), (only or {}).get(table), file):
                    files.append(file)
                    continue
            box._create(table, EVIDENCE_COLUMNS[table])
        # Nothing but the copies can be read once external access is off.
        box._connection.execute(f"SET allowed_paths = [{', '.join(_quoted(str(file)) for file in files)}]")
        box._lock()
        return box

    def _lock(self) -> None:
        for name, value in _LOCKS:
            self._connection.execute(f"SET {name} = {value}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        if self._folder is not None:
            self._folder.cleanup()

    def result_type(self, table: str, expression: Expression, params: Mapping[str, Scalar]) -> str:
        """Bind an expression and return the type of its result, without reading a row."""
        sql = f"SELECT {expression.sql} FROM {table} LIMIT 0"
        return str(self._execute(sql, expression, params).description[0][1])

    def bind_order(self, table: str, order_by: Expression, params: Mapping[str, Scalar]) -> None:
        """Bind an ORDER BY list without reading a row."""
        self._execute(f"SELECT 1 FROM {table} ORDER BY {order_by.sql} LIMIT 0", order_by, params)

    def values(self, view: str, expression: Expression, params: Mapping[str, Scalar]) -> list[Any]:
        """Return the value of an expression over each row of a facts view, in their order; ``None`` where it is NULL."""
        with self._deadline():
            rows = self._execute(
                f"SELECT {expression.sql} FROM {view} ORDER BY rowid", expression, params
            ).fetchall()
        return [value for (value,) in rows]

    def forget(self, names: Sequence[str]) -> None:
        """Make facts unknown from here on, in every view."""
        for view, columns in self._columns.items():
            if told := ", ".join(f"{name} = NULL" for name in columns if name in names):
                self._connection.execute(f"UPDATE {view} SET {told}")

    def count(
        self,
        table: str,
        where: Expression,
        params: Mapping[str, Scalar],
        about: tuple[str, str] | None = None,
    ) -> tuple[int, int]:
        """Return how many rows of an evidence table satisfy ``where``, and how many there are.

        ``about`` is a column and the value that it must have: the other rows are not counted.
        """
        within, subject = _within(about)
        sql = f"SELECT count(*) FILTER (WHERE {where.sql}), count(*) FROM {table} WHERE {within}"
        with self._deadline():
            row = self._execute(sql, where, params, subject).fetchone()
        return (row[0], row[1]) if row else (0, 0)

    def rows(
        self,
        table: str,
        where: Expression,
        order_by: Expression,
        columns: Sequence[str],
        limit: int,
        params: Mapping[str, Scalar],
        about: tuple[str, str] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the first rows of an evidence table that satisfy ``where``, as one dict each; ``about`` as in `count`.

        Rows that the rule orders alike come by their columns, so that the same traces show the same rows.
        """
        within, subject = _within(about)
        sql = (
            f"SELECT {', '.join(columns)} FROM {table} WHERE ({where.sql}) AND {within}"
            f" ORDER BY {order_by.sql}, {', '.join(columns)} LIMIT {limit:d}"
        )
        used = {name: params[name] for name in where.params | order_by.params} | subject
        with self._deadline():
            found = self._connection.execute(sql, used or None).fetchall()
        return [dict(zip(columns, row, strict=True)) for row in found]

    def _execute(
        self,
        sql: str,
        expression: Expression,
        params: Mapping[str, Scalar],
        more: Mapping[str, Scalar] | None = None,
    ) -> duckdb.DuckDBPyConnection:
        used = {name: params[name] for name in expression.params} | dict(more or {})
        return self._connection.execute(sql, used or None)

    def _create(self, table: str, columns: Mapping[str, Column]) -> None:
        described = ", ".join(f"{name} {column.type}" for name, column in columns.items())
        self._connection.execute(f"CREATE TABLE {table} ({described})")

    def _copied(
        self,
        source: duckdb.DuckDBPyConnection,
        table: str,
        columns: Sequence[str],
        only: tuple[str, Collection[str]] | None,
        file: Path,
    ) -> bool:
        """Copy columns to a Parquet file, on which a view is made; ``False`` for a table that the source does not have.

        The two databases never see each other, and what no query reads is not read.
        """
        try:
            present = {row[0] for row in source.execute(f"DESCRIBE {table}").fetchall()}
        except duckdb.CatalogException:
            return False
        wanted = [name for name in columns if name in present]
        wanted = wanted or sorted(present)[:1]  # the number of rows still counts
        within = "true"
        if only and only[0] in present:
            within = f"{only[0]} IN ({', '.join(_quoted(value) for value in sorted(only[1]))})"
        target = _quoted(str(file))
        source.execute(
            f"COPY (SELECT {', '.join(wanted)} FROM {table} WHERE {within}) TO {target} (FORMAT parquet)"
        )
        shown = ", ".join(
            f"{name if name in wanted else 'NULL'}::{column.type} AS {name}"
            for name, column in EVIDENCE_COLUMNS[table].items()
        )
        self._connection.execute(f"CREATE VIEW {table} AS SELECT {shown} FROM {target}")
        return True

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        timer = threading.Timer(TIMEOUT_S, self._connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _connected() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config={"autoload_known_extensions": "false"})


def _within(about: tuple[str, str] | None) -> tuple[str, dict[str, Scalar]]:
    """Return the condition of a subject and its parameter, which no rule can name: theirs have no capital letters."""
    return (f"{about[0]} = $vtprofSubject", {"vtprofSubject": about[1]}) if about else ("true", {})


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
