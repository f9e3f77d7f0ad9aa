"""Databases of `vtprof analyze --db`: the same requests as from the traces, and from what users export of them."""

from dataclasses import fields, replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from analyze_run import RESOURCE, one_request
from otlp_builder import document, write
from synthetic.day import make_day
from synthetic.scenarios import CACHES
from table_files import read

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.regress.requests import Run
from vtprof_analyzer.runs.read import read_runs
from vtprof_schemas.errors import DataError


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the traces of a day, its database, and the table `requests` as users export it."""
    folder = tmp_path_factory.mktemp("day")
    make_day(replace(CACHES, seconds=12), 7, interference=False).write(folder / "traces")
    analyze(Options([folder / "traces"], database=folder / "run.duckdb"))
    with duckdb.connect(str(folder / "run.duckdb"), read_only=True) as connection:
        connection.execute(f"COPY requests TO '{folder}/requests.csv'")
        connection.execute(f"COPY requests TO '{folder}/requests.parquet'")
    return folder


def assert_same(one: Run, other: Run, *but: str) -> None:
    assert len(one.requests) == len(other.requests) > 100
    for field in fields(one.requests):
        if field.name not in ("models", "model", *but):
            np.testing.assert_array_equal(
                getattr(one.requests, field.name), getattr(other.requests, field.name), field.name
            )
    assert [one.requests.models[code] for code in one.requests.model] == [
        other.requests.models[code] for code in other.requests.model
    ]
    assert one.skipped == other.skipped


def test_a_database_holds_the_requests_of_its_traces(day: Path) -> None:
    traces, saved = read(day / "traces"), read(day / "run.duckdb")
    assert_same(traces, saved)
    assert (traces.engine, traces.device, traces.settings) == (saved.engine, saved.device, saved.settings)


@pytest.mark.parametrize("name", ["requests.csv", "requests.parquet"])
def test_an_exported_table_holds_the_requests_of_its_traces(day: Path, name: str) -> None:
    exported = read(day / name)
    # The analyzer's table tells neither of these.
    assert_same(read(day / "traces"), exported, "encoder_hit", "in_flight")
    assert np.isnan(exported.requests.encoder_hit).all()
    assert exported.notes == ()


def test_kv_bytes_of_a_config_are_unknown_everywhere(tmp_path: Path) -> None:
    bare = {key: value for key, value in RESOURCE.items() if not key.startswith("vtprof.kv")}
    spans = [one for trace in (1, 2) for one in one_request(trace)]
    for one in spans:
        one["attributes"] = [a for a in one["attributes"] if not a["key"].startswith("vtprof.kv")]
    write(tmp_path / "t.jsonl", document(*spans, resource=bare))
    analyze(Options([tmp_path / "t.jsonl"], database=tmp_path / "run.duckdb"))
    with duckdb.connect(str(tmp_path / "run.duckdb"), read_only=True) as connection:
        ((known,),) = connection.execute("SELECT count(kv_bytes) FROM requests").fetchall()
        assert known == 2
        connection.execute(f"COPY requests TO '{tmp_path}/requests.csv'")
    for name in ("t.jsonl", "run.duckdb", "requests.csv"):
        assert np.isnan(read(tmp_path / name).requests.kv_bytes).all(), name


def changed(day: Path, folder: Path, *statements: str) -> Path:
    path = folder / "changed.duckdb"
    path.write_bytes((day / "run.duckdb").read_bytes())
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_runs(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE request_base AS SELECT 1 AS x")
    assert "is a database, but not one of vtprof's" in refused(path)


@pytest.mark.parametrize(
    ("statement", "lacks"),
    [
        ("ALTER TABLE request_base DROP COLUMN weight", "column weight of request_base"),
        ("DROP TABLE request_budget CASCADE", "table request_budget"),
    ],
)
def test_a_database_of_another_version_is_refused(
    day: Path, tmp_path: Path, statement: str, lacks: str
) -> None:
    told = refused(changed(day, tmp_path, statement))
    assert f"was made by another version of vtprof (without {lacks}); analyze the traces anew" in told


def test_views_in_a_database_are_not_run(day: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("request_key\nhidden\n")
    view = f"CREATE VIEW request_budget AS FROM read_csv('{secret}')"
    told = refused(changed(day, tmp_path, "DROP TABLE request_budget CASCADE", view))
    assert "without table request_budget" in told


def test_macros_in_a_database_are_not_run(day: Path, tmp_path: Path) -> None:
    macros = [
        "CREATE OR REPLACE MACRO main.greatest(a, b) AS 0", "CREATE OR REPLACE MACRO main.isfinite(a) AS false",
    ]  # fmt: skip
    assert_same(read(day / "run.duckdb"), read(changed(day, tmp_path, *macros)))


def test_a_damaged_database_is_one_line(day: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.duckdb"
    path.write_bytes((day / "run.duckdb").read_bytes()[:100_000])
    assert "the database cannot be read" in refused(path)


def test_a_column_of_another_type_is_one_line(day: Path, tmp_path: Path) -> None:
    odd = changed(day, tmp_path, "ALTER TABLE request_base ALTER weight TYPE VARCHAR USING 'heavy'")
    assert "the database cannot be read" in refused(odd)


def test_a_database_is_left_as_it_was(day: Path) -> None:
    before = [(entry.name, entry.stat().st_size) for entry in sorted(day.iterdir())]
    read(day / "run.duckdb")
    assert [(entry.name, entry.stat().st_size) for entry in sorted(day.iterdir())] == before
