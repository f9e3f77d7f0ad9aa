"""The analyzer's database is bounded in memory: it stands on disk, and what exceeds the limit goes there."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pytest
from otlp_builder import document, request, span, write
from store_fixture import fetch

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.ingest.columns import SPAN_ATTRIBUTES
from vtprof_analyzer.ingest.load import JsonReader, create_tables, load
from vtprof_analyzer.ingest.sources import find_sources
from vtprof_analyzer.store import (
    MEMORY_BYTES,
    NEEDED_BYTES,
    STAGE_THREAD_BYTES,
    THREAD_BYTES,
    give_stages_room,
    open_store,
    with_room,
)
from vtprof_schemas import names
from vtprof_schemas.errors import BackendError, ConfigError

UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def limit_bytes(shown: str) -> float:
    amount, unit = shown.split()
    return float(amount) * UNITS[unit]


def test_the_limit_follows_the_threads_and_can_be_set() -> None:
    with open_store() as db:
        ((shown, threads),) = fetch(db, "SELECT current_setting('memory_limit'), current_setting('threads')")
        assert 0 < limit_bytes(shown) <= min(MEMORY_BYTES, (os.cpu_count() or 1) * THREAD_BYTES)
        assert threads * NEEDED_BYTES <= limit_bytes(shown) + 1
    with open_store(memory_bytes=300 << 20) as db:
        assert fetch(db, "SELECT current_setting('memory_limit')") == [("300.0 MiB",)]


def test_stages_get_more_than_what_is_read_and_never_less_than_before() -> None:
    with open_store(memory_bytes=64 << 20) as db:
        give_stages_room(db)
        ((shown, threads),) = fetch(db, "SELECT current_setting('memory_limit'), current_setting('threads')")
        assert 64 << 20 < limit_bytes(shown) <= min(MEMORY_BYTES, threads * STAGE_THREAD_BYTES) + 1
    with open_store(memory_bytes=5 << 30) as db:
        give_stages_room(db)
        assert fetch(db, "SELECT current_setting('memory_limit')") == [("5.0 GiB",)]


def test_with_little_memory_fewer_threads_work() -> None:
    with open_store(memory_bytes=NEEDED_BYTES) as db:
        assert fetch(db, "SELECT current_setting('threads')") == [(1,)]


def test_work_that_cannot_go_to_disk_is_done_again_with_more_memory() -> None:
    # 1.5 million strings of 20 bytes, all in one value.
    query = "CREATE TABLE l AS SELECT list(repeat('x', 20) || i) AS v FROM range(1500000) AS r(i)"
    with open_store(memory_bytes=64 << 20) as db:
        with pytest.raises(duckdb.OutOfMemoryException):
            db.execute(query)
        with_room(db, lambda: db.execute(f"CREATE TABLE made AS SELECT 1 AS n; {query}"))
        assert fetch(db, "SELECT len(v), n FROM l, made") == [(1_500_000, 1)]
        ((shown,),) = fetch(db, "SELECT current_setting('memory_limit')")
        assert 64 << 20 < limit_bytes(shown) <= MEMORY_BYTES


def test_there_is_an_end_to_more_memory_and_nothing_is_left_of_what_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vtprof_analyzer.store.MEMORY_BYTES", 200 << 20)
    tried = []

    def fail() -> None:
        tried.append(fetch(db, "SELECT current_setting('memory_limit')"))
        db.execute("CREATE TABLE half AS SELECT 1 AS n")
        raise duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block")

    with pytest.raises(BackendError, match="not enough memory"), open_store(memory_bytes=64 << 20) as db:
        try:
            with_room(db, fail)
        finally:
            assert fetch(db, "SELECT table_name FROM duckdb_tables()") == []
    assert tried == [[("64.0 MiB",)], [("128.0 MiB",)], [("200.0 MiB",)]]


def test_any_other_fault_of_work_is_not_tried_again() -> None:
    with pytest.raises(duckdb.CatalogException), open_store() as db:
        with_room(db, lambda: db.execute("CREATE TABLE half AS SELECT 1 AS n; FROM nothing"))


def test_reading_looks_spans_up_in_the_few_shapes_and_never_gathers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB expects a handful of rows from a file of JSON, and would put all of it into a hash table."""
    plans = []
    run_on = JsonReader._run_on

    def explained(reader: JsonReader, statement: str, files: Any, bundled: Any) -> Any:
        if "INSERT INTO span_rows" in statement:
            statement = f"EXPLAIN (FORMAT json) {statement}"
            plans.append(json.loads(run_on(reader, statement, files, bundled)[0][1]))
            return []
        return run_on(reader, statement, files, bundled)

    monkeypatch.setattr(JsonReader, "_run_on", explained)
    # More shapes, and of more columns, than the few rows that are expected of a file.
    keys = [a.key for a in SPAN_ATTRIBUTES if a.type == names.INT][:40]
    spans = [
        span(names.SPAN_REQUEST, 0, 10, dict.fromkeys(keys[n:], 1), trace=n + 1) for n in range(len(keys))
    ]
    path = write(tmp_path / "t.jsonl", *(document(one) for one in spans), document(spans[0]))
    with open_store() as db:
        create_tables(db)
        load(db, find_sources([path]), lambda _: None)
        assert fetch(db, "SELECT current_setting('disabled_optimizers')") == [("",)]
    assert plans
    assert "RIGHT" not in json.dumps(plans)


def test_a_sort_larger_than_the_limit_goes_to_disk_and_is_right() -> None:
    # Two million rows of some 50 bytes in a scrambled order: several times the limit.
    with open_store(memory_bytes=32 << 20) as db:
        db.execute("SET threads = 1")
        db.execute(
            "CREATE TABLE n AS SELECT (i * 7919) % 2000000 AS v, repeat('x', 20) AS pad FROM range(2000000) AS r(i)"
        )
        db.execute("CREATE TABLE s AS SELECT v, pad, row_number() OVER (ORDER BY v) - 1 AS place FROM n")
        assert fetch(db, "SELECT count(*) FROM s WHERE v <> place") == [(0,)]


def test_the_files_are_gone_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_store() as db:
        db.execute("CREATE TABLE t AS SELECT 1 AS n")
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_without_a_place_for_tables_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="set TMPDIR to another folder") as raised, open_store():
        pass
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block"), "not enough memory"),
        (MemoryError(), "not enough memory"),
        (duckdb.TransactionException("Failed to commit: No space left on device"), "not enough disk space"),
    ],
)
def test_what_the_machine_lacks_is_one_line_and_no_fault_of_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    """Met while a file is read: it is not taken for a bad one, nor its lines for bad ones."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("vtprof_analyzer.ingest.load.JsonReader._insert", fail)
    path = write(tmp_path / "t.jsonl", document(*request(0, 10, queue=(0, 10))))
    with pytest.raises(BackendError, match=words) as caught:
        analyze(Options([path]))
    assert "\n" not in str(caught.value)


def test_any_other_error_of_the_database_stays_what_it_is() -> None:
    with pytest.raises(duckdb.CatalogException), open_store() as connection:
        connection.execute("FROM nothing")


def test_a_database_that_memory_does_not_do_for_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise duckdb.OutOfMemoryException("Out of Memory Error: Allocation failure")

    monkeypatch.setattr(duckdb, "connect", fail)
    with pytest.raises(BackendError, match="not enough memory; free some"), open_store():
        pass
