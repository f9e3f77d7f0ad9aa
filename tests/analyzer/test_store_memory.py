"""The analyzer's database is bounded in memory: it stands on disk, and what exceeds the limit goes there."""

import tempfile
from pathlib import Path

import duckdb
import pytest
from otlp_builder import document, request, write
from store_fixture import fetch

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.store import MEMORY_BYTES, open_store
from vtprof_schemas.errors import BackendError, ConfigError

UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def limit_bytes(shown: str) -> float:
    amount, unit = shown.split()
    return float(amount) * UNITS[unit]


def test_the_limit_is_two_gibibytes_or_less_and_can_be_set() -> None:
    with open_store() as db:
        ((shown,),) = fetch(db, "SELECT current_setting('memory_limit')")
        assert 0 < limit_bytes(shown) <= MEMORY_BYTES
    with open_store(memory_bytes=300 << 20) as db:
        assert fetch(db, "SELECT current_setting('memory_limit')") == [("300.0 MiB",)]


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
