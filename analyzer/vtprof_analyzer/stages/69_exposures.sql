-- One row: one request with a first token and one part of its life: what ran meanwhile in the process that served it. No
-- row where that process recorded no step, nor for a part that took no time.
-- request_number     row of `request_base`
-- during             queue or prefill (before the first token, as far as these phases claim the time), or decode (first
--                    token to end)
-- own_ns             time of the part that is left out below: the request itself encoded or prefilled while it queued
-- encode_ns          encoder, others' [ns]; image_prefill_ns, text_prefill_ns: visual tokens and other tokens of prompts of
--                    others. The request's own tokens are taken out by their share
-- decode_ns          decodes, its own included; steps_ns: the time that the process was in a step, with its own work
-- iterations         engine iterations meanwhile; patches, visual_tokens, text_tokens: encoded and prefilled for others;
--                    decodes, context_tokens: decoding requests and the cached tokens that they read, summed over iterations
-- blocked_ns         time in steps that passed over waiting requests for want of room (`engine_work.blocked`) [ns]
-- blocked_encode_ns, blocked_image_ns, blocked_text_ns  what of it is in the times above [ns]
CREATE TABLE exposures AS
WITH requests AS MATERIALIZED (
    SELECT q.request_number, q.resource_id, q.arrival_ns + q.ttft_ns AS first_token_ns, q.end_ns,
           coalesce(p.visual_tokens, q.visual_tokens, 0) AS own_visual,
           greatest(0, coalesce(p.tokens, q.input_tokens - coalesce(q.cached_tokens, 0), 0)
                       - coalesce(p.visual_tokens, q.visual_tokens, 0)) AS own_text
    FROM request_base AS q
    JOIN kv_sizes AS k USING (resource_id)
    LEFT JOIN phases AS p ON p.request_number = q.request_number AND p.phase = 'prefill'
    WHERE k.instance IN (SELECT instance FROM engine_work)
), stretches AS (
    -- Of request n 3 n asks for its queue, 3 n + 1 for its prefill, 3 n + 2 for its decode.
    SELECT 3 * request_number + CASE s.phase WHEN 'queue' THEN 0 ELSE 1 END AS asked, q.resource_id, s.start_ns, s.end_ns,
           s.phase = 'queue' AND s.own_work AS own
    FROM ttft_segments AS s JOIN requests AS q USING (request_number)
    WHERE s.phase IN ('queue', 'prefill')
    UNION ALL
    SELECT 3 * request_number + 2, resource_id, first_token_ns, end_ns, false FROM requests WHERE end_ns > first_token_ns
), ends AS (
    SELECT asked, resource_id, unnest([-1, 1]) AS sign, unnest([start_ns, end_ns]) AS ts FROM stretches WHERE NOT own
), own AS (
    SELECT asked, sum(end_ns - start_ns)::BIGINT AS own_ns FROM stretches WHERE own GROUP BY asked
), met AS (
    SELECT q.request_number, CASE asked % 3 WHEN 0 THEN 'queue' WHEN 1 THEN 'prefill' ELSE 'decode' END AS during,
           coalesce(o.own_ns, 0) AS own_ns, w.* EXCLUDE (asked),
           -- What is left for others of what ran.
           CASE WHEN asked % 3 <> 1 THEN 1 WHEN q.own_visual < w.visual_tokens THEN 1 - q.own_visual / w.visual_tokens
                WHEN q.own_visual > 0 THEN 0 ELSE 1 END AS others_visual,
           CASE WHEN asked % 3 <> 1 THEN 1 WHEN q.own_text < w.text_tokens THEN 1 - q.own_text / w.text_tokens
                WHEN q.own_text > 0 THEN 0 ELSE 1 END AS others_text
    FROM work_between('ends') AS w FULL JOIN own AS o USING (asked)
    JOIN requests AS q ON q.request_number = asked // 3
)
SELECT request_number, during, own_ns,
       greatest(0, coalesce(encode, 0)) AS encode_ns,
       greatest(0, coalesce(image, 0) * others_visual) AS image_prefill_ns,
       greatest(0, coalesce(text, 0) * others_text) AS text_prefill_ns,
       greatest(0, coalesce(decode, 0)) AS decode_ns,
       greatest(0, coalesce(busy, 0)) AS steps_ns,
       greatest(0, coalesce(iterations, 0)) AS iterations,
       greatest(0, coalesce(patches, 0)) AS patches,
       greatest(0, coalesce(visual_tokens, 0) * others_visual) AS visual_tokens,
       greatest(0, coalesce(text_tokens, 0) * others_text) AS text_tokens,
       greatest(0, coalesce(decodes, 0)) AS decodes,
       greatest(0, coalesce(context, 0)) AS context_tokens,
       greatest(0, coalesce(blocked, 0)) AS blocked_ns,
       greatest(0, coalesce(blocked_encode, 0)) AS blocked_encode_ns,
       greatest(0, coalesce(blocked_image, 0)) AS blocked_image_ns,
       greatest(0, coalesce(blocked_text, 0)) AS blocked_text_ns
FROM met;
