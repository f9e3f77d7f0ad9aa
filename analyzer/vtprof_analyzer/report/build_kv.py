"""The KV part of the report, and the four shares of visual-token dominance."""

import duckdb

from vtprof_analyzer.report.build_rows import Row, one, percentiles, row_percentiles, rows, whole
from vtprof_analyzer.report.model import (
    Dominance,
    Kv,
    KvByModality,
    KvPoint,
    Percentiles,
    TtftWithoutVisual,
    VisualDominance,
)

RECORDED = "recorded by the probe"
DERIVED = "derived from the model's config"
UNKNOWN = "not known: neither recorded nor derivable without the model's config"

# The bytes of both come from the same requests: those whose bytes of a token are known, or all when none are.
_SIZED = """
WITH known AS (
    SELECT *, kv_bytes IS NOT NULL AND kv_bytes_per_token IS NOT NULL AS sized
    FROM requests JOIN (SELECT request_key, image_tokens, video_tokens FROM request_base) USING (request_key)
), population AS (
    SELECT *, CASE WHEN n_output_tokens IS NOT NULL THEN greatest(0, n_output_tokens - 1) END AS decoded_tokens
    FROM known WHERE sized OR NOT EXISTS (FROM known WHERE sized)
)
"""
_TOTALS = (
    _SIZED
    + """
SELECT sum(kv_bytes)::HUGEINT AS bytes, sum(kv_visual_bytes)::HUGEINT AS visual_bytes,
       CASE WHEN count(DISTINCT kv_bytes_per_token) = 1 THEN max(kv_bytes_per_token) END AS token_bytes,
       quantile_cont(kv_bytes, 0.50) AS kv_p50,
       quantile_cont(kv_bytes, 0.95) AS kv_p95, quantile_cont(kv_bytes, 0.99) AS kv_p99,
       count(*) FILTER (sized AND kv_recorded) AS recorded, count(*) FILTER (sized AND NOT kv_recorded) AS derived,
       (SELECT count(*) FROM requests WHERE ttft_ms IS NOT NULL OR kv_bytes IS NOT NULL) AS requests
FROM population
"""
)
_BY_MODALITY = (
    _SIZED
    + """
SELECT sum(n_text_tokens)::BIGINT AS text, sum(image_tokens)::BIGINT AS image, sum(video_tokens)::BIGINT AS video,
       sum(n_audio_tokens)::BIGINT AS audio, sum(decoded_tokens)::BIGINT AS output,
       sum(n_text_tokens * kv_bytes_per_token)::HUGEINT AS text_bytes,
       sum(image_tokens * kv_bytes_per_token)::HUGEINT AS image_bytes,
       sum(video_tokens * kv_bytes_per_token)::HUGEINT AS video_bytes,
       sum(n_audio_tokens * kv_bytes_per_token)::HUGEINT AS audio_bytes,
       sum(decoded_tokens * kv_bytes_per_token)::HUGEINT AS output_bytes
FROM population
"""
)
_PEAK = """
SELECT max(peak_bytes) AS bytes, arg_max(has_max, peak_bytes) AS has_max, any_value(source) AS source FROM kv_segments
"""

_HOW_WITHOUT = (
    "if no request had any: TTFT less all encoding it waited for, its own or its neighbours', less preprocessing beyond"
    " the median of text-only requests, less the visual part of prefill by FLOPs; other queueing stays"
)


def build_kv(connection: duckdb.DuckDBPyConnection) -> Kv:
    """Return the KV footprint; bytes are None where the bytes of a token are not known."""
    row = one(connection, _TOTALS)
    capacity = one(
        connection,
        """
        SELECT sum(capacity_tokens * token_bytes)::HUGEINT AS bytes,
               CASE WHEN count(DISTINCT kv_dtype) = 1 THEN max(kv_dtype) END AS dtype
        FROM (SELECT k.instance, r.rank, max(k.capacity_tokens) AS capacity_tokens, max(k.token_bytes) AS token_bytes,
                     any_value(r.kv_dtype) AS kv_dtype
              FROM resources AS r JOIN kv_sizes AS k USING (resource_id)
              WHERE resource_id IN (SELECT resource_id FROM spans WHERE dialect IS NOT NULL)
                AND resource_id NOT IN (SELECT resource_id FROM counted_ranks WHERE NOT counted)
              GROUP BY k.instance, r.rank)
        """,
    )
    steps = one(connection, "SELECT sum(preemptions)::BIGINT AS preemptions, count(*) AS steps FROM steps")
    peak = one(connection, _PEAK)
    held = rows(connection, "SELECT seconds, visual_bytes, held_bytes FROM kv_held ORDER BY point")
    return Kv(
        bytes_per_token=whole(row["token_bytes"]),
        dtype=capacity["dtype"],
        bytes_total=row["bytes"],
        visual_bytes_total=row["visual_bytes"],
        bytes_per_request=row_percentiles(row, "kv"),
        peak_held_bytes=peak["bytes"],
        capacity_bytes=capacity["bytes"],
        peak_usage_ratio=peak["bytes"] / capacity["bytes"]
        if peak["bytes"] is not None and capacity["bytes"]
        else None,
        preemptions=steps["preemptions"] if steps["steps"] else None,
        by_modality=_by_modality(one(connection, _BY_MODALITY)),
        held=[KvPoint(p["seconds"], p["visual_bytes"], p["held_bytes"] - p["visual_bytes"]) for p in held],
        how=_how(row["recorded"], row["derived"], row["requests"]),
        peak_kind=_peak_kind(peak),
    )


def _how(recorded: int, derived: int, requests: int) -> str:
    """Say where the bytes are from, and for how many requests when that is not all."""
    parts = [(RECORDED, recorded), (DERIVED, derived)]
    known = [(words, number) for words, number in parts if number]
    if not known:
        return UNKNOWN
    if len(known) == 1 and known[0][1] >= requests:
        return known[0][0]
    return ", ".join(f"{words} for {number} of {requests} requests" for words, number in known)


def _peak_kind(peak: Row) -> str | None:
    if peak["bytes"] is None:
        return None
    if peak["source"] != "steps":
        return "requests"
    return "max" if peak["has_max"] else "mean"


def _by_modality(row: Row) -> list[KvByModality]:
    modalities = [m for m in ("text", "image", "video", "audio", "output") if row[m] is not None]
    total = sum(row[m] for m in modalities)
    # The shares of a run that recorded only its outputs would look like a measurement.
    known = any(m != "output" for m in modalities)
    return [
        KvByModality(m, row[m], row[f"{m}_bytes"], row[m] / total if total and known else None)
        for m in modalities
    ]


def build_dominance(connection: duckdb.DuckDBPyConnection) -> VisualDominance:
    """Return the four shares with their thresholds, and TTFT without visual tokens."""
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
        ttft_without_visual_ms=TtftWithoutVisual(without.p50, without.p95, _HOW_WITHOUT),
    )
