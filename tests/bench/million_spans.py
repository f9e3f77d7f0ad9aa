"""Traces of a synthetic day, copied until there are as many spans as asked for: input of the benchmarks of whole runs."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from synthetic.day import make_day
from synthetic.scenarios import TWO_ENGINES
from synthetic.write import Format

_COPIES = """
COPY (
    SELECT * REPLACE (
        copy_id || trace_id[9:] AS trace_id, copy_id || span_id[9:] AS span_id,
        copy_id || parent_span_id[9:] AS parent_span_id,
        list_transform(links, lambda l: struct_pack(
            "traceId" := copy_id || l."traceId"[9:], "spanId" := copy_id || l."spanId"[9:])) AS links,
        start_ns + number * period_ns AS start_ns, end_ns + number * period_ns AS end_ns,
        number || '-' || request_id AS request_id, service_instance_id || '-' || number AS service_instance_id)
    FROM (SELECT * FROM read_parquet($day)),
         (SELECT i AS number, printf('%08x', i) AS copy_id, $period AS period_ns FROM range($copies) AS t (i))
) TO '{}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 100000)
"""
"""Copies of a day, one after the other, from processes of their own; the first half of a span's id is the copy's number."""


@dataclass(frozen=True)
class Run:
    """What was written."""

    folder: Path
    spans: int
    size: int
    """All files together [B]."""


def write_run(folder: Path, spans: int, format: Format = "jsonl") -> Run:
    """Write whole days into ``folder``, so many that they have ``spans`` spans at least."""
    day = make_day(TWO_ENGINES, 1, interference=False)
    copies = -(-spans // len(day.spans))
    paths = day.write(folder, format, copies=copies)
    return Run(folder, copies * len(day.spans), sum(path.stat().st_size for path in paths))


def write_flat_run(folder: Path, spans: int) -> Run:
    """Write likewise as flat Parquet, by SQL: a hundred million spans take minutes."""
    import duckdb

    day = make_day(TWO_ENGINES, 1, interference=False)
    copies = -(-spans // len(day.spans))
    period_ns = max(span.end_ns for span in day.spans) - min(span.start_ns for span in day.spans) + 10**9
    folder.mkdir()
    with tempfile.TemporaryDirectory(dir=folder.parent) as name, duckdb.connect() as connection:
        connection.execute("SET preserve_insertion_order = false")
        for path in day.write(Path(name), "parquet"):
            if path.suffix == ".parquet":
                parameters = {"day": str(path), "copies": copies, "period": period_ns}
                connection.execute(_COPIES.format(folder / path.name), parameters)
    return Run(folder, copies * len(day.spans), sum(path.stat().st_size for path in folder.iterdir()))
