"""Files that somebody broke or built to break a reader: bounded work, the good part used, the fault counted and named."""

import gzip
import json
import os
import random
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from otlp_builder import document, line, metric_document, request, span, write
from store_fixture import counts, fetch, loaded

from vtprof_analyzer.ingest import careful, lines, load, scan
from vtprof_analyzer.ingest.sources import find_sources
from vtprof_schemas import names
from vtprof_schemas.errors import DataError

zstd = pytest.importorskip(
    "backports.zstd" if __import__("sys").version_info < (3, 14) else "compression.zstd"
)

REQUEST = {names.INPUT_TOKENS: 7, names.OUTPUT_TOKENS: 3}


def good(trace: int) -> dict[str, Any]:
    """One document of two spans."""
    return document(*request(0, 100, REQUEST, trace=trace, prefill=(0, 50)))


def seen(path: Path) -> tuple[set[int], int, str]:
    """Return the traces that were read, how many files are damaged, and all notes as one text."""
    with loaded(path) as db:
        traces = {int(t, 16) for (t,) in fetch(db, "SELECT DISTINCT trace_id FROM spans")}
        ((damaged,),) = fetch(db, "SELECT count(*) FILTER (damaged) FROM ingest_files")
        notes = " | ".join(what for (what,) in fetch(db, "SELECT what FROM ingest_notes ORDER BY what"))
        return traces, damaged, notes


@pytest.mark.parametrize("name", ["a[1].jsonl", "a*.jsonl", "a?.jsonl", "a\\1.jsonl", "[a].jsonl.gz"])
def test_a_name_with_wildcards_reads_that_file_and_no_other(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, good(1))
    for number, other in enumerate(["a1.jsonl", "ab.jsonl", "a.jsonl"], start=2):
        write(tmp_path / other, good(number))
    with loaded(tmp_path / name) as db:
        assert fetch(db, "SELECT trace_id, file FROM spans") == [(f"{1:032x}", str(tmp_path / name))] * 2
        # The fast reader took it: nothing was rewritten.
        assert counts(db)["lines"] == 1
    with loaded(tmp_path) as db:
        found = fetch(db, "SELECT file, count(*) FROM spans GROUP BY file ORDER BY file")
        assert found == [(str(p), 2) for p in sorted(tmp_path.iterdir())]


def test_a_name_that_is_not_utf8_is_read_and_spelled_out(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\xff.jsonl")
    write(path, good(1), "not json")
    with loaded(tmp_path) as db:
        assert fetch(db, "SELECT DISTINCT file FROM spans") == [(f"{tmp_path}/a\\xff.jsonl",)]
        assert fetch(db, "SELECT file, line FROM ingest_notes") == [(f"{tmp_path}/a\\xff.jsonl", 2)]


def packed_zstd(data: bytes) -> bytes:
    packed: bytes = zstd.compress(data)
    return packed


def many_lines() -> bytes:
    """Documents that do not pack well: ids are random."""
    dice = random.Random(1)
    made = []
    for trace in range(1, 401):
        attrs = REQUEST | {names.REQUEST_MODEL: f"{dice.getrandbits(1024):x}"}
        made.append(line(document(*request(0, 9, attrs, trace=trace))))
    return ("\n".join(made) + "\n").encode()


@pytest.mark.parametrize("pack", [gzip.compress, packed_zstd], ids=["gzip", "zstd"])
def test_a_wrong_checksum_costs_a_few_kilobytes_at_most_and_is_counted(tmp_path: Path, pack: Any) -> None:
    packed = bytearray(pack(many_lines()))
    if pack is gzip.compress:
        packed[-8] ^= 0xFF
    else:
        packed = packed[:-2]
    path = tmp_path / "t.jsonl.x"
    path.write_bytes(bytes(packed))
    traces, damaged, notes = seen(path)
    assert len(traces) >= 390 if pack is gzip.compress else len(traces) >= 200
    assert damaged == 1
    assert "read up to there" in notes


def test_a_fault_in_the_middle_of_gzip_leaves_what_stands_before_it(tmp_path: Path) -> None:
    data = many_lines()
    packed = bytearray(gzip.compress(data))
    middle = len(packed) // 2
    packed[middle : middle + 64] = b"\xff" * 64
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(bytes(packed))
    traces, damaged, _ = seen(path)
    # 400 documents of like size, 190 of them well before the fault: less than 5 % of a 100 KB file is a few KiB.
    assert set(range(1, 190)) <= traces
    assert damaged == 1


def test_a_damaged_message_of_a_collector_costs_only_itself(tmp_path: Path) -> None:
    messages = [packed_zstd(line(good(n)).encode()) for n in (1, 2, 3)]
    broken = bytearray(messages[1])
    broken[12:20] = b"\xff" * 8
    path = tmp_path / "t.jsonl"
    path.write_bytes(
        b"".join(struct.pack(">I", len(m)) + m for m in (messages[0], bytes(broken), messages[2]))
    )
    traces, damaged, _ = seen(path)
    assert ({1, 3} <= traces, damaged) == (True, 1)


def test_zstd_that_begins_with_a_skippable_frame_is_zstd(tmp_path: Path) -> None:
    skippable = bytes.fromhex("502a4d18") + struct.pack("<I", 4) + b"abcd"
    path = tmp_path / "t.jsonl.zst"
    path.write_bytes(
        skippable
        + packed_zstd(line(good(1)).encode() + b"\n")
        + skippable
        + packed_zstd(line(good(2)).encode())
    )
    assert seen(path) == ({1, 2}, 0, "")


@pytest.mark.parametrize("pack", [gzip.compress, packed_zstd], ids=["gzip", "zstd"])
def test_a_bomb_is_read_up_to_the_limit_and_said(
    tmp_path: Path, pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "FREE_BYTES", 1 << 20)
    path = tmp_path / "t.jsonl.x"
    path.write_bytes(pack(line(good(1)).encode() + b"\n" + b" " * (64 << 20)))
    folder = tmp_path / "out"
    with folder.open("wb") as out:
        packing = lines.detect_packing(path)
        lines.unpack(path, packing, out)
    assert folder.stat().st_size <= max(1 << 20, 200 * path.stat().st_size) + (64 << 10)
    traces, damaged, notes = seen(path)
    assert (traces, damaged) == ({1}, 1)
    assert "unpacks to more than 200 times its size; read up to there" in notes


def test_a_line_beyond_the_limit_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lines, scan, careful):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 2 << 20)
    path = write(tmp_path / "t.jsonl", good(1), "x" * (3 << 20), good(2))
    with loaded(path) as db:
        assert counts(db)["malformed_lines"] == 1
        assert fetch(db, "SELECT line, what FROM ingest_notes") == [(2, "longer than 2 MiB; left out")]
        assert fetch(db, "SELECT count(*) FROM spans") == [(4,)]


def test_a_file_without_end_of_garbage_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(careful, "MAX_BARREN_LINES", 100)
    path = write(tmp_path / "t.jsonl", good(1), *["{}"] * 500)
    with loaded(path) as db:
        assert counts(db)["malformed_lines"] == 100
        assert fetch(db, "SELECT what FROM ingest_notes WHERE line IS NULL") == [
            ("100 lines in a row without OTLP; left out from line 102 on",)
        ]
        assert fetch(db, "SELECT count(*) FROM spans") == [(2,)]


def test_an_endless_file_is_refused_and_one_in_a_folder_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    write(tmp_path / "t.jsonl", good(1))
    with socket.socket(socket.AF_UNIX) as listener:
        # A socket's path may have some 100 bytes only.
        monkeypatch.chdir(tmp_path)
        listener.bind("s.json")
    for path in (tmp_path / "pipe.jsonl", Path("/dev/zero"), tmp_path / "s.json"):
        with pytest.raises(DataError, match="neither a file nor a folder"):
            find_sources([path])
    found = find_sources([tmp_path])
    assert ([p.name for p in found.files], found.skipped) == (["t.jsonl"], 2)
    with loaded(tmp_path) as db:
        assert fetch(db, "SELECT what FROM ingest_notes") == [("is no regular file; left out",)] * 2


def test_a_folder_that_cannot_be_listed_is_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "t.jsonl", good(1))
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    # Root reads everything: the system's answer to other users is played here.
    monkeypatch.setattr(os, "scandir", refuse)
    found = find_sources([tmp_path])
    assert ([p.name for p in found.files], found.skipped) == (["t.jsonl"], 1)
    assert found.faults == [(tmp_path / "closed", "cannot be listed (Permission denied); left out")]
    with pytest.raises(DataError, match="closed: cannot be read"):
        find_sources([tmp_path / "closed"])


def test_a_path_too_long_for_the_system_is_a_data_error_of_one_short_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="File name too long") as raised:
        find_sources([tmp_path / ("a" * 5000)])
    assert len(str(raised.value)) < 400


def test_ids_in_capitals_and_parents_of_zeros_are_read_alike_by_both_readers(tmp_path: Path) -> None:
    big = json.loads(line(good(0xABCDEF)))
    for made in big["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        made["traceId"] = made["traceId"].upper()
        made.setdefault("parentSpanId", "0" * 16)
    expected = [(f"{0xABCDEF:032x}", f"{1:016x}", None), (f"{0xABCDEF:032x}", f"{2:016x}", f"{1:016x}")]
    for name, extra in (("clean.jsonl", []), ("careful.jsonl", ["not json", good(1)])):
        with loaded(write(tmp_path / name, big, *extra)) as db:
            query = "SELECT trace_id, span_id, parent_span_id FROM spans WHERE trace_id LIKE '%f' ORDER BY span_id"
            assert fetch(db, query) == expected, name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("traceId", "z" * 32),
        ("traceId", "0" * 32),
        ("spanId", "0" * 16),
        ("spanId", "g" * 16),
        ("startTimeUnixNano", "1.795e18"),
        ("startTimeUnixNano", "0x1F"),
        ("startTimeUnixNano", "now"),
        ("startTimeUnixNano", "9223372036854775807"),
    ],
)
def test_a_span_with_an_id_or_start_that_is_none_is_dropped_by_both_readers(
    tmp_path: Path, field: str, value: str
) -> None:
    broken = span(names.SPAN_REQUEST, 0, 9, REQUEST, trace=8)
    broken[field] = value
    for name, extra in (("clean.jsonl", []), ("careful.jsonl", ["not json", good(2)])):
        with loaded(write(tmp_path / name, document(broken), good(1), *extra)) as db:
            assert counts(db)["dropped_spans"] == 1, name
            assert fetch(db, "SELECT count(*) FROM spans WHERE trace_id LIKE '%1'") == [(2,)]


@pytest.mark.parametrize(
    "bad",
    [
        {"resourceSpans": [5, good(1)["resourceSpans"][0]]},
        {"resourceSpans": [{"scopeSpans": 7}, good(1)["resourceSpans"][0]]},
        {"resourceSpans": [{"scopeSpans": [{"spans": [None]}]}, good(1)["resourceSpans"][0]]},
        {"resourceSpans": [{"scopeSpans": [{"spans": "x"}]}, good(1)["resourceSpans"][0]]},
    ],
)
def test_what_stands_where_spans_should_is_counted(tmp_path: Path, bad: dict[str, Any]) -> None:
    with loaded(write(tmp_path / "t.jsonl", bad)) as db:
        assert counts(db)["dropped_spans"] == 1
        assert fetch(db, "SELECT count(*) FROM spans") == [(2,)]
        assert fetch(db, "SELECT count(*) FROM ingest_notes") == [(1,)]


@pytest.mark.parametrize("first", ["resourceSpans", "resourceMetrics", "resourceLogs"])
def test_a_document_of_several_signals_is_read_whole(tmp_path: Path, first: str) -> None:
    whole = {
        **good(1),
        **metric_document(names.GPU_POWER_MW, [(1, 2.0)]),
        "resourceLogs": [{"scopeLogs": [{"logRecords": [{}, {}]}]}],
    }
    whole = {first: whole[first], **whole}
    with loaded(write(tmp_path / "t.jsonl", whole, good(2))) as db:
        assert fetch(db, "SELECT count(*) FROM spans") == [(4,)]
        assert fetch(db, "SELECT value FROM metric_samples") == [(2.0,)]
        assert counts(db)["ignored_signals"] == 2


def careful_lines(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets, for each use of the careful reader, how many lines it read."""
    read: list[int] = []
    original = careful.write_plain_copy

    def counted(*given: Any) -> careful.CarefulCounts:
        found = original(*given)
        read.append(found.lines)
        return found

    monkeypatch.setattr(load, "write_plain_copy", counted)
    return read


def test_a_cut_off_last_line_leaves_the_rest_to_the_fast_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = careful_lines(monkeypatch)
    path = write(tmp_path / "t.jsonl", *[good(n) for n in range(1, 9)], line(good(9))[:-20], end="")
    with loaded(path) as db:
        assert fetch(db, "SELECT count(*), any_value(file) FROM spans") == [(16, str(path))]
        assert (counts(db)["lines"], counts(db)["truncated_lines"]) == (9, 1)
        assert fetch(db, "SELECT line, what FROM ingest_notes") == [(9, "the last line is cut off; left out")]
    assert read == [1]


def test_a_whole_document_behind_a_broken_one_in_the_last_line_is_used(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", good(1), line(good(2))[:60] + line(good(3)))
    traces, _, notes = seen(path)
    # The line begins and ends well: only parsing tells.
    assert traces == {1, 3}
    assert "1 whole document(s) inside it used" in notes


def test_one_bad_file_of_many_costs_few_statements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(64):
        write(tmp_path / f"{number:02}.jsonl", good(number + 1))
    write(tmp_path / "33.jsonl", '{"resourceSpans": [{"scopeSpans": [[}')
    tries = []
    original = load.JsonReader._read_fast

    def counted(reader: Any, files: list[Any]) -> bool:
        tries.append(len(files))
        return original(reader, files)

    monkeypatch.setattr(load.JsonReader, "_read_fast", counted)
    traces, _, _ = seen(tmp_path)
    assert traces == set(range(1, 65)) - {34}
    # 64 files: both halves at each of six levels, and the whole.
    assert len(tries) <= 1 + 2 * 6
