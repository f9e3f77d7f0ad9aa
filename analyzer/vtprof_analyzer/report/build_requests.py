"""The parts of the report that are about requests: summary, TTFT budget, strata."""

import duckdb

from vtprof_analyzer.report.build_rows import one, percentiles, rows
from vtprof_analyzer.report.model import BudgetRow, StratumRow, Summary, TtftBudget
from vtprof_analyzer.report.model_requests import ModelRow
from vtprof_schemas import names

_NS_PER_S = 1e9

_SUMMARY = """
SELECT
    count(*) AS requests,
    count(*) FILTER (status = 'ok') AS ok, count(*) FILTER (status = 'aborted') AS aborted,
    count(*) FILTER (status = 'rejected') AS rejected, count(*) FILTER (status = 'error') AS error,
    count(*) FILTER (status IS NULL) AS unknown,
    CASE WHEN count(n_visual_tokens) > 0 THEN count(*) FILTER (n_visual_tokens > 0) END AS with_visual,
    sum(n_prompt_tokens)::BIGINT AS input_tokens, sum(n_text_tokens)::BIGINT AS text_tokens,
    sum(n_visual_tokens)::BIGINT AS visual_tokens, sum(n_audio_tokens)::BIGINT AS audio_tokens,
    sum(cached_tokens)::BIGINT AS cached_tokens, sum(n_output_tokens)::BIGINT AS output_tokens,
    sum(n_images)::BIGINT AS image_items, sum(n_videos)::BIGINT AS video_items,
    (max(end_unix_nano) - min(start_unix_nano)) AS duration_ns, coalesce(bool_or(weight > 1), false) AS weighted
FROM requests
"""


def build_summary(connection: duckdb.DuckDBPyConnection) -> Summary:
    """Return the run in numbers; tokens that no request recorded are None."""
    row = one(connection, _SUMMARY)
    spans = one(connection, "SELECT used_spans FROM integrity")["used_spans"]
    duration = row["duration_ns"]
    return Summary(
        requests=row["requests"],
        # An engine's own span stands for a request that ended: only those that did have one.
        requests_ok=row["ok"] + row["unknown"],
        requests_aborted=row["aborted"],
        requests_rejected=row["rejected"],
        requests_error=row["error"],
        requests_with_visual=row["with_visual"],
        spans=spans,
        input_tokens=row["input_tokens"],
        text_tokens=row["text_tokens"],
        visual_tokens=row["visual_tokens"],
        audio_tokens=row["audio_tokens"],
        cached_tokens=row["cached_tokens"],
        output_tokens=row["output_tokens"],
        image_items=row["image_items"],
        video_items=row["video_items"],
        duration_s=None if duration is None else duration / _NS_PER_S,
        ttft_ms=percentiles(connection, "ttft_ms"),
        tpot_ms=percentiles(connection, "tpot_ms"),
        e2e_ms=percentiles(connection, "e2e_ms"),
        weighted=row["weighted"],
    )


def build_ttft_budget(connection: duckdb.DuckDBPyConnection) -> TtftBudget:
    """Return where TTFT goes, over all requests with a first token and over the slowest of them."""
    order = [*names.TTFT_PHASES, names.UNEXPLAINED]
    parts = {(row["population"], row["phase"]): row for row in rows(connection, "SELECT * FROM ttft_budget")}
    populations = {"all": 0, "tail": 0}
    tables: dict[str, list[BudgetRow]] = {"all": [], "tail": []}
    for population, table in tables.items():
        for phase in order:
            if row := parts.get((population, phase)):
                populations[population] = row["requests"]
                table.append(BudgetRow(phase, row["share"], row["p50_ms"], row["p95_ms"]))
    return TtftBudget(populations["all"], tables["all"], populations["tail"], tables["tail"])


def build_strata(connection: duckdb.DuckDBPyConnection) -> list[StratumRow]:
    """Return TTFT by visual stratum, in order."""
    found = rows(connection, "SELECT * EXCLUDE (position) FROM strata ORDER BY position")
    return [StratumRow(**row) for row in found]


def build_by_model(connection: duckdb.DuckDBPyConnection) -> list[ModelRow]:
    """Return the requests by model, the most first; nothing where all asked for one."""
    found = rows(
        connection,
        """
        SELECT * EXCLUDE (energy_mj, energy_low_mj, energy_high_mj), energy_mj / 1e3 AS energy_j,
               energy_low_mj / 1e3 AS energy_low_j, energy_high_mj / 1e3 AS energy_high_j
        FROM by_model ORDER BY requests DESC, model
        """,
    )
    return [ModelRow(**row) for row in found] if len(found) > 1 else []
