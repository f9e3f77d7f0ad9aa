-- One row: one process that sent spans and may hold a KV cache: of parallel ranks that split one the first.
-- instance           the process
-- capacity_bytes     size of its cache [B]; NULL if not known
-- kv_dtype           data type of its cache, as recorded
-- first_ns, last_ns  Unix time: its first span begins, its last one has ended; caches that follow each other are never one
CREATE TABLE kv_caches AS
WITH caches_of AS (
    SELECT k.instance, max(k.capacity_tokens) * max(k.token_bytes) AS capacity_bytes, max(r.kv_dtype) AS kv_dtype
    FROM resources AS r JOIN kv_sizes AS k USING (resource_id)
    WHERE resource_id IN (SELECT resource_id FROM spans WHERE dialect IS NOT NULL)
      AND resource_id NOT IN (SELECT resource_id FROM counted_ranks WHERE NOT counted)
    GROUP BY k.instance
), times AS (
    SELECT k.instance, s.first_ns, s.last_ns
    FROM kv_sizes AS k
    JOIN (SELECT resource_id, min(start_ns) AS first_ns, max(coalesce(end_ns, start_ns)) AS last_ns
          FROM spans GROUP BY resource_id) AS s USING (resource_id)
    UNION ALL
    -- What others tell of its requests may be older: their clocks are put right.
    SELECT instance, min(start_ns), max(end_ns) FROM kv_segments GROUP BY instance
), lives AS (
    SELECT instance, min(first_ns) AS first_ns, greatest(max(last_ns), min(first_ns) + 1) AS last_ns
    FROM times GROUP BY instance
)
SELECT instance, capacity_bytes, kv_dtype, first_ns, last_ns FROM caches_of JOIN lives USING (instance);
