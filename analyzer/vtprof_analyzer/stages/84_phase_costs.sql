-- One row: one phase over the steps that held it, by the cost model. No rows when model or composition is unknown.
-- phase              encode, prefill or decode
-- steps              iterations that held it
-- flops, bytes       work by the cost model; time_s: measured time of the phase's part of those steps [s]
-- floor_s            roofline floor of that work [s]; timed_floor_s: only where the time is known
-- Sums of doubles are taken in one order, as in `roofline_points`.
-- dram_bytes_ratio, tensor_ratio  counters of those steps, means weighed by time, 0..1
CREATE TABLE phase_costs AS
SELECT c.phase, sum(c.steps)::BIGINT AS steps, sum(c.flops ORDER BY step_id) AS flops,
       sum(c.bytes ORDER BY step_id) AS bytes, sum(c.time_s ORDER BY step_id) AS time_s,
       sum(c.floor_s ORDER BY step_id) AS floor_s, sum(c.floor_s ORDER BY step_id) FILTER (c.time_s > 0) AS timed_floor_s,
       sum(s.dram_ratio * c.time_s ORDER BY step_id)
           / nullif(sum(c.time_s ORDER BY step_id) FILTER (s.dram_ratio IS NOT NULL), 0) AS dram_ratio,
       sum(s.tensor_ratio * c.time_s ORDER BY step_id)
           / nullif(sum(c.time_s ORDER BY step_id) FILTER (s.tensor_ratio IS NOT NULL), 0) AS tensor_ratio
FROM step_cost AS c
JOIN steps AS s USING (step_id)
GROUP BY c.phase;
