"""The shares of visual-token dominance for the report, and the times as they would be without visual tokens."""

import duckdb

from vtprof_analyzer.report.build_rows import one, percentiles, rows
from vtprof_analyzer.report.model import Dominance, Percentiles, TtftWithoutVisual, VisualDominance
from vtprof_analyzer.report.model_dominance import ContextWindow, TpotWithoutVisual, VisualPreemptions

_HOW_TTFT = (
    "if no request had any: TTFT less all encoding it waited for, its own or its neighbours', less preprocessing beyond"
    " the median of text-only requests, less the visual part of prefill by FLOPs; other queueing stays"
)


_HOW_TPOT = (
    "if no request had any: TPOT less what the steps meanwhile spent on encoding, on the visual part of prefill by FLOPs"
    " and, where bytes limit decode, on reading visual KV; other waiting stays"
)
_TPOT_TIMES = """
CREATE OR REPLACE TEMP VIEW tpot_times AS
SELECT weight, unnest([
           {what: 'ms', value: w.ms}, {what: 'kv', value: w.kv_ms}, {what: 'recorded', value: tpot_ms}
       ], recursive := true)
FROM requests JOIN tpot_without_visual AS w USING (request_number)
"""
_WINDOW = """
CREATE OR REPLACE TEMP VIEW context_parts AS
SELECT weight, unnest([{what: 'visual', value: visual_ratio}, {what: 'filled', value: window_ratio}], recursive := true)
FROM context_share JOIN request_base USING (request_number) WHERE visual_ratio IS NOT NULL
"""


def build_dominance(connection: duckdb.DuckDBPyConnection) -> VisualDominance:
    """Return the shares with their thresholds, and TTFT and TPOT without visual tokens."""
    shares = {
        r["measure"]: Dominance(r["share"], r["threshold"], r["dominant"])
        for r in rows(connection, "FROM dominance")
    }
    known = one(
        connection,
        # Where a part of the requests is unknown, percentiles over the rest would compare two populations.
        """
        SELECT count(ttft_without_visual_ms) = count(*) AS of_all FROM requests WHERE ttft_ms IS NOT NULL
        """,
    )
    without = (
        percentiles(connection, "ttft_without_visual_ms")
        if known["of_all"]
        else Percentiles(None, None, None)
    )
    return VisualDominance(
        prompt_tokens=shares["prompt_tokens"],
        kv_token_seconds=shares["kv_token_seconds"],
        prefill_flops=shares["prefill_flops"],
        decode_bytes=shares["decode_bytes"],
        ttft_without_visual_ms=TtftWithoutVisual(without.p50, without.p95, _HOW_TTFT),
        tpot_without_visual_ms=_tpot(connection),
        ttft=_known(shares["ttft"]),
        tpot=_known(shares["tpot"]),
        context_window=_context_window(connection, shares["context_window"]),
        preemptions=_preemptions(connection, shares["preemptions"]),
    )


def _known(share: Dominance) -> Dominance | None:
    return share if share.share is not None else None


def _tpot(connection: duckdb.DuckDBPyConnection) -> TpotWithoutVisual | None:
    requests = one(connection, "SELECT count(*) AS requests FROM tpot_without_visual")["requests"]
    if not requests:
        return None
    connection.execute(_TPOT_TIMES)
    at = _quantiles(connection, "tpot_times")
    return TpotWithoutVisual(
        requests,
        p50=at["ms", 0.5],
        p95=at["ms", 0.95],
        kv_p50=at["kv", 0.5],
        kv_p95=at["kv", 0.95],
        recorded_p50=at["recorded", 0.5],
        recorded_p95=at["recorded", 0.95],
        how=_HOW_TPOT,
    )


def _context_window(connection: duckdb.DuckDBPyConnection, share: Dominance) -> ContextWindow | None:
    found = one(
        connection,
        """
        SELECT count(*) AS requests, CASE WHEN count(DISTINCT context_tokens) = 1 THEN max(context_tokens) END AS tokens
        FROM context_share WHERE visual_ratio IS NOT NULL
        """,
    )
    # Known for too few requests it is not that of the run.
    if not found["requests"] or share.share is None:
        return None
    connection.execute(_WINDOW)
    at = _quantiles(connection, "context_parts")
    return ContextWindow(
        found["requests"],
        found["tokens"],
        visual_p50=at["visual", 0.5],
        visual_p95=at["visual", 0.95],
        filled_p95=at["filled", 0.95],
        share=share.share,
        threshold=share.threshold,
        dominant=share.dominant,
    )


def _preemptions(connection: duckdb.DuckDBPyConnection, share: Dominance) -> VisualPreemptions | None:
    found = one(
        connection,
        "SELECT sum(count)::BIGINT AS count, sum(attributed_to_images) AS attributed FROM preemptions",
    )
    if not found["count"]:
        return None
    return VisualPreemptions(
        found["count"], found["attributed"], share.share, share.threshold, share.dominant
    )


def _quantiles(connection: duckdb.DuckDBPyConnection, view: str) -> dict[tuple[str, float], float | None]:
    """Return each quantile of each thing that a view of (what, value, weight) holds."""
    found = rows(connection, f"FROM weighted_quantiles('{view}')")
    return {(row["what"], row["quantile"]): row["value"] for row in found}
