"""Read the facts views, for tests: by name, as plain values."""

from typing import Any

import duckdb

MS = 1_000_000
"""Nanoseconds; times of hand-made spans are in these."""


def facts(
    connection: duckdb.DuckDBPyConnection, view: str = "deployment_facts", subject: str | None = None
) -> dict[str, Any]:
    """Return one row of a facts view by column; ``subject`` None: its only row."""
    where = "" if subject is None else " WHERE subject = ?"
    result = connection.execute(f"FROM {view}{where}", [] if subject is None else [subject])
    names = [column[0] for column in result.description or []]
    (row,) = result.fetchall()
    return dict(zip(names, row, strict=True))


def chosen(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Return what was found under the names that are expected, for one comparison."""
    return {name: found[name] for name in expected}
