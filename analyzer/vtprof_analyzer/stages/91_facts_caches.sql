-- One row: one scope (`fact_scopes`) and its facts of caches and repeated media, in the names of `vtprof_rules/facts.toml`.
-- Of the whole run an engine's own page tells a hit rate first: it counts what sampling left out. Nothing records digests of
-- prompt blocks (repeat_prefix_share), the text before an image (image_position_after_changing_text_share), how long KV blocks
-- wait for their next use (kv_reuse_gap_p50_s), what of the evicted came back (evicted_then_missed_share), or the speed of the
-- link between host and GPU (kv_load_ms): these are NULL.
CREATE TABLE facts_caches AS
WITH told AS (
    SELECT max(ratio) FILTER (cache = 'processor') AS mm_cache_hit_rate,
           max(ratio) FILTER (cache = 'encoder') AS encoder_cache_hit_rate,
           max(ratio) FILTER (cache = 'prefix') AS prefix_hit_rate
    FROM (SELECT DISTINCT ON (cache) cache, ratio FROM caches WHERE ratio IS NOT NULL ORDER BY cache, source = 'spans')
), several AS (
    SELECT max(scope) > 0 AS scopes FROM fact_scopes
), looked_up AS (
    -- Each scope by its own requests, where there are several.
    SELECT f.scope, p.hits AS processor_hits, f.encoder_hits, coalesce(f.encoded_items, 0) AS encoded_items, f.cached_tokens,
           coalesce(f.images, 0) + coalesce(f.videos, 0) + coalesce(f.clips, 0) AS items, f.input_tokens
    FROM scoped_requests AS f
    LEFT JOIN (SELECT request_number, cache_hits AS hits FROM phases WHERE phase = 'preprocess') AS p USING (request_number)
    WHERE f.counts AND f.scope > 0 AND (SELECT scopes FROM several)
), rates AS (
    SELECT scope,
           sum(processor_hits) / nullif(sum(greatest(items, processor_hits)) FILTER (processor_hits >= 0), 0) AS mm_cache_hit_rate,
           sum(encoder_hits) / nullif(sum(encoded_items + encoder_hits), 0) AS encoder_cache_hit_rate,
           sum(least(cached_tokens, input_tokens)) / nullif(sum(input_tokens) FILTER (cached_tokens >= 0), 0) AS prefix_hit_rate
    FROM looked_up GROUP BY scope
), repeated AS (
    -- Of the images seen before those that were encoded again: what the encoder's cache held was not.
    SELECT scope, sum(repeats) / nullif(sum(digests), 0) AS repeat_image_share,
           CASE WHEN count(digests) > 0
                THEN sum(encode_ms * least(1, greatest(0, repeats - coalesce(encoder_hits, 0)) / encoded_items))
                         FILTER (encoded_items > 0 AND digests > 0) / nullif(count(*) FILTER (ttft_ms IS NOT NULL), 0) END
               AS encode_repeat_ms_mean
    FROM scoped_requests WHERE counts GROUP BY scope
)
SELECT r.*, CASE WHEN r.scope = 0 THEN told.mm_cache_hit_rate ELSE x.mm_cache_hit_rate END AS mm_cache_hit_rate,
       CASE WHEN r.scope = 0 THEN told.encoder_cache_hit_rate ELSE x.encoder_cache_hit_rate END AS encoder_cache_hit_rate,
       CASE WHEN r.scope = 0 THEN told.prefix_hit_rate ELSE x.prefix_hit_rate END AS prefix_hit_rate,
       NULL::DOUBLE AS repeat_prefix_share, NULL::DOUBLE AS image_position_after_changing_text_share,
       NULL::DOUBLE AS kv_reuse_gap_p50_s, NULL::DOUBLE AS evicted_then_missed_share, NULL::DOUBLE AS kv_load_ms
FROM repeated AS r CROSS JOIN told LEFT JOIN rates AS x USING (scope);
