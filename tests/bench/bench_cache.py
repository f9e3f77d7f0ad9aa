"""What the cache beside a run saves, costs and takes: reading JSON without it, with it for the first time, and from it.

Each read runs in a process of its own. The first read from a cache also completes its checksums, which the one that made it
left for later: it is shown by itself. Exit code 1: a budget is missed. CPU seconds; ratios are what counts.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from million_spans import write_run
from processes import Measured, best, run, tell

SPANS = 400_000
BUDGET_GAIN = 10.0
"""Reading JSON over reading from the cache."""
BUDGET_SIZE_RATIO = 0.06
"""The cache's size over the JSON's."""
BUDGET_OVERHEAD = 0.15
"""What writing the cache adds to the first read."""
_AGE_S = 3
"""A file that changed just now is not believed to be done: the traces are older than that in practice."""


def do(what: str, folder: Path) -> list[float]:
    """Read a folder's spans with or without the cache and count them as a stage does; return whether it was a hit too."""
    from vtprof_analyzer.ingest.cache import through_cache
    from vtprof_analyzer.ingest.cache_key import key_of
    from vtprof_analyzer.ingest.load import create_tables, load
    from vtprof_analyzer.ingest.sources import find_sources
    from vtprof_analyzer.store import open_store

    sources = find_sources([folder])
    key = key_of(sources, [folder]) if what == "cached" else None
    with open_store() as connection:
        create_tables(connection)
        with through_cache(connection, key, lambda: load(connection, sources, lambda _: None)) as hit:
            query = "SELECT count(*), sum(end_ns - start_ns)::DOUBLE FROM spans"
            return [*map(float, connection.execute(query).fetchall()[0]), float(hit)]


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=SPANS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--do", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do:
        tell(lambda: do(options.do[0], Path(options.do[1])))
        return 0
    plain: list[Measured] = []
    first: list[Measured] = []
    completing: list[Measured] = []
    cached: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="vtprof-bench-") as name:
        made = write_run(Path(name) / "traces", options.spans)
        time.sleep(_AGE_S)
        cache = made.folder / ".vtprof-cache"
        for _ in range(options.repeats):
            for runs, what in (
                (plain, "plain"),
                (first, "cached"),
                (completing, "cached"),
                (cached, "cached"),
            ):
                measured = run(__file__, "--do", what, made.folder)
                assert measured
                runs.append(measured)
            size = sum(path.stat().st_size for path in cache.rglob("*.parquet"))
            for path in sorted(cache.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    every = [*plain, *first, *completing, *cached]
    if {tuple(m.result[:2]) for m in every} != {tuple(plain[0].result[:2])}:
        sys.exit("what comes from the cache is not what was read")
    if [m.result[2] for m in (plain[0], first[0], completing[0], cached[0])] != [0.0, 0.0, 1.0, 1.0]:
        sys.exit("the cache was not written, or not used")
    base = best(plain).cpu_s
    # Of pairs that ran one after the other, the difference of which is small: the median.
    overhead = statistics.median(b.cpu_s / a.cpu_s for a, b in zip(plain, first, strict=True)) - 1
    reached = {
        "gain": base / best(cached).cpu_s, "gain_when_completing": base / best(completing).cpu_s,
        "size_ratio": size / made.size, "overhead": overhead,
    }  # fmt: skip
    missed = [
        what
        for what, bad in (
            ("gain", reached["gain"] < BUDGET_GAIN),
            ("size", reached["size_ratio"] > BUDGET_SIZE_RATIO),
            ("overhead", overhead > BUDGET_OVERHEAD),
        )
        if bad
    ]
    if options.json:
        seconds = {"json_cpu_s": base, "cached_cpu_s": best(cached).cpu_s}
        document = {"spans": made.spans, "bytes": made.size, **seconds, **reached, "missed": missed}
        print(json.dumps(document, indent=2))
        return 1 if missed else 0
    print(f"{made.spans:,} spans, {made.size / 1e6:.0f} MB of JSON")
    print(
        f"  JSON {base:.2f} CPU s, from the cache {best(cached).cpu_s:.3f}:"
        f" {reached['gain']:.1f} x (at least {BUDGET_GAIN:g} x)"
    )
    print(f"  the first time from the cache, with checksums: {reached['gain_when_completing']:.1f} x")
    print(
        f"  the cache takes {reached['size_ratio']:.1%} of the JSON's size (at most {BUDGET_SIZE_RATIO:.0%})"
    )
    print(f"  writing it adds {overhead:.1%} to the first read (at most {BUDGET_OVERHEAD:.0%})")
    print("  " + (f"MISSED: {', '.join(missed)}" if missed else "ok"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
