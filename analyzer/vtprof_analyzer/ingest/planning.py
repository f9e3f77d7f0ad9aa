"""Keep the plans of shapes in the database, and the columns that they place values in."""

from collections.abc import Iterable
from typing import Any, Final

import duckdb

from vtprof_analyzer.ingest import columns
from vtprof_analyzer.ingest.shapes import OTHER, Plan, plan

Shape = tuple[int | None, str | None, list[str | None] | None, list[int] | None]
"""Hash, kind of span, keys and slots; without the first two it stands for spans of unknown kind."""

SHAPES_AT_ONCE: Final = 100_000
"""Plans that are made in one go: bounds memory where every span has keys of its own."""
MAX_SHAPES: Final = 10_000
"""Plans that are kept: beyond, the recorder writes ids into keys, and a plan is not met again."""


def placed_columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the columns of attributes that ``span_rows`` has."""
    found = connection.execute(
        "SELECT column_name FROM duckdb_columns() WHERE table_name = 'span_rows' ORDER BY column_index"
    ).fetchall()
    return [name for (name,) in found if name in columns.SPAN_COLUMNS]


def learn(connection: duckdb.DuckDBPyConnection, shapes: Iterable[Shape]) -> bool:
    """Plan shapes and make the columns that are new; say whether every attribute of them has a column."""
    known = {shape for (shape,) in connection.execute("SELECT shape FROM span_shapes").fetchall()}
    plans: dict[int, Plan] = {}
    complete = True
    for shape, kind, keys, slots in shapes:
        if shape is None or kind is None:
            complete = False
        elif shape not in known:
            plans[shape] = plan(kind, keys or (), slots or ())
            complete &= not plans[shape].rest and OTHER not in (slots or ())
    if plans:
        _add_columns(connection, {column for made in plans.values() for column in made.places})
        _write(connection, plans)
    return complete


def place_waiting(connection: duckdb.DuckDBPyConnection, rich: bool) -> bool:
    """Put spans whose shape the load did not know into their columns.

    Returns False when such a span has more than the load read, unless it was a ``rich`` one.
    """
    while waiting := connection.execute(columns.shapes_of_waiting(SHAPES_AT_ONCE)).fetchall():
        if not learn(connection, waiting) and not rich:
            return False
        connection.execute(columns.insert_waiting(placed_columns(connection)))
        connection.execute(columns.DELETE_WAITING)
        ((kept,),) = connection.execute("SELECT count(*) FROM span_shapes").fetchall()
        if kept > MAX_SHAPES:
            connection.execute("DELETE FROM span_shapes")
    return True


def _add_columns(connection: duckdb.DuckDBPyConnection, wanted: set[str]) -> None:
    there = set(placed_columns(connection))
    for column, type_ in columns.SPAN_COLUMNS.items():
        if column in wanted - there:
            connection.execute(f"ALTER TABLE span_rows ADD COLUMN {column} {columns.SQL_TYPES[type_]}")
            connection.execute(f"ALTER TABLE span_shapes ADD COLUMN at_{column} INTEGER")


def _write(connection: duckdb.DuckDBPyConnection, plans: dict[int, Plan]) -> None:
    made = plans.values()
    rows: dict[str, list[Any]] = {
        "shape": list(plans),
        "rest": [p.rest for p in made],
        "unknown": [p.unknown or None for p in made],
        "mistyped": [p.mistyped for p in made],
    }
    types = {"shape": "UBIGINT", "rest": "INTEGER[]", "unknown": "VARCHAR[]", "mistyped": "BOOLEAN"}
    for column in {column for p in made for column in p.places}:
        rows[f"at_{column}"] = [p.places.get(column) for p in made]
    picked = ", ".join(f"unnest(${name}::{types.get(name, 'INTEGER')}[]) AS {name}" for name in rows)
    connection.execute(f"INSERT INTO span_shapes BY NAME SELECT {picked}", rows)
