"""Comments in the database of `vtprof analyze --db`: all tables and columns have one."""

from pathlib import Path

import duckdb
import pytest
from analyze_run import RESOURCE, Run, one_request
from otlp_builder import document, write

from vtprof_schemas import SCHEMA_VERSION, names

SAID = {
    # tables.sql, beside the column; the same of the rows that the view reads.
    ("main.spans", "ttft_ns"): "request: arrival to first token [ns]",
    ("main.span_rows", "ttft_ns"): "request: arrival to first token [ns]",
    ("main.ingest_files", "bytes"): "size on disk",
    ("main.gpu_samples", "ts_ns"): "time of the reading",
    # Headers of stages: a line, columns named together, a pattern, what is said of others behind a semicolon, several lines.
    ("main.requests", "visual_stratum"): "0, 256, 1k, 4k, 16k or more: visual tokens up to that many",
    (
        "main.requests",
        "e2e_ms",
    ): "ttft_ms, tpot_ms, e2e_ms: arrival to first token; time per output token after the first; "
    "arrival to end [ms]",
    ("main.request_base", "video_items"): "images, videos, audio clips in the prompt",
    ("main.steps", "duration_ns"): "wall time [ns]",
    ("main.steps", "gpu_time_ns"): "GPU time, NULL on a machine without a GPU",
    (
        "main.request_base",
        "arrival_ns",
    ): "arrival_ns, end_ns: Unix time; a missing or earlier end is replaced by the last thing "
    "known of the request",
    # Names and patterns that overlap: the first line says it. Settings are the rules' facts, scopes are told in one place.
    ("main.interference_requests", "x16"): "sums of weight x the product of two of x1 to x6, by their digits",
    ("main.interference_requests", "x6y"): "sums of weight x one of x1 to x6, by its digit, x the time y",
    ("main.process_settings", "tp"): "tensor-parallel size [ranks]",
    (
        "main.process_settings",
        "step_tokens_limit",
    ): "tokens of a step, as given; -1 where prompts are not cut into chunks (SGLang)",
    (
        "main.facts_memory",
        "scope",
    ): "0: everything. The only model, or the only process, is everything, and nothing is computed again",
    # Stages in Python, parameters, facts, evidence; there what rules may not name is the table's.
    ("main.step_cost", "flops"): "a multiply-add is two",
    ("main.interference", "why_not"): "why there is no effect",
    ("main.settings", "kv_points"): "Points of the KV picture.",
    (
        "main.settings",
        "verdict_busy_ratio",
    ): "Device time over wall time below which the device mostly waits.",
    ("main.deployment_facts", "window_minutes"): "first arrival to last end [min]",
    ("evidence.requests", "queue_ms"): "queue time before the first token [ms]",
    (
        "evidence.requests",
        "kv_bytes_per_token",
    ): "KV bytes of one token in the process that served it [B/token]",
}


@pytest.mark.parametrize("made", ["read", "from the cache", "with a newer version"])
def test_every_table_and_view_says_what_it_is(run: Run, traces: Path, tmp_path: Path, made: str) -> None:
    if made == "with a newer version":
        newer = {**RESOURCE, names.RESOURCE_SCHEMA_VERSION: SCHEMA_VERSION + 1}
        write(traces / "newer.jsonl", document(*one_request(4), resource=newer))
    for _ in range(1 + (made == "from the cache")):
        assert run("analyze", traces, "--format", "json", "--db", tmp_path / "run.db")[0] == 0
    with duckdb.connect(str(tmp_path / "run.db"), read_only=True) as db:
        told = dict(
            db.execute(
                "SELECT schema_name || '.' || table_name, comment FROM duckdb_tables() WHERE NOT internal UNION ALL"
                " SELECT schema_name || '.' || view_name, comment FROM duckdb_views() WHERE NOT internal"
            ).fetchall()
        )
        columns = {
            (table, name): comment
            for table, name, comment in db.execute(
                "SELECT schema_name || '.' || table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal"
            ).fetchall()
        }
    assert ("main.spans_of_all_versions" in told) == (made == "with a newer version")
    assert (
        len(told) > 90
        and [name for name, comment in told.items() if not (comment or "").startswith("One row")] == []
    )
    # Two tables of one name: each says which it is.
    assert told["main.requests"].startswith(
        "One row: one request, in the units that reports, rules and people read."
    )
    assert (
        "What rules may show as evidence" in told["evidence.requests"]
        and "vtprof_rules/evidence.toml" in told["evidence.steps"]
    )
    assert [place for place, comment in columns.items() if not comment] == []
    # What the cache holds is `spans` itself: there are no rows below it.
    said = {place: text for place, text in SAID.items() if made == "read" or place[0] != "main.span_rows"}
    assert {place: columns.get(place) for place in said} == said
