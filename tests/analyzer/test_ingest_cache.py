"""The cache gives the tables that reading gives, or is not used: never a stale, partial or foreign one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from otlp_builder import document, line, metric_document, request, span, write
from otlp_messages import length32, message
from store_fixture import fetch

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.ingest import cache, cache_key
from vtprof_analyzer.ingest.cache import through_cache
from vtprof_analyzer.ingest.cache_key import key_of
from vtprof_analyzer.ingest.load import create_tables, load
from vtprof_analyzer.ingest.sources import CACHE_FOLDER, find_sources
from vtprof_analyzer.store import open_store
from vtprof_schemas import names

OLD_NS = 1_700_000_000_000_000_000
TABLES = ("spans", "metric_samples", "resources", "ingest_files", "ingest_notes", "span_links", "gpu_samples")


@pytest.fixture(autouse=True)
def small_and_young_runs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_key, "MIN_BYTES", 1)
    monkeypatch.setattr(cache_key, "RACY_NS", 0)


def good(trace: int, **attributes: Any) -> dict[str, Any]:
    attrs = {names.INPUT_TOKENS: 7, names.REQUEST_MODEL: "m", "mine": "x"} | attributes
    return document(*request(0, 100, attrs, trace=trace, prefill=(0, 50)), resource={names.HOST_NAME: "h"})


def age(*paths: Path) -> None:
    """Give files an old time of change."""
    for path in paths:
        os.utime(path, ns=(OLD_NS, OLD_NS))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a folder with spans, links, metrics, faults, an unknown signal and protobuf."""
    folder = tmp_path / "run"
    folder.mkdir()
    step = span(names.SPAN_STEP, 5, 9, {names.STEP_INDEX: 3}, trace=40)
    step["links"] = [{"traceId": f"{1:032x}", "spanId": f"{1:016x}"}]
    metrics = metric_document(names.GPU_POWER_MW, [(1, 2.0), (3, 5.0)])
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{}]}]}]}
    write(folder / "a.jsonl", good(1), document(step), metrics, logs, "not json", good(2), good(2))
    (folder / "b.pb").write_bytes(length32(message(good(3)), b"\xff" * 30, message(good(4))))
    age(folder / "a.jsonl", folder / "b.pb")
    return folder


@pytest.fixture(scope="module")
def kept_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small run with a whole entry."""
    folder = tmp_path_factory.mktemp("kept")
    write(folder / "a.jsonl", good(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_key, "MIN_BYTES", 1)
        assert not hit(folder)
        # The second time completes the entry.
        assert hit(folder)
    return folder


@pytest.fixture
def kept(kept_once: Path, tmp_path: Path) -> Path:
    """Return a copy of it for one test."""
    return Path(shutil.copytree(kept_once, tmp_path / "kept"))


@contextmanager
def opened(*paths: Path, copy: bool = False) -> Iterator[tuple[duckdb.DuckDBPyConnection, bool]]:
    """Yield the tables of a run and whether they came from the cache."""
    with open_store() as db:
        create_tables(db)
        sources = find_sources(paths)
        with through_cache(
            db, key_of(sources, paths), lambda: load(db, sources, lambda _: None), copy=copy
        ) as hit:
            yield db, hit


def hit(*paths: Path) -> bool:
    with opened(*paths) as (_, was_hit):
        return was_hit


def found(run: Path) -> bool:
    """Say whether there is an entry that would be used."""
    key = key_of(find_sources([run]), [run])
    with ExitStack() as held:
        return key is not None and cache._find(key, held) is not None


def tables(*paths: Path) -> tuple[dict[str, Any], bool]:
    """Return all rows of all tables, and whether they came from the cache."""
    with opened(*paths) as (db, was_hit):
        rows = {table: fetch(db, f"SELECT * FROM {table} ORDER BY ALL") for table in TABLES}
        rows["ingest_counts"] = fetch(db, "SELECT * EXCLUDE (cached) FROM ingest_counts")
        assert fetch(db, "SELECT cached FROM ingest_counts") == [(was_hit,)]
        return rows, was_hit


def entries(run: Path) -> list[Path]:
    return sorted(path for path in (run / CACHE_FOLDER).iterdir() if path.is_dir())


def test_the_second_time_gives_the_same_tables_and_counts(run: Path) -> None:
    first, was_hit = tables(run)
    assert not was_hit
    assert len(first["spans"]) == 9
    assert first["ingest_counts"][0][0] == 2
    second, was_hit = tables(run)
    assert was_hit
    assert second == first


def test_a_report_from_the_cache_is_the_same(run: Path) -> None:
    first, second = analyze(Options([run])), analyze(Options([run]))
    assert second.summary == first.summary
    assert second.phases == first.phases
    assert second.integrity == first.integrity


def test_no_cache_neither_writes_nor_reads(run: Path) -> None:
    analyze(Options([run], cache=False))
    assert not (run / CACHE_FOLDER).exists()
    hit(run)
    for spans in run.glob(f"{CACHE_FOLDER}/*/spans.parquet"):
        spans.unlink()
    assert analyze(Options([run], cache=False)).summary.requests == 4


def test_a_kept_database_holds_tables_of_its_own(run: Path, tmp_path: Path) -> None:
    analyze(Options([run]))
    analyze(Options([run], database=tmp_path / "kept.db"))
    shutil.rmtree(run)
    with duckdb.connect(str(tmp_path / "kept.db"), read_only=True) as db:
        assert db.execute("SELECT count(*) FROM spans").fetchall() == [(9,)]


def replace_digit(run: Path) -> None:
    """Change one digit, and neither size nor time of change."""
    path = run / "a.jsonl"
    path.write_text(path.read_text().replace('"intValue":"7"', '"intValue":"8"', 1))
    age(path)


def add_line(run: Path) -> None:
    with (run / "a.jsonl").open("a") as out:
        out.write(line(good(9)) + "\n")


def replace_in_place(run: Path) -> None:
    """Put another file of the same size and time in the place."""
    other = run / "x.tmp"
    other.write_text((run / "a.jsonl").read_text().replace('"intValue":"7"', '"intValue":"9"', 1))
    age(other)
    other.replace(run / "a.jsonl")


@pytest.mark.parametrize(
    "change",
    [
        replace_digit,
        add_line,
        replace_in_place,
        lambda run: (run / "a.jsonl").write_bytes(b""),
        lambda run: write(run / "c.jsonl", good(8)),
        lambda run: (run / "a.jsonl").rename(run / "z.jsonl"),
        lambda run: (run / "d.jsonl").symlink_to("nowhere"),
    ],
    ids=["digit", "line", "replaced", "emptied", "new", "renamed", "fault"],
)
def test_a_changed_run_is_read_again(kept: Path, change: Any) -> None:
    change(kept)
    assert not found(kept)


def test_what_is_read_again_is_what_the_files_hold_now(kept: Path) -> None:
    add_line(kept)
    with opened(kept) as (db, _), opened(kept) as (again, was_hit):
        query = "SELECT DISTINCT trace_id FROM spans ORDER BY 1"
        assert fetch(db, query) == fetch(again, query) == [(f"{1:032x}",), (f"{9:032x}",)]
        assert was_hit


def test_a_file_that_was_touched_is_known_by_its_content(kept: Path) -> None:
    (kept / "a.jsonl").touch()
    assert found(kept)


def test_a_run_that_was_copied_is_known_by_its_content_and_bears_its_new_name(kept: Path) -> None:
    rows, was_hit = tables(kept)
    assert was_hit
    for table in ("spans", "ingest_files"):
        assert {row[0] for row in rows[table]} == {str(kept / "a.jsonl")}


def test_a_file_changed_within_a_tick_of_its_clock_is_compared_by_content(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_key, "RACY_NS", 3_600_000_000_000)
    compared: list[Path] = []

    def noted(path: Path) -> str:
        compared.append(path)
        return cache_key.digest_of(path)

    monkeypatch.setattr(cache, "digest_of", noted)
    hit(run)
    assert len(compared) == 2
    assert hit(run)
    assert len(compared) == 4
    replace_digit(run)
    assert not hit(run)


def test_a_change_that_hides_its_time_shows_all_the_same(run: Path) -> None:
    assert [hit(run), hit(run)] == [False, True]
    replace_digit(run)
    assert not found(run)


def test_an_old_file_is_believed_unchanged_and_read_once_for_its_checksum(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Path] = []
    monkeypatch.setattr(cache, "digest_of", lambda path: compared.append(path) or "x")
    assert [hit(run), hit(run), hit(run)] == [False, True, True]
    assert len(compared) == 2


def test_one_bit_changes_the_checksum_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    data = bytearray(os.urandom(3 << 20))
    path.write_bytes(data)
    before = cache_key.digest_of(path)
    for at in (0, 1 << 20, (2 << 20) + 77, len(data) - 1):
        data[at] ^= 1
        path.write_bytes(data)
        assert cache_key.digest_of(path) != before
        data[at] ^= 1
    path.write_bytes(data)
    assert cache_key.digest_of(path) == before


@pytest.mark.parametrize("table", ["spans", "resources", "ingest_files"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "other"])
def test_a_damaged_entry_is_no_entry(kept: Path, table: str, damage: str) -> None:
    assert found(kept)
    path = entries(kept)[0] / f"{table}.parquet"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-20])
    elif damage == "gone":
        path.unlink()
    else:
        shutil.copy(path.with_name("ingest_notes.parquet"), path)
    assert not found(kept)


@pytest.mark.parametrize(
    "manifest",
    ["", "{}", "[]", "null", '{"reader": 1, "faults": []}', '{"reader": "x"', "\x00" * 100, "[" * 100_000],
)
def test_a_broken_manifest_is_no_entry(kept: Path, manifest: str) -> None:
    (entries(kept)[0] / "manifest.json").write_text(manifest)
    assert not found(kept)


def test_an_entry_without_manifest_is_half_made(kept: Path) -> None:
    (entries(kept)[0] / "manifest.json").unlink()
    assert not found(kept)


def test_a_bad_entry_is_replaced_by_a_good_one(kept: Path) -> None:
    (entries(kept)[0] / "spans.parquet").write_bytes(b"")
    assert [hit(kept), hit(kept)] == [False, True]
    assert len(entries(kept)) == 1


def test_another_version_of_the_reader_reads_again(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "reader_version", lambda: "another")
    assert [hit(kept), hit(kept)] == [False, True]
    monkeypatch.undo()
    monkeypatch.setattr(cache_key, "MIN_BYTES", 1)
    assert not found(kept)


def test_the_version_follows_the_code_and_the_vocabulary(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def version() -> str:
        cache_key.reader_version.cache_clear()
        return cache_key.reader_version()

    before = version()
    original = cache_key.resources.files
    shutil.copytree(str(original("vtprof_schemas")), tmp_path / "schemas")
    with (tmp_path / "schemas" / "names.py").open("a") as out:
        out.write("# changed\n")
    monkeypatch.setattr(
        cache_key.resources,
        "files",
        lambda package: tmp_path / "schemas" if package == "vtprof_schemas" else original(package),
    )
    assert version() != before
    cache_key.reader_version.cache_clear()


def test_an_entry_may_be_removed_while_it_is_read(run: Path) -> None:
    hit(run)
    with opened(run) as (db, was_hit):
        shutil.rmtree(run / CACHE_FOLDER)
        assert was_hit
        assert fetch(db, "SELECT count(*) FROM spans") == [(9,)]


def test_two_analyzers_at_once_leave_one_whole_entry(run: Path) -> None:
    with opened(run) as (_, first), opened(run) as (_, second):
        assert (first, second) == (False, True)
    shutil.rmtree(run / CACHE_FOLDER)
    sources = find_sources([run])
    with open_store() as one, open_store() as two:
        for db in (one, two):
            create_tables(db)
            load(db, sources, lambda _: None)
        key = key_of(sources, [run])
        assert key
        cache._write(one, key)
        cache._write(two, key)
    assert len(entries(run)) == 1
    assert hit(run)


def test_a_run_that_grows_while_it_is_read_is_not_kept(run: Path) -> None:
    sources = find_sources([run])
    with open_store() as db:
        create_tables(db)

        def read() -> None:
            load(db, sources, lambda _: None)
            add_line(run)

        with through_cache(db, key_of(sources, [run]), read):
            pass
    assert not (run / CACHE_FOLDER).exists()


def test_entries_are_few(run: Path) -> None:
    for number in range(6):
        path = run / f"{number}.jsonl"
        write(path, good(number + 10))
        age(path)
        assert not hit(path)
    assert len(entries(run)) == cache.KEPT_ENTRIES
    assert hit(run / "5.jsonl")


def test_where_nothing_can_be_written_the_analysis_goes_on(run: Path) -> None:
    # Root may write anywhere: a file in the folder's place refuses it too.
    (run / CACHE_FOLDER).write_text("")
    rows, was_hit = tables(run)
    assert (len(rows["spans"]), was_hit) == (9, False)
    assert tables(run) == (rows, False)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), duckdb.IOException("disk full")])
def test_a_disk_that_is_full_leaves_no_half_entry(
    run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any) -> str:
        raise error

    monkeypatch.setattr(cache, "_write_table", full)
    assert not hit(run)
    assert entries(run) == []


def test_a_file_of_the_cache_that_cannot_be_read_when_it_is_taken_costs_the_hit_alone(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, was_hit = tables(kept)
    assert was_hit
    rows_of = cache._rows_of

    def broken(connection: Any, table: str, path: str, renamed: Any) -> str:
        # What is taken first is taken back.
        if table == "resources":
            raise duckdb.IOException("Could not read from file: Input/output error")
        return rows_of(connection, table, path, renamed)

    monkeypatch.setattr(cache, "_rows_of", broken)
    assert tables(kept) == (expected, False)


def test_files_of_several_folders_have_no_place(tmp_path: Path, run: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write(other / "c.jsonl", good(5))
    assert key_of(find_sources([run, other]), [run, other]) is None
    given = [tmp_path]
    key = key_of(find_sources(given), given)
    assert key is not None
    assert key.folder == tmp_path


def test_small_runs_are_not_worth_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_key, "MIN_BYTES", 1 << 20)
    assert not hit(run)
    assert not (run / CACHE_FOLDER).exists()


def test_an_interrupted_writing_leaves_no_entry_and_ends_the_analysis(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB's error for Ctrl-C is one of the errors that otherwise only cost the entry."""
    interrupted = duckdb.InterruptException("INTERRUPT Error: Interrupted!")

    def end(*_: object) -> None:
        raise interrupted

    monkeypatch.setattr(cache, "_write_table", end)
    with pytest.raises(duckdb.InterruptException):
        analyze(Options([run]))
    assert [path.name for path in (run / CACHE_FOLDER).iterdir()] == ["CACHEDIR.TAG"]
