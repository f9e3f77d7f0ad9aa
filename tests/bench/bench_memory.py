"""Peak memory of reading, and of a whole `vtprof analyze`, at one size and at ten times that: it must not follow the size.

Each runs in a process of its own over the same synthetic day, copied; peaks are of resident memory, the interpreter
included. ``--sizes A B`` gives the spans; a size whose traces do not fit on the disk is left out, and said. With
``--parquet`` the traces are flat Parquet: ``--parquet --sizes 100000000``. Exit code 1: a budget is missed.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from million_spans import Run, write_flat_run, write_run
from processes import BYTES_PER_MB, Measured, run, tell

SIZES = (1_000_000, 10_000_000)
WORKS = ("load", "analyze")
BUDGET_GROWTH = 1.2
"""The peak at the larger size over that at the smaller one."""
BUDGET_MB_PER_GB = 700.0
"""Peak of reading over the bytes read, at the smaller size."""
BUDGET_MB = 8 * 1024**3 / BYTES_PER_MB
"""Peak at any size."""
BYTES_PER_SPAN = 2_200
"""About what a span takes on the disk while it is analyzed: its JSON, its row in the database, what stages make of it."""
FLAT_BYTES_PER_SPAN = 500
"""Likewise of Parquet, which is read where it is."""


def do(what: str, folder: Path) -> list[float]:
    """Read the traces of a folder, or analyze them; return the number of spans, or of the report's letters."""
    from vtprof_analyzer.analyze import Options, analyze
    from vtprof_analyzer.ingest.load import create_tables, load
    from vtprof_analyzer.ingest.sources import find_sources
    from vtprof_analyzer.report.terminal import render
    from vtprof_analyzer.store import open_store

    if what == "analyze":
        return [float(len(render(analyze(Options([folder], cache=False)))))]
    with open_store() as connection:
        create_tables(connection)
        load(connection, find_sources([folder]), lambda _: None)
        return [float(connection.execute("SELECT count(*) FROM spans").fetchall()[0][0])]


def measure(spans: int, works: Sequence[str], *, parquet: bool) -> tuple[Run, dict[str, Measured]]:
    """Write a run of so many spans, measure the works on it, and remove it."""
    with tempfile.TemporaryDirectory(prefix="vtprof-bench-") as name:
        made = (write_flat_run if parquet else write_run)(Path(name) / "traces", spans)
        found = {what: run(__file__, "--do", what, made.folder) for what in works}
        return made, {what: measured for what, measured in found.items() if measured}


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--parquet", action="store_true", help="flat Parquet in the place of JSON lines")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--do", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do:
        tell(lambda: do(options.do[0], Path(options.do[1])))
        return 0
    per_span = FLAT_BYTES_PER_SPAN if options.parquet else BYTES_PER_SPAN
    rows, left_out = [], []
    for spans in sorted(options.sizes):
        if shutil.disk_usage(tempfile.gettempdir()).free < spans * per_span:
            left_out.append(spans)
            continue
        made, measured = measure(spans, options.works, parquet=options.parquet)
        row: dict[str, float] = {"spans": made.spans, "bytes": made.size}
        row |= {f"{what}_peak_mb": m.peak_mb for what, m in measured.items()}
        rows.append(row | {f"{what}_cpu_s": m.cpu_s for what, m in measured.items()})
        if not options.json:
            told = ", ".join(
                f"{what} {m.peak_mb:,.0f} MB ({m.cpu_s:.0f} CPU s)" for what, m in measured.items()
            )
            print(f"{made.spans:,} spans, {made.size / BYTES_PER_MB:,.0f} MB: peak of {told}", flush=True)
    if not rows:
        sys.exit("no room on the disk for any of the sizes")
    first, last = rows[0], rows[-1]
    growth = {what: last[f"{what}_peak_mb"] / first[f"{what}_peak_mb"] for what in options.works}
    # The largest size says nothing of growth when it is the only one.
    missed = [
        f"growth of {what}" for what, ratio in growth.items() if ratio > BUDGET_GROWTH and len(rows) > 1
    ]
    missed += [f"memory of {what}" for what in options.works if last[f"{what}_peak_mb"] > BUDGET_MB]
    per_gb = None
    # Parquet is a twentieth of the JSON that it was.
    if "load" in options.works and not options.parquet:
        per_gb = first["load_peak_mb"] / (first["bytes"] / 1e9)
        if per_gb > BUDGET_MB_PER_GB and first["bytes"] >= 0.5e9:
            missed.append("memory per GB read")
    if options.json:
        document = {
            "sizes": rows,
            "left_out": left_out,
            "growth": growth,
            "load_mb_per_gb": per_gb,
            "missed": missed,
        }
        print(json.dumps(document, indent=2))
        return 1 if missed else 0
    for spans in left_out:
        print(f"{spans:,} spans: left out, no room on the disk")
    times = last["spans"] / first["spans"]
    for what, ratio in growth.items():
        print(
            f"  {what} at {times:.0f} times the spans: {ratio:.2f} times the memory (at most {BUDGET_GROWTH:g})"
        )
    if per_gb is not None:
        at = f"{first['spans']:,}"
        print(f"  load at {at} spans: {per_gb:,.0f} MB per GB read (at most {BUDGET_MB_PER_GB:.0f})")
    print("  " + (f"MISSED: {', '.join(missed)}" if missed else "ok"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
