-- One row: one process that sent spans of ours or of an engine. A resource that was exported before the model was loaded
-- lacks what later ones of its process say.
-- engine             name and version
-- device, ids        name of its device, and ids of all of them as recorded, with commas between
-- weights_dtype, kv_dtype, tp, pp, dp, ep  as recorded
-- dialects           whose spans
WITH used AS (
    SELECT resource_id, dialect, count(*) AS spans FROM spans WHERE dialect IS NOT NULL GROUP BY ALL
)
SELECT max(r.engine_name) AS engine_name, max(r.engine_version) AS engine_version,
       max(r.hw_name) AS device, string_agg(DISTINCT r.hw_id, ',') AS ids,
       max(r.weights_dtype) AS weights_dtype, max(r.kv_dtype) AS kv_dtype, max(r.parallel_tp) AS tp,
       max(r.parallel_pp) AS pp, max(r.parallel_dp) AS dp, max(r.parallel_ep) AS ep,
       max(used.dialect) AS dialect
FROM used LEFT JOIN resources AS r USING (resource_id)
GROUP BY coalesce(r.service_instance_id, used.resource_id::VARCHAR)
