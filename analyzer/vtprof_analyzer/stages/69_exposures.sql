-- One row: one request with a first token and one part of its life: what ran meanwhile in the process that served it. No
-- row where that process recorded no step, nor for a part that took no time.
-- request_key        row of `request_base`
-- during             queue or prefill (before the first token, as far as these phases claim the time), or decode (first
--                    token to end)
-- own_ns             time of the part that is left out below: the request itself encoded or prefilled while it queued
-- encode_ns          encoder, others' [ns]; image_prefill_ns, text_prefill_ns: visual tokens and other tokens of prompts of
--                    others. The request's own tokens are taken out by their share
-- decode_ns          decodes, its own included; steps_ns: the time that the process was in a step, with its own work
-- iterations         engine iterations meanwhile; patches, visual_tokens, text_tokens: encoded and prefilled for others;
--                    decodes, context_tokens: decoding requests and the cached tokens that they read, summed over iterations
-- blocked_ns         time in steps that passed over waiting requests for want of room (`engine_work.blocked`), of which
--                    blocked_encode_ns, blocked_image_ns, blocked_text_ns are in the times above
CREATE TABLE exposures AS
WITH stretches AS (
    SELECT request_key, phase AS during, start_ns, end_ns, phase = 'queue' AND own_work AS own
    FROM ttft_segments WHERE phase IN ('queue', 'prefill')
    UNION ALL
    SELECT request_key, 'decode', arrival_ns + ttft_ns, end_ns, false FROM request_base
    WHERE ttft_ns IS NOT NULL AND end_ns > arrival_ns + ttft_ns
), placed AS (
    SELECT s.*, k.instance
    FROM stretches AS s
    JOIN request_base AS q USING (request_key)
    JOIN kv_sizes AS k USING (resource_id)
    WHERE k.instance IN (SELECT instance FROM engine_work)
), ends AS (
    SELECT request_key, during, instance, unnest([{sign: -1, ts: start_ns}, {sign: 1, ts: end_ns}], recursive := true)
    FROM placed WHERE NOT own
), own AS (
    SELECT p.request_key, p.during, sum(p.end_ns - p.start_ns) FILTER (p.own)::BIGINT AS own_ns
    FROM placed AS p GROUP BY ALL
), computed AS (
    SELECT q.request_key, 'prefill' AS during,
           coalesce(p.visual_tokens, q.visual_tokens, 0) AS visual_tokens,
           greatest(0, coalesce(p.tokens, q.input_tokens - coalesce(q.cached_tokens, 0), 0)
                       - coalesce(p.visual_tokens, q.visual_tokens, 0)) AS text_tokens
    FROM request_base AS q
    LEFT JOIN phases AS p ON p.request_key = q.request_key AND p.phase = 'prefill'
    WHERE q.ttft_ns IS NOT NULL
), met AS (
    SELECT o.request_key, o.during, coalesce(o.own_ns, 0) AS own_ns, w.* EXCLUDE (request_key, during),
           -- What is left for others of what ran.
           CASE WHEN c.visual_tokens < w.visual_tokens THEN 1 - c.visual_tokens / w.visual_tokens
                WHEN c.visual_tokens > 0 THEN 0 ELSE 1 END AS others_visual,
           CASE WHEN c.text_tokens < w.text_tokens THEN 1 - c.text_tokens / w.text_tokens
                WHEN c.text_tokens > 0 THEN 0 ELSE 1 END AS others_text
    FROM own AS o
    LEFT JOIN work_between('ends') AS w ON w.request_key = o.request_key AND w.during = o.during
    LEFT JOIN computed AS c ON c.request_key = o.request_key AND c.during = o.during
)
SELECT request_key, during, own_ns,
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
