"""The KV part of the report: what requests wrote, what was held over time, and what would still fit."""

import duckdb

from vtprof_analyzer.report.build_rows import Row, one, row_percentiles, rows, whole
from vtprof_analyzer.report.model import Kv, KvByModality, KvPoint
from vtprof_analyzer.report.model_kv import KvFullest, KvHeadroom, KvOverTime

RECORDED = "recorded by the probe"
DERIVED = "derived from the model's config"
UNKNOWN = "not known: neither recorded nor derivable without the model's config"

# The bytes of both come from the same requests: those whose bytes of a token are known, or all when none are.
_SIZED = """
WITH known AS (
    SELECT *, kv_bytes IS NOT NULL AND kv_bytes_per_token IS NOT NULL AS sized
    FROM requests JOIN (SELECT request_number, image_tokens, video_tokens FROM request_base) USING (request_number)
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
       min(kv_bytes_per_token) AS token_bytes_min, max(kv_bytes_per_token) AS token_bytes_max,
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
_MODALITIES = ("text", "image", "video", "audio", "output")
_PEAK = """
SELECT max(held_bytes) AS bytes, arg_max(has_max, held_bytes) AS has_max, any_value(source) AS source FROM kv_held
"""
_CAPACITY = """
SELECT (SELECT kv_capacity_bytes FROM facts_memory WHERE scope = 0) AS bytes,
       CASE WHEN count(DISTINCT kv_dtype) = 1 THEN max(kv_dtype) END AS dtype
FROM kv_caches
"""
_FULLEST = """
WITH caches_of AS (
    SELECT k.instance, max(k.capacity_tokens * k.token_bytes) AS capacity_bytes
    FROM kv_sizes AS k
    WHERE k.resource_id NOT IN (SELECT resource_id FROM counted_ranks WHERE NOT counted)
    GROUP BY k.instance HAVING capacity_bytes > 0
)
SELECT instance, max(peak_bytes) AS peak_held_bytes, any_value(capacity_bytes) AS capacity_bytes,
       max(peak_bytes) / any_value(capacity_bytes) AS peak_usage_ratio, count(*) OVER () AS processes
FROM kv_segments JOIN caches_of USING (instance)
WHERE peak_bytes IS NOT NULL
GROUP BY instance
ORDER BY peak_usage_ratio DESC, instance LIMIT 1
"""
_OVER_TIME = """
WITH whole AS (
    SELECT sum(token_seconds) AS token_seconds,
           CASE WHEN count(byte_seconds) = count(*) THEN sum(byte_seconds) END AS byte_seconds
    FROM kv
)
SELECT modality, CASE WHEN any_value(whole.byte_seconds) IS NOT NULL THEN sum(kv.byte_seconds) END AS byte_seconds,
       sum(kv.token_seconds) AS token_seconds,
       CASE WHEN any_value(whole.byte_seconds) IS NOT NULL THEN any_value(together_peak_bytes) END AS peak_bytes,
       coalesce(sum(kv.byte_seconds) / nullif(any_value(whole.byte_seconds), 0),
                sum(kv.token_seconds) / nullif(any_value(whole.token_seconds), 0)) AS share
FROM kv, whole
GROUP BY modality
"""


def build_kv(connection: duckdb.DuckDBPyConnection) -> Kv:
    """Return the KV footprint; bytes are None where the bytes of a token are not known."""
    row = one(connection, _TOTALS)
    capacity = one(connection, _CAPACITY)
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
        capacity_bytes=whole(capacity["bytes"]),
        peak_usage_ratio=peak["bytes"] / capacity["bytes"]
        if peak["bytes"] is not None and capacity["bytes"]
        else None,
        preemptions=steps["preemptions"] if steps["steps"] else None,
        by_modality=_by_modality(one(connection, _BY_MODALITY)),
        held=[KvPoint(p["seconds"], p["visual_bytes"], p["held_bytes"] - p["visual_bytes"]) for p in held],
        how=_how(row["recorded"], row["derived"], row["requests"]),
        peak_kind=_peak_kind(peak),
        over_time=_over_time(connection),
        over_time_difference=one(
            connection,
            # Rounded: where both are the same, the rest is what the order of adding leaves.
            "SELECT round(sum(requests_token_seconds) / nullif(sum(engine_token_seconds), 0) - 1, 9) AS ratio"
            " FROM kv_reconciled",
        )["ratio"],
        headroom=[
            KvHeadroom(**row)
            for row in rows(connection, "FROM kv_headroom ORDER BY free_p05_bytes / capacity_bytes, instance")
        ],
        fullest=_fullest(connection),
        bytes_per_token_min=whole(row["token_bytes_min"]),
        bytes_per_token_max=whole(row["token_bytes_max"]),
    )


def _fullest(connection: duckdb.DuckDBPyConnection) -> KvFullest | None:
    """Return the process that the peak of all together hides; with one process there is nothing to hide."""
    found = rows(connection, _FULLEST)
    if not found or found[0].pop("processes") < 2:
        return None
    return KvFullest(**found[0])


def _over_time(connection: duckdb.DuckDBPyConnection) -> list[KvOverTime]:
    found = {row["modality"]: row for row in rows(connection, _OVER_TIME)}
    return [
        KvOverTime(
            modality, row["byte_seconds"], row["token_seconds"], whole(row["peak_bytes"]), row["share"]
        )
        for modality in _MODALITIES
        if (row := found.get(modality))
    ]


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
    modalities = [m for m in _MODALITIES if row[m] is not None]
    total = sum(row[m] for m in modalities)
    # The shares of a run that recorded only its outputs would look like a measurement.
    known = any(m != "output" for m in modalities)
    return [
        KvByModality(m, row[m], row[f"{m}_bytes"], row[m] / total if total and known else None)
        for m in modalities
    ]
