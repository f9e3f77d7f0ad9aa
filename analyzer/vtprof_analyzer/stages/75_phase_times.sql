-- One row: one phase over all requests that had it.
-- phase              name of the phase
-- requests           requests that had it
-- duration_ns        sum over requests [ns]; gpu_time_ns, energy_mj: likewise, NULL where nothing recorded them [ns, mJ]
-- p50_ms, p95_ms, p99_ms  of its duration per request, linear interpolation [ms]
-- dram_ratio, tensor_ratio, sm_ratio  means weighed by duration, 0..1; counter_quality: the weakest of them
-- cpu_timed_s, cpu_s  duration and CPU time of what recorded CPU time [s]; fetch_s, decode_s: media download and decoding
--                    of the same [s], of one request at most its duration: it may load several items at once
-- transfer_bytes     bytes moved [B]
CREATE TABLE phase_times AS
SELECT
    phase, count(*) AS requests, sum(duration_ns)::BIGINT AS duration_ns, sum(gpu_time_ns)::BIGINT AS gpu_time_ns,
    sum(energy_mj) AS energy_mj,
    quantile_cont(duration_ns / 1e6, 0.50) AS p50_ms,
    quantile_cont(duration_ns / 1e6, 0.95) AS p95_ms,
    quantile_cont(duration_ns / 1e6, 0.99) AS p99_ms,
    sum(dram_ratio * duration_ns) / nullif(sum(duration_ns) FILTER (dram_ratio IS NOT NULL), 0) AS dram_ratio,
    sum(tensor_ratio * duration_ns) / nullif(sum(duration_ns) FILTER (tensor_ratio IS NOT NULL), 0) AS tensor_ratio,
    sum(sm_ratio * duration_ns) / nullif(sum(duration_ns) FILTER (sm_ratio IS NOT NULL), 0) AS sm_ratio,
    CASE WHEN bool_or(counter_quality = 'estimated') THEN 'estimated'
         WHEN bool_or(counter_quality = 'attributed') THEN 'attributed'
         WHEN bool_or(counter_quality = 'measured') THEN 'measured' END AS counter_quality,
    sum(duration_ns) FILTER (cpu_ns IS NOT NULL) / 1e9 AS cpu_timed_s, sum(cpu_ns) / 1e9 AS cpu_s,
    sum(least(fetch_ns, duration_ns)) FILTER (cpu_ns IS NOT NULL AND fetch_ns IS NOT NULL) / 1e9 AS fetch_s,
    sum(least(decode_ns, duration_ns)) FILTER (cpu_ns IS NOT NULL AND decode_ns IS NOT NULL) / 1e9 AS decode_s,
    sum(transfer_bytes)::BIGINT AS transfer_bytes
FROM phases
GROUP BY phase;
