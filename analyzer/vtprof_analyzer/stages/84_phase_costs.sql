-- One row: one phase over the steps that held it, by the cost model. No rows when model or composition is unknown.
-- phase              encode, prefill or decode
-- steps              iterations that held it
-- flops, bytes       work by the cost model [FLOP, B]; time_s: measured time of the phase's part of those steps [s]
-- floor_s            roofline floor of that work [s]; timed_floor_s: only where the time is known
CREATE TABLE phase_costs AS
SELECT phase, sum(steps)::BIGINT AS steps, sum(TRY_CAST(flops AS HUGEINT))::DOUBLE AS flops,
       sum(TRY_CAST(bytes AS HUGEINT))::DOUBLE AS bytes, sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) / 1e15 AS time_s,
       sum(TRY_CAST(floor_s * 1e15 AS HUGEINT)) / 1e15 AS floor_s,
       sum(TRY_CAST(floor_s * 1e15 AS HUGEINT)) FILTER (time_s > 0) / 1e15 AS timed_floor_s
FROM step_cost
GROUP BY phase;
