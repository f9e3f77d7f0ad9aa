-- One row: one scope (`fact_scopes`) and its facts by the cost model and the steps, in the names of `vtprof_rules/facts.toml`.
-- Of encode, prefill and decode over the steps that held them; rates against the ceilings of each step's own device. What
-- FP8 saves is what the floor of a step loses where its KV values, or its weights, take one byte each.
-- *_time_s           time of the phase in steps, on the device or, where that is not told, by the wall [s]: for shares
-- *_above_roof_share  of the phase's time in steps whose bytes exceed any cache of a device (256 MiB), the part in steps faster
--                    than their floor / 1.05; NULL without such steps or without a roof
CREATE TABLE facts_roofline AS
WITH costed AS (
    SELECT resource_id, c.phase, c.flops, c.bytes, c.weight_bytes, c.kv_read_bytes, c.time_s, c.floor_s, c.communication_s,
           c.peak_flops_per_s AS peak, c.bandwidth_bytes_per_s AS bandwidth, m.weight_value_bytes AS weight_value,
           -- (`greatest` passes over NULL: it would make a saving of a width that is not known.)
           CASE WHEN m.kv_value_bytes > 1 THEN 1 - 1 / m.kv_value_bytes WHEN m.kv_value_bytes > 0 THEN 0 END AS kv_part,
           CASE WHEN weight_value > 1 THEN 1 - 1 / weight_value WHEN weight_value > 0 THEN 0 END AS weight_part,
           greatest(c.flops / peak, c.bytes / bandwidth) AS floor,
           CASE WHEN kv_part >= 0 THEN greatest(c.flops / peak, (c.bytes - c.kv_read_bytes * kv_part) / bandwidth) END AS floor_kv8,
           CASE WHEN weight_part >= 0 THEN greatest(c.flops / peak, (c.bytes - c.weight_bytes * weight_part) / bandwidth) END
               AS floor_weights8,
           c.bytes > 268_435_456 * c.steps AS large
    FROM step_cost AS c
    JOIN steps USING (step_id)
    LEFT JOIN model_sizes AS m USING (resource_id)
), worked AS (
    -- First by process: a step belongs to up to three scopes, and sums add up.
    SELECT resource_id, phase,
           sum(flops) AS flops, sum(flops) FILTER (peak > 0) AS roofed_flops, sum(time_s * peak) AS peak_flops,
           sum(bytes) AS bytes, sum(bytes) FILTER (bandwidth > 0) AS roofed_bytes, sum(time_s * bandwidth) AS bandwidth_bytes,
           sum(floor_s) AS floor_s, sum(time_s) AS time_s, sum(time_s) FILTER (floor_s IS NOT NULL) AS roofed_s,
           sum(kv_read_bytes) AS kv_read_bytes, sum(weight_bytes) AS weight_bytes,
           sum(floor_kv8) AS floor_kv8, sum(floor) FILTER (floor_kv8 IS NOT NULL) AS floor_kv,
           sum(floor_weights8) AS floor_weights8, sum(floor) FILTER (floor_weights8 IS NOT NULL) AS floor_weights,
           sum(communication_s) AS communication_s, sum(time_s) FILTER (communication_s IS NOT NULL) AS communicating_s,
           sum(time_s * weight_value) AS valued, sum(time_s) FILTER (weight_value IS NOT NULL) AS valued_s,
           sum(time_s) FILTER (large AND floor_s > 1.05 * time_s) AS above_s,
           sum(time_s) FILTER (large AND floor_s IS NOT NULL) AS large_s
    FROM costed GROUP BY resource_id, phase
), summed AS (
    SELECT p.scope, w.phase,
           sum(roofed_flops) / nullif(sum(peak_flops), 0) AS mfu, sum(roofed_bytes) / nullif(sum(bandwidth_bytes), 0) AS mbu,
           sum(w.floor_s) / nullif(sum(roofed_s), 0) AS floor_ratio, sum(flops) / nullif(sum(bytes), 0) AS intensity,
           sum(kv_read_bytes) / nullif(sum(bytes), 0) AS kv_share, sum(weight_bytes) / nullif(sum(bytes), 0) AS weight_share,
           1 - sum(floor_kv8) / nullif(sum(floor_kv), 0) AS kv8_share,
           1 - sum(floor_weights8) / nullif(sum(floor_weights), 0) AS weights8_share,
           sum(w.time_s) AS time_s, sum(w.communication_s) AS communication_s, sum(w.communicating_s) AS communicating_s,
           sum(peak_flops) / nullif(sum(bandwidth_bytes), 0) AS ridge, sum(valued) / nullif(sum(valued_s), 0) AS weight_value,
           coalesce(sum(above_s), 0) / nullif(sum(large_s), 0) AS above_roof_share
    FROM worked AS w JOIN fact_processes AS p USING (resource_id) GROUP BY p.scope, w.phase
), by_phase AS (
    SELECT scope,
           max(mfu) FILTER (phase = 'encode') AS encode_mfu, max(mfu) FILTER (phase = 'prefill') AS prefill_mfu,
           max(mfu) FILTER (phase = 'decode') AS decode_mfu, max(mbu) FILTER (phase = 'encode') AS encode_mbu,
           max(mbu) FILTER (phase = 'prefill') AS prefill_mbu, max(mbu) FILTER (phase = 'decode') AS decode_mbu,
           max(floor_ratio) FILTER (phase = 'encode') AS encode_floor_ratio,
           max(floor_ratio) FILTER (phase = 'prefill') AS prefill_floor_ratio,
           max(floor_ratio) FILTER (phase = 'decode') AS decode_floor_ratio,
           max(above_roof_share) FILTER (phase = 'encode') AS encode_above_roof_share,
           max(above_roof_share) FILTER (phase = 'prefill') AS prefill_above_roof_share,
           max(above_roof_share) FILTER (phase = 'decode') AS decode_above_roof_share,
           max(intensity) FILTER (phase = 'decode') AS decode_intensity,
           max(kv_share) FILTER (phase = 'decode') AS kv_read_share,
           max(weight_share) FILTER (phase = 'decode') AS weight_read_share,
           max(kv8_share) FILTER (phase = 'decode') AS kv8_share, max(weights8_share) FILTER (phase = 'decode') AS weights8_share,
           max(time_s) FILTER (phase = 'encode') AS encode_time_s, max(time_s) FILTER (phase = 'prefill') AS prefill_time_s,
           max(time_s) FILTER (phase = 'decode') AS decode_time_s,
           arg_max(ridge, (time_s, phase)) FILTER (time_s IS NOT NULL) AS ridge,
           arg_max(weight_value, (time_s, phase)) FILTER (time_s IS NOT NULL) AS weight_value,
           sum(communication_s) / nullif(sum(communicating_s), 0) AS communication_share
    FROM summed GROUP BY scope
), ran AS (
    SELECT resource_id, steps, duration_ns, gpu_time_ns, encode_ns, encode_gpu_time_ns, folded, prefill_tokens > 0 AS prefills,
           decode_requests > 0 AS decodes, greatest(encode_items, encode_patches, encode_ns, 0) > 0 AS encodes
    FROM steps
), waited AS (
    SELECT resource_id, sum(encode_gpu_time_ns) FILTER (encode_ns > 0) AS encode_gpu_ns,
           sum(encode_ns) FILTER (encode_gpu_time_ns IS NOT NULL) AS encode_ns,
           sum(duration_ns - gpu_time_ns) FILTER (decodes AND NOT prefills AND NOT encodes) AS decode_gap_ns,
           sum(steps) FILTER (decodes AND NOT prefills AND NOT encodes AND gpu_time_ns IS NOT NULL) AS decode_steps,
           sum(gpu_time_ns) AS gpu_ns, sum(duration_ns) FILTER (gpu_time_ns IS NOT NULL) AS wall_ns
    FROM ran GROUP BY resource_id
), gaps AS (
    SELECT p.scope, 1 - sum(encode_gpu_ns) / nullif(sum(encode_ns), 0) AS encode_host_gap_share,
           sum(decode_gap_ns) / nullif(sum(decode_steps), 0) / 1e6 AS decode_host_gap_ms,
           1 - sum(gpu_ns) / nullif(sum(wall_ns), 0) AS host_gap_share
    FROM waited JOIN fact_processes AS p USING (resource_id) GROUP BY p.scope
), mixing AS (
    SELECT p.scope, median(duration_ns / 1e6) AS mixed_step_ms_p50
    FROM ran JOIN fact_processes AS p USING (resource_id)
    WHERE prefills AND decodes AND NOT folded GROUP BY p.scope
), decode_steps AS MATERIALIZED (
    -- Of a window of iterations each took the mean.
    SELECT p.scope AS what, duration_ns / 1e6 / steps AS value, steps AS weight
    FROM ran JOIN fact_processes AS p USING (resource_id)
    WHERE decodes AND NOT prefills AND NOT encodes AND duration_ns > 0
), decode_median AS (
    SELECT what AS scope, value AS decode_step_ms_p50 FROM weighted_quantiles('decode_steps') WHERE quantile = 0.50
), overheads AS (
    SELECT p.scope, greatest(0, quantile_cont((coalesce(r.wall_s, r.time_s) - r.floor_s) / r.steps, 0.05)) * 1e3 AS step_overhead_ms
    FROM roofline AS r JOIN (SELECT DISTINCT instance, scope FROM fact_processes) AS p USING (instance)
    WHERE r.whole AND r.floor_s IS NOT NULL AND r.time_s > 0 GROUP BY p.scope
), prompts AS (
    SELECT scope, sum(prefill_ms) FILTER (prefilled_tokens > 0) / nullif(sum(prefilled_tokens) FILTER (prefill_ms IS NOT NULL), 0)
               AS prefill_ms_per_token
    FROM scoped_requests WHERE counts GROUP BY scope
), windows AS (
    SELECT scope, tp FROM facts_configuration
)
SELECT s.scope, b.* EXCLUDE (scope, kv8_share, weights8_share, weight_value, communication_share),
       b.ridge * b.weight_value / 2 AS ridge_tokens, b.ridge * b.weight_value / 2 AS ridge_batch,
       b.kv8_share * t.tpot_ms_mean AS tpot_saved_ms_kv_fp8_mean, b.weights8_share * t.tpot_ms_mean AS tpot_saved_ms_weights_fp8_mean,
       CASE WHEN b.encode_floor_ratio < 1 THEN b.encode_floor_ratio WHEN b.encode_floor_ratio >= 1 THEN 1 END * t.encode_ms_p50
           AS encode_ideal_ms,
       CASE WHEN b.prefill_floor_ratio < 1 THEN b.prefill_floor_ratio WHEN b.prefill_floor_ratio >= 1 THEN 1 END * t.prefill_ms_p50
           AS prefill_ideal_ms,
       CASE WHEN w.tp >= 2 THEN b.communication_share END AS allreduce_share_of_gpu_time,
       g.* EXCLUDE (scope), x.mixed_step_ms_p50, d.decode_step_ms_p50, o.step_overhead_ms, p.prefill_ms_per_token
FROM (SELECT DISTINCT scope FROM fact_scopes) AS s
LEFT JOIN by_phase AS b USING (scope) LEFT JOIN gaps AS g USING (scope) LEFT JOIN mixing AS x USING (scope)
LEFT JOIN decode_median AS d USING (scope)
LEFT JOIN overheads AS o USING (scope) LEFT JOIN prompts AS p USING (scope) LEFT JOIN facts_time AS t USING (scope)
LEFT JOIN windows AS w USING (scope);
