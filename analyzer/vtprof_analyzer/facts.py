"""The facts that rules judge: rows of the four facts views, narrowed to the vocabulary of the rules."""

import math

import duckdb

from vtprof_rules.fact_rows import FactRow, FactRows
from vtprof_rules.rule import Scalar
from vtprof_rules.vocabulary import FACT_VIEWS, FACTS

_DIGITS = 12
"""Digits that are kept of a number: sums of doubles differ in the last ones with the order of the rows."""


def read_facts(connection: duckdb.DuckDBPyConnection) -> FactRows:
    """Return the rows of each facts view, every fact that a rule may name in each; ``None`` is not known."""
    listed = ", ".join(FACTS)
    return {
        view: [
            FactRow(subject, dict(zip(FACTS, map(_plain, values), strict=True)))
            for subject, *values in connection.execute(f"SELECT subject, {listed} FROM {view}").fetchall()
        ]
        for view in FACT_VIEWS
    }


def _plain(value: object) -> Scalar | None:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value if isinstance(value, int | str | bool) else None
