"""Ingest of OTLP JSON lines against the tutorial form of `read_json`, in one run: CPU, wall and spans a second.

The tutorial form names the columns, leaves detection on and filters attributes with `list_filter`. Each reader runs in a
process of its own; ratios are what counts, for absolute times are the machine's. ``--spans N`` sizes the input.
"""

import argparse
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from vtprof_analyzer.ingest.load import create_tables, load
from vtprof_analyzer.ingest.sources import find_sources
from vtprof_analyzer.store import open_store
from vtprof_schemas import names

SPANS_PER_LINE = 512
ATTRIBUTES = [a for a in names.ATTRIBUTES.values() if a.where == "step" and a.type == names.INT][:14]


def make_traces(path: Path, spans: int) -> None:
    """Write spans of 15 attributes, 512 a line, as a batching exporter does."""
    dice = random.Random(1)
    start = 1_795_000_000_000_000_000
    resource_ = {"attributes": [{"key": names.SERVICE_INSTANCE_ID, "value": {"stringValue": "bench"}}]}
    with path.open("w", encoding="utf-8") as out:
        for first in range(0, spans, SPANS_PER_LINE):
            batch = []
            for number in range(first, min(spans, first + SPANS_PER_LINE)):
                attributes: list[dict[str, Any]] = [
                    {"key": a.key, "value": {"intValue": str(dice.randrange(100_000))}} for a in ATTRIBUTES
                ]
                attributes.append({"key": names.STEP_RUNNING, "value": {"doubleValue": dice.random() * 10}})
                batch.append(
                    {
                        "traceId": f"{dice.getrandbits(128):032x}", "spanId": f"{dice.getrandbits(64):016x}",
                        "name": names.SPAN_STEP, "kind": 1, "startTimeUnixNano": str(start + number * 1_000_000),
                        "endTimeUnixNano": str(start + number * 1_000_000 + 900_000), "attributes": attributes,
                        "status": {}, "flags": 256,
                    }
                )  # fmt: skip
            line = {"resourceSpans": [{"resource": resource_, "scopeSpans": [{"scope": {}, "spans": batch}]}]}
            out.write(json.dumps(line, separators=(",", ":")) + "\n")


def read_ours(path: Path) -> int:
    """Read with the analyzer's own reader."""
    with open_store() as connection:
        create_tables(connection)
        load(connection, find_sources([path]), lambda _: None)
        return int(connection.execute("SELECT sum(step_index) FROM spans").fetchall()[0][0])


def read_tutorial(path: Path) -> int:
    """Read as tutorials do: columns named, detection on, one `list_filter` an attribute."""
    value = 'STRUCT("stringValue" VARCHAR, "intValue" BIGINT, "doubleValue" DOUBLE)'
    span = (
        'STRUCT("traceId" VARCHAR, "spanId" VARCHAR, "name" VARCHAR, "startTimeUnixNano" BIGINT,'
        f' "endTimeUnixNano" BIGINT, "attributes" STRUCT("key" VARCHAR, "value" {value})[])'
    )
    picked = ", ".join(
        f'list_filter(s."attributes", lambda a: a.key = \'{a.key}\')[1].value."intValue" AS {a.column}'
        for a in ATTRIBUTES
    )
    with duckdb.connect() as connection:
        connection.execute(
            f"""
            CREATE TABLE spans AS
            SELECT s."traceId", s."spanId", s.name, s."startTimeUnixNano", s."endTimeUnixNano", {picked},
                   list_filter(s."attributes", lambda a: a.key = '{names.STEP_RUNNING}')[1].value."doubleValue" AS running
            FROM (SELECT unnest(scope.spans) AS s FROM (SELECT unnest(r."scopeSpans") AS scope FROM (
                SELECT unnest("resourceSpans") AS r FROM read_json(?, maximum_object_size = 134217728,
                    columns = {{"resourceSpans": 'STRUCT("scopeSpans" STRUCT(spans {span}[])[])[]'}}))))
            """,
            [str(path)],
        )
        return int(connection.execute("SELECT sum(step_index) FROM spans").fetchall()[0][0])


READERS = {"vtprof": read_ours, "tutorial": read_tutorial}


def _measure(name: str, path: Path, results: Any) -> None:
    begin = time.perf_counter()
    total = READERS[name](path)
    wall = time.perf_counter() - begin
    used = resource.getrusage(resource.RUSAGE_SELF)
    results.put((total, wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024))


def main() -> None:
    """Run both readers and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=200_000)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    measured: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.jsonl"
        make_traces(path, options.spans)
        size = path.stat().st_size
        totals = set()
        for name in READERS:
            results: Any = context.Queue()
            process = context.Process(target=_measure, args=(name, path, results))
            process.start()
            total, wall, cpu, rss = results.get()
            process.join()
            totals.add(total)
            measured[name] = {
                "wall_s": wall,
                "cpu_s": cpu,
                "rss_mib": rss,
                "spans_per_s": options.spans / wall,
            }
    if len(totals) != 1:
        sys.exit("the readers do not agree on what they read")
    ratios = {
        key: measured["tutorial"][key] / measured["vtprof"][key] for key in ("cpu_s", "wall_s", "rss_mib")
    }
    if options.json:
        document = {
            "spans": options.spans,
            "bytes": size,
            "readers": measured,
            "tutorial_over_vtprof": ratios,
        }
        print(json.dumps(document, indent=2))
        return
    print(f"{options.spans:,} spans of 15 attributes, {size / 1e6:.0f} MB")
    for name, row in measured.items():
        speed = f"{row['cpu_s']:6.2f} CPU s  {row['wall_s']:6.2f} s  {row['spans_per_s']:>9,.0f} spans/s"
        print(f"  {name:<9} {speed}  {row['rss_mib']:.0f} MiB")
    print(f"  the tutorial form takes {ratios['cpu_s']:.1f} x the CPU, {ratios['wall_s']:.1f} x the time")


if __name__ == "__main__":
    main()
