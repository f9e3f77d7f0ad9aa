-- One row: one thing that the agents and the probe counted about themselves.
-- name               name of the metric, `vtprof.agent.*`
-- total              last value, summed over agents and, of the probe's counts, over the rings of each process
CREATE TABLE agent_counts AS
WITH last_values AS (
    SELECT m.name, coalesce(r.service_instance_id, m.resource_id::VARCHAR) AS instance,
           arg_max(m.value, (m.ts_ns, m.value)) AS last_value
    FROM metric_samples AS m LEFT JOIN resources AS r USING (resource_id)
    WHERE m.name IN ('vtprof.agent.records_read', 'vtprof.agent.records_lost', 'vtprof.agent.hook_errors',
                     'vtprof.agent.spans_dropped', 'vtprof.agent.requests_sampled_out')
    GROUP BY m.name, instance, r.ring_created_ns
)
SELECT name, sum(last_value)::BIGINT AS total FROM last_values GROUP BY name;
