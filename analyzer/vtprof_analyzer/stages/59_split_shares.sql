-- One row: one phase on the device, and the device time that it was given: by the rule of `step_cost` and by the agent.
-- phase              encode, prefill or decode
-- rule_s             by the rule, over all steps whose work is known [s]
-- agent_s            by the agent, on the requests' spans [s]; NULL where they tell none
-- estimated_s        of which it estimated, for want of a fit [s]
-- steps_s            device time of all steps [s]: where requests are sampled or lost, the agent's shares add up to less
CREATE TABLE split_shares AS
WITH by_rule AS (
    SELECT phase, sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) / 1e15 AS rule_s FROM step_cost GROUP BY phase
), by_agent AS (
    SELECT substr(name, length('vtprof.') + 1) AS phase, sum(gpu_time_ns) / 1e9 AS agent_s,
           coalesce(sum(gpu_time_ns) FILTER (gpu_time_quality = 'estimated'), 0) / 1e9 AS estimated_s
    FROM spans
    WHERE name IN ('vtprof.encode', 'vtprof.prefill', 'vtprof.decode') AND gpu_time_ns IS NOT NULL
    GROUP BY name
)
SELECT phase, rule_s, agent_s, estimated_s, (SELECT sum(gpu_time_ns) / 1e9 FROM steps) AS steps_s
FROM by_rule LEFT JOIN by_agent USING (phase);
