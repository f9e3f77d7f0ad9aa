"""Flat Parquet gives the tables that the same spans in JSON give; what is missing is NULL, what is unknown is kept."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
from otlp_builder import BASE_NS, document, metric_document, request, write
from store_fixture import fetch, loaded

from vtprof_analyzer.analyze import Options, analyze
from vtprof_schemas import names
from vtprof_schemas.errors import NoData

REQUEST = {names.INPUT_TOKENS: 7, names.REQUEST_MODEL: "m", "mine": "x"}
BASE = f"""
SELECT '{1:032x}' AS trace_id, '{1:016x}' AS span_id, 'vtprof.request' AS name, {BASE_NS} AS start_ns
"""


def parquet(path: Path, query: str, options: str = "") -> Path:
    with duckdb.connect() as db:
        db.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet{options})")
    return path


def row(path: Path, columns: str) -> tuple[Any, ...]:
    """Return columns of the only span of a file."""
    with loaded(path) as db:
        (only,) = fetch(db, f"SELECT {columns} FROM spans")
        return tuple(only)


def notes_of(path: Path) -> list[str]:
    with loaded(path) as db:
        return [what for (what,) in fetch(db, "SELECT what FROM ingest_notes ORDER BY what")]


def is_view(db: duckdb.DuckDBPyConnection) -> bool:
    """Say whether spans are read where they are."""
    return fetch(db, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'span_rows'") == [(0,)]


def test_exported_tables_are_read_back_as_they_were(tmp_path: Path) -> None:
    lines = write(
        tmp_path / "t.jsonl",
        document(
            *request(0, 90, REQUEST, trace=1, queue=(0, 9)), resource={names.HOST_NAME: "h", "zone": "z"}
        ),
        metric_document(names.GPU_POWER_MW, [(1, 2.0), (5, 3.0)]),
    )
    tables = {
        "spans": "* EXCLUDE (file)", "resources": "*", "metric_samples": "* EXCLUDE (file)", "gpu_samples": "*",
    }  # fmt: skip
    queries = {table: f"SELECT {what} FROM {table} ORDER BY ALL" for table, what in tables.items()}
    (tmp_path / "run").mkdir()
    with loaded(lines) as db:
        expected = {table: fetch(db, query) for table, query in queries.items()}
        for table in ("spans", "resources", "metric_samples"):
            db.execute(f"COPY {table} TO '{tmp_path}/run/{table}.parquet' (FORMAT parquet)")
    with loaded(tmp_path / "run") as db:
        assert {table: fetch(db, query) for table, query in queries.items()} == expected
        assert is_view(db)
        assert fetch(db, "SELECT DISTINCT format, messages, dropped_messages FROM ingest_files") == [
            ("parquet", None, None)
        ]


def test_columns_may_bear_the_keys_of_attributes_and_missing_ones_are_null(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "t.parquet", BASE + f', 7 AS "{names.INPUT_TOKENS}", 9::SMALLINT AS output_tokens'
    )
    assert row(path, "input_tokens, output_tokens, end_ns, dialect, extra, file") == (
        7, 9, None, "vtprof", None, str(path),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "column", "expected"),
    [
        ("7::UTINYINT", "input_tokens", 7),
        ("7::HUGEINT", "input_tokens", 7),
        ("7.0::DOUBLE", "input_tokens", 7),
        ("7.5::DOUBLE", "input_tokens", None),
        ("NULL", "input_tokens", None),
        ("2::BIGINT", "step_running", 2.0),
        ("1.5::DECIMAL(9,2)", "step_running", 1.5),
        ("12", "request_id", "12"),
        ("'abc'::BLOB", "request_id", "abc"),
        ("make_timestamp_ns(1795000000000000123)", "end_ns", BASE_NS + 123),
        ("TIMESTAMPTZ '2026-11-18 11:06:40+00'", "end_ns", 1_795_000_000_000_000_000),
        ("'AB'::VARCHAR || repeat('0', 14)", "parent_span_id", "ab" + "0" * 14),
        ("''", "parent_span_id", None),
        ("unhex('00000000000000aa')", "parent_span_id", "00000000000000aa"),
        ("repeat('\\x00'::BLOB, 8)", "parent_span_id", None),
        ("2::UTINYINT", "kind", 2),
    ],
)
def test_types_that_say_the_same_are_converted(
    tmp_path: Path, expression: str, column: str, expected: Any
) -> None:
    path = parquet(tmp_path / "t.parquet", f"{BASE}, {expression} AS {column}")
    assert row(path, column) == (expected,)


def test_ids_may_be_bytes_or_uuids_and_links_lists(tmp_path: Path) -> None:
    trace, span_id = "0123456789abcdef" * 2, "00000000000000ff"
    links = "[{'traceId': 'a', 'spanId': 'b'}] AS links"
    for type_ in (f"unhex('{trace}')", f"'{trace}'::UUID", f"'{trace.upper()}'"):
        path = parquet(
            tmp_path / "t.parquet",
            f"SELECT {type_} AS trace_id, unhex('{span_id}') AS span_id, 'vtprof.step' AS name, 5 AS start_ns, {links}",
        )
        assert row(path, "trace_id, span_id, links") == (trace, span_id, [{"traceId": "a", "spanId": "b"}])


def test_a_column_of_another_type_is_one_clear_line_and_unknown(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", BASE + ", 'seven' AS input_tokens, 3 AS output_tokens")
    assert row(path, "input_tokens, output_tokens") == (None, 3)
    assert notes_of(path) == ["column input_tokens is VARCHAR where BIGINT is wanted; taken as unknown"]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (BASE.replace(f"{BASE_NS} AS", "'now' AS"), "column start_ns is VARCHAR where BIGINT is wanted"),
        ("SELECT 1 AS a, 2 AS b", "Parquet without the columns of spans (trace_id, span_id, name, start_ns)"),
    ],
)
def test_parquet_that_is_no_trace_is_one_clear_line(tmp_path: Path, query: str, told: str) -> None:
    path = parquet(tmp_path / "t.parquet", query)
    with pytest.raises(NoData) as raised:
        analyze(Options([path]))
    assert f"{path}: {told}; left out" in str(raised.value)


def test_unknown_columns_are_kept_as_extra(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "t.parquet",
        BASE
        + """, 'a "b"' AS colour, [1, 2] AS list, NULL::INT AS none, 'xy'::BLOB AS raw, '{"k":1}' AS extra""",
    )
    assert json.loads(row(path, "extra")[0]) == {"k": 1, "colour": 'a "b"', "list": [1, 2], "raw": "eHk="}
    long = parquet(tmp_path / "l.parquet", BASE + ", repeat('x', 100000) AS colour, 'no json' AS extra")
    assert json.loads(row(long, "extra")[0]) == {"colour": "x" * (16 << 10)}


def test_folders_named_key_value_are_columns(tmp_path: Path) -> None:
    for rank, trace in ((0, 1), (1, 2)):
        folder = tmp_path / f"region=eu/{names.column_name(names.HOST_NAME)}=h{rank}"
        folder.mkdir(parents=True)
        parquet(folder / "t.parquet", BASE.replace(f"{1:032x}", f"{trace:032x}"))
    with loaded(tmp_path) as db:
        assert fetch(
            db,
            "SELECT host_name, spans.extra FROM spans JOIN resources USING (resource_id) ORDER BY host_name",
        ) == [("h0", '{"region":"eu"}'), ("h1", '{"region":"eu"}')]


def test_what_tells_of_the_process_may_stand_in_each_row_or_beside(tmp_path: Path) -> None:
    inside = parquet(tmp_path / "inside.parquet", BASE + ", 'i1' AS service_instance_id, 3 AS rank")
    with loaded(inside) as db:
        assert fetch(
            db, "SELECT service_instance_id, rank FROM spans JOIN resources USING (resource_id)"
        ) == [("i1", 3)]
    beside = tmp_path / "beside"
    beside.mkdir()
    parquet(beside / "spans.parquet", BASE + ", -5::BIGINT AS resource_id")
    parquet(beside / "resources.parquet", "SELECT -5::BIGINT AS resource_id, 'i2' AS service_instance_id")
    with loaded(beside) as db:
        assert fetch(db, "SELECT service_instance_id FROM spans JOIN resources USING (resource_id)") == [
            ("i2",)
        ]
        assert fetch(db, "SELECT resource_id FROM resources") == [(2**64 - 5,)]


@pytest.mark.parametrize(
    "change",
    [
        (f"'{1:032x}'", "'z'"),
        (f"'{1:032x}'", f"'{0:032x}'"),
        (f"'{1:016x}'", "NULL"),
        (str(BASE_NS), "0"),
        ("'vtprof.request'", "NULL::VARCHAR"),
    ],
)
def test_a_row_without_ids_name_or_start_is_dropped_and_counted(
    tmp_path: Path, change: tuple[str, str]
) -> None:
    good = BASE.replace(f"{1:032x}", f"{2:032x}")
    path = parquet(tmp_path / "t.parquet", f"{BASE.replace(*change)} UNION ALL {good}")
    with loaded(path) as db:
        assert fetch(db, "SELECT trace_id FROM spans") == [(f"{2:032x}",)]
        assert fetch(db, "SELECT dropped_spans FROM ingest_files") == [(1,)]


def test_rows_that_come_twice_or_cannot_be_true_are_treated_as_those_of_json(tmp_path: Path) -> None:
    twice = parquet(tmp_path / "t.parquet", f"{BASE}, -7 AS input_tokens UNION ALL {BASE}, -7")
    with loaded(twice) as db:
        assert fetch(db, "SELECT input_tokens FROM spans") == [(None,)]
        assert fetch(db, "SELECT duplicates FROM ingest_counts") == [(1,)]
        assert not is_view(db)


def test_parquet_and_json_may_be_mixed(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", document(*request(0, 9, REQUEST, trace=2)))
    parquet(tmp_path / "t.parquet", BASE + ", 7 AS input_tokens, 'x' AS colour")
    with loaded(tmp_path) as db:
        assert fetch(db, "SELECT trace_id, input_tokens, extra FROM spans ORDER BY 1") == [
            (f"{1:032x}", 7, '{"colour":"x"}'),
            (f"{2:032x}", 7, '{"mine":"x"}'),
        ]


def test_a_packed_file_and_an_odd_name_are_read(tmp_path: Path) -> None:
    made = parquet(tmp_path / "made", BASE)
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(made.read_bytes()))
    shutil.copy(made, tmp_path / "b[1]*.parquet")
    for name in ("a.parquet.gz", "b[1]*.parquet"):
        assert row(tmp_path / name, "file") == (str(tmp_path / name),)


@pytest.mark.parametrize("where", ["end", "middle", "short"])
def test_a_damaged_file_costs_itself(tmp_path: Path, where: str) -> None:
    many = (
        f"SELECT lpad(hex(i), 32, '0') AS trace_id, lpad(hex(i), 16, '0') AS span_id, 'vtprof.step' AS name, "
        f"{BASE_NS} + i AS start_ns, md5(i::VARCHAR) AS request_id FROM range(1, 5001) t(i)"
    )
    bad = parquet(tmp_path / "bad.parquet", many, ", COMPRESSION zstd")
    data = bytearray(bad.read_bytes())
    if where == "end":
        data[-30:-20] = b"\xff" * 10
    elif where == "middle":
        data[len(data) // 2 : len(data) // 2 + 400] = b"\xff" * 400
    bad.write_bytes(data[:200] if where == "short" else data)
    parquet(tmp_path / "good.parquet", BASE)
    with loaded(tmp_path) as db:
        assert fetch(db, "SELECT DISTINCT file FROM spans") == [(str(tmp_path / "good.parquet"),)]
        ((note,),) = fetch(db, "SELECT what FROM ingest_notes WHERE file LIKE '%bad.parquet'")
        assert note.startswith("damaged Parquet (")


def test_a_kept_database_does_not_need_the_files(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", BASE + f", {BASE_NS + 9} AS end_ns")
    analyze(Options([path], database=tmp_path / "kept.db"))
    path.unlink()
    with duckdb.connect(str(tmp_path / "kept.db"), read_only=True) as db:
        assert db.execute("SELECT count(*) FROM spans").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("columns", "kept", "unknown"),
    [
        # Of the rows one says nothing, one something else.
        ("unnest([7.0, 7.5, 'nan'::DOUBLE, NULL]::DOUBLE[]) AS input_tokens", [7, None, None, None], 1),
        ("unnest([7, 18446744073709551615, NULL]::UBIGINT[]) AS input_tokens", [7, None, None], 1),
        ("unnest(['a', NULL, 'b']) AS input_tokens", [None, None, None], 2),
        ("unnest([7, 8]::INTEGER[]) AS input_tokens", [7, 8], 0),
    ],
)
def test_values_of_another_type_are_counted(
    tmp_path: Path, columns: str, kept: list[int | None], unknown: int
) -> None:
    rows = (
        f"SELECT * REPLACE (lpad(row_number() OVER ()::VARCHAR, 16, '0') AS span_id) FROM ({BASE}, {columns})"
    )
    with loaded(parquet(tmp_path / "t.parquet", rows)) as db:
        assert [value for (value,) in fetch(db, "SELECT input_tokens FROM spans ORDER BY span_id")] == kept
        assert fetch(db, "SELECT values_out_of_range FROM ingest_files") == [(unknown,)]
        assert fetch(db, "SELECT count(*) FROM ingest_notes") == [(min(unknown, 1),)]


def test_values_of_another_type_are_counted_beside_a_damaged_file(tmp_path: Path) -> None:
    made = parquet(tmp_path / "a.parquet", BASE + ", 7.5::DOUBLE AS input_tokens", ", COMPRESSION zstd")
    data = made.read_bytes()
    # The footer, its length, four letters: what stands before is the columns.
    columns = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    (tmp_path / "b.parquet").write_bytes(data[:4] + b"\xff" * (columns - 4) + data[columns:])
    with loaded(tmp_path) as db:
        assert fetch(db, "SELECT file FROM spans") == [(str(made),)]
        assert fetch(db, "SELECT values_out_of_range FROM ingest_files ORDER BY file") == [(1,), (0,)]


def test_what_each_row_repeats_of_its_process_is_counted_once(tmp_path: Path) -> None:
    made = f"{BASE}, 'i' AS service_instance_id, 'seven' AS process_pid"
    path = parquet(tmp_path / "t.parquet", f"{made} UNION ALL {made.replace(f'{1:016x}', f'{2:016x}')}")
    with loaded(path) as db:
        assert fetch(db, "SELECT count(*) FROM spans") == [(2,)]
        assert fetch(db, "SELECT values_out_of_range FROM ingest_files") == [(1,)]
