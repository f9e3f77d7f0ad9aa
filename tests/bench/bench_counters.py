"""Mean of a GPU counter over each span: the stage `span_counters` against a range join of spans and samples, in one run.

The range join does not end at the size of interest (a million spans, seven million samples): it is measured at two sizes
that it finishes, and its cost at the large one follows from the pairs that it compares, which grow as spans times samples.
The two small runs say whether it does: of their costs per pair the lower one counts. The stage is measured at the large size
itself. Its means are compared with whole-number arithmetic over the same samples. CPU seconds; ratios are what counts.
"""

import argparse
import json
import resource
import sys
from bisect import bisect_left
from fractions import Fraction

import duckdb

from vtprof_analyzer import pipeline
from vtprof_analyzer.store import open_store
from vtprof_schemas import names

BUDGET_RATIO = 400.0
"""Bar 4 of the reference: the range join costs so many times as much."""
BUDGET_ERROR = 1e-9
_SMALL = ((20_000, 50_000), (40_000, 100_000))
"""Spans and samples with which the range join is measured."""
_GPUS = 2
_PERIOD_NS = 10_000_000
_BEGIN_NS = 1_795_000_000_000_000_000
_CHECKED = 2_000
_BILLION = 10**9
_RANGE_JOIN = """
CREATE TABLE ranged AS
SELECT s.trace_id, s.span_id,
       sum(g.value * (least(s.end_ns, g.ts_ns) - greatest(s.start_ns, g.before_ns)))
           / sum(least(s.end_ns, g.ts_ns) - greatest(s.start_ns, g.before_ns)) AS mean
FROM spans AS s
JOIN resources AS r USING (resource_id)
JOIN (SELECT *, lag(ts_ns) OVER (PARTITION BY hw_id ORDER BY ts_ns) AS before_ns FROM gpu_samples) AS g
    ON g.hw_id = r.hw_id AND g.before_ns < s.end_ns AND g.ts_ns > s.start_ns
GROUP BY s.trace_id, s.span_id
"""


def make(db: duckdb.DuckDBPyConnection, spans: int, samples: int) -> None:
    """Fill the base tables: steps of up to 40 ms, and a sample of each GPU every 10 ms with some jitter."""
    every_ns = samples // _GPUS * _PERIOD_NS // spans
    ratios = ", ".join(f"NULL::DOUBLE AS {names.ATTRIBUTES[key].column}" for key in names.GPU_INTEGRALS)
    db.execute(
        f"""
        CREATE TABLE resources AS
        SELECT i::UBIGINT AS resource_id, 'p' || i AS service_instance_id, 'GPU-' || i AS hw_id FROM range({_GPUS}) AS t(i);
        CREATE TABLE metric_samples AS
        SELECT '{names.GPU_DRAM_BANDWIDTH_RATIO}' AS name, 9::UBIGINT AS resource_id, 'GPU-' || i % {_GPUS} AS hw_id,
               NULL::BIGINT AS start_ns,
               {_BEGIN_NS} + i // {_GPUS} * {_PERIOD_NS} + (hash(i) % 1000000)::BIGINT AS ts_ns,
               (hash(i + 1) % 1000000) / 1e6 AS value
        FROM range({samples}) AS t(i);
        CREATE VIEW gpu_samples AS FROM metric_samples;
        CREATE TABLE spans AS
        SELECT (i % {_GPUS})::UBIGINT AS resource_id, printf('%032x', i) AS trace_id, printf('%016x', i) AS span_id,
               '{names.SPAN_STEP}' AS name, {_BEGIN_NS} + i * {every_ns} + (hash(i) % 3000000)::BIGINT AS start_ns,
               start_ns + 1000 + (hash(i + 7) % 40000000)::BIGINT AS end_ns, {ratios}
        FROM range({spans}) AS t(i)
        """
    )


def spent() -> float:
    """Return the CPU time of this process so far [s]."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def stage_seconds(db: duckdb.DuckDBPyConnection) -> float:
    """Run the stage and return its CPU time [s]."""
    before = spent()
    pipeline.run_sql_stage(db, "54_span_counters.sql")
    return spent() - before


def range_join_seconds(spans: int, samples: int) -> tuple[float, float]:
    """Return the CPU time of the range join, and the largest difference from the stage's means where all is covered."""
    with open_store() as db:
        make(db, spans, samples)
        stage_seconds(db)
        before = spent()
        db.execute(_RANGE_JOIN)
        seconds = spent() - before
        query = """
            SELECT max(abs(r.mean - c.mean)), count(*) FROM ranged AS r JOIN span_counters AS c USING (trace_id, span_id)
            WHERE c.covered_share = 1
        """
        ((difference, compared),) = db.execute(query).fetchall()
        if compared < spans // 2:
            sys.exit(f"only {compared} of {spans} means could be compared")
        return seconds, difference


def largest_error(db: duckdb.DuckDBPyConnection) -> float:
    """Return the largest difference of some of the stage's means from those of exact arithmetic over whole numbers."""
    query = """
        SELECT r.hw_id, s.start_ns, s.end_ns, c.mean FROM span_counters AS c JOIN spans AS s USING (trace_id, span_id)
        JOIN resources AS r ON r.resource_id = s.resource_id ORDER BY hash(s.span_id) LIMIT ?
    """
    asked = db.execute(query, [_CHECKED]).fetchall()
    samples: dict[str, tuple[list[int], list[int]]] = {}
    told = """
        SELECT hw_id, list(ts_ns ORDER BY ts_ns), list(round(value * 1e9)::BIGINT ORDER BY ts_ns)
        FROM gpu_samples GROUP BY hw_id
    """
    for hw_id, times, values in db.execute(told).fetchall():
        samples[hw_id] = (times, values)
    worst = 0.0
    for hw_id, start, end, mean in asked:
        times, values = samples[hw_id]
        total = covered = 0
        for at in range(max(1, bisect_left(times, start)), len(times)):
            if times[at - 1] >= end:
                break
            overlap = min(end, times[at]) - max(start, times[at - 1])
            total, covered = total + max(0, overlap) * values[at], covered + max(0, overlap)
        worst = max(worst, abs(mean - float(Fraction(total, covered * _BILLION))))
    return worst


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=7_000_000)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    joins = [range_join_seconds(*size) for size in _SMALL]
    per_pair = min(seconds / (n * m) for (seconds, _), (n, m) in zip(joins, _SMALL, strict=True))
    with open_store() as db:
        make(db, options.spans, options.samples)
        stage = stage_seconds(db)
        ((means,),) = db.execute("SELECT count(*) FROM span_counters").fetchall()
        error = largest_error(db)
    extrapolated = per_pair * options.spans * options.samples
    ratio, difference = extrapolated / stage, max(difference for _, difference in joins)
    document = {
        "spans": options.spans, "samples": options.samples, "means": means, "stage_cpu_s": stage,
        "range_join": [
            {"spans": n, "samples": m, "cpu_s": seconds} for (n, m), (seconds, _) in zip(_SMALL, joins, strict=True)
        ],
        "range_join_extrapolated_cpu_s": extrapolated, "ratio": ratio, "budget_ratio": BUDGET_RATIO,
        "largest_error": error, "difference_from_range_join": difference, "budget_error": BUDGET_ERROR,
    }  # fmt: skip
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        print(
            f"mean of a counter over {options.spans:,} spans from {options.samples:,} samples: {stage:.2f} CPU s"
        )
        for (n, m), (seconds, _) in zip(_SMALL, joins, strict=True):
            print(
                f"  range join of {n:,} x {m:,}: {seconds:.2f} CPU s ({seconds / n / m * 1e12:.0f} ps a pair)"
            )
        print(
            f"  range join of all, extrapolated: {extrapolated:,.0f} CPU s, {ratio:,.0f} x (at least {BUDGET_RATIO:.0f} x)"
        )
        print(f"  largest error against whole numbers: {error:.1e}, against the range join {difference:.1e}")
    return 0 if ratio >= BUDGET_RATIO and error <= BUDGET_ERROR and difference <= BUDGET_ERROR else 1


if __name__ == "__main__":
    sys.exit(main())
