"""Which files are read: folders by name, patterns, mixed formats, and what a writer adds meanwhile is left for later."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, line, request, write
from otlp_messages import length32, message
from store_fixture import counts, fetch, loaded

from vtprof_analyzer.analyze import Options, analyze
from vtprof_analyzer.ingest.lines import detect_packing, unpack
from vtprof_analyzer.ingest.load import create_tables, load
from vtprof_analyzer.ingest.sources import CACHE_FOLDER, find_sources
from vtprof_analyzer.store import open_store
from vtprof_schemas import names
from vtprof_schemas.errors import DataError


def good(trace: int) -> dict[str, Any]:
    return document(*request(0, 100, {names.INPUT_TOKENS: 7}, trace=trace))


def traces(db: Any) -> list[int]:
    return [int(trace, 16) for (trace,) in fetch(db, "SELECT DISTINCT trace_id FROM spans ORDER BY 1")]


def found(*paths: Path | str) -> list[str]:
    return [path.name for path in find_sources([Path(path) for path in paths]).files]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number, name in enumerate(
        ["a.jsonl", "b/c.jsonl", "b/d/e.jsonl", "b/d/f.json", "b/other.log"], start=1
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, good(number))
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.jsonl", ["a.jsonl", "c.jsonl", "e.jsonl"]),
        ("*/*.jsonl", ["c.jsonl"]),
        ("b/?.jsonl", ["c.jsonl"]),
        ("b/[a-d]", ["e.jsonl", "f.json"]),
        ("b/*", ["c.jsonl", "e.jsonl", "f.json"]),
        ("**", ["a.jsonl", "c.jsonl", "e.jsonl", "f.json"]),
        ("b/*.log", ["other.log"]),
    ],
)
def test_a_pattern_finds_what_a_shell_would(tree: Path, pattern: str, expected: list[str]) -> None:
    assert found(tree / pattern) == expected


def test_a_pattern_that_matches_nothing_is_one_clear_line(tree: Path) -> None:
    with pytest.raises(DataError, match=r"x\*\.jsonl: no file matches"):
        found(tree / "x*.jsonl")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tree: Path) -> None:
    write(tree / "*.jsonl", good(9))
    assert found(tree / "*.jsonl") == ["*.jsonl"]


def test_a_file_that_is_found_several_times_is_read_once(tree: Path) -> None:
    assert found(tree / "**/*.jsonl", tree, tree / "a.jsonl") == ["a.jsonl", "c.jsonl", "e.jsonl", "f.json"]


@pytest.mark.parametrize("name", ["t.pb", "t.binpb", "t.otlp", "t.PB.gz", "t.parquet", "t.ndjson.zst"])
def test_folders_are_searched_for_every_format(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert found(tmp_path) == [name]


def test_the_cache_is_neither_read_nor_counted(tree: Path) -> None:
    (tree / CACHE_FOLDER / "x").mkdir(parents=True)
    write(tree / CACHE_FOLDER / "x" / "t.jsonl", good(8))
    listed = find_sources([tree])
    assert ([path.name for path in listed.files], listed.skipped) == (
        ["a.jsonl", "c.jsonl", "e.jsonl", "f.json"], 1,
    )  # fmt: skip
    assert "t.jsonl" not in found(tree / "**/*.jsonl")


def test_all_formats_of_a_folder_are_read_together(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", good(1))
    (tmp_path / "b.pb").write_bytes(length32(message(good(2))))
    (tmp_path / "c.json").write_bytes(gzip.compress(length32(message(good(3)))))
    with loaded(tmp_path) as db:
        assert traces(db) == [1, 2, 3]
        assert fetch(db, "SELECT format, messages FROM ingest_files ORDER BY file") == [
            ("json", None), ("protobuf", 1), ("protobuf", 1),
        ]  # fmt: skip


def append_line(path: Path) -> None:
    with path.open("a") as out:
        out.write(line(good(3)) + "\n" + line(good(4))[:80])


def append_message(path: Path) -> None:
    with path.open("ab") as out:
        out.write(length32(message(good(3))) + length32(message(good(4)))[:80])


@pytest.mark.parametrize(
    ("name", "data", "append"),
    [
        ("t.jsonl", (line(good(1)) + "\n" + line(good(2)) + "\n").encode(), append_line),
        ("t.pb", length32(message(good(1)), message(good(2))), append_message),
    ],
)
def test_what_is_written_after_listing_is_left_for_the_next_time(
    tmp_path: Path, name: str, data: bytes, append: Callable[[Path], None]
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    sources = find_sources([path])
    append(path)
    with open_store() as db:
        create_tables(db)
        load(db, sources, lambda _: None)
        assert traces(db) == [1, 2]
        assert (counts(db)["malformed_lines"], counts(db)["truncated_lines"]) == (0, 0)
        assert fetch(db, "SELECT bytes FROM ingest_files") == [(len(data),)]
        assert fetch(db, "SELECT count(*) FROM ingest_notes") == [(0,)]


def test_a_file_that_is_listed_in_the_middle_of_a_line_loses_that_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(line(good(1)) + "\n" + line(good(2))[:50])
    sources = find_sources([path])
    with path.open("a") as out:
        out.write(line(good(2))[50:] + "\n")
    with open_store() as db:
        create_tables(db)
        load(db, sources, lambda _: None)
        assert (traces(db), counts(db)["truncated_lines"]) == ([1], 1)


def test_a_file_that_has_shrunk_or_gone_is_read_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", good(1), good(2))
    write(tmp_path / "b.jsonl", good(3))
    sources = find_sources([tmp_path])
    write(tmp_path / "a.jsonl", good(1))
    (tmp_path / "b.jsonl").unlink()
    with open_store() as db:
        create_tables(db)
        load(db, sources, lambda _: None)
        assert traces(db) == [1]
        assert fetch(db, "SELECT count(*) FILTER (damaged) FROM ingest_files") == [(1,)]


def test_blanks_without_end_take_no_room(tmp_path: Path) -> None:
    path, out = tmp_path / "t.jsonl.gz", tmp_path / "out"
    with gzip.open(path, "wb") as packed:
        packed.write(line(good(1)).encode() + b"\n")
        for _ in range(64):
            packed.write(b" " * (1 << 20))
        packed.write(b"\n" + line(good(2)).encode() + b"\n")
    with out.open("wb") as stream:
        unpack(path, detect_packing(path), stream)
    assert out.stat().st_size < 2 << 20
    with loaded(path) as db:
        assert traces(db) == [1, 2]
        assert counts(db)["malformed_lines"] == 0


def test_patterns_are_read_from_the_command_line_to_the_report(tree: Path) -> None:
    report = analyze(Options([tree / "**/*.jsonl"]))
    assert report.summary.requests == 3
    assert not os.path.lexists(tree / CACHE_FOLDER)
