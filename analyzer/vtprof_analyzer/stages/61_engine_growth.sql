-- One row: one total that the engines keep on their metrics pages, by how much it grew while the agent read these.
-- name               name of the metric
-- growth             from first to last reading, all engines together; an engine that was started again counts from zero
CREATE TABLE engine_growth AS
WITH ordered AS (
    SELECT name, value, lag(value) OVER (PARTITION BY instance, name ORDER BY ts_ns, value) AS before
    FROM engine_samples
    WHERE name NOT IN ('vtprof.engine.kv_used_ratio', 'vtprof.engine.running', 'vtprof.engine.waiting')
)
SELECT name, sum(CASE WHEN value < before THEN value ELSE value - before END) AS growth
FROM ordered WHERE before IS NOT NULL
GROUP BY name;
