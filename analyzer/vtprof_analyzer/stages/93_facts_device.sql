-- One row: one scope (`fact_scopes`) and its facts of GPUs and CPU, in the names of `vtprof_rules/facts.toml`.
-- Readings count while requests of the scope were served, of the GPUs that its processes name; of all that were watched where
-- none names any, and then for the whole run alone. No device's rated boost clock or power cap is recorded: the clock is
-- compared with the highest seen, the power with the limit as shipped.
CREATE TABLE facts_device AS
WITH gpus AS (
    SELECT scope, hw_id, max(power_limit_mw) AS power_limit
    FROM (SELECT p.scope, trim(unnest(string_split(p.hw_ids, ','))) AS hw_id, m.power_limit_mw
          FROM fact_processes AS p LEFT JOIN model_sizes AS m USING (resource_id) WHERE p.hw_ids IS NOT NULL)
    GROUP BY scope, hw_id
), watched AS (
    FROM gpus
    UNION ALL
    SELECT DISTINCT 0, hw_id, NULL FROM gpu_samples WHERE NOT EXISTS (FROM gpus) AND hw_id IS NOT NULL
), readings AS (
    SELECT w.scope, g.hw_id, g.name, g.ts_ns, g.value,
           lag(g.value) OVER series AS before, g.ts_ns - lag(g.ts_ns) OVER series AS passed_ns
    FROM gpu_samples AS g JOIN watched AS w USING (hw_id)
    WHERE isfinite(g.value) AND g.name IN (
        'vtprof.gpu.busy_ratio', 'vtprof.gpu.sm_active_ratio', 'vtprof.gpu.sm_clock_mhz', 'vtprof.gpu.power_mw',
        'vtprof.gpu.throttle_power_ns', 'vtprof.gpu.throttle_thermal_ns')
    WINDOW series AS (PARTITION BY w.scope, g.hw_id, g.name ORDER BY g.ts_ns, g.value)
), serving AS (
    SELECT r.* FROM readings AS r ASOF JOIN served_times AS t ON r.scope = t.scope AND r.ts_ns >= t.start_ns
    WHERE r.ts_ns <= t.end_ns
), highest AS (
    SELECT hw_id, max(value) AS clock FROM gpu_samples WHERE name = 'vtprof.gpu.sm_clock_mhz' GROUP BY hw_id
), each AS (
    SELECT scope, hw_id, avg(value) FILTER (name = 'vtprof.gpu.busy_ratio') AS busy,
           avg(value) FILTER (name = 'vtprof.gpu.sm_active_ratio') AS active,
           avg(value) FILTER (name = 'vtprof.gpu.sm_clock_mhz') AS clock, avg(value) FILTER (name = 'vtprof.gpu.power_mw') AS power,
           -- A total that is smaller than the one before began again.
           sum(greatest(0, value - before)) FILTER (name = 'vtprof.gpu.throttle_power_ns')
               / nullif(sum(passed_ns) FILTER (name = 'vtprof.gpu.throttle_power_ns'), 0) AS throttled_power,
           sum(greatest(0, value - before)) FILTER (name = 'vtprof.gpu.throttle_thermal_ns')
               / nullif(sum(passed_ns) FILTER (name = 'vtprof.gpu.throttle_thermal_ns'), 0) AS throttled_heat
    FROM serving GROUP BY scope, hw_id
), together AS (
    SELECT e.scope, coalesce(avg(busy), avg(active)) AS busy_share, avg(e.clock / nullif(h.clock, 0)) AS sm_clock_ratio,
           avg(power / nullif(w.power_limit, 0)) AS power_ratio,
           avg(CASE WHEN coalesce(throttled_power, throttled_heat) IS NOT NULL
                    THEN least(1, coalesce(throttled_power, 0) + coalesce(throttled_heat, 0)) END) AS throttle_share
    FROM each AS e JOIN watched AS w USING (scope, hw_id) LEFT JOIN highest AS h ON h.hw_id = e.hw_id GROUP BY e.scope
), apis AS (
    -- Where the model runs on the CPU and in the same process, the cores are the model's.
    SELECT instance FROM kv_sizes JOIN resources USING (resource_id)
    GROUP BY instance
    HAVING bool_or(role = 'api') OR (bool_or(role = 'all') OR bool_and(role IS NULL)) AND NOT coalesce(bool_or(device_kind = 'cpu'), false)
), cores AS (
    SELECT p.scope, p.instance, m.ts_ns, m.value
    FROM metric_samples AS m JOIN fact_processes AS p USING (resource_id) SEMI JOIN apis USING (instance)
    WHERE m.name = 'vtprof.host.process_cpu_ratio' AND isfinite(m.value)
), busiest AS (
    SELECT scope, max(cores) AS api_cpu_share
    FROM (SELECT c.scope, c.instance, avg(c.value) AS cores
          FROM cores AS c ASOF JOIN served_times AS t ON c.scope = t.scope AND c.ts_ns >= t.start_ns
          WHERE c.ts_ns <= t.end_ns GROUP BY c.scope, c.instance)
    GROUP BY scope
), worked AS (
    SELECT p.scope, sum(s.gpu_time_ns) AS gpu_ns, bool_or(s.encode_patches > 0 OR s.encode_items > 0) AS encodes
    FROM steps AS s JOIN fact_processes AS p USING (resource_id) GROUP BY p.scope
), served AS (
    SELECT scope, sum(end_ns - start_ns) AS ns FROM served_times GROUP BY scope
), walls AS (
    SELECT p.scope, sum(w.encode) AS encode, sum(w.image + w.text) AS prefill, sum(w.decode) AS decode
    FROM engine_work AS w JOIN (SELECT DISTINCT instance, scope FROM fact_processes) AS p USING (instance) GROUP BY p.scope
), split AS (
    -- By the cost model, unless it knows nothing of an encoder that ran; else the wall time of the steps, cut by tokens.
    SELECT w.scope, coalesce(r.prefill_time_s + r.decode_time_s, r.prefill_time_s, r.decode_time_s) > 0
                        AND (r.encode_time_s IS NOT NULL OR NOT coalesce(k.encodes, false)) AS costed,
           CASE WHEN costed THEN coalesce(r.encode_time_s, 0) ELSE w.encode END AS encode,
           CASE WHEN costed THEN coalesce(r.prefill_time_s, 0) ELSE w.prefill END AS prefill,
           CASE WHEN costed THEN coalesce(r.decode_time_s, 0) ELSE w.decode END AS decode
    FROM walls AS w LEFT JOIN facts_roofline AS r USING (scope) LEFT JOIN worked AS k USING (scope)
), energies AS (
    SELECT scope, avg(decode_mj) / 1e3 AS decode_energy_j FROM scoped_requests WHERE counts GROUP BY scope
)
SELECT s.scope,
       -- One process has one GPU, or several that work as one.
       coalesce(t.busy_share, CASE WHEN n.instances = 1 AND k.gpu_ns >= 0 AND v.ns > 0 THEN least(1, k.gpu_ns / v.ns) END) AS gpu_busy_share,
       t.sm_clock_ratio, t.power_ratio, t.throttle_share, b.api_cpu_share,
       p.encode / nullif(p.encode + p.prefill + p.decode, 0) AS encode_gpu_share,
       p.prefill / nullif(p.encode + p.prefill + p.decode, 0) AS prefill_gpu_share,
       p.decode / nullif(p.encode + p.prefill + p.decode, 0) AS decode_share_of_gpu_time, e.decode_energy_j
FROM (SELECT DISTINCT scope FROM fact_scopes) AS s
LEFT JOIN together AS t USING (scope) LEFT JOIN busiest AS b USING (scope)
LEFT JOIN worked AS k USING (scope) LEFT JOIN served AS v USING (scope) LEFT JOIN split AS p USING (scope)
LEFT JOIN energies AS e USING (scope)
LEFT JOIN (SELECT scope, count(DISTINCT instance) AS instances FROM fact_processes
           WHERE instance IN (SELECT subject FROM fact_scopes WHERE view = 'instance_facts') GROUP BY scope) AS n USING (scope);
