"""Request tables: every valid row is read as it is told, every other is counted by reason, or one line says why."""

import gzip
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from table_files import COLUMNS, START_NS, csv_text, parquet, read, request, table

from vtprof_analyzer.runs import table_csv
from vtprof_analyzer.runs.read import read_runs
from vtprof_analyzer.runs.table_columns import EXPECTED, HIT, NUMBERS, RECORDED, START, TEXTS, layout
from vtprof_schemas.errors import DataError, NoData


def refused(path: Path, error: type[Exception] = DataError) -> str:
    """Return the one line that a table is refused with."""
    with pytest.raises(error) as caught:
        read_runs(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_every_column_arrives_in_its_field(tmp_path: Path) -> None:
    optional = {
        "n_images": 2, "cached_tokens": 16, "encoder_cache_hit": 0.5, "requests_in_flight": 3, "transfer_ms": 1,
        "unexplained_ms": 6, "n_audio_tokens": 5, "status": "ok", "weight": 2, "trace_id": "abc",
    }  # fmt: skip
    run = read(table(tmp_path, request(1, **optional)))
    found = run.requests
    assert (found.ids.tolist(), found.start_ns.tolist(), found.models) == (
        ["abc"],
        [START_NS + 10**9],
        ("m",),
    )
    values = {
        "text_tokens": 20, "visual_tokens": 80, "audio_tokens": 5, "output_tokens": 11, "cached_tokens": 16, "images": 2,
        "encoder_hit": 0.5, "in_flight": 3, "preprocess_ms": 10, "queue_ms": 3, "encode_ms": 30, "transfer_ms": 1,
        "prefill_ms": 50, "unexplained_ms": 6, "ttft_ms": 100, "tpot_ms": 4.5, "kv_bytes": 56320, "weight": 2,
    }  # fmt: skip
    assert {name: getattr(found, name).tolist() for name in values} == {
        name: [v] for name, v in values.items()
    }
    assert (run.skipped, run.notes) == ({}, ())


def documented() -> dict[str, dict[str, str]]:
    """Return the README's table of columns: what it says of each, by the table's heads."""
    text = (Path(__file__).parents[2] / "analyzer" / "README.md").read_text(encoding="utf-8")
    lines = text.split("## Compare two runs")[1].split("| Column |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {
        name.strip("`"): dict(zip(("unit", "need", "meaning", "lost"), rest, strict=True))
        for name, *rest in cells
    }


def test_the_documented_columns_are_those_that_are_read() -> None:
    told = documented()
    known = {START, *NUMBERS, HIT, RECORDED, *TEXTS}
    assert set(told) == known
    assert {name for name, row in told.items() if row["need"] != "optional"} == set(EXPECTED)
    assert all(row["unit"].startswith("ms") == name.endswith("_ms") for name, row in told.items())
    assert all(row["meaning"] and row["lost"] for row in told.values())


def test_a_documented_need_is_one() -> None:
    told = documented()
    assert [name for name, row in told.items() if row["need"] == "needed"] == [START]
    for name, row in told.items():
        enough = "a phase" in row["need"]
        with nullcontext() if enough or name == START else pytest.raises(DataError):
            layout("t", [START, name] if name != START else [START, "ttft_ms"])
        if name != START:
            with pytest.raises(DataError):
                layout("t", [name])
    for name in set(EXPECTED) - {START}:
        notes = layout("t", [one for one in EXPECTED if one != name]).notes
        if any("not compared" in note for note in notes):
            assert "not compared" in told[name]["lost"]


def test_what_is_not_told_is_unknown_and_not_zero(tmp_path: Path) -> None:
    found = read(table(tmp_path, request(1, tpot_ms=None, encode_ms=None, kv_bytes=None))).requests
    unknown = (
        "tpot_ms",
        "encode_ms",
        "kv_bytes",
        "unexplained_ms",
        "cached_tokens",
        "in_flight",
        "encoder_hit",
    )
    assert all(np.isnan(getattr(found, name)).all() for name in unknown)
    assert found.weight.tolist() == [1]


def test_unexplained_is_what_the_parts_leave_of_ttft(tmp_path: Path) -> None:
    rows = [
        request(1),  # 100 - 3 - 10 - 30 - 50
        request(2, transfer_ms=2),
        request(3, ttft_ms=92),  # parts of 93: 1 ms and 1 % more are rounding
        request(4, ttft_ms=91),  # 1.91 ms more would be
        request(5, ttft_ms=80),
        request(6, n_visual_tokens=0, encode_ms=None),  # nothing to encode
        request(7, unexplained_ms=4),
        request(8, unexplained_ms=-0.5, ttft_ms=92.5),
    ]
    run = read(table(tmp_path, *rows))
    np.testing.assert_array_equal(run.requests.unexplained_ms, [7, 5, 0, np.nan, np.nan, 37, 4, 0])
    assert run.notes == (
        "2 requests whose parts add up to more than their TTFT: unexplained is not told there",
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ttft_ms": -1}, "negative ttft_ms"),
        ({"n_visual_tokens": -2}, "negative n_visual_tokens"),
        ({"encode_ms": "nan"}, "NaN in encode_ms"),
        ({"kv_bytes": "inf"}, "infinite kv_bytes"),
        ({"queue_ms": "1e400"}, "infinite queue_ms"),
        ({"prefill_ms": 2e11}, "impossible prefill_ms"),
        ({"start_unix_nano": None}, "no start time"),
        ({"start_unix_nano": 1_795_000_000}, "start time not in nanoseconds of Unix time"),
        ({"status": "Aborted "}, "aborted"),
        ({"status": "timeout"}, "timeout"),
        ({"weight": 0}, "weight not above 0"),
        ({"weight": "nan"}, "NaN in weight"),
        ({"encoder_cache_hit": 80}, "encoder_cache_hit outside 0 to 1"),
        ({"encoder_cache_hit": "maybe"}, "text in a number column"),
        ({"request_id": "r1"}, "duplicate request id"),
        ({"ttft_ms": "fast"}, "unreadable line"),
        ({"start_unix_nano": "9223372036854775808"}, "unreadable line"),
    ],
)
def test_a_faulty_request_is_left_out_and_counted(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    rows = [request(1), request(2), request(3, **changes), request(4)]
    run = read(table(tmp_path, *rows))
    assert run.requests.ids.tolist() == ["r1", "r2", "r4"]
    assert run.skipped == {reason: 1}


@pytest.mark.parametrize(("value", "what"), [(-1, "below 0"), ("inf", "above 1e+18")])
def test_an_impossible_number_in_flight_costs_the_value_and_not_the_request(
    tmp_path: Path, value: Any, what: str
) -> None:
    run = read(table(tmp_path, request(1, requests_in_flight=3), request(2, requests_in_flight=value)))
    np.testing.assert_array_equal(run.requests.in_flight, [3, np.nan])
    assert run.skipped == {}
    assert run.notes == (
        f"requests_in_flight is {what} in 50 % of the requests: only these values are left out",
    )


def test_a_request_with_several_faults_counts_once(tmp_path: Path) -> None:
    run = read(table(tmp_path, request(1), request(2, ttft_ms=-1, queue_ms=-1, status="aborted")))
    assert run.skipped == {"aborted": 1}


def test_the_first_request_of_an_id_that_can_be_used_stays(tmp_path: Path) -> None:
    rows = [request(1, ttft_ms=-1), request(1), request(2), request(2, ttft_ms=500)]
    run = read(table(tmp_path, *rows))
    assert run.requests.ttft_ms.tolist() == [100, 100]
    assert run.skipped == {"negative ttft_ms": 1, "duplicate request id": 1}


def test_two_answers_to_one_request_id_are_two_requests(tmp_path: Path) -> None:
    rows = [request(1, request_key="a"), request(1, request_key="b"), request(2, request_key="b")]
    run = read(table(tmp_path, *rows))
    assert (run.requests.ids.tolist(), run.skipped) == (["r1", "r1"], {"duplicate request id": 1})


def test_requests_without_an_id_are_no_duplicates(tmp_path: Path) -> None:
    run = read(table(tmp_path, request(1, request_id=None), request(2, request_id=None)))
    assert (len(run.requests), run.skipped) == (2, {})


def test_a_request_that_tells_no_time_is_left_out(tmp_path: Path) -> None:
    times = dict.fromkeys(("queue_ms", "preprocess_ms", "encode_ms", "prefill_ms", "ttft_ms", "tpot_ms"))
    assert read(table(tmp_path, request(1), request(2, **times))).skipped == {"no time told": 1}


def test_nan_as_tpot_of_a_single_token_is_unknown(tmp_path: Path) -> None:
    rows = [request(1, tpot_ms="nan", n_output_tokens=1), request(2, tpot_ms="nan"), request(3)]
    run = read(table(tmp_path, *rows))
    assert (run.requests.ids.tolist(), run.skipped) == (["r1", "r3"], {"NaN in tpot_ms": 1})


def test_phases_that_are_all_zero_were_not_recorded(tmp_path: Path) -> None:
    zeros = dict.fromkeys(("queue_ms", "preprocess_ms", "encode_ms", "prefill_ms"), 0)
    found = read(table(tmp_path, request(1), request(2, **zeros, unexplained_ms=100))).requests
    assert np.isnan([found.queue_ms[1], found.prefill_ms[1], found.unexplained_ms[1]]).all()
    assert found.ttft_ms.tolist() == [100, 100]


@pytest.mark.parametrize(
    ("written", "share"),
    [
        ("true", 1),
        ("False", 0),
        ("1", 1),
        ("0", 0),
        ("0.25", 0.25),
        ("hit", 1),
        ("", np.nan),
        ("nan", np.nan),
    ],
)
def test_an_encoder_cache_hit_is_a_share_however_it_is_written(
    tmp_path: Path, written: str, share: float
) -> None:
    found = read(table(tmp_path, request(1, encoder_cache_hit=written))).requests
    np.testing.assert_array_equal(found.encoder_hit, [share])


def test_a_prompt_without_media_has_no_encoder_hit(tmp_path: Path) -> None:
    rows = [request(1, encoder_cache_hit=0, n_visual_tokens=0), request(2, encoder_cache_hit=0)]
    np.testing.assert_array_equal(read(table(tmp_path, *rows)).requests.encoder_hit, [np.nan, 0])


def test_requests_are_in_order_of_start(tmp_path: Path) -> None:
    run = read(table(tmp_path, request(3), request(1, ttft_ms=-1), request(2), request(0, model="b")))
    assert run.requests.ids.tolist() == ["r0", "r2", "r3"]
    assert [run.requests.models[code] for code in run.requests.model] == ["b", "m", "m"]
    assert run.notes == ()


def test_clocks_that_jump_are_noted(tmp_path: Path) -> None:
    day_ns = 86_400 * 10**9
    late = request(2, start_unix_nano=START_NS + 800 * day_ns)
    (note, other) = read(table(tmp_path, request(1), late, request(3))).notes
    assert note.startswith("start times jump back by 800.0 days")
    assert other.startswith("start times spread over 2.2 years")
    assert read(table(tmp_path, request(2), request(1))).notes == ()


def test_a_column_run_tells_runs_apart(tmp_path: Path) -> None:
    rows = [request(1, run="b"), request(1, run="a", ttft_ms=-1), request(2, run="b"), request(3, run="a")]
    path = table(tmp_path, *rows)
    first, second = read_runs(path)
    assert [first.label, second.label] == [f"{path} run b", f"{path} run a"]
    assert [first.requests.ids.tolist(), second.requests.ids.tolist()] == [["r1", "r2"], ["r3"]]
    assert (first.skipped, second.skipped) == ({}, {"negative ttft_ms": 1})


def test_a_run_of_a_thousand_names_is_another_column(tmp_path: Path) -> None:
    path = table(tmp_path, *(request(number, run=number) for number in range(1_001)))
    assert "column run has 1,001 different values" in refused(path)


def test_missing_columns_are_named_and_what_they_cost(tmp_path: Path) -> None:
    few = [name for name in COLUMNS if name not in ("encode_ms", "kv_bytes", "model", "request_id")]
    run = read(table(tmp_path, request(1), columns=few))
    assert run.notes == (
        "not in the table: request_id, model, encode_ms, kv_bytes; encode, KV are not compared",
    )
    assert (run.requests.models, run.requests.ids.tolist()) == (("",), ["row 1"])


def test_columns_that_nobody_reads_are_noted(tmp_path: Path) -> None:
    assert read(table(tmp_path, request(1, colour=3, span_id="x"))).notes == (
        "columns that are not read: colour",
    )


@pytest.mark.parametrize(
    "lacking", [["start_unix_nano"], ["ttft_ms", "queue_ms", "preprocess_ms", "encode_ms", "prefill_ms"]]
)
def test_without_what_everything_needs_a_table_is_refused(tmp_path: Path, lacking: list[str]) -> None:
    told = refused(table(tmp_path, request(1), columns=[name for name in COLUMNS if name not in lacking]))
    assert f"not in the table: {', '.join(name for name in COLUMNS if name in lacking)};" in told
    assert "start_unix_nano and at least ttft_ms or one of" in told


def test_one_phase_is_enough(tmp_path: Path) -> None:
    run = read(table(tmp_path, request(1), columns=["start_unix_nano", "prefill_ms"]))
    assert run.requests.prefill_ms.tolist() == [50]


@pytest.mark.parametrize(
    ("column", "wanted", "given", "convert"),
    [
        ("ttft_ms", "ttft_ms", "ttft_s", "multiply by 1000 and name it ttft_ms"),
        ("encode_ms", "encode_ms", "encode_us", "divide by 1000 and name it encode_ms"),
        ("tpot_ms", "tpot_ms", "TPOT_seconds", "multiply by 1000 and name it tpot_ms"),
        ("queue_ms", "queue_ms", "queue_ns", "divide by 1e6 and name it queue_ms"),
        (
            "start_unix_nano",
            "start_unix_nano",
            "start_unix_ms",
            "multiply by 1e6 and name it start_unix_nano",
        ),
        ("start_unix_nano", "start_unix_nano", "start_ns", "name it start_unix_nano"),
        ("kv_bytes", "kv_bytes", "kv_mib", "multiply by 1048576 and name it kv_bytes"),
    ],
)
def test_a_column_in_another_unit_is_refused_with_how_to_convert_it(
    tmp_path: Path, column: str, wanted: str, given: str, convert: str
) -> None:
    rest = [name for name in COLUMNS if name != column]
    told = refused(table(tmp_path, request(1, **{given: 1}), columns=rest))
    assert f"column {given} where {wanted} is wanted; {convert}" in told


def test_a_table_in_other_units_throughout_is_still_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "requests.txt"
    path.write_text("id;start_unix_ms;ttft_s\n1;1795000000000;0.2\n")
    assert "column start_unix_ms where start_unix_nano is wanted" in refused(path)


def test_another_unit_beside_the_right_one_is_just_not_read(tmp_path: Path) -> None:
    assert read(table(tmp_path, request(1, ttft_s=0.1))).notes == ("columns that are not read: ttft_s",)


@pytest.mark.parametrize(
    ("divisor", "unit", "factor"),
    [(10**9, "seconds", "1e9"), (10**6, "milliseconds", "1e6"), (1000, "microseconds", "1000")],
)
def test_start_times_that_look_like_another_unit_are_refused(
    tmp_path: Path, divisor: int, unit: str, factor: str
) -> None:
    rows = [request(number, start_unix_nano=(START_NS + number * 10**9) // divisor) for number in range(3)]
    assert f"start_unix_nano looks like {unit}" in (told := refused(table(tmp_path, *rows)))
    assert told.endswith(f"multiply by {factor}")


def test_ttft_in_seconds_beside_phases_in_milliseconds_is_refused(tmp_path: Path) -> None:
    rows = [request(number, ttft_ms=0.1) for number in range(3)]
    assert "the phases add up to 930 times ttft_ms" in refused(table(tmp_path, *rows))


def test_phases_in_seconds_beside_ttft_in_milliseconds_are_noted(tmp_path: Path) -> None:
    seconds = {"queue_ms": 0.003, "preprocess_ms": 0.01, "encode_ms": 0.03, "prefill_ms": 0.05}
    (note,) = read(table(tmp_path, request(1, **seconds))).notes
    assert note == "the phases add up to 0.093 % of ttft_ms in the median request: are they in seconds?"


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_no_data(tmp_path: Path, content: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    assert "is empty" in refused(path, NoData)


def test_a_table_without_rows_is_no_data(tmp_path: Path) -> None:
    assert "no requests: only a header" in refused(table(tmp_path), NoData)


def test_a_table_without_a_usable_row_says_why(tmp_path: Path) -> None:
    path = table(tmp_path, request(1, status="aborted"), request(2, ttft_ms=-1))
    assert refused(path, NoData).endswith("no request can be used (1 aborted; 1 negative ttft_ms)")


def test_a_table_of_text_says_what_is_wrong_with_its_first_line(tmp_path: Path) -> None:
    path = table(tmp_path, request(1, start_unix_nano="2026-11-22"), request(2, start_unix_nano="2026-11-22"))
    told = refused(path)
    assert told.endswith('none of 2 lines can be read: line 2: start_unix_nano is "2026-11-22", not a number')


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"r9,x,m", "fewer values than the header's 13 columns"),
        (b"r9" + b",1" * 20, "more values than the header's 13 columns"),
        (b"r9,17e,m,1,1,1,1,1,1,1,1,1,1", 'start_unix_nano is "17e", not a number'),
        (b"\xff" + b",1" * 12, "no valid UTF-8"),
        (b'"r9' + b",1" * 12, "a stray quote"),
        (b"r9,1,%s,1,1,1,1,1,1,1,1,1,1" % (b"m" * (2 << 20)), "longer than 1 MiB"),
    ],
)
def test_a_bad_line_costs_itself_and_is_named(tmp_path: Path, bad: bytes, why: str) -> None:
    lines = csv_text(request(number) for number in range(400)).encode().splitlines()
    lines[300] = bad
    path = tmp_path / "t.csv"
    path.write_bytes(b"\n".join(lines))
    run = read(path)
    assert len(run.requests) == 399
    assert run.skipped == {"unreadable line": 1}
    assert run.notes == (f"{path}: line 301: {why}",)


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 3, 1])
@pytest.mark.parametrize("quote", ["", '"'])
def test_the_line_that_is_named_is_that_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, quote: str
) -> None:
    monkeypatch.setattr(table_csv, "_CHUNK_BYTES", chunk_bytes)
    lines = (
        csv_text(request(number, model=f"{quote}m{quote}") for number in range(9))
        .replace('"""', '"')
        .splitlines()
    )
    lines[5] = lines[5].replace(",100,", ",fast,")
    path = tmp_path / "t.csv"
    path.write_bytes("".join(f"{line}\r\n" for line in ["", "", *lines[:3], "", *lines[3:]]).encode())
    run = read(path)
    assert len(run.requests) == 8
    assert run.notes == (f'{path}: line 9: ttft_ms is "fast", not a number',)


def test_rows_are_counted_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    numbers = np.arange(400_000)
    text = "\n".join(map(str, START_NS + numbers)).replace("\n", ",1\n")
    path.write_text(f"start_unix_nano,ttft_ms\n{text},1\n")
    assert read(path).requests.ids.tolist() == [f"row {number}" for number in numbers + 1]


def test_a_line_that_was_being_written_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(csv_text(map(request, range(3)))[:-20])
    assert len(read(path).requests) == 2


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff", "\n\n"])
def test_spreadsheets_write_csv_in_many_ways(tmp_path: Path, end: str, delimiter: str, mark: str) -> None:
    path = tmp_path / "t.csv"
    text = csv_text([request(1, model="a,b;c\td"), request(2)], delimiter=delimiter)
    path.write_bytes((mark + text).replace("\n", end).encode())
    run = read(path)
    assert (run.requests.models, run.requests.ids.tolist()) == (("a,b;c\td", "m"), ["r1", "r2"])
    assert (run.skipped, run.notes) == ({}, ())


def test_line_ends_may_differ_within_a_file(tmp_path: Path) -> None:
    lines = csv_text(map(request, range(4))).splitlines()
    path = tmp_path / "t.csv"
    path.write_bytes(
        "".join(a + b for a, b in zip(lines, ["\r\n", "\n", "\r", "\r\n\r\n", ""], strict=True)).encode()
    )
    assert read(path).requests.ids.tolist() == ["r0", "r1", "r2", "r3"]


def test_headers_differ_in_case_and_blanks(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Start Unix Nano, TTFT-ms\n" + f"{START_NS},7\n")
    assert read(path).requests.ttft_ms.tolist() == [7]


def test_utf_16_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(csv_text([request(1)]).encode("utf-16"))
    assert refused(path).endswith("is UTF-16 text; save it as UTF-8")


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"start_unix_nano,ttft_ms,TTFT_MS\n{START_NS},1,2\n")
    assert "column ttft_ms is there twice" in refused(path)


def test_a_csv_of_something_else_says_what_a_header_needs(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("name,colour\nx,red\n")
    assert "the first line names no columns of a request table (name,colour)" in refused(path)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.bin"])
def test_a_packed_table_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    whole = gzip.compress(csv_text(map(request, range(2_000))).encode())
    path.write_bytes(whole)
    assert len(read(path).requests) == 2_000
    path.write_bytes(whole[: len(whole) // 2])
    run = read(path)
    assert 100 < len(run.requests) < 2_000
    assert run.notes[0] == "gzip data ends early; read up to there"


def test_a_name_with_wildcards_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "t1.csv").write_text(csv_text([request(9)]))
    path = table(tmp_path, request(1), name="t[1]*.csv")
    assert read(path).requests.ids.tolist() == ["r1"]


def test_parquet_types_are_taken_as_they_mean(tmp_path: Path) -> None:
    query = f"""
        SELECT 7::UINTEGER AS request_id, make_timestamp_ns({START_NS}) AS start_unix_nano, 'm'::BLOB AS model,
               1.5::DECIMAL(9, 3) AS ttft_ms, 3::UTINYINT AS n_visual_tokens, true AS encoder_cache_hit,
               '12.5' AS queue_ms, [1] AS list
    """
    run = read(parquet(tmp_path / "t.parquet", query))
    found = run.requests
    assert (found.ids.tolist(), found.start_ns.tolist(), found.models) == (["7"], [START_NS], ("m",))
    assert (found.ttft_ms[0], found.visual_tokens[0], found.encoder_hit[0], found.queue_ms[0]) == (
        1.5,
        3,
        1,
        12.5,
    )
    assert run.notes[-1] == "columns that are not read: list"


def test_text_in_a_parquet_column_of_numbers_is_counted(tmp_path: Path) -> None:
    query = (
        f"SELECT {START_NS} + i AS start_unix_nano, if(i = 2, 'fast', '1') AS ttft_ms FROM range(4) AS t (i)"
    )
    run = read(parquet(tmp_path / "t.parquet", query))
    assert (len(run.requests), run.skipped) == (3, {"text in a number column": 1})


def test_a_parquet_column_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", f"SELECT {START_NS} AS start_unix_nano, [1] AS ttft_ms")
    assert "column ttft_ms is of type INTEGER[], a number is wanted" in refused(path)


def test_nan_and_null_differ_in_parquet(tmp_path: Path) -> None:
    query = (
        f"SELECT {START_NS} + i AS start_unix_nano, [1, 2, NULL, 'nan'::DOUBLE][i] AS ttft_ms, 1 AS queue_ms"
        " FROM range(1, 5) AS t (i)"
    )
    run = read(parquet(tmp_path / "t.parquet", query))
    np.testing.assert_array_equal(run.requests.ttft_ms, [1, 2, np.nan])
    assert run.skipped == {"NaN in ttft_ms": 1}


def test_damaged_parquet_is_one_line(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "t.parquet",
        f"SELECT {START_NS} + i AS start_unix_nano, i AS ttft_ms FROM range(9999) AS t (i)",
    )
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    assert "cannot be read as Parquet" in refused(path)


def test_csv_and_parquet_of_the_same_rows_are_the_same(tmp_path: Path) -> None:
    rows = [
        request(number, ttft_ms=100 + number / 7, cached_tokens=None if number % 3 else 8)
        for number in range(50)
    ]
    path = table(tmp_path, *rows)
    with duckdb.connect() as connection:
        connection.execute(f"COPY (FROM '{path}') TO '{tmp_path}/t.parquet'")
    one, other = read(path).requests, read(tmp_path / "t.parquet").requests
    for name in ("ids", "start_ns", "model", "ttft_ms", "cached_tokens", "unexplained_ms", "weight"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
