"""Read flat Parquet: one row a span, a metric reading or a resource, with columns named as in ``tables.sql``.

A file of spans has at least ``trace_id``, ``span_id``, ``name`` and ``start_ns``, one of readings ``name``, ``ts_ns``
and ``value``. What tells of the process (``service_instance_id``, ``model_config``, ...) stands in a file of its own
beside them (``resource_id`` is the link), or in each row. ``parquet_columns`` says which types are taken. Spans that
are in order are not copied: they are read from the files by whoever asks table ``spans``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, get_args

import duckdb

from vtprof_analyzer.ingest import parquet_columns as sql
from vtprof_analyzer.ingest.columns import METRIC_NAMES, RESOURCE_ATTRIBUTES
from vtprof_analyzer.ingest.ledger import Ledger
from vtprof_analyzer.ingest.parquet_columns import NEEDED, Table, matched, text
from vtprof_analyzer.ingest.prepare import TraceFile
from vtprof_analyzer.store import lack_of

_TABLES: Final[tuple[Table, ...]] = get_args(Table)
_RESOURCE_COLUMNS: Final = tuple(a.column for a in RESOURCE_ATTRIBUTES)

_ALWAYS: Final = ("parent_span_id", "end_ns", "kind", "status_code", "links")
_SPAN_ROWS: Final = "span_rows"
"""Where the load gathers spans, before table ``spans`` is made of it."""

Schema = Mapping[str, str]
"""Type by column."""
Note = Callable[[str, str], None]
"""Called with a file's name and what was wrong."""
Drop = Callable[[str, int], None]
"""Called with a file's name and how many of its spans have no valid ids, name or start."""


@dataclass(frozen=True)
class Rows:
    """Rows of one base table in Parquet files that have the same columns."""

    table: Table
    files: Sequence[TraceFile]
    columns: Mapping[str, str]
    """Expression by column of the table."""
    grouped: bool = False
    """One row for each resource, from files that repeat it."""
    lost: Mapping[str, str] = field(default_factory=dict)
    """By column of the files that can hold values of another type: the condition that a row does."""

    def select(self) -> str:
        """Return the query of the rows, with the types of the table."""
        listed = ", ".join(
            f"any_value({expression}) AS {column}"
            if self.grouped and column != "resource_id"
            else f"{expression} AS {column}"
            for column, expression in self.columns.items()
        )
        rows = f"SELECT {listed} FROM {_read(self.files)}{' GROUP BY ALL' if self.grouped else ''}"
        return f"SELECT *, {sql.dialect('name')} AS dialect FROM ({rows})" if self.table == "spans" else rows

    def by_file(self) -> Iterator["Rows"]:
        """Yield the rows of each file apart."""
        for file in self.files:
            yield replace(self, files=[file])


class _Unusable(Exception):
    """Why a file, or a column, cannot be read."""


def look(connection: duckdb.DuckDBPyConnection, files: Iterable[TraceFile], note: Note) -> list[Rows]:
    """Return the rows that files hold. Files and columns that cannot be read are left out, and noted."""
    groups: dict[tuple[tuple[str, str], ...], list[TraceFile]] = {}
    for file in files:
        try:
            groups.setdefault(_schema(connection, file), []).append(file)
        except _Unusable as unusable:
            note(file.name, f"{unusable}; left out")
    wanted = {table: _types(connection, table) for table in _TABLES}
    found: list[Rows] = []
    for schema, alike in groups.items():
        try:
            found += _rows(dict(schema), alike, wanted, note)
        except _Unusable as unusable:
            for file in alike:
                note(file.name, f"{unusable}; left out")
    return found


def _schema(connection: duckdb.DuckDBPyConnection, file: TraceFile) -> tuple[tuple[str, str], ...]:
    try:
        rows = connection.execute(f"DESCRIBE SELECT * FROM {_read([file])}").fetchall()
    except duckdb.Error as error:
        raise _Unusable(_why(error)) from error
    return tuple((name, type_) for name, type_, *_ in rows if name != sql.FILE)


def _why(error: duckdb.Error) -> str:
    return f"damaged Parquet ({str(error).strip().splitlines()[0][:200]})"


def _read(files: Sequence[TraceFile]) -> str:
    paths = ", ".join(text(str(file.plain)) for file in files)
    hive = any("=" in part for file in files for part in file.plain.parts[:-1])
    return (
        f"read_parquet([{paths}], hive_partitioning = {str(hive).lower()}, hive_types_autocast = false, "
        f"filename = '{sql.FILE}')"
    )


def _types(connection: duckdb.DuckDBPyConnection, table: str) -> Schema:
    query = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ?"
    return dict(connection.execute(query, [table]).fetchall())


def _rows(
    schema: Schema, files: Sequence[TraceFile], wanted: Mapping[Table, Schema], note: Note
) -> Iterator[Rows]:
    """Yield the rows of files of one schema: those of its table, and those of the resources told in each row."""
    table = _table_of(schema)
    want = wanted[table]
    found = matched(schema, want)
    columns = {"file": _file(files)} if "file" in want else {}
    lost: dict[str, str] = {}
    columns |= _converted(table, schema, want, found, files, note, lost)
    resource: dict[str, str] = {}
    resource_lost: dict[str, str] = {}
    if table != "resources":
        given = matched(
            schema, {c: t for c, t in wanted["resources"].items() if c in _RESOURCE_COLUMNS and c not in want}
        )
        resource = _converted("resources", schema, wanted["resources"], given, files, note, resource_lost)
        taken = {*found.values(), *given.values()}
        if "resource_id" not in columns:
            values = ", ".join(resource.values())
            columns["resource_id"] = (
                f"hash({text(','.join(resource))}, {values})" if resource else "0::UBIGINT"
            )
    else:
        taken = set(found.values())
    if "extra" in want:
        unknown = [
            name for name in schema if name not in taken and name.lower() not in ("file", "extra", "dialect")
        ]
        columns["extra"] = sql.extra(schema, unknown)
    if table == "spans":
        # These the load's checks ask for, of whatever source.
        always = {c: f"NULL::{want[c]}" for c in _ALWAYS} | {"unknown_keys": sql.unknown_keys(unknown)}
        columns = always | columns
    if "known" in want:
        columns["known"] = f"coalesce({columns['name']} IN ({', '.join(map(text, METRIC_NAMES))}), false)"
    yield Rows(table, files, columns, lost=lost)
    if table != "resources":
        told = {"resource_id": columns["resource_id"], **resource}
        yield Rows("resources", files, told, grouped=True, lost=resource_lost)


def _table_of(schema: Schema) -> Table:
    have = {
        *matched(schema, dict.fromkeys([*_RESOURCE_COLUMNS, *(c for n in NEEDED.values() for c in n)], ""))
    }
    for table in _TABLES:
        if have.issuperset(NEEDED[table]) and (table != "resources" or have & set(_RESOURCE_COLUMNS)):
            return table
    raise _Unusable(f"Parquet without the columns of spans ({', '.join(NEEDED['spans'])})")


def _file(files: Sequence[TraceFile]) -> str:
    odd = [f"{text(str(file.plain))}: {text(file.name)}" for file in files if str(file.plain) != file.name]
    return f"coalesce(MAP {{{', '.join(odd)}}}[{sql.FILE}], {sql.FILE})" if odd else sql.FILE


def _converted(
    table: Table,
    schema: Schema,
    want: Schema,
    found: Mapping[str, str],
    files: Sequence[TraceFile],
    note: Note,
    lost: dict[str, str],
) -> dict[str, str]:
    """Return the expressions of the columns that are there; one of another type is unknown, or stops it all.

    What a column can lose goes to ``lost``, by its name in the files.
    """
    columns = {}
    for column, source in found.items():
        expression = sql.converted(column, source, schema[source], want[column])
        if condition := sql.lost(column, source, schema[source], expression):
            lost[source] = condition
        if expression is not None:
            columns[column] = expression
            continue
        what = f"column {source} is {schema[source]} where {want[column]} is wanted"
        if column in NEEDED[table]:
            raise _Unusable(what)
        for file in files:
            note(file.name, f"{what}; taken as unknown")
    return columns


def read_parquet(
    connection: duckdb.DuckDBPyConnection, files: Sequence[TraceFile], ledger: Ledger, *, in_place: bool
) -> None:
    """Read files that the ledger has; with ``in_place`` the empty table ``span_rows`` becomes a view, if it can."""

    def note(name: str, what: str) -> None:
        ledger.note(name, None, what)

    def dropped(name: str, spans: int) -> None:
        ledger.files[name].dropped_spans += spans
        note(name, f"a span without a valid id, name or start; left out ({spans})")

    rows = look(connection, files, note)
    _count_lost(connection, rows, ledger)
    # What was unpacked, or goes by another name, is gone when the stages run.
    if in_place and all(file.plain == file.path for file in files) and attach(connection, rows):
        rows = [part for part in rows if part.table != "spans"]
    add(connection, rows, note, dropped)


def _count_lost(connection: duckdb.DuckDBPyConnection, rows: Sequence[Rows], ledger: Ledger) -> None:
    """Count the values of another type than their column's by file; those that rows repeat of a resource once each."""
    for part in (part for part in rows if part.lost):
        repeated = part.table == "resources" and part.grouped
        counted = ", ".join(
            f"count(DISTINCT {sql.quote(source)}) FILTER ({condition})"
            if repeated
            else f"count(*) FILTER ({condition})"
            for source, condition in part.lost.items()
        )
        try:
            found = connection.execute(
                f"SELECT {_file(part.files)} AS where_from, {counted} FROM {_read(part.files)} GROUP BY where_from"
            ).fetchall()
        except duckdb.Error as error:
            if lack_of(error):
                raise
            # Damaged: told when it is copied.
            if len(part.files) > 1:
                _count_lost(connection, list(part.by_file()), ledger)
            continue
        for name, *counts in found:
            for source, values in zip(part.lost, counts, strict=True):
                ledger.files[name].values_out_of_range += values
                # A whole column of another type is told already.
                if values and part.lost[source] != sql.has_value(source):
                    what = f"column {source}: values of another type taken as unknown ({values})"
                    ledger.note(name, None, what)


def materialise(connection: duckdb.DuckDBPyConnection) -> bool:
    """Make ``span_rows`` a table where it is a view; return whether it was."""
    if not connection.execute("SELECT 1 FROM duckdb_views() WHERE view_name = 'span_rows'").fetchall():
        return False
    connection.execute("CREATE TABLE copied_rows AS FROM span_rows")
    connection.execute("DROP VIEW span_rows")
    connection.execute("ALTER TABLE copied_rows RENAME TO span_rows")
    return True


def add(connection: duckdb.DuckDBPyConnection, rows: Sequence[Rows], note: Note, dropped: Drop) -> None:
    """Copy rows into the base tables, those of spans into ``span_rows``, which gets the columns that it lacks.

    What cannot be read to its end costs its file; spans without valid ids, name or start are left out.
    """
    # What a file of resources says comes before what other rows repeat.
    for part in sorted(rows, key=lambda part: part.grouped):
        target = _SPAN_ROWS if part.table == "spans" else part.table
        _widen(connection, target, part)
        if _copy(connection, target, part, dropped) is None:
            continue
        for single in part.by_file():
            if why := _copy(connection, target, single, dropped):
                note(single.files[0].name, f"{why}; left out")


def attach(connection: duckdb.DuckDBPyConnection, rows: Sequence[Rows]) -> bool:
    """Make ``span_rows`` a view of the files' spans; False, with nothing made, when not all of them can be used."""
    spans = [part.select() for part in rows if part.table == "spans"]
    query = " UNION ALL BY NAME ".join(spans)
    if not spans:
        return False
    try:
        # The stages read the files: no page of them may turn out damaged then.
        ((unusable, *_),) = connection.execute(
            f"SELECT count(*) FILTER (NOT {sql.usable_span()}), count(COLUMNS(*)) FROM ({query})"
        ).fetchall()
    except duckdb.Error:
        return False
    if unusable:
        return False
    connection.execute(f"DROP TABLE {_SPAN_ROWS}")
    connection.execute(f"CREATE VIEW {_SPAN_ROWS} AS SELECT *, 0 AS cut_values FROM ({query})")
    return True


def _widen(connection: duckdb.DuckDBPyConnection, target: str, part: Rows) -> None:
    """Give a table the columns of rows that it lacks."""
    there, wanted = _types(connection, target), _types(connection, part.table)
    for column in part.columns:
        if column not in there:
            connection.execute(f"ALTER TABLE {target} ADD COLUMN {column} {wanted[column]}")


def _copy(connection: duckdb.DuckDBPyConnection, target: str, part: Rows, dropped: Drop) -> str | None:
    """Insert rows, all or none; return why not."""
    kept = {
        "spans": f"SELECT * FROM rows WHERE {sql.usable_span()}",
        "metric_samples": "SELECT * FROM rows",
        "resources": "SELECT DISTINCT ON (resource_id) * FROM rows "
        "WHERE resource_id NOT IN (SELECT resource_id FROM resources)",
    }[part.table]
    unusable: list[tuple[str, int]] = []
    connection.begin()
    try:
        connection.execute(f"INSERT INTO {target} BY NAME WITH rows AS ({part.select()}) {kept}")
        if part.table == "spans":
            counted = (
                f"SELECT file, count(*) FROM ({part.select()}) WHERE NOT {sql.usable_span()} GROUP BY file"
            )
            unusable = connection.execute(counted).fetchall()
    except duckdb.Error as error:
        if lack_of(error):
            raise
        connection.rollback()
        return _why(error)
    connection.commit()
    for name, spans in unusable:
        dropped(name, spans)
    return None
