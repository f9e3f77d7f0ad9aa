"""A path becomes runs by what it holds, whatever its name; what cannot be read is one line."""

import os
from pathlib import Path

import numpy as np
import pytest
from analyze_run import RESOURCE, one_request
from otlp_builder import document, write
from table_files import START_NS, csv_text, parquet, read, request, table

from vtprof_analyzer.regress.requests import Run
from vtprof_analyzer.runs import baselines
from vtprof_analyzer.runs.read import read_runs
from vtprof_schemas.errors import DataError, NoData


def traces(folder: Path, *numbers: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        write(folder / f"{number}.jsonl", document(*one_request(number), resource=RESOURCE))
    return folder


def test_names_lie(tmp_path: Path) -> None:
    text = csv_text([request(1), request(2)])
    (tmp_path / "table.json").write_text(text)
    assert read(tmp_path / "table.json").requests.ids.tolist() == ["r1", "r2"]
    moved = traces(tmp_path / "a", 1) / "1.jsonl"
    moved.rename(tmp_path / "traces.db")
    assert len(read(tmp_path / "traces.db").requests) == 1
    parquet(tmp_path / "x.jsonl", f"FROM read_csv('{tmp_path}/table.json')")
    assert read(tmp_path / "x.jsonl").requests.ids.tolist() == ["r1", "r2"]


def test_a_folder_and_a_pattern_of_traces_are_one_run(tmp_path: Path) -> None:
    folder = traces(tmp_path / "traces", 1, 2, 3)
    assert len(read(folder).requests) == 3
    assert len(read(folder / "[12].jsonl").requests) == 2
    assert read(folder).label == str(folder)


def test_spans_in_parquet_are_traces_and_tables_are_tables(tmp_path: Path) -> None:
    one = "'00000000000000000000000000000001' AS trace_id, '0000000000000001' AS span_id"
    spans = f"SELECT {one}, 'vtprof.request' AS name, 1795000000000000000 AS start_ns, 1795000000900000000 AS end_ns"
    (tmp_path / "spans").mkdir()
    parquet(tmp_path / "spans" / "s.parquet", f"{spans}, 5000000 AS ttft_ns")
    assert read(tmp_path / "spans").requests.ttft_ms.tolist() == [5]
    assert read(tmp_path / "spans" / "s.parquet").requests.ttft_ms.tolist() == [5]
    (tmp_path / "tables").mkdir()
    table(tmp_path, request(1))
    parquet(tmp_path / "tables" / "t.parquet", f"FROM '{tmp_path}/t.csv'")
    assert read(tmp_path / "tables").requests.ttft_ms.tolist() == [100]


def test_tables_of_one_folder_are_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    folder.mkdir()
    table(folder, request(3, model="b"), request(1), request(9, ttft_ms=-1), name="part-0.csv")
    table(folder, request(2), request(1), request(4, queue_ms=-1), name="part-1.csv")
    table(folder, name="part-2.csv")
    run = read(folder)
    assert run.label == str(folder)
    assert run.requests.ids.tolist() == ["r1", "r2", "r3"]
    assert [run.requests.models[code] for code in run.requests.model] == ["m", "m", "b"]
    assert run.skipped == {"negative ttft_ms": 1, "negative queue_ms": 1, "duplicate request id": 1}
    assert run.notes == (
        "2 tables of one folder are read as one run; name the files to compare them as several",
        f"{folder}/part-2.csv: no requests: only a header",
    )


def test_a_table_beside_traces_is_not_theirs(tmp_path: Path) -> None:
    folder = traces(tmp_path / "traces", 1)
    table(folder, request(1), request(2))
    assert read(folder).requests.ids.tolist() == [f"{1:032x}"]
    spans = "SELECT '{:032x}' AS trace_id, '{:016x}' AS span_id, 'vtprof.request' AS name, {} AS start_ns, {} AS end_ns"
    (tmp_path / "flat").mkdir()
    table(tmp_path, request(1))
    parquet(tmp_path / "flat" / "requests.parquet", f"FROM '{tmp_path}/t.csv'")
    parquet(
        tmp_path / "flat" / "spans.parquet", f"{spans.format(7, 7, START_NS, START_NS + 9)}, 5 AS ttft_ns"
    )
    assert read(tmp_path / "flat").requests.ids.tolist() == [f"{7:032x}"]


def test_a_baseline_gives_all_its_runs(tmp_path: Path) -> None:
    table(tmp_path, request(1), request(2), name="a.csv")
    table(tmp_path, request(3), name="b.csv")
    runs = [read(tmp_path / "a.csv"), read(tmp_path / "b.csv")]
    path = baselines.save("main", runs, tmp_path / "baselines")
    found = read_runs(path)
    assert [run.requests.ids.tolist() for run in found] == [["r1", "r2"], ["r3"]]


@pytest.mark.parametrize("name", ["absent", "absent/t.csv", "*.csv"])
def test_what_is_not_there_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"no such file or folder|no file matches"):
        read_runs(tmp_path / name)


def test_an_empty_folder_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hi")
    with pytest.raises(NoData, match=r"no trace files and no request tables \(1 other file\)"):
        read_runs(tmp_path)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        read_runs(tmp_path / "pipe")


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    told: list[int] = []
    path = table(tmp_path, request(1))
    read_runs(path, told.append)
    folder = traces(tmp_path / "traces", 1, 2)
    read_runs(folder, told.append)
    assert told[0] == path.stat().st_size
    assert sum(told[1:]) == sum(file.stat().st_size for file in folder.iterdir())


def test_a_run_can_be_cut(tmp_path: Path) -> None:
    run: Run = read(table(tmp_path, *(request(number, queue_ms=number) for number in range(5))))
    np.testing.assert_array_equal(run.requests.select(slice(1, 3)).queue_ms, [1, 2])
