-- One row: a stretch of time in which the KV that one process holds does not change.
-- instance           the process
-- start_ns, end_ns   Unix time; a step that is still under way when the next one begins ends there, unless each step has a
--                    cache of its own: then stretches of one process overlap, and what they hold adds up
-- held_tokens, visual_tokens  tokens in its KV cache: time means of the step
-- held_bytes, visual_bytes    the same in bytes; NULL where the bytes of a token are not known
-- peak_bytes, peak_visual_bytes  the most that the step held [B]; the means where it recorded no maximum
-- has_max            whether it recorded its maximum
-- used_blocks        blocks in use, mean; NULL where it is not recorded
-- source             steps (what the engine held) or, where no step of the run recorded it, requests (`kv_stays`)
CREATE TABLE kv_segments AS
WITH from_steps AS (
    SELECT k.instance, s.start_ns,
           CASE WHEN own_caches THEN s.end_ns ELSE least(
               s.end_ns, lead(s.start_ns) OVER (PARTITION BY k.instance ORDER BY s.start_ns, s.step_id)) END AS end_ns,
           s.kv_used_tokens AS held, least(coalesce(s.kv_visual_tokens, 0), s.kv_used_tokens) AS visual,
           greatest(s.kv_used_tokens, s.kv_used_tokens_max) AS most,
           CASE WHEN s.kv_used_tokens_max IS NULL THEN coalesce(s.kv_visual_tokens, 0)
                ELSE coalesce(s.kv_visual_tokens_max, s.kv_visual_tokens, 0) END AS most_visual,
           s.kv_used_tokens_max IS NOT NULL AS has_max, s.kv_used_blocks AS used_blocks, k.token_bytes
    FROM steps AS s
    JOIN kv_sizes AS k USING (resource_id)
    WHERE s.kv_used_tokens >= 0 AND s.end_ns > s.start_ns
), changes AS (
    SELECT instance, token_bytes, unnest([begin_ns, prefilled_ns, end_ns]) AS ts,
           text_tokens + image_tokens + video_tokens + audio_tokens AS prompt, image_tokens + video_tokens AS visual,
           weight * unnest([prefill_level, 1 - prefill_level, -1]) AS part,
           weight * unnest([prefill_level * output_from, (output_from + output_to) / 2 - prefill_level * output_from,
                            -(output_from + output_to) / 2]) AS output,
           weight * unnest([prefill_level * output_from, output_to - prefill_level * output_from, -output_to]) AS most_output
    FROM kv_stays
    WHERE NOT EXISTS (FROM steps WHERE kv_used_tokens >= 0 AND end_ns > start_ns)
), from_requests AS (
    SELECT instance, ts AS start_ns, lead(ts) OVER time AS end_ns, token_bytes,
           round(sum(part * prompt + output) OVER time)::BIGINT AS held,
           round(sum(part * visual) OVER time)::BIGINT AS visual,
           round(sum(part * prompt + most_output) OVER time)::BIGINT AS most, visual AS most_visual, false AS has_max
    FROM changes
    WINDOW time AS (PARTITION BY instance ORDER BY ts, part)
), held AS (
    SELECT *, 'steps' AS source FROM from_steps
    UNION ALL BY NAME
    SELECT *, 'requests' AS source FROM from_requests WHERE held > 0
)
SELECT instance, start_ns, end_ns, held AS held_tokens, visual AS visual_tokens,
       (held * token_bytes)::BIGINT AS held_bytes, (visual * token_bytes)::BIGINT AS visual_bytes,
       (most * token_bytes)::BIGINT AS peak_bytes, (least(most_visual, most) * token_bytes)::BIGINT AS peak_visual_bytes,
       has_max, used_blocks, source
FROM held
WHERE end_ns > start_ns;
