"""Small readers over the stages' tables: rows as dicts, percentiles, whole numbers."""

import math
from typing import Any

import duckdb

from vtprof_analyzer.report.model import Percentiles

Row = dict[str, Any]


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[Row]:
    """Return the rows of a query as dicts; a double that is no number is None."""
    result = connection.execute(query)
    names = [column[0] for column in result.description or []]
    return [{n: _finite(v) for n, v in zip(names, values, strict=True)} for values in result.fetchall()]


def one(connection: duckdb.DuckDBPyConnection, query: str) -> Row:
    """Return the only row of a query."""
    (row,) = rows(connection, query)
    return row


def percentiles(connection: duckdb.DuckDBPyConnection, what: str) -> Percentiles:
    """Return the percentiles of one time over all requests, by its name in ``percentiles``; None where none has it."""
    connection.execute("SELECT p50, p95, p99 FROM percentiles WHERE what = ?", [what])
    return Percentiles(*(_finite(value) for value in connection.fetchone() or (None, None, None)))


def row_percentiles(row: Row, name: str) -> Percentiles:
    """Return the columns ``name_p50``, ``name_p95``, ``name_p99`` of a row."""
    return Percentiles(row[f"{name}_p50"], row[f"{name}_p95"], row[f"{name}_p99"])


def whole(value: float | int | None) -> int | None:
    """Round to a whole number; None stays None."""
    return None if value is None else round(value)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
