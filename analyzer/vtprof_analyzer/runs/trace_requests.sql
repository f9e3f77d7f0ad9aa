-- One row: one request, in the units of `Requests`, in order of arrival. NULL is not known.
-- start_ns ... kv_bytes, weight  the fields by their names
-- id                 trace id; model and status: '' where not recorded
-- impossible         why its times cannot be: a reason in words, '' where they can
WITH processes AS (
    -- What was exported before the cache was allocated lacks what later resources of its process say.
    SELECT resource_id,
           coalesce(kv_bytes_per_token, max(kv_bytes_per_token) OVER process) AS token_bytes,
           coalesce(kv_fixed_bytes, max(kv_fixed_bytes) OVER process, 0) AS fixed_bytes
    FROM resources
    WINDOW process AS (PARTITION BY coalesce(service_instance_id, resource_id::VARCHAR))
), encoder AS (
    -- As in `caches`: items are encoded or found, where both are told.
    SELECT request_number, sum(greatest(0, cache_hits)) AS hits, sum(greatest(0, coalesce(items, 0))) AS encoded
    FROM phase_intervals WHERE phase = 'encode' AND cache_hits IS NOT NULL
    GROUP BY request_number
), faulty AS (
    SELECT request_number, bool_or(negative_duration) AS negative
    FROM phase_intervals WHERE phase <> 'decode' AND (negative_duration OR end_missing)
    GROUP BY request_number
)
SELECT
    q.trace_id AS id, coalesce(q.model, '') AS model, q.arrival_ns AS start_ns,
    CASE WHEN q.status = 'unknown' THEN 'unknown status' ELSE coalesce(q.status, '') END AS status,
    CASE WHEN q.negative_duration THEN 'negative duration'
         WHEN q.impossible_ttft THEN 'impossible TTFT'
         WHEN f.negative THEN 'negative duration of a phase'
         WHEN f.request_number IS NOT NULL THEN 'phase without an end' ELSE '' END AS impossible,
    -- The engines' own spans tell the prompt's tokens, not of which kind: all count as text (a note says so).
    coalesce(q.text_tokens, CASE WHEN q.input_tokens >= coalesce(q.visual_tokens, 0) + coalesce(q.audio_tokens, 0)
                                 THEN q.input_tokens - coalesce(q.visual_tokens, 0) - coalesce(q.audio_tokens, 0) END)::DOUBLE
        AS text_tokens,
    CASE WHEN q.visual_tokens IS NOT NULL THEN q.visual_tokens WHEN q.text_tokens IS NULL AND q.input_tokens >= 0 THEN 0 END::DOUBLE
        AS visual_tokens, q.audio_tokens::DOUBLE AS audio_tokens,
    q.output_tokens::DOUBLE AS output_tokens, q.cached_tokens::DOUBLE AS cached_tokens,
    CASE WHEN q.image_items IS NOT NULL OR q.video_items IS NOT NULL
         THEN coalesce(q.image_items, 0) + coalesce(q.video_items, 0) END::DOUBLE AS images,
    e.hits / nullif(e.hits + e.encoded, 0) AS encoder_hit,
    b.preprocess_ns / 1e6 AS preprocess_ms, b.queue_ns / 1e6 AS queue_ms, b.encode_ns / 1e6 AS encode_ms,
    b.transfer_ns / 1e6 AS transfer_ms, b.prefill_ns / 1e6 AS prefill_ms, b.unexplained_ns / 1e6 AS unexplained_ms,
    b.ttft_ns / 1e6 AS ttft_ms, q.tpot_ns / 1e6 AS tpot_ms,
    coalesce(
        q.recorded_kv_bytes,
        -- As in `requests`: the last token of each sequence is answered, not cached.
        CASE WHEN q.output_tokens IS NOT NULL
             THEN (q.sequences * q.input_tokens + greatest(0, q.output_tokens - q.sequences)) * p.token_bytes
                  + q.sequences * p.fixed_bytes END
    )::DOUBLE AS kv_bytes,
    q.weight::DOUBLE AS weight,
    q.end_ns
FROM request_base AS q
LEFT JOIN request_budget AS b USING (request_number)
LEFT JOIN processes AS p USING (resource_id)
LEFT JOIN encoder AS e USING (request_number)
LEFT JOIN faulty AS f USING (request_number)
ORDER BY start_ns, q.request_number
