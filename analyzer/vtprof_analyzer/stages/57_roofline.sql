-- One row: one part of one step, judged on its own: encode, prefill or decode; `mixed` where prefill and decode share the
-- step; `step` where the encoder and they do. None for windows of folded iterations that mix phases, nor for idle steps.
-- step_id            row of `steps`; instance: its process
-- phase              encode, prefill, decode, mixed or step
-- whole              the row is all of its step: exactly one row of a step is
-- shared             prefill or decode of a step with both: its time is a share, by the rule of `step_cost`
-- steps              iterations folded into the step
-- flops, bytes       work by the cost model [FLOP, B]; NULL when the model is not known
-- read_bytes, visual_read_bytes  weights and KV read, and the visual KV of it; of prefill and decode only [B]
-- time_s             device time, or wall time where nothing recorded it [s]; wall_s: wall time beside device time [s]
-- floor_s            roofline floor [s]; NULL without a roof, as all that follows from it
-- intensity, ridge   FLOP/B: of the work, and where the ceilings of the device meet
-- floor_ratio        floor / time; above 1 where a ceiling was exceeded, never clamped
-- attainable         whether the ceilings were measured on such a machine, rather than a datasheet's
-- dram_ratio, tensor_ratio, sm_ratio  counters over the step, 0..1: those on its span, else those of `span_counters`
-- counter_quality    measured, attributed or estimated; sampled ones are measured where the samples' windows lie in the step
-- host_cores         CPU cores that its process kept busy meanwhile
-- analytic_bound     by work and time; NULL without a roof
-- measured_bound     by counters of quality measured alone, of whole steps; `latency_bound` stands for neither roof
-- bound              the verdict: the analytic one, else the measured one, else insufficient_data
-- confidence         0.9 both witnesses agree, 0.6 the model alone, 0.5 the counters alone, 0.3 they disagree; half of it
--                    where the ceilings are uncertain or were exceeded, or where no counters speak for a memory bound near the
--                    ridge and the step took longer than memory explains; 0 for insufficient_data
CREATE TABLE roofline AS
WITH counted AS (
    SELECT trace_id, span_id,
           max(mean) FILTER (counter = 'vtprof.gpu.dram_bandwidth_ratio') AS dram_ratio,
           max(mean) FILTER (counter = 'vtprof.gpu.tensor_active_ratio') AS tensor_ratio,
           max(mean) FILTER (counter = 'vtprof.gpu.sm_active_ratio') AS sm_ratio,
           max(mean) FILTER (counter = 'vtprof.host.process_cpu_ratio') AS host_cores,
           max(outside_ns) FILTER (starts_with(counter, 'vtprof.gpu.')) AS outside_ns,
           min(covered_share) FILTER (starts_with(counter, 'vtprof.gpu.')) AS covered_share
    FROM span_counters GROUP BY trace_id, span_id
), judged AS (
    SELECT s.step_id, k.instance, coalesce(s.dram_ratio, c.dram_ratio) AS dram_ratio,
           coalesce(s.tensor_ratio, c.tensor_ratio) AS tensor_ratio, coalesce(s.sm_ratio, c.sm_ratio) AS sm_ratio, c.host_cores,
           CASE WHEN s.counter_quality IS NOT NULL OR c.outside_ns IS NULL THEN s.counter_quality
                WHEN c.outside_ns <= l.verdict_blur_ratio * s.duration_ns AND c.covered_share >= 1 - l.verdict_blur_ratio THEN 'measured'
                ELSE 'estimated' END AS counter_quality
    FROM steps AS s
    JOIN kv_sizes AS k USING (resource_id)
    LEFT JOIN counted AS c USING (trace_id, span_id)
    CROSS JOIN settings AS l
    WHERE NOT s.folded
), parts AS NOT MATERIALIZED (
    -- (Keeping it would cost more memory and time than scanning the few columns again that each reader needs.)
    SELECT step_id, phase, steps, parts, parts = 1 AS whole, mixed AS shared, flops, bytes, weight_bytes + kv_read_bytes AS read_bytes,
           kv_visual_read_bytes AS visual_read_bytes, time_s, wall_s, floor_s, communication_s,
           peak_flops_per_s / bandwidth_bytes_per_s AS ridge, attainable, uncertain
    FROM step_cost
), mixed AS (
    SELECT step_id, 'mixed' AS phase, p.steps, p.parts = 2 AS whole, false AS shared, p.flops + d.flops AS flops,
           p.bytes + d.bytes AS bytes, p.read_bytes + d.read_bytes AS read_bytes,
           p.visual_read_bytes + d.visual_read_bytes AS visual_read_bytes, p.time_s + d.time_s AS time_s,
           p.wall_s + d.wall_s AS wall_s, p.floor_s + d.floor_s AS floor_s,
           p.communication_s + d.communication_s AS communication_s, p.ridge, p.attainable, p.uncertain
    FROM parts AS p
    JOIN parts AS d USING (step_id)
    WHERE p.phase = 'prefill' AND p.shared AND d.phase = 'decode' AND d.shared
), encoding AS (
    SELECT step_id, 'step' AS phase, e.steps, true AS whole, false AS shared, e.flops + r.flops AS flops, e.bytes + r.bytes AS bytes,
           e.time_s + r.time_s AS time_s, e.wall_s + r.wall_s AS wall_s, e.floor_s + r.floor_s AS floor_s,
           e.communication_s + r.communication_s AS communication_s, e.ridge, e.attainable, e.uncertain
    FROM parts AS e
    JOIN (FROM parts WHERE phase <> 'encode' AND NOT shared UNION ALL BY NAME FROM mixed) AS r USING (step_id)
    WHERE e.phase = 'encode' AND NOT e.whole
), uncosted AS (
    SELECT step_id, CASE WHEN encoded > 0 AND prefill_tokens + decode_requests > 0 THEN 'step'
                         WHEN prefill_tokens > 0 AND decode_requests > 0 THEN 'mixed' WHEN encoded > 0 THEN 'encode'
                         WHEN prefill_tokens > 0 THEN 'prefill' ELSE 'decode' END AS phase,
           steps, true AS whole, false AS shared, coalesce(gpu_time_ns, duration_ns) / 1e9 AS time_s,
           CASE WHEN gpu_time_ns IS NOT NULL THEN duration_ns / 1e9 END AS wall_s
    FROM (SELECT *, greatest(encode_items, encode_patches) AS encoded FROM steps WHERE NOT folded)
    ANTI JOIN step_cost USING (step_id)
    WHERE encoded + prefill_tokens + decode_requests > 0
), rated AS (
    SELECT j.step_id, j.instance, r.* EXCLUDE (step_id, parts), flops / nullif(bytes, 0) AS intensity,
           floor_s / nullif(time_s, 0) AS floor_ratio, j.dram_ratio, j.tensor_ratio, j.sm_ratio, j.counter_quality, j.host_cores,
           coalesce(time_s < l.verdict_busy_ratio * wall_s, false) AS idle,
           CASE WHEN attainable THEN l.verdict_attainable_floor_ratio ELSE l.verdict_floor_ratio END AS least_ratio,
           floor_s < least_ratio * time_s AS slow,
           j.counter_quality = 'measured' AS is_measured,
           CASE WHEN whole AND is_measured THEN j.dram_ratio >= l.verdict_dram_ratio END AS dram_busy,
           CASE WHEN whole AND is_measured THEN j.tensor_ratio >= l.verdict_tensor_ratio END AS tensor_busy,
           -- The GPU waits: for launches, or for the host. Kernel gaps count as device time: little work speaks for them.
           idle OR CASE WHEN is_measured AND j.sm_ratio IS NOT NULL THEN j.sm_ratio < l.verdict_sm_ratio
                        ELSE coalesce(floor_s / r.steps < l.verdict_small_work_seconds, false) END AS waits,
           wall_s IS NOT NULL AND coalesce(j.host_cores >= l.verdict_host_cores, false) AS host_busy,
           CASE WHEN bytes > 0 THEN intensity / ridge - 1 ELSE 'infinity'::DOUBLE END AS beyond, l.verdict_ridge_band_ratio AS band,
           coalesce(communication_s > l.verdict_comm_ratio * floor_s, false) AS sends,
           coalesce(uncertain, false) OR coalesce(floor_ratio > l.verdict_above_roof_ratio, false) AS doubtful
    FROM (FROM parts UNION ALL BY NAME FROM mixed UNION ALL BY NAME FROM encoding UNION ALL BY NAME FROM uncosted) AS r
    JOIN judged AS j USING (step_id)
    CROSS JOIN settings AS l
), witnessed AS (
    SELECT *,
           CASE WHEN floor_s IS NULL OR NOT time_s > 0 THEN NULL
                WHEN idle OR slow THEN CASE WHEN waits AND host_busy THEN 'host_bound' WHEN waits THEN 'overhead_bound'
                                            ELSE 'latency_bound' END
                WHEN sends THEN 'comm_bound' WHEN beyond > band THEN 'compute_bound' WHEN beyond < -band THEN 'memory_bound'
                ELSE 'hybrid' END AS analytic_bound,
           CASE WHEN dram_busy AND tensor_busy THEN 'hybrid' WHEN dram_busy THEN 'memory_bound'
                WHEN tensor_busy THEN 'compute_bound'
                -- Half a witness cannot say that neither roof was reached.
                WHEN dram_busy IS NOT NULL AND tensor_busy IS NOT NULL THEN 'latency_bound' END AS measured_bound
    FROM rated
), compared AS (
    SELECT *,
           CASE WHEN measured_bound = 'latency_bound'
                THEN analytic_bound NOT IN ('compute_bound', 'memory_bound', 'hybrid')
                ELSE measured_bound = analytic_bound OR (measured_bound = 'hybrid' AND analytic_bound IN ('compute_bound', 'memory_bound'))
                    OR (analytic_bound = 'hybrid') END AS agree,
           -- GEMMs of few rows fall short of the ceiling of a large one, copies do not: the ridge that such a step has lies left of
           -- the device's. Its time is a witness: bytes explain `floor_ratio` of it, FLOPs at the peak rate (1 + beyond) as much.
           coalesce(analytic_bound = 'memory_bound' AND measured_bound IS NULL AND floor_ratio < 1 - band
                    AND floor_ratio * (1 + beyond) >= least_ratio, false) AS unexplained
    FROM witnessed
)
SELECT step_id, instance, phase, whole, shared, steps, flops, bytes, read_bytes, visual_read_bytes, time_s, wall_s, floor_s,
       intensity, ridge, floor_ratio, attainable, dram_ratio, tensor_ratio, sm_ratio, counter_quality, host_cores,
       analytic_bound, measured_bound,
       CASE WHEN analytic_bound IS NULL AND measured_bound = 'latency_bound' AND waits
            THEN CASE WHEN host_busy THEN 'host_bound' ELSE 'overhead_bound' END
            ELSE coalesce(analytic_bound, measured_bound, 'insufficient_data') END AS bound,
       (CASE WHEN analytic_bound IS NULL AND measured_bound IS NULL THEN 0
             WHEN analytic_bound IS NULL THEN 0.5 WHEN measured_bound IS NULL THEN 0.6 WHEN agree THEN 0.9 ELSE 0.3 END
            * CASE WHEN doubtful OR unexplained THEN 0.5 ELSE 1 END)::DOUBLE AS confidence
FROM compared;
