-- One row: one row of a facts view, before any facts: what it is about, and the scope in which its facts are computed.
-- view               deployment_facts (one row), model_facts (one a model that requests asked for; one without a name where
--                    none is told) or instance_facts (one a process that ran engine steps, or served requests where none did)
-- subject            the model or the process (as `kv_sizes.instance`); NULL for the whole run
-- scope              0: everything. The only model, or the only process, is everything, and nothing is computed again
CREATE TABLE fact_scopes AS
WITH asked AS (
    SELECT DISTINCT resource_id, model FROM request_base
), models AS (
    SELECT model AS subject, row_number() OVER (ORDER BY model) AS place, count(*) OVER () AS several
    FROM (SELECT DISTINCT model FROM asked WHERE model IS NOT NULL)
), stepping AS (
    SELECT DISTINCT instance FROM kv_sizes SEMI JOIN (SELECT DISTINCT resource_id FROM steps) USING (resource_id)
), instances AS (
    SELECT instance AS subject, row_number() OVER (ORDER BY instance) AS place, count(*) OVER () AS several
    FROM (FROM stepping
          UNION
          SELECT instance FROM kv_sizes SEMI JOIN asked USING (resource_id) WHERE NOT EXISTS (FROM stepping))
)
SELECT 'deployment_facts' AS view, NULL::VARCHAR AS subject, 0::INTEGER AS scope
UNION ALL
SELECT 'model_facts', subject, CASE WHEN several > 1 THEN place ELSE 0 END FROM models
UNION ALL
SELECT 'model_facts', NULL, 0 WHERE NOT EXISTS (FROM models)
UNION ALL
SELECT 'instance_facts', subject, CASE WHEN several > 1 THEN place + (SELECT count(*) FROM models) ELSE 0 END FROM instances;
