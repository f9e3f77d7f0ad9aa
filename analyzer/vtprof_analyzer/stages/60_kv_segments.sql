-- One row: a stretch of time in which the KV held by all processes together does not change.
-- start_ns, end_ns   Unix time
-- held_tokens, visual_tokens  tokens in the KV caches: time means of the steps that ran in the stretch
-- held_bytes, visual_bytes    the same in bytes, over the processes whose bytes of a token are known
-- peak_bytes, peak_visual_bytes  the most that those steps held [B]; the means where a step recorded no maximum
-- has_max            whether every step of the stretch recorded its maximum
-- source             steps (what the engine held) or requests (prompt and output of each, from first
--                    scheduling to end, where no step recorded it)
CREATE TABLE kv_segments AS
WITH from_steps AS (
    SELECT s.start_ns, s.end_ns, s.kv_used_tokens AS held, least(coalesce(s.kv_visual_tokens, 0), s.kv_used_tokens) AS visual,
           greatest(s.kv_used_tokens, s.kv_used_tokens_max) AS most,
           CASE WHEN s.kv_used_tokens_max IS NULL THEN coalesce(s.kv_visual_tokens, 0)
                ELSE coalesce(s.kv_visual_tokens_max, s.kv_visual_tokens, 0) END AS most_visual,
           (s.kv_used_tokens_max IS NULL)::INT AS without_max, k.token_bytes
    FROM steps AS s
    LEFT JOIN kv_sizes AS k USING (resource_id)
    WHERE s.kv_used_tokens >= 0 AND s.end_ns > s.start_ns
), admitted AS (
    SELECT request_key, max(last_ns) FILTER (phase = 'queue') AS queue_end_ns,
           min(first_ns) FILTER (phase IN ('encode', 'prefill')) AS work_begin_ns
    FROM phases GROUP BY request_key
), from_requests AS (
    SELECT coalesce(a.work_begin_ns, a.queue_end_ns, q.arrival_ns) AS start_ns, q.end_ns,
           q.sequences * q.input_tokens + greatest(0, q.output_tokens - q.sequences) AS held, coalesce(q.visual_tokens, 0) AS visual,
           k.token_bytes
    FROM request_base AS q
    LEFT JOIN admitted AS a USING (request_key)
    LEFT JOIN kv_sizes AS k ON q.resource_id = k.resource_id
    WHERE q.input_tokens IS NOT NULL AND q.output_tokens IS NOT NULL AND q.ttft_ns IS NOT NULL
      AND NOT EXISTS (FROM from_steps)
      -- Without the visual part the picture would say that there was none.
      AND q.visual_tokens IS NOT NULL
), held AS (
    SELECT *, 'steps' AS source FROM from_steps
    UNION ALL BY NAME
    SELECT *, held AS most, visual AS most_visual, 1 AS without_max, 'requests' AS source FROM from_requests
    WHERE end_ns > start_ns
), edges AS (
    -- +1 where something begins to be held, -1 where it ends: the running sums say what is held.
    SELECT *, start_ns AS ts, 1 AS sign FROM held
    UNION ALL
    SELECT *, end_ns AS ts, -1 AS sign FROM held
), moments AS (
    SELECT ts, sum(sign * held) AS held, sum(sign * visual) AS visual, sum(sign * held * token_bytes) AS bytes,
           sum(sign * visual * token_bytes) AS visual_bytes, sum(sign * most * token_bytes) AS peak,
           sum(sign * least(most_visual, most) * token_bytes) AS peak_visual,
           sum(sign) FILTER (token_bytes IS NOT NULL) AS sized, sum(sign * without_max) AS without_max,
           any_value(source) AS source
    FROM edges GROUP BY ts
), running AS (
    SELECT ts AS start_ns, lead(ts) OVER time AS end_ns, sum(held) OVER time AS held_tokens,
           sum(visual) OVER time AS visual_tokens, sum(bytes) OVER time AS held_bytes,
           sum(visual_bytes) OVER time AS visual_bytes, sum(peak) OVER time AS peak_bytes,
           sum(peak_visual) OVER time AS peak_visual_bytes, sum(sized) OVER time AS sized,
           sum(without_max) OVER time AS without_max, source
    FROM moments
    WINDOW time AS (ORDER BY ts)
)
SELECT start_ns, end_ns, held_tokens::BIGINT AS held_tokens, visual_tokens::BIGINT AS visual_tokens,
       CASE WHEN sized IS NOT NULL THEN held_bytes::BIGINT END AS held_bytes,
       CASE WHEN sized IS NOT NULL THEN visual_bytes::BIGINT END AS visual_bytes,
       CASE WHEN sized IS NOT NULL THEN peak_bytes::BIGINT END AS peak_bytes,
       CASE WHEN sized IS NOT NULL THEN peak_visual_bytes::BIGINT END AS peak_visual_bytes,
       without_max = 0 AS has_max, source
FROM running
WHERE end_ns IS NOT NULL;
