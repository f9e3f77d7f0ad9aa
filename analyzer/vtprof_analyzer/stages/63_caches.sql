-- One row: one cache by one source; a cache that nothing tells of has no row.
-- cache              processor (preprocessed items), encoder (encoder outputs) or prefix (KV of prompt beginnings)
-- source             spans (of requests) or engine_page (the engines' own counts while the agent read these)
-- unit               what is looked up: items or tokens
-- lookups, hits      as of all requests, where they were sampled
-- ratio              hits / lookups, 0..1; NULL without a look-up
-- saved_tokens       prompt tokens that needed no preprocessing, no encoding or no prefill; of items in proportion to the
--                    image, video and audio tokens of their request; NULL where it is not told
CREATE TABLE caches AS
WITH hits AS (
    -- Each stretch of a phase tells its own hits; a preempted prompt that finds itself again is no reuse.
    SELECT r.request_number,
           sum(s.preprocess_cache_hits) AS processor, sum(s.encode_cache_hits) AS encoder,
           sum(s.encode_items) FILTER (s.encode_cache_hits IS NOT NULL) AS encoded,
           arg_min(s.prefill_cached_tokens, s.start_ns) AS prefix
    FROM spans AS s
    JOIN request_base AS r ON s.trace_id = r.trace_id AND s.parent_span_id = r.span_id
    WHERE s.name IN ('vtprof.preprocess', 'vtprof.encode', 'vtprof.prefill')
      AND coalesce(s.preprocess_cache_hits, s.encode_cache_hits, s.prefill_cached_tokens) IS NOT NULL
    GROUP BY r.request_number
), told AS (
    SELECT q.weight, h.processor, h.encoder, coalesce(h.encoded, 0) AS encoded,
           coalesce(h.prefix, q.cached_tokens) AS prefix, q.input_tokens,
           coalesce(q.image_items, 0) + coalesce(q.video_items, 0) + coalesce(q.audio_items, 0) AS items,
           q.visual_tokens + coalesce(q.audio_tokens, 0) AS media_tokens
    FROM request_base AS q LEFT JOIN hits AS h USING (request_number)
), by_spans AS (
    SELECT 'processor' AS cache, 'items' AS unit, sum(weight * greatest(items, processor)) AS lookups,
           sum(weight * processor) AS hits,
           sum(weight * media_tokens * processor / nullif(greatest(items, processor), 0)) AS saved_tokens
    FROM told WHERE processor >= 0
    UNION ALL
    SELECT 'encoder', 'items', sum(weight * (encoded + encoder)), sum(weight * encoder),
           sum(weight * media_tokens * encoder / nullif(greatest(items, encoded + encoder), 0))
    FROM told WHERE encoder >= 0
    UNION ALL
    SELECT 'prefix', 'tokens', sum(weight * input_tokens), sum(weight * least(prefix, input_tokens)),
           sum(weight * least(prefix, input_tokens))
    FROM told WHERE prefix >= 0 AND input_tokens >= 0
), growth AS (
    SELECT max(growth) FILTER (name = 'vtprof.engine.mm_cache.queried_items') AS mm_queried,
           max(growth) FILTER (name = 'vtprof.engine.mm_cache.hit_items') AS mm_hit,
           max(growth) FILTER (name = 'vtprof.engine.encoder_cache.queried_items') AS encoder_queried,
           max(growth) FILTER (name = 'vtprof.engine.encoder_cache.hit_items') AS encoder_hit,
           max(growth) FILTER (name = 'vtprof.engine.prefix_cache.queried_tokens') AS prefix_queried,
           max(growth) FILTER (name = 'vtprof.engine.prefix_cache.hit_tokens') AS prefix_hit,
           max(growth) FILTER (name = 'vtprof.engine.prompt_tokens') AS prompt,
           max(growth) FILTER (name = 'vtprof.engine.cached_tokens') AS cached
    FROM engine_growth
), by_engine AS (
    SELECT 'processor' AS cache, 'items' AS unit, mm_queried AS lookups, mm_hit AS hits, NULL::DOUBLE AS saved_tokens
    FROM growth
    UNION ALL
    SELECT 'encoder', 'items', encoder_queried, encoder_hit, NULL FROM growth
    UNION ALL
    -- vLLM counts what it looks up; SGLang the prompt tokens that it took from its cache.
    SELECT 'prefix', 'tokens', CASE WHEN looked_up THEN prefix_queried ELSE prompt END,
           CASE WHEN looked_up THEN prefix_hit ELSE cached END AS found, found
    FROM (SELECT *, coalesce(prefix_hit >= 0 AND prefix_queried > 0, false) AS looked_up FROM growth)
)
SELECT cache, source, unit, lookups, hits, hits / nullif(lookups, 0) AS ratio, saved_tokens
FROM (SELECT 'spans' AS source, * FROM by_spans UNION ALL BY NAME SELECT 'engine_page' AS source, * FROM by_engine)
WHERE lookups IS NOT NULL AND hits IS NOT NULL;
