-- One row: one phase in one process, or in all of them together, judged by the time of its steps.
-- phase              encode, prefill or decode (shares of mixed steps in them), mixed, or step (each step once, whole)
-- instance           the process; NULL: all together
-- bound              verdict with the most time; overhead, host and latency count as one and the longest of them stands for it
-- share              of the phase's time that has it, 0..1; neither_share: that reaches neither roof
-- spans              steps and windows with time; steps: iterations that were judged; left_out: that were not
-- flops, bytes, time_s, intensity, flops_per_s  work and measured time, FLOP/B, and achieved rate; NULL without work
-- floor_ratio        floor / time, over what has a roof; floor_per_step_s: floor of one iteration [s]
-- busy_ratio         device time / wall time; NULL where a step has only one of them
-- visual_read_ratio  visual KV / weights and KV read
-- ridge_low, ridge_high, attainable  of the devices [FLOP/B]; whether all of the ceilings were measured
-- dram_ratio, tensor_ratio, sm_ratio  counters of quality measured or attributed, where they cover half of the time
-- counter_quality    the weaker of the two where some are
-- host_cores         CPU cores that the processes kept busy in those steps; NULL where less than half of the time is known
-- confidence         mean over time, 0..1, of what single steps show: counters of quality attributed do not witness for a step,
--                    so 0.6 (the model alone) is usual; the report's is of the phase as a whole, for which they do: its own
--                    (`phase_times`), else dram_ratio and tensor_ratio here
CREATE TABLE phase_bounds AS
WITH told AS (
    SELECT *, CASE WHEN bound IN ('overhead_bound', 'host_bound', 'latency_bound') THEN 'neither' ELSE bound END AS kind,
           bound = 'insufficient_data' AS unjudged
    FROM bound_times
), scoped AS (
    SELECT *, instance AS scope FROM told
    UNION ALL
    SELECT *, NULL AS scope FROM told
), timed AS (
    SELECT phase, scope, kind, bound, unjudged, sum(time_s ORDER BY instance) AS bound_s FROM scoped GROUP BY ALL
), kinds AS (
    SELECT *, sum(bound_s) OVER (PARTITION BY phase, scope, kind ORDER BY bound ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS kind_s
    FROM timed
), winners AS (
    SELECT DISTINCT ON (phase, scope) phase, scope, bound, unjudged, kind_s
    FROM kinds ORDER BY unjudged, kind_s DESC, bound_s DESC, bound
), sums AS (
    -- In one order: in another the last digit of a sum would differ.
    SELECT phase, scope, min(ridge_low) AS ridge_low, max(ridge_high) AS ridge_high, bool_and(attainable) AS attainable,
           sum(time_s ORDER BY instance, bound) FILTER (NOT unjudged) AS judged_s,
           coalesce(sum(steps) FILTER (unjudged), 0)::BIGINT AS left_out,
           sum(COLUMNS(* EXCLUDE (phase, scope, instance, bound, kind, unjudged, ridge_low, ridge_high, attainable))
               ORDER BY instance, bound)
    FROM scoped GROUP BY phase, scope
), neither AS (
    SELECT phase, scope, any_value(kind_s) AS neither_s FROM kinds WHERE kind = 'neither' GROUP BY phase, scope
)
SELECT w.phase, w.scope AS instance, w.bound, CASE WHEN NOT w.unjudged THEN w.kind_s / s.judged_s END AS share,
       CASE WHEN NOT w.unjudged THEN coalesce(n.neither_s, 0) / s.judged_s END AS neither_share,
       s.spans::BIGINT AS spans, (s.steps - s.left_out)::BIGINT AS steps, s.left_out,
       s.flops, s.bytes, s.time_s, s.flops / nullif(s.bytes, 0) AS intensity, s.flops / s.worked_s AS flops_per_s,
       s.floor_s / s.roofed_s AS floor_ratio, s.floor_s / s.roofed_steps AS floor_per_step_s,
       CASE WHEN s.walled_s = s.time_s THEN s.time_s / nullif(s.wall_s, 0) END AS busy_ratio,
       s.visual_read_bytes / nullif(s.read_bytes, 0) AS visual_read_ratio, s.ridge_low, s.ridge_high, s.attainable,
       CASE WHEN 2 * s.dram_known_s >= s.time_s THEN s.dram_s / s.dram_known_s END AS dram_ratio,
       CASE WHEN 2 * s.tensor_known_s >= s.time_s THEN s.tensor_s / s.tensor_known_s END AS tensor_ratio,
       CASE WHEN 2 * s.sm_known_s >= s.time_s THEN s.sm_s / s.sm_known_s END AS sm_ratio,
       CASE WHEN s.attributed_s > 0 THEN 'attributed' WHEN greatest(s.dram_known_s, s.tensor_known_s, s.sm_known_s) > 0
            THEN 'measured' END AS counter_quality,
       CASE WHEN 2 * s.host_known_s >= s.time_s THEN s.host_s / s.host_known_s END AS host_cores,
       CASE WHEN NOT w.unjudged THEN s.confidence_s / s.judged_s END AS confidence
FROM winners AS w
JOIN sums AS s ON s.phase = w.phase AND s.scope IS NOT DISTINCT FROM w.scope
LEFT JOIN neither AS n ON n.phase = w.phase AND n.scope IS NOT DISTINCT FROM w.scope;
