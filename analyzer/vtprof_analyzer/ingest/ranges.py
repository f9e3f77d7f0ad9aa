"""Take values that nothing real has as unknown, and count them: one of them would reach every sum of the report.

A value's range follows from its unit in the vocabulary. One scan finds the columns that leave theirs; only these cost
more. The limits are wide, and small enough that stages can multiply and add without leaving 64 bits.
"""

from typing import Final, NamedTuple

import duckdb

from vtprof_analyzer.ingest.columns import RESOURCE_ATTRIBUTES, SPAN_ATTRIBUTES
from vtprof_analyzer.ingest.dialects import FOREIGN_KEYS
from vtprof_analyzer.ingest.ledger import Ledger
from vtprof_schemas import names


class Range(NamedTuple):
    """Smallest and largest value that can be true."""

    low: float
    high: float


_COUNT: Final = Range(0, 2**40)
_LONGEST_NS: Final = 2**53
"""104 days."""
_EARLIEST_NS: Final = 10**15
"""Twelve days after 1970: a clock that was never set."""
_LATEST_NS: Final = 4 * 10**18
"""In the year 2096."""
_BY_UNIT: Final = {
    "ns": Range(0, _LONGEST_NS),
    "s": Range(0, _LONGEST_NS / 1e9),
    "B": Range(0, 2**53),
    # The product of these two is a number of bytes: 2^60. The largest models hold some 5 MiB of KV a token.
    "tokens": Range(0, 2**36),
    "B/token": Range(0, 2**24),
    "pairs": Range(0, 2**53),
    "pixels": Range(0, 2**53),
    "records": Range(0, 2**53),
    "mJ": Range(0, 2**53),
    "1": Range(0, 1e6),
    "cores": Range(1, 2**16),
    "ranks": Range(1, 2**16),
    "FLOP/s": Range(1e6, 1e21),
    "B/s": Range(1e6, 1e21),
}
_BY_KEY: Final = {
    # Requests are weighed by its inverse.
    names.SAMPLING_RATIO: Range(1e-9, 1),
    names.HOST_PROCESS_CPU_RATIO: Range(0, 2**16),
    names.AGENT_CPU_RATIO: Range(0, 2**16),
    names.GPU_PCIE_TX_BYTES_PER_S: Range(0, 1e21),
    names.GPU_PCIE_RX_BYTES_PER_S: Range(0, 1e21),
    # Sums over the iterations of a window.
    names.STEP_DECODE_CONTEXT_TOKENS: _COUNT,
    names.STEP_DECODE_VISUAL_TOKENS: _COUNT,
}
_FOREIGN_UNITS: Final = {names.INT: "tokens", names.DOUBLE: "s"}
_PARTS: Final = (
    ((names.TOKENS_IMAGE, names.TOKENS_VIDEO, names.TOKENS_AUDIO), names.INPUT_TOKENS, (names.TOKENS_TEXT,)),
    ((names.KV_VISUAL_BYTES,), names.KV_BYTES, ()),
    ((names.PREFILL_VISUAL_TOKENS,), names.PREFILL_TOKENS, ()),
    ((names.STEP_PREFILL_VISUAL_TOKENS,), names.STEP_PREFILL_TOKENS, ()),
    ((names.STEP_PREFILL_VISUAL_ATTENTION_PAIRS,), names.STEP_PREFILL_ATTENTION_PAIRS, ()),
    ((names.STEP_DECODE_VISUAL_TOKENS,), names.STEP_DECODE_CONTEXT_TOKENS, ()),
    ((names.STEP_KV_VISUAL_TOKENS,), names.STEP_KV_USED_TOKENS, ()),
    ((names.STEP_KV_VISUAL_TOKENS_MAX,), names.STEP_KV_USED_TOKENS_MAX, ()),
)
"""Parts, the whole that their sum cannot exceed, and what else is then unknown."""


class _Check(NamedTuple):
    """A condition that true values never meet, and what becomes unknown where they do."""

    condition: str
    columns: tuple[str, ...]
    what: str


def range_of(key: str, unit: str) -> Range:
    """Return the range of an attribute or metric."""
    return _BY_KEY.get(key) or _BY_UNIT.get(unit, _COUNT)


def _outside(column: str, key: str, unit: str) -> _Check:
    low, high = range_of(key, unit)
    return _Check(
        f"{column} NOT BETWEEN {low!r} AND {high!r}", (column,), f"{key} outside {low:g} to {high:g}"
    )


def _span_checks(there: set[str]) -> list[_Check]:
    """Return the checks of the columns that are there."""
    checks = [
        _Check(
            f"end_ns NOT BETWEEN 0 AND {_LATEST_NS} OR end_ns > start_ns + {_LONGEST_NS}",
            ("end_ns",),
            "an end that no clock shows",
        )
    ]
    checks += [_outside(a.column, a.key, a.unit) for a in SPAN_ATTRIBUTES if a.type != names.STRING]
    checks += [
        _outside(k.column, k.key, _FOREIGN_UNITS[k.type]) for k in FOREIGN_KEYS if k.type != names.STRING
    ]
    checks = [check for check in checks if there.issuperset(check.columns)]
    for parts, whole, related in _PARTS:
        columns = tuple(column for column in map(names.column_name, parts) if column in there)
        if not columns or names.column_name(whole) not in there:
            continue
        # As doubles: the sum of integers that are still to be judged may leave 64 bits.
        total = " + ".join(f"coalesce({column}, 0)::DOUBLE" for column in columns)
        unknown = (*columns, *(column for column in map(names.column_name, related) if column in there))
        what = f"{' + '.join(parts)} above {whole}"
        checks.append(_Check(f"{total} > {names.column_name(whole)}", unknown, what))
    return checks


def remove_implausible(connection: duckdb.DuckDBPyConnection, ledger: Ledger) -> None:
    """Set implausible values to NULL, remove spans and metric points at implausible times, count and note them all."""
    earliest = _earliest(connection)
    for table, column, what in (
        ("span_rows", "start_ns", "a span"),
        ("metric_samples", "ts_ns", "a metric point"),
    ):
        condition = f"{column} NOT BETWEEN {earliest} AND {_LATEST_NS}"
        _remove(connection, ledger, table, condition, f"{what} at a time that no clock shows")
    for name, value in _metric_ranges().items():
        condition = f"name = '{name}' AND value NOT BETWEEN {value.low!r} AND {value.high!r}"
        _remove(
            connection, ledger, "metric_samples", condition, f"{name} outside {value.low:g} to {value.high:g}"
        )
    _forget(connection, ledger, "span_rows", _span_checks(_columns(connection)), "file")
    _forget(
        connection,
        ledger,
        "resources",
        [_outside(a.column, a.key, a.unit) for a in RESOURCE_ATTRIBUTES if a.type != names.STRING],
        "(SELECT min(file) FROM (SELECT file, resource_id FROM span_rows UNION ALL BY NAME "
        "SELECT file, resource_id FROM metric_samples) AS s WHERE s.resource_id = resources.resource_id)",
    )


def _columns(connection: duckdb.DuckDBPyConnection) -> set[str]:
    found = connection.execute("SELECT column_name FROM duckdb_columns() WHERE table_name = 'span_rows'")
    return {name for (name,) in found.fetchall()}


def _earliest(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the earliest time that can be true: traces made by hand count from zero, and are taken as they are."""
    ((spans, late),) = connection.execute(
        f"SELECT count(start_ns), count(*) FILTER (start_ns >= {_EARLIEST_NS}) FROM span_rows"
    ).fetchall()
    return _EARLIEST_NS if 2 * late > spans else 0


def _metric_ranges() -> dict[str, Range]:
    """Return the ranges of the metrics, for those alone that have a unit of their own."""
    return {
        a.key: range_of(a.key, a.unit)
        for a in names.ATTRIBUTES.values()
        if a.where in ("gpu", "agent") and a.type != names.STRING
    }


def _remove(
    connection: duckdb.DuckDBPyConnection, ledger: Ledger, table: str, condition: str, what: str
) -> None:
    """Delete rows, counted by file: spans as left out, points as values."""
    found = connection.execute(
        f"SELECT file, count(*) FROM {table} WHERE {condition} GROUP BY file"
    ).fetchall()
    if not found:
        return
    connection.execute(f"DELETE FROM {table} WHERE {condition}")
    for file, rows in found:
        if table == "span_rows":
            ledger.files[file].dropped_spans += rows
            ledger.note(file, None, f"{what}; left out ({rows})")
        else:
            _count(ledger, file, rows, f"{what}; left out ({rows})")


def _forget(
    connection: duckdb.DuckDBPyConnection, ledger: Ledger, table: str, checks: list[_Check], file: str
) -> None:
    """Set the columns of the checks that some row meets to NULL, counted by file."""
    met = ", ".join(f"coalesce(bool_or({check.condition}), false)" for check in checks)
    (flags,) = connection.execute(f"SELECT {met} FROM {table}").fetchall()
    for check in (check for check, flag in zip(checks, flags, strict=True) if flag):
        found = connection.execute(
            f"SELECT {file} AS where_from, count(*) FROM {table} WHERE {check.condition} GROUP BY where_from"
        ).fetchall()
        unknown = ", ".join(f"{column} = NULL" for column in check.columns)
        connection.execute(f"UPDATE {table} SET {unknown} WHERE {check.condition}")
        for name, rows in found:
            _count(ledger, name, rows, f"{check.what}; taken as unknown ({rows})")


def _count(ledger: Ledger, file: str | None, rows: int, what: str) -> None:
    if file in ledger.files:
        ledger.files[file].values_out_of_range += rows
    ledger.note(file or "", None, what)
