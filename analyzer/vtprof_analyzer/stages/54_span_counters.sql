-- One row: one span and one counter that the agent did not put on it, as the mean over the span of what was sampled.
-- resource_id, trace_id, span_id  row of `spans`: a step, a window, or a request's encode, prefill or decode
-- counter            vtprof.gpu.dram_bandwidth_ratio, vtprof.gpu.tensor_active_ratio or vtprof.gpu.sm_active_ratio of the
--                    GPUs of its process, whoever used them; of steps and windows vtprof.host.process_cpu_ratio, too
-- mean               over what samples cover of the span, in the counter's unit (0..1, CPU cores); of several GPUs their mean
-- covered_share      of the span, what samples cover, 0..1; a span that none covers has no row
-- outside_ns         of the windows that the first and the last sample are means over, what lies outside the span [ns]:
--                    next to a short span's length, the mean is that of its neighbours
-- A sample is the mean since the one before it; after a gap it tells nothing of what was before. Running totals of value x
-- time make the mean between any two moments a difference of two look-ups. They are whole numbers, of billionths: the totals
-- of a day in doubles would lose a thousandth of a short span.
CREATE TABLE span_counters AS
WITH processes AS (
    -- A resource that was exported before the model was loaded lacks what later ones of its process say.
    SELECT resource_id, coalesce(service_instance_id, resource_id::VARCHAR) AS instance, max(hw_id) OVER process AS hw_ids
    FROM resources
    WINDOW process AS (PARTITION BY coalesce(service_instance_id, resource_id::VARCHAR))
), readings AS (
    SELECT name AS counter, hw_id AS source, ts_ns, value
    FROM gpu_samples
    WHERE hw_id IS NOT NULL AND isfinite(value) AND name IN (
        'vtprof.gpu.dram_bandwidth_ratio', 'vtprof.gpu.tensor_active_ratio', 'vtprof.gpu.sm_active_ratio')
    UNION ALL
    SELECT name, instance, ts_ns, value
    FROM metric_samples JOIN processes USING (resource_id)
    WHERE name = 'vtprof.host.process_cpu_ratio' AND isfinite(value)
), series AS (
    -- Samples that are four times as far apart as on average leave a gap.
    SELECT counter, source, row_number() OVER (ORDER BY counter, source) AS series,
           dense_rank() OVER (ORDER BY counter) AS counter_id,
           4 * (max(ts_ns) - min(ts_ns)) // (count(*) - 1) AS gap_ns
    FROM readings GROUP BY counter, source HAVING count(*) > 1
), paired AS (
    SELECT s.series, s.gap_ns, r.ts_ns, lead(r.ts_ns) OVER time - r.ts_ns AS length_ns, lead(r.value) OVER time AS value
    FROM readings AS r JOIN series AS s USING (counter, source)
    WINDOW time AS (PARTITION BY s.series ORDER BY r.ts_ns, r.value)
), rated AS (
    SELECT series, ts_ns, coalesce(length_ns, 0) AS length_ns,
           CASE WHEN length_ns <= gap_ns THEN round(least(greatest(value, 0), 1e6) * 1e9)::BIGINT END AS rate
    FROM paired
    -- Of several readings at one moment the last one goes on.
    WHERE length_ns IS DISTINCT FROM 0
), totals AS (
    SELECT series, ts_ns, ts_ns + length_ns AS until_ns, rate,
           sum(rate::HUGEINT * length_ns) OVER time AS total, sum(CASE WHEN rate IS NOT NULL THEN length_ns END) OVER time AS covered
    FROM rated
    WINDOW time AS (PARTITION BY series ORDER BY ts_ns ROWS UNBOUNDED PRECEDING)
), sampled AS (
    SELECT p.resource_id, s.counter, s.counter_id, s.series
    FROM (SELECT resource_id, trim(unnest(string_split(hw_ids, ','))) AS source FROM processes) AS p JOIN series AS s USING (source)
    WHERE s.counter <> 'vtprof.host.process_cpu_ratio'
    UNION ALL
    SELECT p.resource_id, s.counter, s.counter_id, s.series
    FROM processes AS p JOIN series AS s ON s.source = p.instance
    WHERE s.counter = 'vtprof.host.process_cpu_ratio'
), spans_asked AS MATERIALIZED (
    -- A number for each: texts are dear to sort, to join and to group by.
    SELECT row_number() OVER () AS number, resource_id, trace_id, span_id, name IN ('vtprof.step', 'vtprof.window') AS whole,
           start_ns, end_ns, gpu_dram_bandwidth_ratio IS NULL AS no_dram, gpu_tensor_active_ratio IS NULL AS no_tensor,
           gpu_sm_active_ratio IS NULL AS no_sm
    FROM spans
    WHERE end_ns > start_ns
      AND name IN ('vtprof.step', 'vtprof.window', 'vtprof.encode', 'vtprof.prefill', 'vtprof.decode')
      AND resource_id IN (SELECT resource_id FROM sampled)
), asked AS (
    SELECT s.number, c.counter_id, c.series, s.start_ns, s.end_ns
    FROM spans_asked AS s JOIN sampled AS c USING (resource_id)
    WHERE CASE c.counter WHEN 'vtprof.gpu.dram_bandwidth_ratio' THEN no_dram WHEN 'vtprof.gpu.tensor_active_ratio' THEN no_tensor
                         WHEN 'vtprof.gpu.sm_active_ratio' THEN no_sm ELSE whole END
), ends AS (
    SELECT number, counter_id, series, unnest([start_ns, end_ns]) AS at_ns, unnest([-1, 1]) AS sign FROM asked
), looked_up AS (
    -- What ends before the first sample finds nothing: zero.
    SELECT e.number, e.counter_id, e.sign, t.total - coalesce(t.rate, 0)::HUGEINT * (t.until_ns - e.at_ns) AS total,
           coalesce(t.covered, 0) - CASE WHEN t.rate IS NULL THEN 0 ELSE t.until_ns - e.at_ns END AS covered,
           CASE WHEN t.rate IS NULL OR e.at_ns = t.ts_ns THEN 0 WHEN e.sign < 0 THEN e.at_ns - t.ts_ns
                ELSE t.until_ns - e.at_ns END AS outside_ns
    FROM ends AS e ASOF JOIN totals AS t ON e.series = t.series AND e.at_ns >= t.ts_ns
), means AS (
    SELECT number, counter_id, sum(sign * coalesce(total, 0)) AS total,
           sum(sign * covered) AS covered, count(*) FILTER (sign > 0) AS series,
           sum(outside_ns)::BIGINT AS outside_ns
    FROM looked_up GROUP BY number, counter_id
)
SELECT s.resource_id, s.trace_id, s.span_id, c.counter, m.total / 1e9 / m.covered AS mean,
       m.covered / (m.series * (s.end_ns - s.start_ns)) AS covered_share, m.outside_ns // m.series AS outside_ns
FROM means AS m
JOIN spans_asked AS s USING (number)
JOIN (SELECT DISTINCT counter_id, counter FROM series) AS c USING (counter_id)
WHERE m.covered > 0;
