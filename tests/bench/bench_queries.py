"""Queries over twenty million spans, and a whole `analyze` of a million beside the reading of its files.

The table has the reader's columns and types: percentiles of TTFT by model and hour from logarithmic buckets, and each
phase's span joined to its request by trace and parent id. The percentiles are compared with exact ones. Each measurement
runs in a process of its own. Exit code 1: a budget is missed. CPU seconds.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from million_spans import write_run
from processes import Measured, best, run, tell

SPANS = 20_000_000
ANALYZED_SPANS = 1_000_000
BUDGET_PERCENTILES_CPU_S = 0.5
BUDGET_JOIN_CPU_S = 2.5
"""Both at ``SPANS``; fewer spans are given a part of it."""
BUDGET_ANALYZE = 2.0
"""CPU time of a whole analysis over that of reading."""
BUDGET_ERROR = 0.006
"""Half a bucket's width, and the rounding of ranks."""
_SPANS_PER_REQUEST = 10
_SPANS = f"""
CREATE TABLE spans AS
SELECT printf('%016x', hash(i // {_SPANS_PER_REQUEST})) || printf('%016x', i // {_SPANS_PER_REQUEST}) AS trace_id,
       printf('%016x', hash(i + 1)) AS span_id,
       CASE WHEN i % {_SPANS_PER_REQUEST} > 0
            THEN printf('%016x', hash(i - i % {_SPANS_PER_REQUEST} + 1)) END AS parent_span_id,
       ['vtprof.request', 'vtprof.preprocess', 'vtprof.queue', 'vtprof.encode', 'vtprof.transfer', 'vtprof.prefill',
        'vtprof.decode', 'vtprof.decode', 'vtprof.decode', 'vtprof.decode'][1 + i % {_SPANS_PER_REQUEST}] AS name,
       1795000000000000000 + i * 4320000 AS start_ns, start_ns + 1 + (hash(i) % 1000000000)::BIGINT AS end_ns,
       CASE WHEN i % {_SPANS_PER_REQUEST} = 0
            THEN 'model-' || (hash(i + 3) % 4)::VARCHAR END AS request_model,
       CASE WHEN i % {_SPANS_PER_REQUEST} = 0
            THEN (exp(17 + 4 * (hash(i + 5) % 1000003) / 1000003))::BIGINT END AS ttft_ns
FROM range(?) AS t (i)
"""
_PERCENTILES = """
WITH buckets AS (
    SELECT request_model AS model, start_ns // 3_600_000_000_000 AS hour,
           ceil(ln(ttft_ns) / ln(1.01))::INTEGER AS bucket, count(*) AS requests
    FROM spans WHERE name = 'vtprof.request' AND ttft_ns > 0
    GROUP BY ALL
), ranked AS (
    SELECT *, sum(requests) OVER (PARTITION BY model, hour ORDER BY bucket) AS up_to,
           sum(requests) OVER (PARTITION BY model, hour) AS total
    FROM buckets
)
SELECT model, hour, quantile::DOUBLE AS quantile, 2 * pow(1.01, min(bucket)) / 2.01 AS ttft_ns
FROM ranked, (VALUES (0.5), (0.95), (0.99)) AS asked (quantile)
WHERE up_to >= quantile * total
GROUP BY ALL
"""
_EXACT = """
SELECT max(abs(p.ttft_ns / e.ttft_ns - 1)), count(*) FROM percentiles AS p
JOIN (SELECT request_model AS model, start_ns // 3_600_000_000_000 AS hour, unnest([0.5, 0.95, 0.99])::DOUBLE AS quantile,
             unnest(quantile_disc(ttft_ns, [0.5, 0.95, 0.99])) AS ttft_ns
      FROM spans WHERE name = 'vtprof.request' GROUP BY model, hour) AS e USING (model, hour, quantile)
"""
_JOIN = """
SELECT r.request_model, s.name, count(*), sum(s.end_ns - s.start_ns)::DOUBLE FROM spans AS s
JOIN spans AS r ON s.trace_id = r.trace_id AND s.parent_span_id = r.span_id
WHERE r.name = 'vtprof.request' GROUP BY ALL
"""


def query(what: str, database: Path) -> list[float]:
    """Run one of the queries over a database; return the rows that it found."""
    import duckdb

    with duckdb.connect(str(database)) as connection:
        if what == "percentiles":
            connection.execute(f"CREATE OR REPLACE TABLE percentiles AS {_PERCENTILES}")
            return [float(connection.execute("SELECT count(*) FROM percentiles").fetchall()[0][0])]
        return [float(sum(row[2] for row in connection.execute(_JOIN).fetchall()))]


def read(what: str, folder: Path) -> list[float]:
    """Read traces, or analyze them from reading to the report; return the number of spans, or of the report's letters."""
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


def measure_queries(spans: int, repeats: int) -> tuple[dict[str, Measured], float]:
    """Return the best run of each query, and the largest error of the percentiles."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="vtprof-bench-") as name:
        database = Path(name) / "spans.duckdb"
        with duckdb.connect(str(database)) as connection:
            connection.execute(_SPANS, [spans])
        found = {what: _repeated(what, database, repeats) for what in ("percentiles", "join")}
        with duckdb.connect(str(database)) as connection:
            ((error, compared),) = connection.execute(_EXACT).fetchall()
    if (
        compared != found["percentiles"].result[0]
        or found["join"].result[0] != spans - spans // _SPANS_PER_REQUEST
    ):
        sys.exit("a query does not find what is there")
    return found, float(error)


def measure_analysis(spans: int, repeats: int) -> dict[str, Measured]:
    """Return the best run of reading a run of so many spans, and of analyzing it."""
    with tempfile.TemporaryDirectory(prefix="vtprof-bench-") as name:
        made = write_run(Path(name) / "traces", spans)
        return {what: _repeated(what, made.folder, repeats) for what in ("ingest", "analyze")}


def _repeated(what: str, place: Path, repeats: int) -> Measured:
    return best([measured for _ in range(repeats) if (measured := run(__file__, "--do", what, place))])


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=SPANS)
    parser.add_argument("--analyzed-spans", type=int, default=ANALYZED_SPANS)
    parser.add_argument("--repeats", type=int, default=2, help="runs of each, of which the best counts")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--do", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do:
        what, place = options.do[0], Path(options.do[1])
        tell(lambda: (query if what in ("percentiles", "join") else read)(what, place))
        return 0
    queries, error = measure_queries(options.spans, options.repeats)
    analysis = measure_analysis(options.analyzed_spans, options.repeats)
    part = options.spans / SPANS
    ratio = analysis["analyze"].cpu_s / analysis["ingest"].cpu_s
    judged = {
        "percentiles_cpu_s": (queries["percentiles"].cpu_s, BUDGET_PERCENTILES_CPU_S * part),
        "join_cpu_s": (queries["join"].cpu_s, BUDGET_JOIN_CPU_S * part),
        "largest_error": (error, BUDGET_ERROR),
        "analyze_over_ingest": (ratio, BUDGET_ANALYZE),
    }
    missed = [what for what, (reached, most) in judged.items() if reached > most]
    if options.json:
        document = {
            "spans": options.spans, "analyzed_spans": options.analyzed_spans, "missed": missed,
            "ingest_cpu_s": analysis["ingest"].cpu_s, "analyze_cpu_s": analysis["analyze"].cpu_s,
            "reached": {what: {"value": reached, "most": most} for what, (reached, most) in judged.items()},
        }  # fmt: skip
        print(json.dumps(document, indent=2))
        return 1 if missed else 0
    print(f"{options.spans:,} spans; best of {options.repeats}")
    if part != 1:
        print(f"  (the budgets are those of {SPANS:,} spans, in proportion)")
    for what, (reached, most) in judged.items():
        print(
            f"  {what.replace('_', ' '):<20} {reached:.3g}, at most {most:.3g} {'MISSED' if what in missed else 'ok'}"
        )
    seconds = ", ".join(f"{what} {m.cpu_s:.1f} CPU s" for what, m in analysis.items())
    print(f"  ({options.analyzed_spans:,} spans: {seconds})")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
