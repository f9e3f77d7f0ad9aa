"""Readers of OTLP JSON lines that `bench_ingest` compares: each makes the same table, a row a span, with typed columns.

``python tests/bench/ingest_readers.py NAME FILE`` prints what one of them took. Each returns the same sums of its table, so
that none can leave a column out.
"""

import gc
import sys
from collections.abc import Callable
from pathlib import Path

from processes import ABSENT, tell

from vtprof_schemas import names

_OF_STEPS = [a for a in names.ATTRIBUTES.values() if a.where == "step" and a.type == names.INT]
INTEGERS = {a.key: a.column for a in _OF_STEPS[:14]}
"""Columns of the table by attribute; with the double there are 15."""
DOUBLE = (names.STEP_RUNNING, "running")
INSTANCE = names.SERVICE_INSTANCE_ID
_SUMS = [*INTEGERS.values(), "running", "start_ns - 1795000000000000000", "end_ns - start_ns", "kind"]


def sums_query(table: str) -> str:
    """Return a query of the sums that all readers must agree on, in SQL that every engine knows."""
    sums = ", ".join(f"sum({column})" for column in _SUMS)
    distinct = ", ".join(f"count(DISTINCT {name})" for name in ("trace_id", "span_id", "name", "instance"))
    return f"SELECT count(*), {distinct}, {sums} FROM {table}"


def read_vtprof(path: Path) -> Callable[[], list[float]]:
    """Read with the analyzer's own reader, into the database that stages work on."""
    from vtprof_analyzer.ingest.load import create_tables, load
    from vtprof_analyzer.ingest.sources import find_sources
    from vtprof_analyzer.store import open_store

    def work() -> list[float]:
        with open_store() as connection:
            create_tables(connection)
            load(connection, find_sources([path]), lambda _: None)
            rows = (
                "(SELECT s.* EXCLUDE (step_running), step_running AS running, service_instance_id AS instance"
                " FROM spans AS s JOIN resources USING (resource_id))"
            )
            return [float(value) for value in connection.execute(sums_query(rows)).fetchall()[0]]

    return work


def read_tutorial(path: Path) -> Callable[[], list[float]]:
    """Read as tutorials do: columns named, detection on, one `list_filter` an attribute."""
    import duckdb

    value = 'STRUCT("stringValue" VARCHAR, "intValue" BIGINT, "doubleValue" DOUBLE)'
    pairs = f'STRUCT("key" VARCHAR, "value" {value})[]'
    span = (
        'STRUCT("traceId" VARCHAR, "spanId" VARCHAR, "parentSpanId" VARCHAR, "name" VARCHAR, "kind" INTEGER,'
        f' "startTimeUnixNano" BIGINT, "endTimeUnixNano" BIGINT, "attributes" {pairs})'
    )
    integers = ", ".join(
        f'list_filter(s."attributes", lambda a: a.key = \'{key}\')[1].value."intValue" AS {column}'
        for key, column in INTEGERS.items()
    )

    def work() -> list[float]:
        with duckdb.connect() as connection:
            connection.execute(
                f"""
                CREATE TABLE spans AS
                SELECT list_filter(r.resource."attributes", lambda a: a.key = '{INSTANCE}')[1].value."stringValue"
                           AS instance,
                       s."traceId" AS trace_id, s."spanId" AS span_id, s."parentSpanId" AS parent_span_id, s.name, s.kind,
                       s."startTimeUnixNano" AS start_ns, s."endTimeUnixNano" AS end_ns, {integers},
                       list_filter(s."attributes", lambda a: a.key = '{DOUBLE[0]}')[1].value."doubleValue" AS {DOUBLE[1]}
                FROM (SELECT r, unnest(scope.spans) AS s FROM (SELECT r, unnest(r."scopeSpans") AS scope FROM (
                    SELECT unnest("resourceSpans") AS r FROM read_json(?, maximum_object_size = 134217728,
                        columns = {{"resourceSpans": 'STRUCT(resource STRUCT("attributes" {pairs}),
                                                             "scopeSpans" STRUCT(spans {span}[])[])[]'}}))))
                """,
                [str(path)],
            )
            return [float(value) for value in connection.execute(sums_query("spans")).fetchall()[0]]

    return work


def read_chdb(path: Path) -> Callable[[], list[float]]:
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

    def work() -> list[float]:
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
        told = str(database.query(sums_query("bench.spans"), "TabSeparated"))
        return [float(value) for value in told.split()]

    return work


def read_msgspec(path: Path) -> Callable[[], list[float]]:
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

    return lambda: _frame_sums(rows())


def read_polars(path: Path) -> Callable[[], list[float]]:
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

    def work() -> list[float]:
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
        return _frame_sums(frame)

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


READERS: dict[str, Callable[[Path], Callable[[], list[float]]]] = {
    "vtprof": read_vtprof, "tutorial": read_tutorial, "chdb": read_chdb, "msgspec": read_msgspec, "polars": read_polars,
    "raw parse": parse_raw,
}  # fmt: skip

if __name__ == "__main__":
    try:
        prepared = READERS[sys.argv[1]](Path(sys.argv[2]))
    except ModuleNotFoundError:
        sys.exit(ABSENT)
    tell(prepared)
