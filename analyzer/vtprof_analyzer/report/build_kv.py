"""The KV part of the report, and the four shares of visual-token dominance."""

import duckdb

from vtprof_analyzer.report.build_rows import Row, one, percentiles, rows, whole
from vtprof_analyzer.report.model import (
    Dominance,
    Kv,
    KvByModality,
    KvPoint,
    TtftWithoutVisual,
    VisualDominance,
)

RECORDED = "recorded by the probe"
DERIVED = "derived from the model's config"
UNKNOWN = "not known: neither recorded nor derivable without the model's config"

_BY_MODALITY = """
SELECT sum(text_tokens)::BIGINT AS text, sum(image_tokens)::BIGINT AS image, sum(video_tokens)::BIGINT AS video,
       sum(audio_tokens)::BIGINT AS audio, sum(greatest(0, output_tokens - 1))::BIGINT AS output,
       sum(text_tokens * kv_bytes_per_token)::HUGEINT AS text_bytes,
       sum(image_tokens * kv_bytes_per_token)::HUGEINT AS image_bytes,
       sum(video_tokens * kv_bytes_per_token)::HUGEINT AS video_bytes,
       sum(audio_tokens * kv_bytes_per_token)::HUGEINT AS audio_bytes,
       sum(greatest(0, output_tokens - 1) * kv_bytes_per_token)::HUGEINT AS output_bytes
FROM request_base JOIN (SELECT request_key, kv_bytes_per_token FROM requests) USING (request_key)
"""

_HOW_WITHOUT = (
    "TTFT less encode, less preprocessing beyond the median of text-only requests, less the visual part of prefill"
    " by FLOPs; queueing is left as it was"
)


def build_kv(connection: duckdb.DuckDBPyConnection) -> Kv:
    """Return the KV footprint; bytes are None where the bytes of a token are not known."""
    row = one(
        connection,
        """
        SELECT sum(kv_bytes)::HUGEINT AS bytes, sum(kv_visual_bytes)::HUGEINT AS visual_bytes,
               bool_and(kv_recorded) FILTER (kv_bytes IS NOT NULL) AS recorded, max(kv_bytes_per_token) AS token_bytes,
               quantile_cont(kv_bytes, 0.50) AS kv_p50, quantile_cont(kv_bytes, 0.95) AS kv_p95,
               quantile_cont(kv_bytes, 0.99) AS kv_p99
        FROM requests
        """,
    )
    capacity = one(
        connection,
        """
        SELECT sum(kv_capacity_tokens * kv_bytes_per_token)::HUGEINT AS bytes, any_value(kv_dtype) AS dtype
        FROM (SELECT DISTINCT service_instance_id, rank, kv_capacity_tokens, kv_bytes_per_token, kv_dtype
              FROM resources WHERE resource_id IN (SELECT resource_id FROM spans WHERE dialect IS NOT NULL))
        """,
    )
    steps = one(connection, "SELECT sum(preemptions)::BIGINT AS preemptions, count(*) AS steps FROM steps")
    peak = one(connection, "SELECT max(held_bytes) AS bytes FROM kv_segments")["bytes"]
    held = rows(connection, "SELECT seconds, visual_bytes, held_bytes FROM kv_held ORDER BY point")
    known = row["bytes"] is not None
    return Kv(
        bytes_per_token=whole(row["token_bytes"]),
        dtype=capacity["dtype"],
        bytes_total=row["bytes"],
        visual_bytes_total=row["visual_bytes"],
        bytes_per_request=percentiles(row, "kv"),
        peak_held_bytes=peak,
        capacity_bytes=capacity["bytes"],
        peak_usage_ratio=peak / capacity["bytes"] if peak is not None and capacity["bytes"] else None,
        preemptions=steps["preemptions"] if steps["steps"] else None,
        by_modality=_by_modality(one(connection, _BY_MODALITY)),
        held=[KvPoint(p["seconds"], p["visual_bytes"], p["held_bytes"] - p["visual_bytes"]) for p in held],
        how=UNKNOWN if not known else RECORDED if row["recorded"] else DERIVED,
    )


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
    without = one(
        connection,
        # Where a part of the requests is unknown, percentiles over the rest would compare two populations.
        """
        SELECT CASE WHEN count(ttft_without_visual_ms) = count(*)
                    THEN quantile_cont(ttft_without_visual_ms, 0.50) END AS p50,
               CASE WHEN count(ttft_without_visual_ms) = count(*)
                    THEN quantile_cont(ttft_without_visual_ms, 0.95) END AS p95
        FROM requests WHERE ttft_ms IS NOT NULL
        """,
    )
    return VisualDominance(
        prompt_tokens=shares["prompt_tokens"],
        kv_token_seconds=shares["kv_token_seconds"],
        prefill_flops=shares["prefill_flops"],
        decode_bytes=shares["decode_bytes"],
        ttft_without_visual_ms=TtftWithoutVisual(without["p50"], without["p95"], _HOW_WITHOUT),
    )
