-- One row: one process whose cache size and KV bytes are known, and whose steps tell what of it was in use.
-- instance           the process
-- capacity_bytes     size of its cache [B]
-- free_p05_bytes     what was free all the time of its steps (their means) but a twentieth, in whole blocks where they tell
--                    them [B]
-- request_p50_bytes, request_p95_bytes  KV of its requests at their ends, in whole blocks, by how many each stands for [B]
-- requests_fit_p50, requests_fit_p95  further requests of that size for which free_p05_bytes has room
-- fragmentation      part of the blocks in use, by time, that holds no token; below 0 where requests share blocks, as each
--                    counts its tokens; NULL where blocks are not told
CREATE TABLE kv_headroom AS
WITH caches_of AS (
    SELECT k.instance, max(k.capacity_tokens * k.token_bytes) AS capacity_bytes, max(k.token_bytes) AS token_bytes,
           max(greatest(1, r.kv_block_tokens)) AS block_tokens, coalesce(block_tokens, 1) AS page_tokens
    FROM kv_sizes AS k JOIN resources AS r USING (resource_id)
    WHERE k.resource_id NOT IN (SELECT resource_id FROM counted_ranks WHERE NOT counted)
    GROUP BY k.instance
    HAVING capacity_bytes > 0
), used AS (
    -- Time by what was held: few different amounts, however many steps.
    SELECT instance, coalesce(used_blocks * block_tokens, held_tokens) AS tokens, sum((end_ns - start_ns)::DOUBLE) AS ns,
           sum((end_ns - start_ns)::DOUBLE * held_tokens) FILTER (used_blocks IS NOT NULL) AS token_ns,
           sum((end_ns - start_ns)::DOUBLE * used_blocks * block_tokens) AS room_ns
    FROM kv_segments JOIN caches_of USING (instance)
    WHERE source = 'steps'
    GROUP BY ALL
), ordered AS (
    SELECT instance, tokens,
           sum(ns) OVER (PARTITION BY instance ORDER BY tokens) / sum(ns) OVER (PARTITION BY instance) AS until
    FROM used
), busiest AS (
    SELECT instance, min(tokens) AS tokens FROM ordered WHERE until >= 0.95 - 1e-12 GROUP BY instance
), filled AS (
    SELECT instance, 1 - sum(token_ns) / nullif(sum(room_ns), 0) AS fragmentation FROM used GROUP BY instance
), footprints AS (
    SELECT k.instance AS what, weight,
           ceil(q.kv_bytes / (c.token_bytes * c.page_tokens)) * c.token_bytes * c.page_tokens AS value
    FROM requests AS q
    JOIN (SELECT request_number, resource_id FROM request_base) USING (request_number)
    JOIN kv_sizes AS k USING (resource_id)
    JOIN caches_of AS c ON c.instance = k.instance
    WHERE q.kv_bytes > 0
), sizes AS (
    SELECT what AS instance, max(value) FILTER (quantile = 0.50) AS request_p50_bytes,
           max(value) FILTER (quantile = 0.95) AS request_p95_bytes
    FROM weighted_quantiles('footprints') GROUP BY what
)
SELECT instance, capacity_bytes, greatest(0, capacity_bytes - b.tokens * c.token_bytes) AS free_p05_bytes,
       request_p50_bytes, request_p95_bytes, floor(free_p05_bytes / request_p50_bytes)::BIGINT AS requests_fit_p50,
       floor(free_p05_bytes / request_p95_bytes)::BIGINT AS requests_fit_p95, fragmentation
FROM caches_of AS c JOIN busiest AS b USING (instance) JOIN filled USING (instance) LEFT JOIN sizes USING (instance);
