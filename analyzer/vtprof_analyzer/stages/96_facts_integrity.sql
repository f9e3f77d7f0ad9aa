-- One row: one scope (`fact_scopes`): how much it holds, and how whole it is, in the names of `vtprof_rules/facts.toml`.
-- missing_spans_share is of the whole run: what was lost names no model. The larger of two shares: spans that no destination
-- took, that never ended, whose request is absent, or that a gap in the steps' numbers tells of; and the probe's records that
-- were lost before the agent read them.
CREATE TABLE facts_integrity AS
WITH counted AS (
    SELECT scope, count(*) FILTER (recorded AND ok AND ttft_ms IS NOT NULL) AS n_requests, 1 / max(weight) AS sampling_ratio_min,
           (max(end_ns) - min(arrival_ns)) / 60e9 AS window_minutes
    FROM scoped_requests GROUP BY scope
), models AS (
    SELECT m.scope, count(DISTINCT m.model) AS models FROM fact_members AS m GROUP BY m.scope
), instances AS (
    -- A process that served several models is each one's.
    SELECT scope, count(DISTINCT instance) AS instances
    FROM (SELECT scope, instance FROM fact_processes
          UNION
          SELECT m.scope, k.instance FROM fact_members AS m JOIN kv_sizes AS k USING (resource_id))
    WHERE instance IN (SELECT subject FROM fact_scopes WHERE view = 'instance_facts')
    GROUP BY scope
), agents AS (
    SELECT max(total) FILTER (name = 'vtprof.agent.spans_dropped') AS dropped,
           max(total) FILTER (name = 'vtprof.agent.records_lost') AS lost,
           max(total) FILTER (name = 'vtprof.agent.records_read') AS records_read
    FROM agent_counts
), faults AS (
    SELECT coalesce(sum(count) FILTER (kind IN ('absent_request', 'step_gap')), 0) AS absent FROM span_faults
), missing AS (
    SELECT greatest((coalesce(a.dropped, 0) + f.absent + i.end_missing)
                        / nullif(i.used_spans + coalesce(a.dropped, 0) + f.absent, 0),
                    a.lost / nullif(a.lost + a.records_read, 0)) AS share
    FROM agents AS a, faults AS f, integrity AS i
)
SELECT s.scope, coalesce(c.n_requests, 0) AS n_requests, coalesce(m.models, 0) AS models, coalesce(i.instances, 0) AS instances,
       c.window_minutes, c.sampling_ratio_min, x.share AS missing_spans_share
FROM (SELECT DISTINCT scope FROM fact_scopes) AS s CROSS JOIN missing AS x
LEFT JOIN counted AS c USING (scope) LEFT JOIN models AS m USING (scope) LEFT JOIN instances AS i USING (scope);
