"""The parts of the report that look closer at TTFT: percentiles by visual stratum, causes of queueing, preprocessing."""

import duckdb

from vtprof_analyzer.report.build_rows import Row, one, rows
from vtprof_analyzer.report.model_requests import (
    BudgetPart,
    PreprocessPart,
    QueueBlame,
    QueueCause,
    StratumBudget,
    TtftDetail,
)
from vtprof_schemas import names

_ORDER = [*names.TTFT_PHASES, names.UNEXPLAINED]

_CAUSES = """
WITH waited AS MATERIALIZED (
    SELECT b.request_number, q.weight, b.queue_ns FROM request_budget AS b JOIN request_base AS q USING (request_number)
), causes AS (
    -- Whole numbers, of femtoseconds, add up to the same in any order.
    SELECT cause, sum(TRY_CAST(ns * weight * 1e6 AS HUGEINT)) / 1e6 AS ns, count(*) AS requests
    FROM queue_blame JOIN waited USING (request_number) GROUP BY cause HAVING sum(ns) > 0
), told AS (
    -- A request without the cause counts as zero.
    SELECT c.cause AS what, coalesce(b.ns, 0) / 1e6 AS value, w.weight
    FROM causes AS c CROSS JOIN waited AS w
    LEFT JOIN queue_blame AS b ON b.request_number = w.request_number AND b.cause = c.cause
), quantiles AS (
    SELECT what, value FROM weighted_quantiles('told') WHERE quantile = 0.95
)
SELECT cause, ns / (SELECT nullif(sum(TRY_CAST(queue_ns * weight * 1e6 AS HUGEINT)) / 1e6, 0) FROM waited) AS share,
       ns / 1e6 / (SELECT sum(TRY_CAST(weight * 1e9 AS HUGEINT)) / 1e9 FROM waited) AS mean_ms, q.value AS p95_ms
FROM causes JOIN quantiles AS q ON q.what = cause
ORDER BY ns DESC, cause
"""

_PARTS = """
WITH parts AS (
    SELECT q.weight, p.preprocess_ns, unnest([
               {part: 'fetch', ns: p.fetch_ns}, {part: 'decode', ns: p.decode_ns},
               {part: 'processor', ns: p.processor_ns}, {part: 'waiting', ns: p.waiting_ns}
           ], recursive := true)
    FROM request_parts AS p JOIN request_base AS q USING (request_number)
), told AS (
    SELECT part AS what, ns / 1e6 AS value, weight FROM parts
), quantiles AS (
    SELECT what, max(value) FILTER (quantile = 0.5) AS p50_ms, max(value) FILTER (quantile = 0.95) AS p95_ms
    FROM weighted_quantiles('told') GROUP BY what
)
SELECT part,
       sum(TRY_CAST(ns * weight * 1e6 AS HUGEINT))
           / nullif(sum(TRY_CAST(preprocess_ns * weight * 1e6 AS HUGEINT)), 0) AS share,
       any_value(p50_ms) AS p50_ms, any_value(p95_ms) AS p95_ms, count(*) AS requests
FROM parts JOIN quantiles ON what = part
WHERE ns IS NOT NULL
GROUP BY part
ORDER BY list_position(['fetch', 'decode', 'processor', 'waiting'], part)
"""


def build_ttft_detail(connection: duckdb.DuckDBPyConnection) -> TtftDetail:
    """Return what percentiles of TTFT consist of, what the queue waited for, and what preprocessing did."""
    return TtftDetail(
        strata=_strata(connection),
        queue=_queue(connection),
        preprocess=[PreprocessPart(**row) for row in rows(connection, _PARTS)],
    )


def _strata(connection: duckdb.DuckDBPyConnection) -> list[StratumBudget]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows(connection, "SELECT * FROM ttft_strata ORDER BY position, percentile"):
        found.setdefault((row["visual_stratum"], row["percentile"]), []).append(row)
    return [
        StratumBudget(
            visual_stratum=stratum,
            percentile=percentile,
            requests=parts[0]["requests"],
            stratum_requests=parts[0]["stratum_requests"],
            ttft_ms=parts[0]["ttft_ms"],
            phases=[
                BudgetPart(part["phase"], part["share"], part["ms"])
                for part in sorted(parts, key=lambda part: _ORDER.index(part["phase"]))
            ],
        )
        for (stratum, percentile), parts in found.items()
    ]


def _queue(connection: duckdb.DuckDBPyConnection) -> QueueBlame | None:
    waited = one(
        connection,
        """
        SELECT count(*) AS requests, count(*) FILTER (b.queue_ns > 0) AS queued,
               sum(TRY_CAST(b.queue_ns * q.weight * 1e6 AS HUGEINT)) / 1e12
                   / nullif(sum(TRY_CAST(q.weight * 1e9 AS HUGEINT)) / 1e9, 0)
                   AS queue_ms_mean,
               (SELECT count(*) FROM exposures) AS exposures
        FROM request_budget AS b JOIN request_base AS q USING (request_number)
        """,
    )
    if not waited["queued"] or not waited["exposures"]:
        return None
    causes = [QueueCause(**row) for row in rows(connection, _CAUSES)]
    return QueueBlame(waited["requests"], waited["queued"], waited["queue_ms_mean"], causes)
