"""Small request tables for tests: rows of readable numbers, as CSV or Parquet."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb

from vtprof_analyzer.regress.requests import Run
from vtprof_analyzer.runs.read import read_runs

START_NS = 1_795_000_000_000_000_000
COLUMNS = (
    "request_id", "start_unix_nano", "model", "n_text_tokens", "n_visual_tokens", "queue_ms", "preprocess_ms", "encode_ms",
    "prefill_ms", "ttft_ms", "tpot_ms", "n_output_tokens", "kv_bytes",
)  # fmt: skip


def request(number: int, **changes: Any) -> dict[str, Any]:
    """Return a request of 100 ms, of which 7 ms are unexplained, ``number`` seconds after the start."""
    made = {
        "request_id": f"r{number}", "start_unix_nano": START_NS + number * 10**9, "model": "m", "n_text_tokens": 20,
        "n_visual_tokens": 80, "queue_ms": 3, "preprocess_ms": 10, "encode_ms": 30, "prefill_ms": 50, "ttft_ms": 100,
        "tpot_ms": 4.5, "n_output_tokens": 11, "kv_bytes": 56320,
    }  # fmt: skip
    return made | changes


def csv_text(rows: Iterable[dict[str, Any]], columns: Sequence[str] = COLUMNS, delimiter: str = ",") -> str:
    """Return CSV; None is an empty value."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if row.get(column) is None else row[column] for column in columns])
    return out.getvalue()


def table(folder: Path, *rows: dict[str, Any], columns: Sequence[str] = COLUMNS, name: str = "t.csv") -> Path:
    """Write a CSV file; columns beyond the usual ones come from the rows."""
    extra = dict.fromkeys(column for row in rows for column in row if column not in COLUMNS)
    path = folder / name
    path.write_text(csv_text(rows, [*columns, *extra]))
    return path


def parquet(path: Path, query: str) -> Path:
    """Write the rows of a query."""
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return path


def read(path: Path) -> Run:
    """Return the only run of a path."""
    (run,) = read_runs(path)
    return run
