-- One row: one resource that sent engine steps or holds a KV cache.
-- resource_id        row of `resources`
-- counted            false where its steps and its cache are those of another rank: every rank of a tensor- or
--                    pipeline-parallel group reports each iteration of the whole group, so the first one stands for all
CREATE TABLE counted_ranks AS
WITH described AS (
    -- A resource that was exported before the model was loaded lacks what later ones of its process say.
    SELECT resource_id,
           max(rank) OVER process AS rank,
           greatest(1, coalesce(max(parallel_tp) OVER process, 1)) * greatest(1, coalesce(max(parallel_pp) OVER process, 1))
               AS ranks,
           coalesce(max(model_config) OVER process, '') AS model_config
    FROM resources
    WINDOW process AS (PARTITION BY coalesce(service_instance_id, resource_id::VARCHAR))
), stepping AS (
    SELECT DISTINCT resource_id FROM spans WHERE name IN ('vtprof.step', 'vtprof.window')
)
SELECT d.resource_id,
       -- Data-parallel copies follow each other in rank or begin again at 0: either way each is one group of ranks. The
       -- lowest rank that reports steps stands in where the first one was not recorded.
       d.ranks = 1 OR d.rank IS NULL
           OR d.rank = coalesce(min(d.rank) FILTER (s.resource_id IS NOT NULL) OVER replica, min(d.rank) OVER replica)
           AS counted
FROM described AS d
LEFT JOIN stepping AS s USING (resource_id)
WINDOW replica AS (PARTITION BY d.ranks, d.model_config, d.rank // d.ranks);
