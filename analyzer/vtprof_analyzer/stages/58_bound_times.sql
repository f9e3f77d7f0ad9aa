-- One row: one phase of one process in steps with one verdict (`roofline`), added up.
-- phase              encode, prefill or decode (shares of mixed steps in them), mixed, or step (each step once, whole)
-- instance, bound    the process, and the verdict of the steps
-- spans              steps and windows; steps: iterations in them
-- time_s, wall_s     sums [s]; walled_s: time of those that have both
-- flops, bytes, read_bytes, visual_read_bytes  sums [FLOP, B]; worked_s: time of those whose work is known [s]
-- floor_s, roofed_s, roofed_steps  floor, time and iterations of those with a roof
-- ridge_low, ridge_high, attainable  of their devices [FLOP/B]; whether all of the ceilings were measured
-- dram_s, dram_known_s, tensor_s, tensor_known_s, sm_s, sm_known_s  integrals of counters of quality measured or attributed,
--                    and the time of those that have them; only of rows that are all of their step
-- attributed_s       time of those whose counters are attributed
-- host_s, host_known_s  likewise of CPU cores that the process kept busy
-- confidence_s       integral of confidence over time
-- Sums are taken of whole numbers, of femtoseconds: in another order sums of doubles differ in the last digit.
CREATE TABLE bound_times AS
WITH told AS (
    SELECT *, coalesce(whole AND counter_quality IN ('measured', 'attributed'), false) AS testifies
    FROM roofline
    WHERE phase <> 'step' AND time_s > 0
    UNION ALL
    SELECT * REPLACE ('step' AS phase), false AS testifies FROM roofline WHERE whole AND time_s > 0
)
SELECT phase, instance, bound, count(*) AS spans, sum(steps)::BIGINT AS steps,
       sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) / 1e15 AS time_s, sum(TRY_CAST(wall_s * 1e15 AS HUGEINT)) / 1e15 AS wall_s,
       sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) FILTER (wall_s IS NOT NULL) / 1e15 AS walled_s,
       sum(TRY_CAST(flops AS HUGEINT))::DOUBLE AS flops, sum(TRY_CAST(bytes AS HUGEINT))::DOUBLE AS bytes,
       sum(TRY_CAST(read_bytes AS HUGEINT))::DOUBLE AS read_bytes,
       sum(TRY_CAST(visual_read_bytes AS HUGEINT))::DOUBLE AS visual_read_bytes,
       sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) FILTER (flops IS NOT NULL) / 1e15 AS worked_s,
       sum(TRY_CAST(floor_s * 1e15 AS HUGEINT)) / 1e15 AS floor_s,
       sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) FILTER (floor_s IS NOT NULL) / 1e15 AS roofed_s,
       sum(steps) FILTER (floor_s IS NOT NULL)::BIGINT AS roofed_steps,
       min(ridge) AS ridge_low, max(ridge) AS ridge_high, bool_and(attainable) AS attainable,
       sum(TRY_CAST(dram_ratio * time_s * 1e15 AS HUGEINT)) FILTER (testifies) / 1e15 AS dram_s,
       sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) FILTER (testifies AND dram_ratio IS NOT NULL) / 1e15 AS dram_known_s,
       sum(TRY_CAST(tensor_ratio * time_s * 1e15 AS HUGEINT)) FILTER (testifies) / 1e15 AS tensor_s,
       sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) FILTER (testifies AND tensor_ratio IS NOT NULL) / 1e15 AS tensor_known_s,
       sum(TRY_CAST(sm_ratio * time_s * 1e15 AS HUGEINT)) FILTER (testifies) / 1e15 AS sm_s,
       sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) FILTER (testifies AND sm_ratio IS NOT NULL) / 1e15 AS sm_known_s,
       sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) FILTER (testifies AND counter_quality = 'attributed') / 1e15 AS attributed_s,
       sum(TRY_CAST(host_cores * time_s * 1e15 AS HUGEINT)) / 1e15 AS host_s,
       sum(TRY_CAST(time_s * 1e15 AS HUGEINT)) FILTER (host_cores IS NOT NULL) / 1e15 AS host_known_s,
       sum(TRY_CAST(confidence * time_s * 1e15 AS HUGEINT)) / 1e15 AS confidence_s
FROM told
GROUP BY phase, instance, bound;
