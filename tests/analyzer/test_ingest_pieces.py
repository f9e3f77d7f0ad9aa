"""A fault costs its line: of a large file only a small piece around it goes to the careful reader."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from otlp_builder import BASE_NS, document, line, span, write
from store_fixture import counts, fetch, loaded

from vtprof_analyzer.ingest import careful, load, pieces
from vtprof_schemas import names

LINES = 400
SMALL = 4 << 10
LARGE = 64 << 10


@pytest.fixture
def careful_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make pieces small, and return the lines of each call of the careful reader."""
    for module in (load, pieces):
        monkeypatch.setattr(module, "SMALL_BYTES", SMALL)
    monkeypatch.setattr(load, "LARGE_BYTES", LARGE)
    read: list[int] = []

    def counted(*given: Any) -> careful.CarefulCounts:
        found = careful.write_plain_copy(*given)
        read.append(found.lines)
        return found

    monkeypatch.setattr(load, "write_plain_copy", counted)
    return read


def good(number: int) -> dict[str, Any]:
    return document(span(names.SPAN_REQUEST, 0, 9, {names.OUTPUT_TOKENS: number}, span_id=number + 1))


def bad_lines() -> dict[str, str]:
    """Return lines that only the careful reader can judge, and one that not even it can use."""
    text = document(span(names.SPAN_REQUEST, 0, 9, span_id=9999))
    text["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"] = [
        {"key": names.OUTPUT_TOKENS, "value": {"stringValue": "8"}}
    ]
    capital = document(span(names.SPAN_REQUEST, 0, 9, {names.OUTPUT_TOKENS: 8}, trace=0xABC, span_id=9999))
    return {
        "not json": '{"resourceSpans": [{"scopeSpans": [[}',
        "of another type": line(text),
        "a number as text": line(capital).replace("abc", "ABC"),
    }


@pytest.mark.parametrize("kind", list(bad_lines()))
@pytest.mark.parametrize("at", [0, 200, LINES - 1])
def test_one_bad_line_costs_a_small_piece(
    tmp_path: Path, careful_reads: list[int], kind: str, at: int
) -> None:
    lines: list[Any] = [good(number) for number in range(LINES)]
    lines[at] = bad_lines()[kind]
    with loaded(write(tmp_path / "t.jsonl", *lines)) as db:
        assert fetch(db, "SELECT sum(output_tokens)::INT FROM spans") == [
            (sum(range(LINES)) - at + (0 if kind == "not json" else 8),)
        ]
        assert fetch(db, "SELECT DISTINCT file FROM spans") == [(str(tmp_path / "t.jsonl"),)]
        assert counts(db)["lines"] == LINES
        noted = [(at + 1, "not JSON; left out")] if kind == "not json" else []
        assert fetch(db, "SELECT line, what FROM ingest_notes") == noted
    # One line of these has some 300 bytes.
    assert sum(careful_reads) <= 2 * SMALL / len(line(good(0)))


def test_bad_lines_everywhere_are_each_counted_at_their_line(
    tmp_path: Path, careful_reads: list[int]
) -> None:
    lines: list[Any] = [good(number) for number in range(LINES)]
    places = list(range(5, LINES, 40))
    for at in places:
        lines[at] = "{" + "x" * 50
    with loaded(write(tmp_path / "t.jsonl", *lines)) as db:
        assert fetch(db, "SELECT count(*) FROM spans") == [(LINES - len(places),)]
        assert fetch(db, "SELECT line FROM ingest_notes ORDER BY line") == [(at + 1,) for at in places]
        assert counts(db)["malformed_lines"] == len(places)
    assert sum(careful_reads) < LINES


def test_garbage_is_given_up_over_pieces_too(
    tmp_path: Path, careful_reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(careful, "MAX_BARREN_LINES", 1000)
    path = write(tmp_path / "t.jsonl", good(1), *["{}" + " " * 100] * 5000)
    with loaded(path) as db:
        assert fetch(db, "SELECT count(*) FROM spans") == [(1,)]
        ((note,),) = fetch(db, "SELECT what FROM ingest_notes WHERE line IS NULL")
        assert note == "1,000 lines in a row without OTLP; left out from line 1002 on"


def test_metrics_and_logs_beside_a_bad_line_are_read_once(tmp_path: Path, careful_reads: list[int]) -> None:
    point = {"timeUnixNano": str(BASE_NS), "asDouble": 5.0}
    metric = {"name": names.GPU_POWER_MW, "gauge": {"dataPoints": [point]}}
    metrics = {"resourceMetrics": [{"resource": {}, "scopeMetrics": [{"metrics": [metric]}]}]}
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {}}, {"body": {}}]}]}]}
    lines: list[Any] = [good(number) for number in range(LINES)]
    lines[100], lines[101], lines[300] = metrics, logs, '{"resourceSpans": [}'
    with loaded(write(tmp_path / "t.jsonl", *lines)) as db:
        assert fetch(db, "SELECT count(*) FROM spans") == [(LINES - 3,)]
        assert fetch(db, "SELECT value FROM metric_samples") == [(5.0,)]
        assert (counts(db)["ignored_signals"], counts(db)["lines"]) == (2, LINES)


@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=40), st.integers(1, 64))
def test_pieces_are_the_whole_stream_cut_at_line_ends(parts: list[bytes], size: int) -> None:
    data = b"\n".join(parts)
    cut = list(pieces.cut(io.BytesIO(data), size, 7))
    assert b"".join(piece.data for piece in cut) == data
    assert all(piece.data.endswith(b"\n") for piece in cut[:-1])
    before = 7
    for piece in cut:
        assert piece.lines_before == before
        before += piece.data.count(b"\n")


def test_many_small_files_keep_their_names(tmp_path: Path) -> None:
    for number in range(40):
        end = "" if number % 2 else "\r\n"
        write(tmp_path / f"{number:02}.jsonl", good(number), good(100 + number), end=end)
    with loaded(tmp_path) as db:
        rows = fetch(db, "SELECT file, list(output_tokens ORDER BY output_tokens) FROM spans GROUP BY file")
    assert {Path(file).name: tokens for file, tokens in rows} == {
        f"{number:02}.jsonl": [number, 100 + number] for number in range(40)
    }


def test_a_line_that_claims_to_be_of_another_file_is_of_its_own(tmp_path: Path) -> None:
    for number in range(20):
        write(tmp_path / f"{number:02}.jsonl", good(number))
    liar = '{"resourceSpans":' + json.dumps(good(50)["resourceSpans"]) + ',"vtprof_file":3}'
    (tmp_path / "07.jsonl").write_text(liar + "\n")
    with loaded(tmp_path) as db:
        assert fetch(db, "SELECT file FROM spans WHERE output_tokens = 50") == [(str(tmp_path / "07.jsonl"),)]
