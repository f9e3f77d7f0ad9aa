"""Where no span can be used, `analyze` and `compare` say what was there instead."""

from collections.abc import Callable
from pathlib import Path

import pytest
from otlp_builder import document, metric_document, request, span, write
from otlp_messages import length32, message
from store_fixture import loaded

from vtprof_analyzer.ingest.instead import Instead, read_instead
from vtprof_schemas import names

Call = Callable[..., tuple[int, str, str]]


def junk(folder: Path, *files: str) -> Path:
    """Write files that are no traces and have no lines."""
    folder.mkdir()
    for file in files:
        (folder / file).write_bytes(b"\xff\xfe\x00\x01" * 20)
    return folder


def test_one_usable_span_is_enough(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", document(span("GET /", 0, 9), *request(0, 9)))
    with loaded(tmp_path) as db:
        assert read_instead(db) is None


def test_spans_of_others_are_counted_and_the_first_two_files_named(tmp_path: Path) -> None:
    folder = junk(tmp_path / "here", "b\x1b.pb", "c.pb", "a.pb")
    write(folder / "t.jsonl", document(span("GET /", 0, 9), span("GET /x", 0, 9)))
    what = "neither OTLP (JSON or protobuf) nor Parquet; left out"
    with loaded(folder) as db:
        assert read_instead(db) == Instead(2, (f"{folder}/a.pb: {what}", f"{folder}/b\\x1b.pb: {what}"))


@pytest.mark.parametrize(("files", "others"), [(["a.pb"], ""), (["a.pb", "b.pb"], ", and others like it")])
def test_files_without_a_line_are_named(run: Call, tmp_path: Path, files: list[str], others: str) -> None:
    junk(tmp_path / "here", *files)
    what = "here/a.pb: neither OTLP (JSON or protobuf) nor Parquet; left out"
    said = f"vtprof: here: no spans: {what}{others}; point to OTLP traces\n"
    assert run("analyze", "here", "--no-cache")[1:] == ("", said)
    said = (
        f"vtprof: here: neither traces nor a request table; {what};"
        " give traces, or a table with start_unix_nano and ttft_ms\n"
    )
    assert run("compare", "here", "here", "--no-cache")[1:] == ("", said)


def test_spans_of_others_are_told_with_the_lines_that_could_not_be_read(run: Call, tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", document(span("GET /", 0, 9), span("GET /x", 0, 9)), "{broken")
    assert (
        "(2 lines in 1 file, 1 unreadable, 2 other spans, 0 other signals)"
        in (run("analyze", "t.jsonl", "--no-cache")[2])
    )
    assert (
        "neither traces nor a request table (2 spans of other programs); t.jsonl: "
        in (run("compare", "t.jsonl", "t.jsonl", "--no-cache")[2])
    )


POWER = metric_document(names.GPU_POWER_MW, [(1, 2.0), (5, 3.0)])


@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_metrics_without_spans_are_told_with_what_is_missing(run: Call, tmp_path: Path, form: str) -> None:
    clock = metric_document(names.GPU_SM_CLOCK_MHZ, [(1, 900.0)])
    if form == "json":
        write(tmp_path / "m", POWER, clock)
    else:
        (tmp_path / "m").write_bytes(length32(message(POWER), message(clock)))
    said = (
        f"vtprof: m: metrics without spans (3 points of {names.GPU_POWER_MW} and 1 other metric in 1 file): a report needs"
        " the spans that were recorded with them; give the folder with the agent's *.traces.jsonl\n"
    )
    assert run("analyze", "m", "--no-cache") == (2, "", said)
    assert (
        f"neither traces nor a request table (metrics without spans: 3 points of {names.GPU_POWER_MW} and 1 other"
        in run("compare", "m", "m", "--no-cache")[2]
    )


def test_what_could_not_be_read_beside_metrics_is_told(run: Call, tmp_path: Path) -> None:
    nameless = span(names.SPAN_REQUEST, 0, 9) | {"spanId": ""}
    write(tmp_path / "m.jsonl", POWER, "{broken", document(nameless))
    assert (
        "in 1 file, 1 line or message unreadable, 1 span without a valid id, name or time): a report needs"
        in run("analyze", "m.jsonl", "--no-cache")[2]
    )


def test_signals_that_are_not_read_are_told_where_nothing_else_is_there(run: Call, tmp_path: Path) -> None:
    write(tmp_path / "m.jsonl", metric_document("http.server.duration", [(1, 2.0)]))
    assert run("analyze", "m.jsonl", "--no-cache")[2] == (
        "vtprof: m.jsonl: no spans, only metrics or logs that vtprof does not read (1 in 1 file);"
        " record with vtprof-agent first\n"
    )
