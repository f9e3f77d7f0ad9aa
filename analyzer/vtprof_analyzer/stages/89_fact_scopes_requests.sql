-- One row: the requests of one resource for one model, in one scope of `fact_scopes` that they belong to.
-- member             number of the pair of resource and model; resource_id, model: as in `request_base`
-- scope              everything, their model's, their process's
CREATE TABLE fact_members AS
SELECT DISTINCT q.member, q.resource_id, q.model, s.scope
FROM (SELECT row_number() OVER (ORDER BY resource_id, model) AS member, *
      FROM (SELECT DISTINCT resource_id, model FROM request_base)) AS q
LEFT JOIN kv_sizes AS k USING (resource_id)
JOIN fact_scopes AS s ON s.scope = 0 OR s.view = 'model_facts' AND s.subject = q.model
    OR s.view = 'instance_facts' AND s.subject = k.instance;
