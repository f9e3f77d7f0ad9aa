"""Readers of OTLP JSON lines that `bench_ingest` compares: each makes the same table, a row a span, with typed columns.

``python tests/bench/ingest_readers.py NAME FILE`` prints what one of them took until its table was there. Each then adds up
its table, which is not measured: the sums must be the same, so that none can leave a column out. Two more parse the file
and make no table: bounds of what is built on DuckDB.
"""

import gc
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from processes import ABSENT, tell

from vtprof_schemas import names

_OF_STEPS = [a for a in names.ATTRIBUTES.values() if a.where == "step" and a.type == names.INT]
INTEGERS = {a.key: a.column for a in _OF_STEPS[:14]}
"""Columns of the table by attribute; with the double there are 15."""
DOUBLE = (names.STEP_RUNNING, "running")
INSTANCE = names.SERVICE_INSTANCE_ID
_SUMS = [*INTEGERS.values(), "running", "start_ns - 1795000000000000000", "end_ns - start_ns", "kind"]

Sums = Callable[[], list[float]]
"""Adds up the table of a reader."""


def sums_query(table: str) -> str:
    """Return a query of the sums that all readers must agree on, in SQL that every engine knows."""
    sums = ", ".join(f"sum({column})" for column in _SUMS)
    distinct = ", ".join(f"count(DISTINCT {name})" for name in ("trace_id", "span_id", "name", "instance"))
    return f"SELECT count(*), {distinct}, {sums} FROM {table}"


def read_vtprof(path: Path) -> Callable[[], Sums]:
    """Read with the analyzer's own reader, into the database that stages work on."""
    from vtprof_analyzer.ingest.load import create_tables, load
    from vtprof_analyzer.ingest.sources import find_sources
    from vtprof_analyzer.store import open_store

    def work() -> Sums:
        held = ExitStack()
        connection = held.enter_context(open_store())
        create_tables(connection)
        load(connection, find_sources([path]), lambda _: None)
        rows = (
            "(SELECT s.* EXCLUDE (step_running), step_running AS running, service_instance_id AS instance"
            " FROM spans AS s JOIN resources USING (resource_id))"
        )

        def sums() -> list[float]:
            with held:
                return _sums(connection, rows)

        return sums

    return work


def _documents(path: Path) -> str:
    """Return the query of a file's resources with their spans, typed; without detection, which parses all twice."""
    return f"""
        SELECT unnest("resourceSpans") AS r
        FROM read_json('{path}', auto_detect = false, records = true, format = 'newline_delimited',
            maximum_object_size = 2097152, columns = {{"resourceSpans": '{_TYPE}'}})
    """


_VALUE = 'STRUCT("stringValue" VARCHAR, "intValue" BIGINT, "doubleValue" DOUBLE)'
_PAIRS = f'STRUCT("key" VARCHAR, "value" {_VALUE})[]'
_SPAN = (
    'STRUCT("traceId" VARCHAR, "spanId" VARCHAR, "parentSpanId" VARCHAR, "name" VARCHAR, "kind" INTEGER,'
    f' "startTimeUnixNano" BIGINT, "endTimeUnixNano" BIGINT, "attributes" {_PAIRS})'
)
_TYPE = f'STRUCT(resource STRUCT("attributes" {_PAIRS}), "scopeSpans" STRUCT(spans {_SPAN}[])[])[]'
_BASE = (
    's."traceId" AS trace_id, s."spanId" AS span_id, s."parentSpanId" AS parent_span_id, s.name, s.kind,'
    ' s."startTimeUnixNano" AS start_ns, s."endTimeUnixNano" AS end_ns'
)


def read_tutorial(path: Path) -> Callable[[], Sums]:
    """Read as tutorials do: columns named, detection on, one `list_filter` an attribute."""

    def picked(source: str, key: str, kind: str, column: str) -> str:
        return (
            f'list_filter({source}."attributes", lambda a: a.key = \'{key}\')[1].value."{kind}" AS {column}'
        )

    integers = ", ".join(picked("s", key, "intValue", column) for key, column in INTEGERS.items())
    statement = f"""
        CREATE TABLE spans AS
        SELECT {picked("r.resource", INSTANCE, "stringValue", "instance")}, {_BASE}, {integers},
               {picked("s", DOUBLE[0], "doubleValue", DOUBLE[1])}
        FROM (SELECT r, unnest(scope.spans) AS s FROM (SELECT r, unnest(r."scopeSpans") AS scope FROM (
            SELECT unnest("resourceSpans") AS r
            FROM read_json('{path}', maximum_object_size = 134217728, columns = {{"resourceSpans": '{_TYPE}'}}))))
    """
    return lambda: _made(statement)


def read_unchecked(path: Path) -> Callable[[], Sums]:
    """Read as the analyzer could if every input were whole, valid, known and told once: parse, place, keep in memory."""

    def placed(keys: str, source: str, key: str, kind: str, column: str) -> str:
        return f"list_extract({source}, list_position({keys}, '{key}')).value.\"{kind}\" AS {column}"

    keys = "list_transform({}, lambda a: a.key)"
    integers = ", ".join(placed("ks", "listed", key, "intValue", column) for key, column in INTEGERS.items())
    about = 'r.resource."attributes"'
    statement = f"""
        CREATE TABLE spans AS
        SELECT instance, {_BASE}, {integers}, {placed("ks", "listed", DOUBLE[0], "doubleValue", DOUBLE[1])}
        FROM (SELECT instance, s, s."attributes" AS listed, {keys.format('s."attributes"')} AS ks FROM (
            SELECT instance, unnest(scope.spans) AS s FROM (
            SELECT {placed(keys.format(about), about, INSTANCE, "stringValue", "instance")},
                   unnest(r."scopeSpans") AS scope FROM ({_documents(path)}))))
    """
    return lambda: _made(statement)


def _made(statement: str) -> Sums:
    """Make the table ``spans`` with DuckDB, in memory."""
    import duckdb

    connection = duckdb.connect(config={"preserve_insertion_order": False})
    connection.execute(statement)
    return lambda: _sums(connection, "spans")


def _sums(connection: "object", table: str) -> list[float]:
    import duckdb

    assert isinstance(connection, duckdb.DuckDBPyConnection)
    return [float(value) for value in connection.execute(sums_query(table)).fetchall()[0]]


def parse_typed(path: Path) -> Callable[[], list[float]]:
    """Parse the JSON into types and take the spans apart, and no more: the bound for any reader on DuckDB's JSON."""
    import duckdb

    def work() -> list[float]:
        with duckdb.connect(config={"preserve_insertion_order": False}) as connection:
            query = (
                'SELECT count(*), sum(len(s."attributes")) FROM (SELECT unnest(scope.spans) AS s FROM'
                f' (SELECT unnest(r."scopeSpans") AS scope FROM ({_documents(path)})))'
            )
            return [float(value) for value in connection.execute(query).fetchall()[0]]

    return work


def read_chdb(path: Path) -> Callable[[], Sums]:
    """Read with ClickHouse in the process, into a table in memory."""
    from chdb import session

    value = "Tuple(stringValue Nullable(String), intValue Nullable(String), doubleValue Nullable(Float64))"
    pairs = f"Array(Tuple(key String, value {value}))"
    span = (
        "Tuple(traceId String, spanId String, parentSpanId String, name String, kind UInt8, startTimeUnixNano String,"
        f" endTimeUnixNano String, attributes {pairs})"
    )
    scopes = f"Array(Tuple(spans Array({span})))"
    structure = f"resourceSpans Array(Tuple(resource Tuple(attributes {pairs}), scopeSpans {scopes}))"
    # A tuple's parts by place: by name is slower.
    integers = ", ".join(
        f"toInt64OrNull(arrayFirst(a -> a.1 = '{key}', s.attributes).2.2) AS {column}"
        for key, column in INTEGERS.items()
    )

    def work() -> Sums:
        database = session.Session()
        database.query("CREATE DATABASE bench")
        database.query(
            f"""
            CREATE TABLE bench.spans ENGINE = Memory AS
            SELECT arrayFirst(a -> a.1 = '{INSTANCE}', about).2.1 AS instance, s.traceId AS trace_id, s.spanId AS span_id,
                   s.parentSpanId AS parent_span_id, s.name AS name, s.kind AS kind,
                   toInt64(s.startTimeUnixNano) AS start_ns, toInt64(s.endTimeUnixNano) AS end_ns, {integers},
                   arrayFirst(a -> a.1 = '{DOUBLE[0]}', s.attributes).2.3 AS {DOUBLE[1]}
            FROM (SELECT r.resource.attributes AS about, arrayJoin(arrayJoin(r.scopeSpans).spans) AS s
                  FROM (SELECT arrayJoin(resourceSpans) AS r FROM file('{path}', 'JSONEachRow', '{structure}')))
            SETTINGS input_format_skip_unknown_fields = 1
            """
        )
        query = sums_query("bench.spans")
        return lambda: [float(value) for value in str(database.query(query, "TabSeparated")).split()]

    return work


def read_msgspec(path: Path) -> Callable[[], Sums]:
    """Read with msgspec's typed decoder in one process, into columns and a data frame."""
    import msgspec
    import polars as pl

    class Value(msgspec.Struct):
        stringValue: str | None = None  # noqa: N815
        intValue: str | None = None  # noqa: N815
        doubleValue: float | None = None  # noqa: N815

    class Attribute(msgspec.Struct):
        key: str
        value: Value

    class Span(msgspec.Struct):
        traceId: str  # noqa: N815
        spanId: str  # noqa: N815
        name: str
        kind: int
        startTimeUnixNano: str  # noqa: N815
        endTimeUnixNano: str  # noqa: N815
        attributes: list[Attribute]
        parentSpanId: str | None = None  # noqa: N815

    class Scope(msgspec.Struct):
        spans: list[Span]

    class Resource(msgspec.Struct):
        attributes: list[Attribute]

    class Entry(msgspec.Struct):
        resource: Resource
        scopeSpans: list[Scope]  # noqa: N815

    class Document(msgspec.Struct):
        resourceSpans: list[Entry]  # noqa: N815

    def rows() -> pl.DataFrame:
        decoder = msgspec.json.Decoder(Document)
        base = ("instance", "trace_id", "span_id", "parent_span_id", "name", "kind", "start_ns", "end_ns")
        columns: dict[str, list[object]] = {name: [] for name in (*base, *INTEGERS.values(), DOUBLE[1])}
        append = {key: columns[column].append for key, column in (*INTEGERS.items(), DOUBLE)}
        adders = [columns[name].append for name in base]
        # Millions of objects and no cycles among them.
        gc.disable()
        with path.open("rb") as stream:
            for line in stream:
                for entry in decoder.decode(line).resourceSpans:
                    (instance,) = [
                        a.value.stringValue for a in entry.resource.attributes if a.key == INSTANCE
                    ]
                    for scope in entry.scopeSpans:
                        for s in scope.spans:
                            values = (
                                instance, s.traceId, s.spanId, s.parentSpanId, s.name, s.kind,
                                int(s.startTimeUnixNano), int(s.endTimeUnixNano),
                            )  # fmt: skip
                            for add, value in zip(adders, values, strict=True):
                                add(value)
                            for a in s.attributes:
                                add_value = append.get(a.key)
                                if add_value:
                                    number = a.value.intValue
                                    add_value(a.value.doubleValue if number is None else int(number))
        return pl.DataFrame(columns)

    def work() -> Sums:
        frame = rows()
        return lambda: _frame_sums(frame)

    return work


def read_polars(path: Path) -> Callable[[], Sums]:
    """Read with Polars' lazy reader of JSON lines."""
    import polars as pl

    value = pl.Struct({"stringValue": pl.String, "intValue": pl.String, "doubleValue": pl.Float64})
    pairs = pl.List(pl.Struct({"key": pl.String, "value": value}))
    texts = ("traceId", "spanId", "parentSpanId", "name", "startTimeUnixNano", "endTimeUnixNano")
    span = pl.Struct({**dict.fromkeys(texts, pl.String), "kind": pl.Int32, "attributes": pairs})
    scopes = pl.List(pl.Struct({"spans": pl.List(span)}))
    entry = pl.Struct({"resource": pl.Struct({"attributes": pairs}), "scopeSpans": scopes})

    def picked(source: str, key: str, kind: str, column: str) -> pl.Expr:
        fields = pl.element().struct
        chosen = pl.element().filter(fields.field("key") == key).struct.field("value").struct.field(kind)
        return pl.col(source).list.eval(chosen).list.first().alias(column)

    def work() -> Sums:
        lazy = pl.scan_ndjson(path, schema={"resourceSpans": pl.List(entry)})
        lazy = lazy.explode("resourceSpans").unnest("resourceSpans")
        lazy = lazy.with_columns(pl.col("resource").struct.field("attributes").alias("about")).drop(
            "resource"
        )
        lazy = lazy.with_columns(picked("about", INSTANCE, "stringValue", "instance")).drop("about")
        lazy = lazy.explode("scopeSpans").unnest("scopeSpans").explode("spans").unnest("spans")
        integers = [
            picked("attributes", key, "intValue", column).cast(pl.Int64) for key, column in INTEGERS.items()
        ]
        frame = lazy.select(
            "instance",
            pl.col("traceId").alias("trace_id"),
            pl.col("spanId").alias("span_id"),
            pl.col("parentSpanId").alias("parent_span_id"),
            "name",
            "kind",
            pl.col("startTimeUnixNano").cast(pl.Int64).alias("start_ns"),
            pl.col("endTimeUnixNano").cast(pl.Int64).alias("end_ns"),
            *integers,
            picked("attributes", DOUBLE[0], "doubleValue", DOUBLE[1]),
        ).collect()
        return lambda: _frame_sums(frame)

    return work


def _frame_sums(frame: "object") -> list[float]:
    import polars as pl

    assert isinstance(frame, pl.DataFrame)
    with pl.SQLContext(spans=frame) as context:
        row = context.execute(sums_query("spans"), eager=True).row(0)
    return [float(value) for value in row]


def parse_raw(path: Path) -> Callable[[], list[float]]:
    """Parse the JSON of each line with DuckDB and make nothing of it: the bound for anything built on it."""
    import duckdb

    def work() -> list[float]:
        with duckdb.connect() as connection:
            query = (
                "SELECT count(json_type(json)) FROM read_json_objects(?, format = 'newline_delimited',"
                " maximum_object_size = 2097152)"
            )
            return [float(connection.execute(query, [str(path)]).fetchall()[0][0])]

    return work


READERS: dict[str, Callable[[Path], Callable[[], list[float] | Sums]]] = {
    "vtprof": read_vtprof, "tutorial": read_tutorial, "chdb": read_chdb, "msgspec": read_msgspec, "polars": read_polars,
    "unchecked": read_unchecked, "typed parse": parse_typed, "raw parse": parse_raw,
}  # fmt: skip

if __name__ == "__main__":
    try:
        prepared = READERS[sys.argv[1]](Path(sys.argv[2]))
    except ModuleNotFoundError:
        sys.exit(ABSENT)
    tell(prepared)
