-- One row: one resource in one scope of `fact_scopes` that its steps and counters belong to.
-- resource_id        row of `resources`
-- instance           its process
-- model              what the requests that it served asked for, where that is one model; NULL else
-- hw_ids             GPUs of the process, a list; NULL where none is named
-- scope              everything, its model's, its own
CREATE TABLE fact_processes AS
WITH served AS (
    SELECT k.instance, CASE WHEN count(DISTINCT model) = 1 THEN max(model) END AS model
    FROM (SELECT DISTINCT resource_id, model FROM request_base) JOIN kv_sizes AS k USING (resource_id)
    GROUP BY k.instance
), named AS (
    -- A resource that was exported before the model was loaded lacks what later ones of its process say.
    SELECT k.resource_id, k.instance, m.model, max(r.hw_id) OVER (PARTITION BY k.instance) AS hw_ids
    FROM kv_sizes AS k JOIN resources AS r USING (resource_id) LEFT JOIN served AS m ON m.instance = k.instance
)
SELECT DISTINCT n.resource_id, n.instance, n.model, n.hw_ids, s.scope
FROM named AS n
JOIN fact_scopes AS s ON s.scope = 0 OR s.view = 'model_facts' AND s.subject = n.model
    OR s.view = 'instance_facts' AND s.subject = n.instance;
