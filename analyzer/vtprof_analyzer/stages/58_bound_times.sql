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
    SELECT *, TRY_CAST(time_s * 1e15 AS HUGEINT) AS time_fs,
           coalesce(whole AND counter_quality IN ('measured', 'attributed'), false) AS testifies
    FROM roofline WHERE time_s > 0
), tallied AS (
    -- First with what is all of its step apart: it counts for its phase and for `step`, and whole numbers add up alike.
    SELECT phase, whole, instance, bound, count(*) AS spans, sum(steps) AS steps,
           sum(time_fs) AS time_fs, sum(TRY_CAST(wall_s * 1e15 AS HUGEINT)) AS wall_fs,
           sum(time_fs) FILTER (wall_s IS NOT NULL) AS walled_fs,
           sum(TRY_CAST(flops AS HUGEINT)) AS flops, sum(TRY_CAST(bytes AS HUGEINT)) AS bytes,
           sum(TRY_CAST(read_bytes AS HUGEINT)) AS read_bytes, sum(TRY_CAST(visual_read_bytes AS HUGEINT)) AS visual_read_bytes,
           sum(time_fs) FILTER (flops IS NOT NULL) AS worked_fs,
           sum(TRY_CAST(floor_s * 1e15 AS HUGEINT)) AS floor_fs, sum(time_fs) FILTER (floor_s IS NOT NULL) AS roofed_fs,
           sum(steps) FILTER (floor_s IS NOT NULL) AS roofed_steps,
           min(ridge) AS ridge_low, max(ridge) AS ridge_high, bool_and(attainable) AS attainable,
           sum(TRY_CAST(dram_ratio * time_s * 1e15 AS HUGEINT)) FILTER (testifies) AS dram_fs,
           sum(time_fs) FILTER (testifies AND dram_ratio IS NOT NULL) AS dram_known_fs,
           sum(TRY_CAST(tensor_ratio * time_s * 1e15 AS HUGEINT)) FILTER (testifies) AS tensor_fs,
           sum(time_fs) FILTER (testifies AND tensor_ratio IS NOT NULL) AS tensor_known_fs,
           sum(TRY_CAST(sm_ratio * time_s * 1e15 AS HUGEINT)) FILTER (testifies) AS sm_fs,
           sum(time_fs) FILTER (testifies AND sm_ratio IS NOT NULL) AS sm_known_fs,
           sum(time_fs) FILTER (testifies AND counter_quality = 'attributed') AS attributed_fs,
           sum(TRY_CAST(host_cores * time_s * 1e15 AS HUGEINT)) AS host_fs,
           sum(time_fs) FILTER (host_cores IS NOT NULL) AS host_known_fs,
           sum(TRY_CAST(confidence * time_s * 1e15 AS HUGEINT)) AS confidence_fs
    FROM told GROUP BY ALL
), listed AS (
    FROM tallied WHERE phase <> 'step'
    UNION ALL
    SELECT * REPLACE ('step' AS phase, NULL AS dram_fs, NULL AS dram_known_fs, NULL AS tensor_fs, NULL AS tensor_known_fs,
                      NULL AS sm_fs, NULL AS sm_known_fs, NULL AS attributed_fs)
    FROM tallied WHERE whole
)
SELECT phase, instance, bound, sum(spans)::BIGINT AS spans, sum(steps)::BIGINT AS steps,
       sum(time_fs) / 1e15 AS time_s, sum(wall_fs) / 1e15 AS wall_s, sum(walled_fs) / 1e15 AS walled_s,
       sum(flops)::DOUBLE AS flops, sum(bytes)::DOUBLE AS bytes, sum(read_bytes)::DOUBLE AS read_bytes,
       sum(visual_read_bytes)::DOUBLE AS visual_read_bytes, sum(worked_fs) / 1e15 AS worked_s,
       sum(floor_fs) / 1e15 AS floor_s, sum(roofed_fs) / 1e15 AS roofed_s, sum(roofed_steps)::BIGINT AS roofed_steps,
       min(ridge_low) AS ridge_low, max(ridge_high) AS ridge_high, bool_and(attainable) AS attainable,
       sum(dram_fs) / 1e15 AS dram_s, sum(dram_known_fs) / 1e15 AS dram_known_s,
       sum(tensor_fs) / 1e15 AS tensor_s, sum(tensor_known_fs) / 1e15 AS tensor_known_s,
       sum(sm_fs) / 1e15 AS sm_s, sum(sm_known_fs) / 1e15 AS sm_known_s, sum(attributed_fs) / 1e15 AS attributed_s,
       sum(host_fs) / 1e15 AS host_s, sum(host_known_fs) / 1e15 AS host_known_s, sum(confidence_fs) / 1e15 AS confidence_s
FROM listed
GROUP BY phase, instance, bound;
