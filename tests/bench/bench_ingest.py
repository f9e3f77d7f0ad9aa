"""Ingest of OTLP JSON lines against other ways to the same table, on one file in one run: CPU, wall clock and memory.

The others: the form of DuckDB's tutorials, chdb, msgspec in one process and Polars; and what bounds ours: the same without a
check, DuckDB's typed parse alone, and its bare parse of the JSON. What is measured ends when the table is there. A package
that is not there is said and left out: ``pip install chdb msgspec``, or ``--packages`` (or VTPROF_BENCH_PACKAGES) names a
folder that holds them. Each reader runs in a process of its own; ratios are what counts, for absolute times are the
machine's. Exit code 1: a budget is missed. ``--spans N`` sizes the input: budgets are of 1,000,000,
and with fewer what each load costs at the least weighs more.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from ingest_readers import DOUBLE, INSTANCE, INTEGERS, READERS
from processes import Measured, best, run

from vtprof_schemas import names

SPANS_PER_LINE = 512
BUDGETS = {"tutorial": 2.5, "chdb": 1.7, "msgspec": 2.0, "polars": 8.0}
"""So many times our CPU time the others take at least."""
BUDGET_TUTORIAL_WALL = 3.5
BUDGET_OF_RAW = 0.2
"""Our rate is at least this part of the rate of the bare parse."""
BOUNDS = ("typed parse", "raw parse")
"""Readers that make no table."""
FLOORS = ("unchecked", "typed parse")
"""What ours is compared with where it is too slow: how near anything on DuckDB's JSON can come to a budget."""
_SCRIPT = str(Path(__file__).with_name("ingest_readers.py"))


def make_traces(path: Path, spans: int) -> None:
    """Write spans of 15 attributes, 512 a line, as a batching exporter does."""
    dice = random.Random(1)
    start = 1_795_000_000_000_000_000
    resource_ = {"attributes": [{"key": INSTANCE, "value": {"stringValue": "bench"}}]}
    with path.open("w", encoding="utf-8") as out:
        for first in range(0, spans, SPANS_PER_LINE):
            batch = []
            for number in range(first, min(spans, first + SPANS_PER_LINE)):
                attributes: list[dict[str, Any]] = [
                    {"key": key, "value": {"intValue": str(_drawn(key, dice))}} for key in INTEGERS
                ]
                attributes.append({"key": DOUBLE[0], "value": {"doubleValue": dice.random() * 10}})
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


def _drawn(key: str, dice: random.Random) -> int:
    # Of what is visual there is less than of the whole: our reader takes nothing else for true.
    return dice.randrange(1_000) if "visual" in key else dice.randrange(1_000, 100_000)


def measure(path: Path, repeats: int, packages: Path | None) -> dict[str, Measured]:
    """Return the best run of each reader that there is, all of them in turn; exit when their tables differ."""
    runs: dict[str, list[Measured]] = {}
    for _ in range(repeats):
        for name in READERS:
            measured = run(_SCRIPT, name, path, packages=packages)
            if measured:
                runs.setdefault(name, []).append(measured)
    ours = runs["vtprof"][0].result
    for name, found in runs.items():
        if name not in BOUNDS and not _agree(found[0].result, ours):
            sys.exit(f"{name} does not make the table that vtprof makes: {found[0].result}, not {ours}")
    return {name: best(found) for name, found in runs.items()}


def _agree(sums: list[float], ours: list[float]) -> bool:
    """Compare sums: those of doubles depend on the order."""
    return len(sums) == len(ours) and all(
        abs(a - b) <= 1e-9 * abs(b) for a, b in zip(sums, ours, strict=True)
    )


def judge(measured: dict[str, Measured]) -> dict[str, tuple[float, float]]:
    """Return what is to be reached, in words, with what was reached and the least that would do."""
    ours, raw = measured["vtprof"], measured["raw parse"]
    found = {
        f"CPU of {name} over ours": (measured[name].cpu_s / ours.cpu_s, budget)
        for name, budget in BUDGETS.items()
        if name in measured
    }
    found["wall clock of tutorial over ours"] = (
        measured["tutorial"].wall_s / ours.wall_s, BUDGET_TUTORIAL_WALL
    )  # fmt: skip
    found["our part of the rate of the bare parse"] = (raw.cpu_s / ours.cpu_s, BUDGET_OF_RAW)
    return found


def floors(measured: dict[str, Measured]) -> dict[str, dict[str, float]]:
    """Return by other reader what its ratio would be if ours took no more than each of the floors."""
    return {
        name: {floor: measured[name].cpu_s / measured[floor].cpu_s for floor in FLOORS}
        for name in BUDGETS
        if name in measured
    }


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=200_000)
    parser.add_argument(
        "--repeats", type=int, default=2, help="runs of each reader, of which the best counts"
    )
    parser.add_argument(
        "--packages", type=Path, default=os.environ.get("VTPROF_BENCH_PACKAGES"),
        help="folder with chdb and msgspec, for the readers alone (default: $VTPROF_BENCH_PACKAGES)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.jsonl"
        make_traces(path, options.spans)
        size = path.stat().st_size
        measured = measure(path, options.repeats, options.packages)
    absent = [name for name in READERS if name not in measured]
    judged = judge(measured)
    missed = [what for what, (reached, least) in judged.items() if reached < least]
    if options.json:
        rows = {
            name: {
                "cpu_s": m.cpu_s,
                "wall_s": m.wall_s,
                "peak_mb": m.peak_mb,
                "peak_mb_per_gb": m.peak_mb / (size / 1e9),
            }
            for name, m in measured.items()
        }
        document = {
            "spans": options.spans, "bytes": size, "readers": rows, "absent": absent, "missed": missed,
            "floors": floors(measured),
            "reached": {what: {"value": value, "least": least} for what, (value, least) in judged.items()},
        }  # fmt: skip
        print(json.dumps(document, indent=2))
        return 1 if missed else 0
    print(f"{options.spans:,} spans of 15 attributes, {size / 1e6:.0f} MB; best of {options.repeats}")
    for name, m in measured.items():
        speed = f"{m.cpu_s:6.2f} CPU s  {m.wall_s:6.2f} s  {options.spans / m.cpu_s:>10,.0f} spans/CPU s"
        print(
            f"  {name:<11} {speed}  {m.peak_mb:6.0f} MB at the peak, {m.peak_mb / (size / 1e9):,.0f} MB per GB read"
        )
    for name in absent:
        print(f"  {name:<11} not measured: the package is absent (pip install {name}, or --packages FOLDER)")
    for what, (reached, least) in judged.items():
        print(f"  {what}: {reached:.2f}, at least {least:g} {'MISSED' if what in missed else 'ok'}")
    for name, ratios in floors(measured).items():
        told = ", ".join(f"{ratio:.2f} over {floor}" for floor, ratio in ratios.items())
        print(f"  CPU of {name}: {told} (floors of any reader on DuckDB's JSON)")
    print("  (memory is judged by bench_memory.py, at the sizes at which it counts)")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
