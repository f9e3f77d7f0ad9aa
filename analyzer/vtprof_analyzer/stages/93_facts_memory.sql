-- One row: one scope (`fact_scopes`) and its facts of KV cache and memory, in the names of `vtprof_rules/facts.toml`.
CREATE TABLE facts_memory AS
WITH processes AS (
    SELECT DISTINCT instance, scope FROM fact_processes
), sizes AS (
    SELECT k.instance, max(k.capacity_tokens) AS capacity_tokens, max(k.token_bytes) AS token_bytes,
           max(greatest(1, r.kv_block_tokens)) AS block_tokens, max(m.weight_bytes) AS weight_bytes,
           max(m.encoder_weight_bytes) AS encoder_weight_bytes
    FROM kv_sizes AS k JOIN resources AS r USING (resource_id) LEFT JOIN model_sizes AS m USING (resource_id)
    GROUP BY k.instance
), models AS (
    SELECT p.scope, arg_max(z.token_bytes, (s.work, p.instance)) AS kv_bytes_per_token,
           arg_max(z.weight_bytes, (s.work, p.instance)) AS weight_bytes,
           arg_max(z.encoder_weight_bytes, (s.work, p.instance)) AS encoder_weight_bytes
    FROM processes AS p JOIN sizes AS z USING (instance) JOIN process_settings AS s USING (instance) GROUP BY p.scope
), segments AS NOT MATERIALIZED (
    -- (Kept, it would hold more than each reader needs.)
    SELECT instance, start_ns, end_ns, (end_ns - start_ns)::DOUBLE AS ns, held_tokens, visual_tokens, held_bytes, peak_bytes,
           used_blocks, source
    FROM kv_segments
), held AS (
    -- First by process: a stretch belongs to up to three scopes, and sums add up.
    SELECT p.scope, sum(byte_ns) AS byte_ns, sum(token_ns) AS token_ns, sum(visual_ns) AS visual_ns, max(peak_bytes) AS peak_bytes
    FROM (SELECT instance, sum(held_bytes * ns) AS byte_ns, sum(held_tokens * ns) AS token_ns, sum(visual_tokens * ns) AS visual_ns,
                 max(peak_bytes) AS peak_bytes
          FROM segments GROUP BY instance) JOIN processes AS p USING (instance) GROUP BY p.scope
), changes AS (
    -- Of several processes of one model, what each holds comes and goes with its stretches.
    SELECT p.scope, unnest([s.start_ns, s.end_ns]) AS ts, unnest([1, -1]) * s.peak_bytes::DOUBLE AS change
    FROM segments AS s JOIN processes AS p USING (instance)
    WHERE p.scope IN (SELECT scope FROM processes WHERE scope > 0 GROUP BY scope HAVING count(*) > 1) AND s.peak_bytes IS NOT NULL
), peaks AS (
    SELECT scope, max(held) AS peak_bytes, arg_max(ts, (held, -ts)) AS peak_ns
    -- Sorted first and then added up: a window that sorts does so at several times the cost. All that a scope held goes, so
    -- that the next one begins at zero.
    FROM (SELECT scope, ts, sum(change) OVER (ROWS UNBOUNDED PRECEDING) AS held FROM (FROM changes ORDER BY scope, ts, change))
    GROUP BY scope
    UNION ALL
    -- The whole run is drawn anyway, all processes together.
    SELECT 0, max(held_bytes), arg_max(held_from_ns, (held_bytes, -held_from_ns)) FROM kv_held
), moments AS (
    -- What caches could hold is that of the moment of the peak: those that follow each other are never one. Where nothing tells
    -- the peak, it is the most at one moment.
    SELECT scope, peak_ns AS ns FROM peaks WHERE peak_ns IS NOT NULL
    UNION
    SELECT p.scope, c.first_ns FROM processes AS p JOIN kv_caches AS c USING (instance)
    WHERE p.scope NOT IN (SELECT scope FROM peaks WHERE peak_ns IS NOT NULL)
), alive AS (
    SELECT m.scope, sum(c.capacity_bytes)::DOUBLE AS bytes
    FROM moments AS m JOIN processes AS p USING (scope)
    JOIN kv_caches AS c ON c.instance = p.instance AND c.first_ns <= m.ns AND m.ns < c.last_ns
    GROUP BY m.scope, m.ns
), capacities AS (
    SELECT scope, max(bytes) AS kv_capacity_bytes FROM alive GROUP BY scope
), run AS (
    SELECT scope, max(end_ns) - min(arrival_ns) AS length_ns FROM scoped_requests GROUP BY scope
), used AS (
    -- Time by what was held: few different amounts, however many steps.
    SELECT p.scope, used, sum(s.ns) AS ns
    FROM (SELECT instance, coalesce(s.used_blocks * z.block_tokens, s.held_tokens) / z.capacity_tokens AS used, sum(s.ns) AS ns
          FROM segments AS s JOIN sizes AS z USING (instance)
          WHERE s.source = 'steps' AND z.capacity_tokens > 0
          GROUP BY ALL) AS s
    JOIN processes AS p USING (instance)
    GROUP BY ALL
), ordered AS (
    SELECT scope, used, sum(ns) OVER (PARTITION BY scope ORDER BY used) / sum(ns) OVER (PARTITION BY scope) AS until FROM used
), usage AS (
    SELECT scope, min(used) FILTER (until >= 0.50 - 1e-12) AS kv_usage_p50, min(used) FILTER (until >= 0.95 - 1e-12) AS kv_usage_p95
    FROM ordered GROUP BY scope
), page AS (
    SELECT quantile_cont(value, 0.50) AS kv_usage_p50, quantile_cont(value, 0.95) AS kv_usage_p95
    FROM engine_samples WHERE name = 'vtprof.engine.kv_used_ratio'
), gpus AS (
    SELECT DISTINCT scope, trim(unnest(string_split(hw_ids, ','))) AS hw_id FROM fact_processes WHERE hw_ids IS NOT NULL
), watched AS (
    SELECT hw_id, max(value) FILTER (name = 'vtprof.gpu.memory_total_bytes') AS total,
           quantile_cont(value, 0.95) FILTER (name = 'vtprof.gpu.memory_used_bytes') AS used
    FROM gpu_samples WHERE name IN ('vtprof.gpu.memory_total_bytes', 'vtprof.gpu.memory_used_bytes') GROUP BY hw_id
), free AS (
    SELECT scope, min(total - used) AS gpu_mem_free_bytes FROM watched JOIN gpus USING (hw_id) GROUP BY scope
    UNION ALL
    -- Where no process names its GPUs, those that were watched are the run's.
    SELECT 0, min(total - used) FROM watched WHERE NOT EXISTS (FROM gpus) HAVING count(*) > 0
), prompts AS (
    SELECT scope, max(images) AS most_images, max(videos) AS most_videos, max(image_tokens / nullif(images, 0)) AS image_tokens,
           max(video_tokens / nullif(videos, 0)) AS video_tokens
    FROM scoped_requests GROUP BY scope
), reserved AS (
    -- A kind of media that never came has no size that is known.
    SELECT p.scope, CASE WHEN c.mm_limit_image IS NOT NULL OR c.mm_limit_video IS NOT NULL
                         THEN coalesce(greatest(0, c.mm_limit_image - p.most_images) * p.image_tokens, 0)
                              + coalesce(greatest(0, c.mm_limit_video - p.most_videos) * p.video_tokens, 0) END AS tokens,
           p.image_tokens IS NOT NULL OR p.video_tokens IS NOT NULL AS sized
    FROM prompts AS p JOIN facts_configuration AS c USING (scope)
), told AS (
    SELECT max(share) FILTER (measure = 'kv_token_seconds') AS visual_share, count(share) > 0 AS any_told FROM dominance
    WHERE measure = 'kv_token_seconds'
)
SELECT s.scope, m.kv_bytes_per_token, h.byte_ns / nullif(r.length_ns, 0) AS kv_bytes_mean,
       coalesce(p.peak_bytes, h.peak_bytes)::DOUBLE AS kv_bytes_peak, c.kv_capacity_bytes,
       CASE WHEN s.scope = 0 THEN t.visual_share WHEN t.any_told THEN h.visual_ns / nullif(h.token_ns, 0) END AS kv_visual_share,
       coalesce(u.kv_usage_p50, CASE WHEN s.scope = 0 THEN page.kv_usage_p50 END) AS kv_usage_p50,
       coalesce(u.kv_usage_p95, CASE WHEN s.scope = 0 THEN page.kv_usage_p95 END) AS kv_usage_p95,
       1 - coalesce(u.kv_usage_p95, CASE WHEN s.scope = 0 THEN page.kv_usage_p95 END) AS kv_idle_share,
       f.gpu_mem_free_bytes, m.encoder_weight_bytes, m.weight_bytes,
       CASE WHEN v.sized THEN v.tokens * m.kv_bytes_per_token END AS mm_profile_bytes
FROM (SELECT DISTINCT scope FROM fact_scopes) AS s
CROSS JOIN page CROSS JOIN told AS t
LEFT JOIN models AS m USING (scope) LEFT JOIN held AS h USING (scope) LEFT JOIN peaks AS p USING (scope)
LEFT JOIN capacities AS c USING (scope) LEFT JOIN run AS r USING (scope) LEFT JOIN usage AS u USING (scope)
LEFT JOIN free AS f USING (scope) LEFT JOIN reserved AS v USING (scope);
