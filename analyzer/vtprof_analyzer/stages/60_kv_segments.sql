-- One row: a stretch of time in which the KV held by all processes together does not change.
-- start_ns, end_ns   Unix time
-- held_tokens, visual_tokens  tokens in the KV caches
-- held_bytes, visual_bytes    the same in bytes; NULL when the bytes of a token are not known
-- source             steps (what the engine held) or requests (prompt and output of each, from first
--                    scheduling to end, where no step recorded it)
CREATE TABLE kv_segments AS
WITH from_steps AS (
    SELECT s.start_ns, s.end_ns, s.kv_used_tokens AS held, least(coalesce(s.kv_visual_tokens, 0), s.kv_used_tokens) AS visual,
           coalesce(r.kv_bytes_per_token, settings.kv_bytes_per_token) AS token_bytes
    FROM steps AS s
    LEFT JOIN resources AS r USING (resource_id), settings
    WHERE s.kv_used_tokens >= 0 AND s.end_ns > s.start_ns
), admitted AS (
    SELECT request_key, max(last_ns) FILTER (phase = 'queue') AS queue_end_ns,
           min(first_ns) FILTER (phase IN ('encode', 'prefill')) AS work_begin_ns
    FROM phases GROUP BY request_key
), from_requests AS (
    SELECT coalesce(a.work_begin_ns, a.queue_end_ns, q.arrival_ns) AS start_ns, q.end_ns,
           greatest(0, q.input_tokens + coalesce(q.output_tokens, 0) - 1) AS held, coalesce(q.visual_tokens, 0) AS visual,
           coalesce(r.kv_bytes_per_token, settings.kv_bytes_per_token) AS token_bytes
    FROM request_base AS q
    LEFT JOIN admitted AS a USING (request_key)
    LEFT JOIN resources AS r ON q.resource_id = r.resource_id, settings
    WHERE q.input_tokens IS NOT NULL AND q.ttft_ns IS NOT NULL AND NOT EXISTS (FROM from_steps)
      -- Without the visual part the picture would say that there was none.
      AND q.visual_tokens IS NOT NULL
), held AS (
    SELECT *, 'steps' AS source FROM from_steps
    UNION ALL BY NAME
    SELECT *, 'requests' AS source FROM from_requests WHERE end_ns > start_ns
), events AS (
    SELECT start_ns AS ts, held, visual, held * token_bytes AS bytes, visual * token_bytes AS visual_bytes, source FROM held
    UNION ALL
    SELECT end_ns AS ts, -held, -visual, -held * token_bytes, -visual * token_bytes, source FROM held
), moments AS (
    SELECT ts, sum(held) AS held, sum(visual) AS visual, sum(bytes) AS bytes, sum(visual_bytes) AS visual_bytes,
           any_value(source) AS source, count(*) = count(bytes) AS bytes_known
    FROM events GROUP BY ts
), running AS (
    SELECT ts AS start_ns, lead(ts) OVER time AS end_ns, sum(held) OVER time AS held_tokens,
           sum(visual) OVER time AS visual_tokens, sum(bytes) OVER time AS held_bytes,
           sum(visual_bytes) OVER time AS visual_bytes, bool_and(bytes_known) OVER () AS bytes_known, source
    FROM moments
    WINDOW time AS (ORDER BY ts)
)
SELECT start_ns, end_ns, held_tokens::BIGINT AS held_tokens, visual_tokens::BIGINT AS visual_tokens,
       CASE WHEN bytes_known THEN held_bytes::BIGINT END AS held_bytes,
       CASE WHEN bytes_known THEN visual_bytes::BIGINT END AS visual_bytes, source
FROM running
WHERE end_ns IS NOT NULL;
