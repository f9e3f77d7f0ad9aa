"""The second wall: a locked in-memory database that holds a copy of the facts and of the evidence.

Whatever an expression might still do, it does to a copy, without files, network, extensions or settings, within
a memory limit and under a timer.
"""

import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from vtprof_rules.rule import Expression, Scalar
from vtprof_rules.vocabulary import EVIDENCE_COLUMNS, FACTS, Column

TIMEOUT_S = 10.0
"""An expression over one row of facts takes well under a millisecond, evidence over millions of rows seconds."""
_LOCKS: tuple[tuple[str, str], ...] = (
    ("memory_limit", "'1GB'"),
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
    """A locked database with the one-row table ``facts`` and the evidence tables; close it, or use ``with``."""

    def __init__(
        self,
        facts: Mapping[str, Scalar | None],
        evidence_source: duckdb.DuckDBPyConnection | None = None,
        evidence_columns: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Copy ``facts`` (missing ones are NULL) and, per table, the named columns of ``evidence_source``.

        Raises ``ValueError`` for a fact that the vocabulary does not have: that is a slip of the caller, not of a pack.
        """
        if unknown := sorted(set(facts) - set(FACTS)):
            raise ValueError(f"facts that the vocabulary of the rules does not have: {', '.join(unknown)}")
        self._connection = duckdb.connect(":memory:", config={"autoload_known_extensions": "false"})
        self._create("facts", FACTS)
        names = list(FACTS)
        self._connection.execute(
            f"INSERT INTO facts VALUES ({', '.join('?' for _ in names)})", [facts.get(name) for name in names]
        )
        for table, columns in EVIDENCE_COLUMNS.items():
            self._create(table, columns)
            wanted = (evidence_columns or {}).get(table, ())
            if evidence_source is not None and wanted:
                self._copy(evidence_source, table, wanted)
        for name, value in _LOCKS:
            self._connection.execute(f"SET {name} = {value}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def result_type(self, table: str, expression: Expression, params: Mapping[str, Scalar]) -> str:
        """Bind an expression and return the type of its result, without reading a row."""
        sql = f"SELECT {expression.sql} FROM {table} LIMIT 0"
        return str(self._execute(sql, expression, params).description[0][1])

    def bind_order(self, table: str, order_by: Expression, params: Mapping[str, Scalar]) -> None:
        """Bind an ORDER BY list without reading a row."""
        self._execute(f"SELECT 1 FROM {table} ORDER BY {order_by.sql} LIMIT 0", order_by, params)

    def fact(self, expression: Expression, params: Mapping[str, Scalar]) -> Any:
        """Return the value of an expression over the facts; ``None`` when it is NULL."""
        with self._deadline():
            row = self._execute(f"SELECT {expression.sql} FROM facts", expression, params).fetchone()
        return row[0] if row else None

    def forget(self, names: Sequence[str]) -> None:
        """Make facts unknown from here on."""
        for name in names:
            self._connection.execute(f"UPDATE facts SET {name} = NULL")

    def count(self, table: str, where: Expression, params: Mapping[str, Scalar]) -> tuple[int, int]:
        """Return how many rows of an evidence table satisfy ``where``, and how many there are."""
        sql = f"SELECT count(*) FILTER (WHERE {where.sql}), count(*) FROM {table}"
        with self._deadline():
            row = self._execute(sql, where, params).fetchone()
        return (row[0], row[1]) if row else (0, 0)

    def rows(
        self,
        table: str,
        where: Expression,
        order_by: Expression,
        columns: Sequence[str],
        limit: int,
        params: Mapping[str, Scalar],
    ) -> list[dict[str, Any]]:
        """Return the first rows of an evidence table that satisfy ``where``, as one dict each."""
        sql = f"SELECT {', '.join(columns)} FROM {table} WHERE {where.sql} ORDER BY {order_by.sql} LIMIT {limit:d}"
        used = {name: params[name] for name in where.params | order_by.params}
        with self._deadline():
            found = self._connection.execute(sql, used or None).fetchall()
        return [dict(zip(columns, row, strict=True)) for row in found]

    def _execute(
        self, sql: str, expression: Expression, params: Mapping[str, Scalar]
    ) -> duckdb.DuckDBPyConnection:
        used = {name: params[name] for name in expression.params}
        return self._connection.execute(sql, used or None)

    def _create(self, table: str, columns: Mapping[str, Column]) -> None:
        described = ", ".join(f"{name} {column.type}" for name, column in columns.items())
        self._connection.execute(f"CREATE TABLE {table} ({described})")

    def _copy(self, source: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str]) -> None:
        """Copy columns by way of a Parquet file: typed, streamed, and the two databases never see each other."""
        present = {row[0] for row in source.execute(f"DESCRIBE {table}").fetchall()}
        wanted = [name for name in columns if name in present]
        if not wanted:  # the number of rows still counts
            wanted = sorted(present)[:1]
        with tempfile.TemporaryDirectory(prefix="vtprof-rules-") as folder:
            file = str(Path(folder) / "evidence.parquet").replace("'", "''")
            source.execute(f"COPY (SELECT {', '.join(wanted)} FROM {table}) TO '{file}' (FORMAT parquet)")
            self._connection.execute(
                f"INSERT INTO {table} BY NAME SELECT {_known(wanted, columns)} FROM '{file}'"
            )

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        timer = threading.Timer(TIMEOUT_S, self._connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _known(wanted: Sequence[str], columns: Sequence[str]) -> str:
    if any(name in columns for name in wanted):
        return ", ".join(wanted)
    return f"NULL AS {columns[0]}"
