"""The facts that rules judge: the one-row table `facts`, narrowed to the vocabulary of the rules."""

import math

import duckdb

from vtprof_rules.evaluate import Facts
from vtprof_rules.vocabulary import FACTS


def read_facts(connection: duckdb.DuckDBPyConnection) -> Facts:
    """Return every fact that a rule may name; ``None`` is not known."""
    result = connection.execute("SELECT * FROM facts")
    names = [column[0] for column in result.description or []]
    (row,) = result.fetchall()
    values = dict(zip(names, row, strict=True))
    return {name: _finite(values.get(name)) for name in FACTS}


def _finite(value: object) -> float | int | str | bool | None:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (float, int, str, bool)) else None
